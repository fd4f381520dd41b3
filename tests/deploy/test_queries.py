"""Every query of dashboards and rules is PromQL, over metrics and labels that a frontend's exposition has."""

import re

import pytest

from frontend.ledger import SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS
from tests.deploy.queries import Asked, exposition, kept_labels, of_dashboards, of_rules, rules, selected

ASKED = [*of_dashboards(), *of_rules()]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
FROM_PROMETHEUS = {"up": ({"job": "tandem", "instance": "frontend:8000"},)}

each_query = pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.where)


@each_query
def test_names_and_labels_exist(asked: Asked) -> None:
    known = {**exposition(), **FROM_PROMETHEUS, **dict.fromkeys(RECORDED, ({},))}
    found = selected(asked.expression)
    assert found, "selects nothing"
    for each in found:
        assert each.name in known, f"{each.name} is no metric of a frontend"
        for matcher in each.matchers:
            assert any(fits(matcher, labels) for labels in known[each.name]), (
                f"{each.name} has no series with {matcher}"
            )


def fits(matcher: tuple[str, str, str], labels: dict[str, str]) -> bool:
    label, operator, value = matcher
    if label not in labels:
        return False
    return {
        "=": labels[label] == value,
        "!=": labels[label] != value,
        "=~": re.fullmatch(value, labels[label]) is not None,
        "!~": re.fullmatch(value, labels[label]) is None,
    }[operator]


@each_query
def test_labels_that_are_kept_and_shown_exist(asked: Asked) -> None:
    kept = kept_labels(asked.expression)
    there = {
        label for each in selected(asked.expression) for labels in exposition().get(each.name, ()) for label in labels
    }
    assert kept <= there
    assert set(re.findall(r"{{(\w+)}}", asked.legend)) <= kept


def test_alternatives_of_a_pattern_exist() -> None:
    """A pattern fits if one of its words does; each of them should."""
    for asked in ASKED:
        for each in selected(asked.expression):
            for label, operator, value in each.matchers:
                if operator == "=~":
                    values = {labels.get(label) for labels in exposition()[each.name]}
                    assert set(value.split("|")) <= values, asked.where


def test_segments_of_the_ledger_are_all_there() -> None:
    for part, names in (("ttft", TTFT_SEGMENTS), ("second_token", SECOND_TOKEN_SEGMENTS)):
        assert {labels["segment"] for labels in exposition()[f"tandem_{part}_segment_seconds_sum"]} == set(names)


@pytest.mark.parametrize(
    "broken", ["sum(", "tandem_nothing", 'up{jobs="tandem"}', 'tandem_requests_total{outcome="fine"}']
)
def test_what_is_wrong_is_found(broken: str) -> None:
    with pytest.raises((ValueError, AssertionError)):
        test_names_and_labels_exist(Asked("", broken))
