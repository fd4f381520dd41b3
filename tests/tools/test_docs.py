"""What documents call by name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "bench",
    "cli",
    "clients",
    "decode",
    "deploy",
    "engine",
    "frontend",
    "kvtransfer",
    "prefill",
    "protos",
    "tests",
    "tools",
)
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAME = re.compile(r"(?<![\w./-])[\w/-]+\.py\b")


@pytest.fixture(scope="module")
def paths() -> set[str]:
    return {f"/{path.relative_to(ROOT)}" for folder in CODE for path in (ROOT / folder).rglob("*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_files_of_which_a_document_speaks_are_there(document: Path, paths: set[str]) -> None:
    named = set(NAME.findall(document.read_text(encoding="utf-8")))
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in paths)} == set()
