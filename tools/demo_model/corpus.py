"""The corpus: an endless, seeded stream of conversations and documents.

It knows what is said and how often. It knows nothing of tokens or tensors.
"""

from __future__ import annotations

from random import Random

from tools.demo_model.answers import Answers
from tools.demo_model.dialogue import Dialogue
from tools.demo_model.library import Library, first_sentence
from tools.demo_model.memory import phrase_to_repeat
from tools.demo_model.phrasing import Phrasings
from tools.demo_model.stories import tell


class Corpus:
    """Draws conversations and documents; the same seed gives the same stream."""

    def __init__(self, seed: int) -> None:
        self.library = Library.load()
        self.phrasings = Phrasings.load()
        self.answers = Answers(self.library, self.phrasings)
        self.random = Random(seed)

    def dialogue(self) -> Dialogue:
        return Dialogue(self.library, self.phrasings, self.answers, self.filler, self.random)

    def document(self) -> str:
        """Draw a raw text: a story, a chapter of the handbook, or a list of facts."""
        random = self.random
        roll = random.random()
        if roll < 0.35:
            return tell(random, long=random.random() < 0.3).text
        if roll < 0.65:
            return random.choice(self.library.chapters)
        if roll < 0.8:
            return " ".join(term.detailed for term in random.sample(self.library.terms, 5))
        return " ".join(f"The capital of {x} is {y}." for x, y in random.sample(self.library.capitals, 12))

    def filler(self, num_documents: int) -> str:
        """Draw a text that has nothing to do with the question after it."""
        roll = self.random.random()
        if roll < 0.1:
            return " ".join(phrase_to_repeat(self.random) for _ in range(10 * num_documents))
        if roll < 0.2:
            return " ".join([first_sentence(self.document())] * (5 * num_documents))
        return "\n\n".join(self.document() for _ in range(num_documents))
