"""Reads the written part of the corpus from `text/`.

It knows the layout of those files. It knows nothing of phrasings, chats or tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TEXT = Path(__file__).parent / "text"


@dataclass(frozen=True, slots=True)
class Term:
    """An entry of the glossary; names stand as in a sentence, with their article."""

    names: tuple[str, ...]
    definition: str
    reason: str

    @property
    def brief(self) -> str:
        """The first sentence of the definition."""
        return first_sentence(self.definition)

    @property
    def detailed(self) -> str:
        return f"{self.definition} {self.reason}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two things and how they differ."""

    left: str
    right: str
    answer: str


@dataclass(frozen=True, slots=True)
class Question:
    """One answer, the phrasings to train on and those that are kept out of training."""

    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Library:
    """The whole written text."""

    terms: tuple[Term, ...]
    comparisons: tuple[Comparison, ...]
    questions: tuple[Question, ...]
    chapters: tuple[str, ...]
    capitals: tuple[tuple[str, str], ...]
    opposites: tuple[tuple[str, str], ...]
    unknown: dict[str, tuple[str, ...]]

    @classmethod
    def load(cls) -> Library:
        return cls(
            terms=tuple(_term(heading, body) for heading, body in sections("glossary.md")),
            comparisons=tuple(_comparison(heading, body) for heading, body in sections("comparisons.md")),
            questions=tuple(_questions((TEXT / "questions.md").read_text("utf-8"))),
            chapters=tuple(f"{heading}\n\n{body}" for heading, body in sections("handbook.md")),
            capitals=_pairs("capitals.tsv"),
            opposites=_pairs("opposites.tsv"),
            unknown={heading: tuple(body.splitlines()) for heading, body in sections("unknown.md")},
        )


def first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)[0]


def without_article(name: str) -> str:
    """Say `KV block` for `a KV block`."""
    return re.sub(r"^(a|an|the) ", "", name)


def sections(name: str) -> list[tuple[str, str]]:
    """Split a file at its `## ` headings."""
    parts = (TEXT / name).read_text("utf-8").split("\n## ")[1:]
    return [(heading.strip(), body.strip()) for heading, _, body in (part.partition("\n") for part in parts)]


def _term(heading: str, body: str) -> Term:
    definition, _, reason = body.partition("\n> ")
    return Term(tuple(heading.split(" | ")), definition.strip(), reason.strip())


def _comparison(heading: str, body: str) -> Comparison:
    left, right = heading.split(" | ")
    return Comparison(left, right, body)


def _questions(text: str) -> list[Question]:
    questions = []
    for group in re.split(r"\n\n(?=Q: )", text.strip())[1:]:
        asked, _, answer = group.partition("\nA: ")
        lines = asked.splitlines()
        questions.append(
            Question(
                phrasings=tuple(line[3:] for line in lines if line.startswith("Q: ")),
                held_out=tuple(line[3:] for line in lines if line.startswith("H: ")),
                answer=answer.strip(),
            )
        )
    return questions


def _pairs(name: str) -> tuple[tuple[str, str], ...]:
    lines = (TEXT / name).read_text("utf-8").splitlines()
    return tuple((left, right) for left, _, right in (line.partition("\t") for line in lines))
