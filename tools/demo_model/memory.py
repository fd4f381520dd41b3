"""Things a user says about himself and asks for later: what only a working KV cache can answer.

It knows the kinds of facts, how they are told and how they are recalled. It knows nothing of the rest of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.demo_model.library import sections
from tools.demo_model.stories import ANIMALS, NAMES, with_article

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_WORDS = {heading: tuple(body.split()) for heading, body in sections("memory.md")}


@dataclass(frozen=True, slots=True)
class Fact:
    """One kind of fact about the user."""

    draw: Callable[[Random], str]
    told: tuple[str, ...]
    reply: str
    asked: tuple[str, ...]
    held_out: tuple[str, ...]
    recalled: str
    missing: str


def _person(random: Random) -> str:
    """Draw a name, half of the time one that never existed, so that copying is learned and not a list."""
    if random.random() < 0.5:
        return random.choice(NAMES)
    return "".join(random.choices(_WORDS["syllables"], k=random.choice((2, 2, 3)))).capitalize()


FACTS = {
    "name": Fact(
        draw=_person,
        told=("My name is {x}.", "I am {x}.", "I'm {x}.", "Hello, my name is {x}.", "Hi, I am {x}.", "Call me {x}."),
        reply="Nice to meet you, {x}! How can I help you?",
        asked=("What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "Tell me my name."),
        held_out=("Can you tell me my name?",),
        recalled="Your name is {x}.",
        missing="You have not told me your name.",
    ),
    "color": Fact(
        draw=lambda random: random.choice(_WORDS["colors"]),
        told=("My favorite color is {x}.", "I like the color {x}.", "{x} is my favorite color."),
        reply="I will remember that your favorite color is {x}.",
        asked=("What is my favorite color?", "Which color do I like?", "What's my favorite color?"),
        held_out=("Do you remember my favorite color?",),
        recalled="Your favorite color is {x}.",
        missing="You have not told me your favorite color.",
    ),
    "number": Fact(
        draw=lambda random: str(random.randint(10, 9999)),
        told=("Remember the number {x}.", "The secret number is {x}.", "My number is {x}.", "Please remember {x}."),
        reply="I will remember the number {x}.",
        asked=(
            "What is the number?",
            "What is the secret number?",
            "Which number did I tell you?",
            "What was my number?",
        ),
        held_out=("Tell me the number again.",),
        recalled="The number is {x}.",
        missing="You have not told me a number.",
    ),
    "pet": Fact(
        draw=lambda random: with_article(random.choice(ANIMALS)),
        told=("I have a pet: {x}.", "My pet is {x}.", "At home I have {x}."),
        reply="I will remember that you have {x}.",
        asked=("What pet do I have?", "Which animal do I have?", "What is my pet?"),
        held_out=("Which pet do I have at home?",),
        recalled="You have {x}.",
        missing="You have not told me about a pet.",
    ),
}


def phrase_to_repeat(random: Random) -> str:
    """Draw a few words without sense, to be copied."""
    words = [
        random.choice((*ANIMALS, *_WORDS["colors"])) if random.random() < 0.6 else _person(random).lower()
        for _ in range(8)
    ]
    return " ".join(words[: random.randint(1, 8)])


def draw_fact(random: Random) -> tuple[str, Fact]:
    kind = random.choice(list(FACTS))
    return kind, FACTS[kind]
