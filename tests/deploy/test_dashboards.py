"""Dashboards: what is committed is what the code makes, and Grafana will find everything that they name."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from deploy.observability.__main__ import files
from tests.deploy.files import DASHBOARDS, DEPLOY, PROVISIONING
from tests.deploy.queries import panels
from tests.e2e.test_traces import SERVICES

READ = {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}
each_dashboard = pytest.mark.parametrize("dashboard", READ.values(), ids=READ)


@pytest.mark.parametrize(("path", "text"), files().items(), ids=lambda value: getattr(value, "name", ""))
def test_what_is_committed_is_what_the_code_makes(path: Any, text: str) -> None:
    assert path.read_text() == text, "run python -m deploy.observability"


def test_no_file_is_there_that_the_code_does_not_make() -> None:
    assert set(DASHBOARDS) <= set(files())
    assert len(DASHBOARDS) == 4


def test_dashboards_have_names_of_their_own() -> None:
    assert len({each["uid"] for each in READ.values()}) == len({each["title"] for each in READ.values()}) == len(READ)


@each_dashboard
def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


@each_dashboard
def test_what_a_dashboard_names_is_there(dashboard: dict[str, Any]) -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "tandem.yaml").read_text())["datasources"]
    provisioned = {(source["type"], source["uid"]) for source in sources}
    for panel in panels(dashboard):
        targets = panel.get("targets", [])
        assert targets or panel["type"] == "text"
        used = [source for source in (panel.get("datasource"), *(target["datasource"] for target in targets)) if source]
        assert {(source["type"], source["uid"]) for source in used} <= provisioned

    text = json.dumps(dashboard["panels"])
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", text)) - {"__rate_interval"} == variables
    by_uid = {each["uid"]: each for each in READ.values()}
    for uid, variable in re.findall(r"/d/([\w-]+)\?var-(\w+)=", text):
        assert variable in {each["name"] for each in by_uid[uid]["templating"]["list"]}


@each_dashboard
def test_grafana_finds_dashboards_where_compose_puts_them(dashboard: dict[str, Any]) -> None:
    provider = yaml.safe_load((PROVISIONING / "dashboards" / "tandem.yaml").read_text())["providers"][0]
    grafana = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    for folder in PROVISIONING.iterdir():
        assert mounted[f"/etc/grafana/provisioning/{folder.name}"] == f"./grafana/provisioning/{folder.name}"
    assert "/etc/grafana/provisioning" not in mounted, "it would hide the folders that Grafana has there itself"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/overview.json"


def test_jaeger_is_asked_for_spans_that_there_are() -> None:
    searches = [
        target
        for dashboard in READ.values()
        for panel in panels(dashboard)
        for target in panel.get("targets", ())
        if target.get("queryType") == "search"
    ]
    assert len(searches) == 4
    for search in searches:
        if "operation" in search:
            assert SERVICES[search["operation"]] == search["service"]
        assert search["service"] in SERVICES.values()
