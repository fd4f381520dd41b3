"""Every PromQL expression of deploy/, and what the metrics' real exposition has for it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import promql_parser
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from engine import errors
from frontend.events import Finish
from frontend.gaps import Pool
from frontend.metrics import FrontendMetrics
from frontend.regret import Judged
from tests.deploy.files import DASHBOARDS, RULES
from tests.frontend.test_metrics import DECODE, PREFILL, TIMING, USAGE, FakeInference

OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
AUTO = {"$__rate_interval": "1m", "$__interval": "5s"}


@dataclass(frozen=True, slots=True)
class Asked:
    """An expression as Prometheus gets it, and where it stands."""

    where: str
    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Selected:
    """What a part of an expression selects, and the labels that are left of it."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    """Label, operator and value."""


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def of_dashboards(auto: dict[str, str] | None = None) -> list[Asked]:
    """With variables as they are chosen at first."""
    return [asked for path in DASHBOARDS for asked in _of_dashboard(json.loads(path.read_text()), auto or AUTO)]


def _of_dashboard(dashboard: dict[str, Any], auto: dict[str, str]) -> Iterator[Asked]:
    chosen = {f"${each['name']}": each["current"]["value"] for each in dashboard["templating"]["list"]}
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            if target["datasource"]["type"] == "prometheus":
                where = f"{dashboard['title']}: {panel['title']}: {target['refId']}"
                expression = target["expr"]
                for name, value in {**chosen, **auto}.items():
                    expression = expression.replace(name, value)
                yield Asked(where, expression, target["legendFormat"])


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def of_rules() -> list[Asked]:
    return [Asked(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def selected(expression: str) -> list[Selected]:
    """Raises ValueError for what is not PromQL."""
    return [
        Selected(node.name, tuple((each.name, OPERATORS[str(each.op)], each.value) for each in node.matchers.matchers))
        for node in nodes(promql_parser.parse(expression))
        if isinstance(node, promql_parser.VectorSelector)
    ]


def nodes(node: object) -> Iterator[Any]:
    """Of a parsed expression, itself first."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from nodes(child)
    for child in getattr(node, "args", None) or ():
        yield from nodes(child)


def kept_labels(expression: str) -> set[str]:
    """Labels that a result has: those that some aggregation is by."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))


@cache
def exposition() -> dict[str, tuple[dict[str, str], ...]]:
    """By name, the labels of every sample of a frontend to which everything has happened once."""
    metrics = FrontendMetrics(CollectorRegistry())
    metrics.watch(FakeInference([DECODE, PREFILL]))
    metrics.observe_finished("m", TIMING, USAGE, 0.236, Finish.STOP)
    for kind in errors.CODES:
        metrics.observe_refused(kind.reason)
    metrics.observe_refused("CANCELLED")
    for limit in get_args(errors.Limit):
        metrics.observe_refused(errors.Overloaded.reason, limit=limit)
    for choice in ("local", "remote"):
        metrics.observe_routed(choice, 0.001)
        metrics.observe_judged(Judged(choice, 1.1, 0.01))
    metrics.observe_gaps("m", Pool())
    samples: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(dict(sample.labels))
    return {name: tuple(labels) for name, labels in samples.items()}
