"""compose.yaml as Docker reads it, with the defaults of its variables."""

import re
from pathlib import Path
from typing import Any

import yaml

VARIABLE = re.compile(r"\$\{(\w+)(?:(:?-)([^}]*))?\}")


def services(path: Path, **variables: str) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = interpolated(yaml.safe_load(path.read_text()), variables)["services"]
    return made


def interpolated(value: Any, variables: dict[str, str]) -> Any:
    match value:
        case str():
            return VARIABLE.sub(lambda found: _value(found, variables), value)
        case list():
            return [interpolated(each, variables) for each in value]
        case dict():
            return {key: interpolated(each, variables) for key, each in value.items()}
        case _:
            return value


def _value(found: "re.Match[str]", variables: dict[str, str]) -> str:
    name, operator, default = found.groups()
    given = variables.get(name)
    return (default or "") if given is None or (operator == ":-" and not given) else given


def environment(service: dict[str, Any]) -> dict[str, str]:
    """What is told whatever the machine's own environment has: null stands for that."""
    return {name: str(value) for name, value in service["environment"].items() if value is not None}
