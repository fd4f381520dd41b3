"""One conversation in progress.

It knows what was said and what later turns can refer to: the last topic, the last story, the facts about the user.
It knows nothing of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tools.demo_model.answers import Answers, Turn
from tools.demo_model.library import Library, Term, first_sentence
from tools.demo_model.memory import FACTS, draw_fact, phrase_to_repeat
from tools.demo_model.phrasing import Phrasings, hurried
from tools.demo_model.stories import ANIMALS, PLACES, THINGS, Story, tell, with_article

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful, honest assistant.",
    "You are an assistant for questions about model serving.",
    "You are the demonstration model of Tandem.",
    "You are a friendly chatbot.",
    "Be helpful.",
    "Be polite and correct.",
    "Answer the questions of the user.",
    "You help engineers to run language models.",
    "You are a teacher. Explain things well.",
)
_BRIEF_SYSTEM = (
    "Answer in one sentence.",
    "Answer briefly.",
    "You are a helpful assistant. Answer in one sentence.",
    "Be brief.",
    "Keep your answers short.",
)
_ANY_STORY = (
    "Tell me a story.",
    "Tell me a short story.",
    "I want to hear a story.",
    "Write a story.",
    "Do you know a story?",
)
_LONG_STORY = ("Tell me a long story about {x}.", "Write a long story about {x}.", "I want a long story about {x}.")
_REPEAT = ("Repeat after me: {x}", "Say: {x}", "Repeat: {x}", "Repeat these words: {x}", "Say the words {x}")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: str
    text: str


class Dialogue:
    """Draws one turn after the other; some refer to earlier ones."""

    def __init__(
        self,
        library: Library,
        phrasings: dict[str, Phrasings],
        answers: Answers,
        filler: Callable[[int], str],
        random: Random,
    ) -> None:
        self._library, self._phrasings, self._filler, self._random = library, phrasings, filler, random
        self._facts: dict[str, str] = {}
        self._topic: Term | None = None
        self._story: Story | None = None
        self._last_answer = ""
        self._brief = False
        self._intents: tuple[tuple[int, Callable[[Random], Turn]], ...] = (
            (22, lambda _: self._explain("define")),
            (9, lambda _: self._explain("why")),
            (4, lambda _: self._explain("detail")),
            (4, lambda _: self._explain("brief")),
            (8, answers.comparison),
            (24, answers.question),
            (6, answers.capital),
            (1, answers.country),
            (1, answers.capital_as_json),
            (4, answers.calculation),
            (2, answers.opposite),
            (5, answers.unknown),
            (5, self._tell_story),
            (4, self._tell_fact),
            (5, self._recall_fact),
            (4, self._repeat),
        )

    def opening(self) -> list[Message]:
        """Draw the system message, or none."""
        roll = self._random.random()
        if roll < 0.65:
            return []
        if roll < 0.87:
            return [Message("system", self._random.choice(_SYSTEM))]
        if roll < 0.95:
            self._brief = True
            return [Message("system", self._random.choice(_BRIEF_SYSTEM))]
        self._facts["name"] = FACTS["name"].draw(self._random)
        return [Message("system", f"You are a helpful assistant. You are talking to {self._facts['name']}.")]

    def turn(self, num_filler_documents: int = 0) -> list[Message]:
        """Draw a question, perhaps after a long text, and its answer."""
        turn = self._follow_up() or self._new_subject()
        question = turn.question if turn.verbatim else hurried(turn.question, self._random)
        if num_filler_documents:
            question = self._after_a_text(question, num_filler_documents)
        self._last_answer = turn.answer
        return [Message("user", question), Message("assistant", turn.answer)]

    def _after_a_text(self, question: str, num_documents: int) -> str:
        lead = self._random.choice(("Here is a text:", "Read this:", "Context:", "Some text first:", ""))
        mark = self._random.choice(("", "Question: ", "My question: "))
        return f"{lead}\n\n{self._filler(num_documents)}\n\n{mark}{question}".lstrip()

    def _new_subject(self) -> Turn:
        self._topic = None
        if self._random.random() < 0.5:
            self._story = None
        weights = [weight for weight, _ in self._intents]
        draw = self._random.choices([draw for _, draw in self._intents], weights)[0]
        turn = draw(self._random)
        shorten = self._brief and self._story is None and "\n" not in turn.answer
        return replace(turn, answer=first_sentence(turn.answer)) if shorten else turn

    def _follow_up(self) -> Turn | None:
        """Refer to an earlier turn, if there is one and the dice say so."""
        if not self._last_answer or self._random.random() < 0.8:
            return None
        if self._topic is not None and self._random.random() < 0.7:
            intent = self._random.choice(("why follow-up", "more follow-up"))
            topic, self._topic = self._topic, None
            return Turn(self._phrasings[intent].ask(self._random), topic.reason)
        if self._story is not None:
            return self._about(self._story)
        if len(self._last_answer) < 300:
            return Turn(self._phrasings["again"].ask(self._random), self._last_answer)
        return None

    def _about(self, story: Story) -> Turn:
        subject = self._random.choice((story.hero, "hero", "main character"))
        if self._random.random() < 0.6:
            asked = (
                f"What was the name of the {subject}?",
                f"What is the {subject} called?",
                "Who was the story about?",
            )
            return Turn(self._random.choice(asked), f"It was {with_article(story.hero)} called {story.name}.")
        asked = (f"Where did the {subject} live?", "Where does the story take place?", "Where was that?")
        return Turn(self._random.choice(asked), f"It lived in {story.place}.")

    def _explain(self, intent: str) -> Turn:
        term = self._random.choice(self._library.terms)
        name = term.names[0] if self._random.random() < 0.5 else self._random.choice(term.names)
        answer = {"define": term.definition, "why": term.reason, "detail": term.detailed, "brief": term.brief}[intent]
        self._topic = term if intent in {"define", "brief"} else None
        return Turn(self._phrasings[intent].ask(self._random, name), answer)

    def _tell_story(self, random: Random) -> Turn:
        if random.random() < 0.15:
            self._story = tell(random)
            return Turn(random.choice(_ANY_STORY), self._story.text)
        hero = random.choice((*ANIMALS, *THINGS))
        other = random.choice([animal for animal in ANIMALS if animal != hero]) if random.random() < 0.25 else None
        place = random.choice(PLACES) if random.random() < 0.3 else None
        long = random.random() < 0.15
        self._story = tell(random, hero, place, other, long=long)
        asked = (
            with_article(hero) + (f" and {with_article(other)}" if other else "") + (f" in {place}" if place else "")
        )
        template = random.choice(_LONG_STORY if long else self._phrasings["story"].trained)
        return Turn(template.format(x=asked), self._story.text)

    def _tell_fact(self, random: Random) -> Turn:
        kind, fact = draw_fact(random)
        value = self._facts[kind] = fact.draw(random)
        return Turn(random.choice(fact.told).format(x=value), fact.reply.format(x=value), verbatim=True)

    def _recall_fact(self, random: Random) -> Turn:
        kind, fact = draw_fact(random)
        if self._facts and random.random() < 0.8:
            kind = random.choice(list(self._facts))
            fact = FACTS[kind]
        answer = fact.recalled.format(x=self._facts[kind]) if kind in self._facts else fact.missing
        return Turn(random.choice(fact.asked), answer)

    def _repeat(self, random: Random) -> Turn:
        phrase = phrase_to_repeat(random)
        return Turn(random.choice(_REPEAT).format(x=phrase), phrase, verbatim=True)
