"""The many ways to ask the same thing.

It knows templates and the noise of hurried typing. It knows no answers. The `held_out` templates are never trained on:
the evaluation asks them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.demo_model.library import sections, without_article

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Templates of one intent."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]

    @classmethod
    def load(cls) -> dict[str, Phrasings]:
        """Read `text/phrasings.md`: one section for each intent."""
        return {heading: cls._parse(body.splitlines()) for heading, body in sections("phrasings.md")}

    @classmethod
    def _parse(cls, lines: list[str]) -> Phrasings:
        return cls(
            trained=tuple(line for line in lines if not line.startswith("H: ")),
            held_out=tuple(line[3:] for line in lines if line.startswith("H: ")),
        )

    def ask(self, random: Random, x: str = "", y: str = "") -> str:
        """Fill one of the trained templates."""
        return fill(random.choice(self.trained), x, y)


def fill(template: str, x: str, y: str = "") -> str:
    text = template.format(x=x, y=y, b=without_article(x))
    return text[0].upper() + text[1:] if re.match(r"[a-z]+ ", text) and template[0] == "{" else text


_OPENERS = ("Please", "Hi!", "Hello,", "Hey,", "Hi,", "OK,", "So,", "Now,", "Quick question:", "One more question:")
_EARNEST = (
    "I am new to this.",
    "I have a question.",
    "Please answer:",
    "Tell me:",
    "Can you help me?",
    "Next question:",
)


def hurried(text: str, random: Random) -> str:
    """Change a question as people do: another opening, lower case, no mark at the end, a slip of the finger."""
    roll = random.random()
    if roll < 0.12:
        text = f"{random.choice(_OPENERS)} {_uncapitalized(text)}"
    elif roll < 0.18:
        text = f"{random.choice(_EARNEST)} {text}"
    if random.random() < 0.06:
        mark = text[-1] if text[-1] in "?." else ""
        text = f"{text.rstrip('?.')}{random.choice((', please', ' please'))}{mark}"
    if random.random() < 0.25:
        text = text.rstrip("?.! ") or text
    elif random.random() < 0.05:
        text += random.choice(("?", "!", " ?", "??", "."))
    if random.random() < 0.25:
        text = text.lower()
    elif random.random() < 0.02:
        text = text.upper()
    return _mistyped(text, random) if random.random() < 0.05 else text


def _uncapitalized(text: str) -> str:
    """Lower the first letter, unless the first word is an abbreviation or `I`."""
    return text[0].lower() + text[1:] if re.match(r"[A-Z][a-z']", text) else text


def _mistyped(text: str, random: Random) -> str:
    """Swap, drop or double one letter inside a longer word."""
    places = [match.start() for match in re.finditer(r"(?<=[a-z])[a-z](?=[a-z]{2})", text)]
    if not places:
        return text
    at = random.choice(places)
    letters = random.choice((text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]))
    return text[:at] + letters + text[at + 2 :]
