"""Alert rules, by Prometheus's own tool: they fire when they should, and not otherwise."""

from pathlib import Path

import yaml

from deploy.observability.alerts import BURNS, OBJECTIVE
from tests.deploy.files import PROMETHEUS, RULES
from tests.deploy.queries import rules
from tests.deploy.tools import program, run

CASES = Path(__file__).with_name("alerts.yaml")


def promtool() -> str:
    return program("promtool", "prometheus")


def test_configuration_and_rules_are_valid() -> None:
    run(promtool(), "check", "config", str(PROMETHEUS))
    run(promtool(), "check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_alerts_fire_when_they_should() -> None:
    run(promtool(), "test", "rules", str(CASES))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    asked = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in asked if case["exp_alerts"]}
    silent = {case["alertname"] for case in asked if not case["exp_alerts"]}
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert fires == silent == alerts


def test_burning_can_reach_what_it_is_told_at() -> None:
    assert all(times * (1 - OBJECTIVE) < 1 for _, _, _, times, _, _ in BURNS)


def test_every_alert_says_how_bad_it_is_and_what_is_the_matter() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"]["summary"]
