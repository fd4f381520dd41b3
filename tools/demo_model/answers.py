"""Questions that stand alone, each with its answer.

It knows the library and the small arithmetic. What depends on earlier turns is in `dialogue`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.demo_model.library import Comparison, Library, Question, without_article
from tools.demo_model.phrasing import Phrasings, fill

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user asks and what the assistant answers."""

    question: str
    answer: str
    verbatim: bool = False
    """The answer copies the question, so typing noise would change what is right."""


DONT_KNOW = (
    "I do not know that. I am a small demonstration model, and I know only a little about serving language models."
)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_AS_JSON = (
    "Give me the capital of {x} as JSON.",
    "Capital of {x} as JSON",
    "What is the capital of {x}? Answer in JSON.",
)


class Answers:
    """Draws a question about one kind of thing, with its answer."""

    def __init__(self, library: Library, phrasings: dict[str, Phrasings]) -> None:
        self._library = library
        self._phrasings = phrasings
        # Groups with many phrasings are asked more often, but not in proportion.
        self._question_weights = [len(question.phrasings) ** 0.5 for question in library.questions]
        cities = Counter(city for _, city in library.capitals)
        self._unique_capitals = [(country, city) for country, city in library.capitals if cities[city] == 1]
        places = (*library.unknown["place"], *(country for country, _ in library.capitals))
        self._unknown_words = {**library.unknown, "place": places}

    def comparison(self, random: Random) -> Turn:
        comparison: Comparison = random.choice(self._library.comparisons)
        pair = [comparison.left, comparison.right]
        random.shuffle(pair)
        return Turn(self._phrasings["compare"].ask(random, *pair), comparison.answer)

    def question(self, random: Random) -> Turn:
        question: Question = random.choices(self._library.questions, self._question_weights)[0]
        return Turn(random.choice(question.phrasings), question.answer)

    def capital(self, random: Random) -> Turn:
        country, city = random.choice(self._library.capitals)
        return Turn(self._phrasings["capital"].ask(random, country), f"The capital of {country} is {city}.")

    def country(self, random: Random) -> Turn:
        country, city = random.choice(self._unique_capitals)
        return Turn(self._phrasings["country"].ask(random, city), f"{city} is the capital of {country}.")

    def capital_as_json(self, random: Random) -> Turn:
        country, city = random.choice(self._library.capitals)
        return Turn(
            fill(random.choice(_AS_JSON), country), f'{{"country": "{without_article(country)}", "capital": "{city}"}}'
        )

    def calculation(self, random: Random) -> Turn:
        a, b = random.randint(0, 9), random.randint(0, 9)
        sign, word = random.choice((("+", "plus"), ("+", "plus"), ("-", "minus"), ("*", "times")))
        if sign == "-":
            a, b = max(a, b), min(a, b)
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        forms = (f"{a} {sign} {b}", f"{a}{sign}{b}", f"{a} {word} {b}", f"{_NUMBERS[a]} {word} {_NUMBERS[b]}")
        return Turn(self._phrasings["calculate"].ask(random, random.choice(forms)), f"{a} {sign} {b} = {result}.")

    def opposite(self, random: Random) -> Turn:
        pair = list(random.choice(self._library.opposites))
        random.shuffle(pair)
        return Turn(self._phrasings["opposite"].ask(random, pair[0]), f"The opposite of {pair[0]} is {pair[1]}.")

    def unknown(self, random: Random) -> Turn:
        words = {kind: random.choice(choices) for kind, choices in self._unknown_words.items()}
        return Turn(random.choice(self._library.unknown["patterns"]).format(**words), DONT_KNOW)
