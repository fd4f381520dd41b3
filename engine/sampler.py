"""Logits to token ids, each row by its own request's parameters.

The order is: logit_bias, penalties, min_tokens, what a grammar allows, then greedy or temperature, top_k, top_p, min_p
and one draw. A token depends on its row's logits, the request's parameters, seed and grammar and its answer so far,
never on the rest of the batch or on the worker. Log-probabilities are those of the raw logits. Knows parameters and
rows. Does not know models, nor what becomes of a token.
"""

from collections.abc import Sequence as Rows

import numpy as np
import torch

from engine.kernels.keep import keep
from engine.kernels.logprobs import logprobs
from engine.kernels.repetition import repetition
from engine.kernels.sample import sample
from engine.kernels.threads import share_cores
from engine.masks import Masks
from engine.sampled import Sampled
from engine.sequence import SamplingParams, Sequence, SequenceId, TokenLogprobs


class Sampler:
    """Draws the next token of every row."""

    def __init__(self) -> None:
        self._masks = Masks()

    def __call__(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> Sampled:
        """Sample from `logits` `[R, V]` float32, which the sampler may change."""
        assert len(logits) == len(sequences)
        share_cores()
        asked = [row for row, sequence in enumerate(sequences) if sequence.params.num_logprobs is not None]
        array = logits.numpy()
        raw = array[asked] if asked else None  # a copy: what follows changes the logits
        for row, sequence in enumerate(sequences):
            _adjust(array[row], sequence)
        dead_ends = self._constrain(array, sequences)
        if all(sequence.params.temperature == 0 for sequence in sequences):
            token_ids = array.argmax(axis=1).tolist()  # ten times faster than torch's
        else:
            token_ids = _draw(array, sequences)
        likely = None if raw is None else _logprobs(raw, asked, sequences, token_ids)
        return Sampled(token_ids, likely, dead_ends)

    def warm_up(self) -> None:
        """Compile the kernels."""
        params = SamplingParams(max_tokens=1, seed=0, repetition_penalty=2.0, num_logprobs=1)
        self(torch.zeros(1, 2), [Sequence.of(SequenceId("warm-up"), [0], params)])
        keep(np.zeros((1, 2), np.float32), np.zeros(1, np.int64), np.zeros((1, 1), np.uint32))

    def _constrain(self, logits: np.ndarray, sequences: Rows[Sequence]) -> dict[int, str]:
        """Rule out what grammars forbid; of rows in which nothing is left, say why."""
        allowed = self._masks(sequences)
        if allowed is None:
            return {}
        keep(logits, allowed.rows, allowed.masks)
        return allowed.dead_ends


def _adjust(logits: np.ndarray, sequence: Sequence) -> None:
    """Apply what changes the logits of one row."""
    params = sequence.params
    if params.logit_bias:
        for token, bias in params.logit_bias:
            if token < len(logits):
                logits[token] += bias
    if params.has_penalties:
        _penalise(logits, sequence, params)
    if sequence.num_output < params.min_tokens:
        logits[[token for token in params.stop_token_ids if token < len(logits)]] = -np.inf


def _penalise(logits: np.ndarray, sequence: Sequence, params: SamplingParams) -> None:
    if params.repetition_penalty != 1.0:
        # An array with a view of it alive cannot grow: the view must not outlive this call.
        repetition(logits, np.frombuffer(sequence.tokens, np.int32), params.repetition_penalty)
    counts = sequence.output_counts
    if counts and (params.presence_penalty or params.frequency_penalty):
        ids = np.fromiter(counts.keys(), np.int64, len(counts))
        times = np.fromiter(counts.values(), np.float32, len(counts))
        logits[ids] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * times


def _draw(logits: np.ndarray, sequences: Rows[Sequence]) -> list[int]:
    params = [sequence.params for sequence in sequences]
    ids: list[int] = sample(
        logits,
        np.array([p.temperature for p in params], np.float64),
        np.array([p.top_k for p in params], np.int64),
        np.array([p.top_p for p in params], np.float64),
        np.array([p.min_p for p in params], np.float64),
        np.array([p.seed for p in params], np.uint64),
        np.array([sequence.num_output for sequence in sequences], np.uint64),
    ).tolist()
    return ids


def _logprobs(
    raw: np.ndarray, asked: list[int], sequences: Rows[Sequence], token_ids: list[int]
) -> tuple[TokenLogprobs | None, ...]:
    counts = [min(sequences[row].params.num_logprobs or 0, raw.shape[1]) for row in asked]
    log_totals, values, ids = logprobs(raw, max(counts))
    rows: list[TokenLogprobs | None] = [None] * len(sequences)
    for index, (row, count) in enumerate(zip(asked, counts, strict=True)):
        logprob = float(raw[index, token_ids[row]] - log_totals[index])
        rows[row] = TokenLogprobs(logprob, tuple(ids[index, :count].tolist()), tuple(values[index, :count].tolist()))
    return tuple(rows)
