"""Grafana itself is in no package registry. What is held against Grafana's own: dashboards, by its schema's types; what
is provisioned, by the keys that its readers of these files take; its settings, by their names."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose import services
from tests.deploy.files import COMPOSE, DASHBOARDS, PROVISIONING, ROOT
from tests.deploy.grafana import CONFIG, typescript

TYPES = ROOT / "build" / "grafana" / "node_modules"
SCHEMA = TYPES / "@grafana" / "schema" / "package.json"
DATASOURCE = """orgId orgName version name type access url user database basicAuth basicAuthUser withCredentials
    isDefault correlations jsonData secureJsonData editable uid"""
PROVIDER = "name type orgId folder folderUid editable options disableDeletion updateIntervalSeconds allowUiUpdates"
SETTINGS = {
    "AUTH_ANONYMOUS_ENABLED",
    "AUTH_ANONYMOUS_ORG_ROLE",
    "AUTH_DISABLE_LOGIN_FORM",
    "SECURITY_DISABLE_INITIAL_ADMIN_CREATION",
    "ANALYTICS_REPORTING_ENABLED",
    "ANALYTICS_CHECK_FOR_UPDATES",
    "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
    "DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
}
"""Sections and keys of Grafana's defaults.ini; what it does not know there it passes over in silence."""


def test_what_is_provisioned_has_only_keys_that_grafana_reads() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "tandem.yaml").read_text())
    assert set(sources) == {"apiVersion", "datasources"}
    for source in sources["datasources"]:
        assert set(source) <= set(DATASOURCE.split())
        assert source["access"] in ("proxy", "direct")
    assert [source.get("isDefault", False) for source in sources["datasources"]].count(True) == 1
    providers = yaml.safe_load((PROVISIONING / "dashboards" / "tandem.yaml").read_text())
    assert set(providers) == {"apiVersion", "providers"}
    for provider in providers["providers"]:
        assert set(provider) <= set(PROVIDER.split())
        assert set(provider["options"]) <= {"path", "foldersFromFilesStructure"}
    assert sources["apiVersion"] == providers["apiVersion"] == 1


def test_settings_are_ones_that_grafana_knows() -> None:
    told = services(COMPOSE)["grafana"]["environment"]
    assert {name.removeprefix("GF_") for name in told} <= SETTINGS


def compiled(folder: Path, dashboards: list[dict[str, Any]]) -> str:
    """What the compiler says of them."""
    if not SCHEMA.exists():
        missing = "Grafana's schema is missing: make build/grafana/.installed"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    folder.mkdir()
    (folder / "node_modules").symlink_to(TYPES)
    (folder / "tsconfig.json").write_text(json.dumps(CONFIG))
    (folder / "dashboards.ts").write_text(typescript(dashboards))
    command = [str(TYPES / ".bin" / "tsc"), "-p", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240).stdout


@pytest.mark.slow
def test_dashboards_are_what_grafanas_schema_says(tmp_path: Path) -> None:
    image = services(COMPOSE)["grafana"]["image"]
    dashboards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert compiled(tmp_path / "ours", dashboards) == ""
    assert json.loads(SCHEMA.read_text())["version"] == re.findall(r"grafana/grafana:([\d.]+)", image)[0]


@pytest.mark.slow
def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    (path,) = [path for path in DASHBOARDS if path.stem == "overview"]
    wrong = [json.loads(path.read_text()) for _ in range(5)]

    def panel(number: int, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in wrong[number]["panels"] if each["type"] == kind)
        return found

    panel(0, "timeseries")["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "curve"
    panel(1, "timeseries")["options"]["legends"] = {}
    panel(2, "timeseries")["targets"][0]["expression"] = "up"
    panel(3, "stat")["fieldConfig"]["defaults"]["thresholds"]["mode"] = "relative"
    wrong[4]["schema"] = 39
    said = compiled(tmp_path / "wrong", wrong)
    for word in ("curve", "legends", "expression", "relative", "schema"):
        assert word in said, said
