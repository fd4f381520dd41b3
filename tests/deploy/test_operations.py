"""docs/operations.md: the screens, panels and pictures that it leads to are there."""

import re
from pathlib import Path

import pytest

from tests.deploy.files import DASHBOARDS, ROOT
from tests.frontend.causes import CAUSES

TEXT = (ROOT / "docs" / "operations.md").read_text()
DRAWN_BY = ("frontend/console/*.js", "frontend/segments.py", "cli/screen.py", "cli/waterfall.py")


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("title", ["In two minutes", "Eight causes, as they look"])
def test_what_is_named_can_be_seen(title: str) -> None:
    """Whatever is set in italics stands on a screen, word by word."""
    paths = [*DASHBOARDS, *(path for pattern in DRAWN_BY for path in ROOT.glob(pattern))]
    shown = "\n".join(path.read_text() for path in paths).lower()
    text = re.sub(r"```.*?```", "", section(title), flags=re.DOTALL)
    named = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", text)
    assert named
    assert [name for name in named if name.lower() not in shown] == []


def test_every_cause_has_a_picture_in_both_themes() -> None:
    named = re.findall(r'srcset="causes/([\w-]+)-dark.png"><img alt="[^"]+" src="causes/([\w-]+)-light.png"', TEXT)
    assert named == [(name, name) for name in CAUSES]


def test_every_picture_is_there() -> None:
    for path in (ROOT / "docs").glob("*.md"):
        pictures = re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^\]]*\]\(([^)]+)\)', path.read_text())
        for either in pictures:
            assert (path.parent / "".join(either)).is_file(), (path.name, either)


def test_no_picture_is_left_over() -> None:
    told = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    for folder in ("causes", "console"):
        for picture in Path(ROOT / "docs" / folder).glob("*.png"):
            assert f"{folder}/{picture.name}" in told, picture
