"""Dashboards and alert rules as code. `python -m deploy.observability` writes them where both read."""
