"""What the evaluation asks: the ten examples, phrasings kept out of training, and questions after a long past.

It knows questions and what a right answer holds. It knows nothing of models.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from tools.demo_model.dialogue import Message
from tools.demo_model.memory import FACTS
from tools.demo_model.phrasing import fill
from tools.demo_model.stories import ANIMALS, with_article

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tools.demo_model.corpus import Corpus

EXAMPLES = Path(__file__).parent / "examples.json"


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation whose last message is a question, and what the answer must hold."""

    group: str
    messages: tuple[Message, ...]
    keywords: tuple[str, ...] = ()
    """Words that a free answer must hold."""
    written: tuple[str, ...] = ()
    """Answers of the corpus; one of them must be given to the letter."""

    @property
    def question(self) -> str:
        return self.messages[-1].text

    def accepts(self, answer: str) -> bool:
        if self.written:
            return answer in self.written
        return all(re.search(rf"\b{re.escape(keyword)}\b", answer, re.IGNORECASE) for keyword in self.keywords)


def examples() -> list[Case]:
    rows = json.loads(EXAMPLES.read_text("utf-8"))
    return [Case("example", (Message("user", row["question"]),), tuple(row["keywords"])) for row in rows]


def held_out(corpus: Corpus) -> list[Case]:
    """Ask everything once with a phrasing that was never trained on; each second time typed carelessly."""
    cases = list(_held_out(corpus))
    for number in range(1, len(cases), 2):
        careless = Message("user", cases[number].question.lower().rstrip("?."))
        cases[number] = replace(cases[number], messages=(careless,))
    return cases


def _held_out(corpus: Corpus) -> Iterator[Case]:
    library, random = corpus.library, corpus.random

    def case(group: str, question: str, *written: str) -> Case:
        return Case(group, (Message("user", question),), written=written)

    def ask(intent: str, x: str, y: str = "") -> str:
        return fill(random.choice(corpus.phrasings[intent].held_out), x, y)

    for term in library.terms:
        for name in (term.names[0], random.choice(term.names)):
            yield case("define", ask("define", name), term.definition, term.detailed)
        yield case("why", ask("why", term.names[0]), term.reason)
    for term in random.sample(library.terms, 40):
        yield case("detail", ask("detail", term.names[0]), term.detailed)
        yield case("brief", ask("brief", term.names[0]), term.brief)
    for pair in library.comparisons:
        yield case("compare", ask("compare", pair.left, pair.right), pair.answer)
    for question in library.questions:
        for phrasing in question.held_out:
            yield case("question", phrasing, question.answer)
    for country, city in library.capitals:
        yield case("capital", ask("capital", country), f"The capital of {country} is {city}.")
    for a, b in product(range(10), (2, 5, 7)):
        yield case("calculate", ask("calculate", f"{a} + {b}"), f"{a} + {b} = {a + b}.")
    for left, right in library.opposites:
        yield case("opposite", ask("opposite", left), f"The opposite of {left} is {right}.")
    for animal in ANIMALS[::3]:
        yield replace(case("story", ask("story", with_article(animal))), keywords=(animal,))


def after_a_past(corpus: Corpus, past_tokens: int, count_tokens: Callable[[list[Message]], int]) -> list[Case]:
    """Ask each example, and the user's name, at the end of a conversation of at least `past_tokens`."""
    group = f"after {past_tokens} tokens"
    cases = []
    for example in examples():
        name = FACTS["name"].draw(corpus.random)
        past = _past(corpus, name, past_tokens, count_tokens)
        cases.append(Case(group, (*past, *example.messages), example.keywords))
        cases.append(
            Case(f"name {group}", (*past, Message("user", "What is my name?")), written=(f"Your name is {name}.",))
        )
    return cases


def _past(corpus: Corpus, name: str, past_tokens: int, count_tokens: Callable[[list[Message]], int]) -> list[Message]:
    told = FACTS["name"]
    past = [Message("user", told.told[0].format(x=name)), Message("assistant", told.reply.format(x=name))]
    dialogue = corpus.dialogue()
    while count_tokens(past) < past_tokens:
        turn = dialogue.turn()
        if not _tells_a_name(turn):
            past += turn
    return past


def _tells_a_name(turn: list[Message]) -> bool:
    return "Nice to meet you" in turn[1].text or "your name" in turn[1].text.lower()
