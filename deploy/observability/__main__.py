"""Writes Grafana's dashboards and Prometheus's rules: python -m deploy.observability."""

import json
from pathlib import Path

import yaml

from deploy.observability.alerts import rules
from deploy.observability.balance import balance
from deploy.observability.overview import overview
from deploy.observability.requests import requests
from deploy.observability.transfers import transfers

FOLDER = Path(__file__).resolve().parents[1]
MADE = "# Made by python -m deploy.observability of deploy/observability/alerts.py.\n"


def files() -> dict[Path, str]:
    """What each of the files holds."""
    dashboards = {"overview": overview(), "balance": balance(), "transfers": transfers(), "requests": requests()}
    made = {
        FOLDER / "grafana" / "dashboards" / f"{name}.json": json.dumps(dashboard.json(), indent=1) + "\n"
        for name, dashboard in dashboards.items()
    }
    text = yaml.safe_dump(rules(), sort_keys=False, width=120, allow_unicode=True)
    return {**made, FOLDER / "prometheus" / "rules.yaml": MADE + text}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
