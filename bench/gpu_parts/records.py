"""The file between a part's process and the one that started it: a JSON object a line, in the order things happened.

    {"began": TASK}   {"row": {...}, "task": TASK}   {"ended": TASK}
    {"limit": NAME, "value": FLOAT}   {"machine": {...}}

A task that began and did not end is what its process died of. Standard library only.
"""

import json
from pathlib import Path
from typing import Any

from bench.gpu_parts.report import Row, from_json


def append(file: Path, record: dict[str, Any]) -> None:
    """One line at once, so that processes may share a file."""
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def rows(records: list[dict[str, Any]]) -> list[Row]:
    return [from_json(record["row"]) for record in records if "row" in record]


def limits(records: list[dict[str, Any]]) -> dict[str, float]:
    return {record["limit"]: record["value"] for record in records if "limit" in record}


def begun(records: list[dict[str, Any]]) -> list[str]:
    return [record["began"] for record in records if "began" in record]


def unfinished(records: list[dict[str, Any]]) -> list[str]:
    ended = {record["ended"] for record in records if "ended" in record}
    return [name for name in begun(records) if name not in ended]
