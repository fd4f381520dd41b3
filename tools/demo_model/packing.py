"""Packs the corpus into rows of token ids for training.

It knows which tokens are learned: answers and raw texts, not questions. A row starts a fresh context; inside a row
nothing is masked, so late turns learn to stand after a long past.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tools.demo_model.tokenizer import END_OF_TEXT, END_OF_TURN, START_OF_TURN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tools.demo_model.corpus import Corpus
    from tools.demo_model.dialogue import Message


@dataclass(slots=True)
class Row:
    """Token ids of one context, and whether each is learned."""

    token_ids: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)

    def add(self, token_ids: list[int], *, learned: bool) -> None:
        self.token_ids += token_ids
        self.learned += [learned] * len(token_ids)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """What one training step computes."""

    token_ids: Tensor  # [B, T]
    targets: Tensor  # [M]
    target_positions: Tensor  # [M], into the flattened [B * T]


class Packer:
    """Draws rows from the corpus."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._end_of_text = self._encode(END_OF_TEXT)
        self._end_of_turn = self._encode(END_OF_TURN)
        self._newline = self._encode("\n")

    def batch(self, num_rows: int, length: int, learned_share: float) -> PackedBatch:
        """Draw rows; the number of targets is fixed, so that a compiled step keeps its shape."""
        rows = [self._row(length + 1) for _ in range(num_rows)]
        ids = torch.tensor([row.token_ids[: length + 1] for row in rows])
        learned = torch.tensor([row.learned[1 : length + 1] for row in rows]).flatten()
        num_targets = int(num_rows * length * learned_share)
        positions = learned.nonzero().flatten()[:num_targets]
        targets = ids[:, 1:].flatten()[positions]
        missing = num_targets - len(positions)
        return PackedBatch(
            token_ids=ids[:, :-1].contiguous(),
            targets=torch.nn.functional.pad(targets, (0, missing), value=-100),  # -100: no loss
            target_positions=torch.nn.functional.pad(positions, (0, missing)),
        )

    def _row(self, length: int) -> Row:
        row = Row()
        random = self._corpus.random
        if length > 1024 and random.random() < 0.75:
            self._add_dialogue(row, length)
        while len(row.token_ids) < length:
            if random.random() < 0.12:
                row.add(self._encode(self._corpus.document()) + self._end_of_text, learned=True)
            else:
                self._add_dialogue(row, min(length, len(row.token_ids) + random.choice((1, 1, 1, 200, 500))))
                row.add(self._end_of_text, learned=False)
        return row

    def _add_dialogue(self, row: Row, until: int) -> None:
        """Add turns until the row has `until` tokens; a text may come before any question of a long row."""
        dialogue, random = self._corpus.dialogue(), self._corpus.random
        self._add_messages(row, dialogue.opening())
        first = True
        while first or len(row.token_ids) < until:
            room = until - len(row.token_ids)
            num_documents = 0
            if first and room > 1024 and random.random() < 0.4:
                num_documents = random.randint(1, room // 170)
            elif random.random() < 0.03:
                num_documents = 1
            self._add_messages(row, dialogue.turn(num_documents))
            first = False

    def _add_messages(self, row: Row, messages: list[Message]) -> None:
        for message in messages:
            row.add(self._encode(f"{START_OF_TURN}{message.role}\n"), learned=False)
            row.add(self._encode(message.text.strip()) + self._end_of_turn, learned=message.role == "assistant")
            row.add(self._newline, learned=False)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
