"""Short stories from a small grammar.

It knows heroes, places and eight plots. It knows nothing of chats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.demo_model.library import sections

if TYPE_CHECKING:
    from random import Random

_GRAMMAR = dict(sections("stories.md"))
ANIMALS, THINGS, NAMES, TRAITS = (tuple(_GRAMMAR[kind].split()) for kind in ("animals", "things", "names", "traits"))
PLACES, TREASURES, OPENINGS, BRIDGES, CLOSINGS = (
    tuple(_GRAMMAR[kind].splitlines()) for kind in ("places", "treasures", "openings", "bridges", "closings")
)
PLOTS = tuple(tuple(plot.splitlines()) for plot in _GRAMMAR["plots"].split("\n\n"))
SHORT_PLOTS = tuple(sorted(PLOTS, key=lambda plot: len(" ".join(plot)))[:5])  # two of them still fit into 200 tokens


@dataclass(frozen=True, slots=True)
class Story:
    """A story and what can be asked about it."""

    text: str
    hero: str
    name: str
    place: str


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def tell(
    random: Random, hero: str | None = None, place: str | None = None, other: str | None = None, *, long: bool = False
) -> Story:
    """Make up a story; what is not given is drawn."""
    hero = hero or random.choice(ANIMALS)
    name, place = random.choice(NAMES), place or random.choice(PLACES)
    other = with_article(other or random.choice([animal for animal in ANIMALS if animal != hero]))
    words = {"hero": hero, "name": name, "place": place, "trait": random.choice(TRAITS), "other": other}
    opening = random.choice(OPENINGS)
    first, second = random.sample(SHORT_PLOTS if long else PLOTS, 2)
    ending = (random.choice(BRIDGES), *second, "The end.") if long else (random.choice(CLOSINGS),)
    sentences = [opening, *first, *ending]
    text = " ".join(sentences).format(**words, thing=random.choice(TREASURES))
    return Story(_after_first_mention(text, other), hero, name, place)


def _after_first_mention(text: str, other: str) -> str:
    """Say `the owl` once `an owl` is known."""
    head, mention, tail = text.partition(other)
    return head + mention + tail.replace(other, f"the {other.split(' ', 1)[1]}")
