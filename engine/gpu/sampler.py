"""Logits to token ids on the GPU: the same order, arithmetic and generator as `engine/sampler.py`, so the same tokens.

A step's parameters go to the device in one copy and its tokens come back in one. `launch` waits for nothing; `collect`
waits for that one copy. A token may be drawn before the host knows the one before it: penalties count it where the step
before left it. Not so what a grammar allows, for grammars are followed on the host.
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.gpu.current import on
from engine.gpu.history import History, News
from engine.gpu.packed import Packed, Part, to_device
from engine.gpu.scoring import find_likely
from engine.kernels.gpu.adjust_logits import add_bias, ban, note_tokens, penalise
from engine.kernels.gpu.candidates import Scratch
from engine.kernels.gpu.keep import keep
from engine.kernels.gpu.sample import sample
from engine.sampled import Sampled
from engine.sequence import SamplingParams, Sequence, SequenceId, TokenLogprobs

if TYPE_CHECKING:
    from engine.masks import Allowed


_EVERY_WISH = SamplingParams(
    max_tokens=99,
    seed=0,
    min_tokens=99,
    repetition_penalty=2.0,
    logit_bias=((0, 1.0),),
    stop_token_ids=frozenset((0,)),
    num_logprobs=1,
)


@dataclass(frozen=True, slots=True)
class Continued:
    """The step before one that is launched, where the host does not know all of its tokens."""

    token_ids: torch.Tensor
    """`[R]` int64 on the device, or where they will be"""
    samples: Rows[int]
    """For each row to be drawn, which of them comes before it; below 0 where the host knows what does"""


@dataclass(frozen=True, slots=True)
class Pending:
    """Tokens that are on their way from the device."""

    token_ids: torch.Tensor
    """`[R]` int64 on the device, where they are first"""
    host: Packed
    """token ids `[R]` int64; of rows that asked: log-probabilities, those of the most likely tokens, and their ids"""
    asked: tuple[int, ...]
    sequences: tuple[Sequence, ...]
    arrived: torch.cuda.Event | None
    dead_ends: dict[int, str]
    """Rows in which no token could be drawn, and why"""

    def collect(self) -> Sampled:
        """Wait for the tokens."""
        if self.arrived is not None:
            self.arrived.synchronize()
        token_ids, *of_asked = (tensor.tolist() for tensor in self.host.tensors)
        if not self.asked:
            return Sampled(token_ids, None, self.dead_ends)
        rows: list[TokenLogprobs | None] = [None] * len(self.sequences)
        for row, chosen, values, ids in zip(self.asked, *of_asked, strict=True):
            count = self.sequences[row].params.num_logprobs or 0
            rows[row] = TokenLogprobs(chosen, tuple(ids[:count]), tuple(values[:count]))
        return Sampled(token_ids, tuple(rows), self.dead_ends)


class GpuSampler:
    """Draws the next token of every row."""

    def __init__(
        self,
        vocab_size: int,
        max_sequences: int,
        device: torch.device,
        masks: "Callable[[Rows[Sequence]], Allowed | None]" = lambda _: None,
    ) -> None:
        """For up to `max_sequences` rows at once. `masks` says what grammars allow, where there are any."""
        self._device = device
        self._history = History(max_sequences, vocab_size, device)
        self._scratch = Scratch.of(max_sequences, vocab_size, device)
        self._masks = masks

    def __call__(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> Sampled:
        """Sample from `logits` `[R, V]` float32, which the sampler may change."""
        return self.launch(logits, sequences).collect()

    def launch(
        self,
        logits: torch.Tensor,
        sequences: Rows[Sequence],
        indices: Rows[int] | None = None,
        continued: Continued | None = None,
    ) -> Pending:
        """Have the device sample; `logits` are its own until then.

        `indices` are the numbers that the tokens will have in their answers: a sequence may lack one that is drawn
        before and not collected yet, by the step `continued`, unless it looks back. None if nobody does.
        """
        assert len(logits) == len(sequences)
        known = [sequence.num_output for sequence in sequences]
        indices = known if indices is None else indices
        late = [row for row, sequence in enumerate(sequences) if sequence.looks_back]
        assert all(indices[row] == known[row] for row in late), "a token is drawn by tokens that are not known"
        with on(self._device), torch.inference_mode():
            return self._launch(logits, sequences, indices, continued)

    def _launch(
        self, logits: torch.Tensor, sequences: Rows[Sequence], indices: Rows[int], continued: Continued | None
    ) -> Pending:
        asked = [row for row, sequence in enumerate(sequences) if sequence.params.num_logprobs is not None]
        allowed = self._masks(sequences)  # the device computes the logits meanwhile
        news = self._history.news(sequences, continued.samples if continued else None)
        arrays = [*_filters(sequences, indices), np.array(asked, np.int64), *_penalties(sequences, news)]
        arrays += [*_biases(sequences), *_bans(sequences, indices), *_masks(allowed)]
        columns = to_device(arrays, self._device)
        temperatures, top_ks, top_ps, min_ps, seeds, numbers, rows = columns[:7]
        penalties, biases, bans, masks = columns[7:17], columns[17:20], columns[20:22], columns[22:]
        raw = logits.index_select(0, rows) if asked else None  # a copy: what follows changes the logits
        if len(biases[1]):
            add_bias(logits, *biases)
        if (news.slots >= 0).any():
            self._penalise(logits, news, penalties, None if continued is None else continued.token_ids)
        if len(bans[1]):
            ban(logits, *bans)
        if masks:
            keep(logits, *masks)
        count = max((min(sequences[row].params.num_logprobs or 1, logits.shape[1]) for row in asked), default=1)
        found = Packed(_outcome(len(sequences), len(asked), count), self._device)
        token_ids, *likely = found.tensors
        sample(logits, temperatures, top_ks, top_ps, min_ps, seeds, numbers, self._scratch, token_ids)
        if raw is not None:
            find_likely(raw, token_ids.index_select(0, rows), likely)
        dead_ends = {} if allowed is None else allowed.dead_ends
        return self._fetch(found, _outcome(len(sequences), len(asked), count), asked, sequences, dead_ends)

    def warm_up(self) -> None:
        """Compile the kernels."""
        vocab_size = self._history.counts.shape[1]
        sequence = Sequence.of(SequenceId("warm-up"), [0, 0], _EVERY_WISH, 1)
        before = self.launch(torch.zeros(1, vocab_size, device=self._device), [sequence])
        logits = torch.zeros(1, vocab_size, device=self._device)
        self.launch(logits, [sequence], [sequence.num_output + 1], Continued(before.token_ids, [0])).collect()
        masks = torch.zeros(1, -(-vocab_size // 32), dtype=torch.int32, device=self._device)
        with on(self._device):
            keep(logits, torch.zeros(1, dtype=torch.int64, device=self._device), masks)

    def _penalise(
        self, logits: torch.Tensor, news: News, columns: Rows[torch.Tensor], before: torch.Tensor | None
    ) -> None:
        """Count what is new, also of the tokens `before` that only the device knows; then apply the penalties."""
        counts = self._history.counts
        for slot in news.fresh:
            counts[slot].zero_()
        slots, repetitions, presences, frequencies, *noted = columns
        note_tokens(counts, noted[0], noted[1], is_prompt=True)
        note_tokens(counts, noted[2], noted[3], is_prompt=False)
        if before is not None:
            note_tokens(counts, noted[4], before, is_prompt=False, rows=noted[5])
        penalise(logits, counts, slots, repetitions, presences, frequencies)

    def _fetch(
        self,
        found: Packed,
        parts: Rows[Part],
        asked: Rows[int],
        sequences: Rows[Sequence],
        dead_ends: dict[int, str],
    ) -> Pending:
        on_gpu = self._device.type == "cuda"
        host = Packed(parts, torch.device("cpu"), pinned=on_gpu)
        host.bytes.copy_(found.bytes, non_blocking=True)
        arrived = None
        if on_gpu:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(self._device))
        return Pending(found.tensors[0], host, tuple(asked), tuple(sequences), arrived, dead_ends)


def _outcome(num_rows: int, num_asked: int, count: int) -> list[Part]:
    likely = (num_asked, count)
    return [
        ((num_rows,), torch.int64),
        ((num_asked,), torch.float32),
        (likely, torch.float32),
        (likely, torch.int64),
    ]


def _filters(sequences: Rows[Sequence], indices: Rows[int]) -> list[np.ndarray]:
    """Columns of `sample`."""
    params = [sequence.params for sequence in sequences]
    return [
        np.array([p.temperature for p in params], np.float64),
        np.array([p.top_k for p in params], np.int64),
        np.array([p.top_p for p in params], np.float64),
        np.array([p.min_p for p in params], np.float64),
        np.array([p.seed for p in params], np.uint64).view(np.int64),
        np.array(indices, np.int64),
    ]


def _penalties(sequences: Rows[Sequence], news: News) -> list[np.ndarray]:
    """Columns of `penalise`, then of the three calls of `note_tokens`."""
    params = [sequence.params for sequence in sequences]
    columns = [
        np.array([p.repetition_penalty for p in params], np.float32),
        np.array([p.presence_penalty for p in params], np.float32),
        np.array([p.frequency_penalty for p in params], np.float32),
    ]
    return [news.slots, *columns, *news.prompt, *news.answer, *news.continued]


def _biases(sequences: Rows[Sequence]) -> list[np.ndarray]:
    """Where each row's begin, ids, values."""
    biases = [sequence.params.logit_bias for sequence in sequences]
    ids = np.array([token for bias in biases for token, _ in bias], np.int64)
    return [_starts(biases), ids, np.array([value for bias in biases for _, value in bias], np.float32)]


def _bans(sequences: Rows[Sequence], indices: Rows[int]) -> list[np.ndarray]:
    """Where each row's begin, ids."""
    bans = [
        sequence.params.stop_token_ids if index < sequence.params.min_tokens else frozenset()
        for sequence, index in zip(sequences, indices, strict=True)
    ]
    return [_starts(bans), np.array([token for banned in bans for token in sorted(banned)], np.int64)]


def _masks(allowed: "Allowed | None") -> list[np.ndarray]:
    """Columns of `keep`; none when nobody has a grammar."""
    return [] if allowed is None else [allowed.rows, allowed.masks.view(np.int32)]


def _starts(rows: Rows[Iterable[object]]) -> np.ndarray:
    return np.cumsum([0, *(len(tuple(row)) for row in rows)]).astype(np.int32)
