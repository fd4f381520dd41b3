"""The decoder transformer that all supported families share.

    hidden = embedding[token_ids]
    for each layer:
        hidden += output(attention(rope(qkv(norm(hidden)))))
        hidden += down(silu(gate(norm(hidden))) * up(norm(hidden)))
    logits = head(norm(hidden[sample_rows]))

Knows weights, layers and the order of kernels. Does not know files, blocks' owners or sampling. The residual stream and
all that kernels touch is float32; only matrix products are computed in the model's own type.
"""

from dataclasses import dataclass

import numpy as np
import torch

from engine.batch import Batch
from engine.cache import KVCache
from engine.checkpoint import Weights
from engine.kernels import decode_step
from engine.kernels.decode_attention import NO_WINDOW, decode_attention
from engine.kernels.linear import INT8, AnyLinear, LinearStack
from engine.kernels.logprobs import scores_of
from engine.kernels.norm import rms_norm
from engine.kernels.prefill_attention import PrefillChunk, prefill_attention, rounded_dtype
from engine.kernels.rope_cache import rope_cache
from engine.kernels.silu_mul import silu_mul
from engine.kernels.tile import COLUMNS
from engine.models.rope import rope_table
from engine.models.spec import ModelSpec
from engine.tp.ranks import ALONE, Ranks
from engine.tp.split import Split

_MOST_NATIVE_ROWS = 64
"""Rows up to which a step of one token each is one native call."""
_SCORED_BYTES = 1 << 24
"""Of logits that are there at once for the rows of a prompt that are scored."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, fused and packed."""

    input_norm: np.ndarray
    qkv: AnyLinear
    head_norms: np.ndarray | None
    """[2, D], of queries and of keys"""
    output: AnyLinear
    post_norm: np.ndarray
    gate_up: AnyLinear
    down: AnyLinear
    window: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """What every layer needs of a batch, as kernels take it."""

    positions: np.ndarray
    slots: np.ndarray
    num_decode: int
    block_tables: np.ndarray
    context_lens: np.ndarray
    chunks: tuple[PrefillChunk, ...]

    @classmethod
    def of(cls, batch: Batch, window: int | None, attention_dtype: torch.dtype) -> "Step":
        starts, lengths = batch.query_starts.tolist(), batch.context_lens.tolist()
        tables = batch.block_tables
        return cls(
            positions=batch.positions,
            slots=batch.slots,
            num_decode=batch.num_decode,
            block_tables=tables[: batch.num_decode],
            context_lens=batch.context_lens[: batch.num_decode],
            chunks=tuple(
                PrefillChunk(starts[s], starts[s + 1], lengths[s], tables[s], window, attention_dtype)
                for s in range(batch.num_decode, len(lengths))
            ),
        )


class Decoder:
    """A model, or one rank's part of it, ready to compute on the CPU."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        max_context: int | None = None,
        *,
        quantize: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        """Fuse and pack `weights`, emptying it on the way so that no weight is held twice; `quantize` them to int8.
        `spec` is of the whole model, `weights` are this rank's."""
        self.spec = spec
        self.ranks = ranks
        self.split = split = Split.of(spec, ranks.rank, ranks.size)
        self._part = part = split.part
        self.embedding = weights.pop("model.embed_tokens.weight")  # [V, hidden size]
        stacks = _Stacks(part, INT8 if quantize else self.embedding.dtype)
        self.layers = [_layer(part, weights, index, stacks) for index in range(spec.num_layers)]
        self.norm = _vector(weights, "model.norm.weight")
        head = self.embedding[split.vocab] if spec.tied_embeddings else weights.pop("lm_head.weight")
        self.head = stacks.head.put(0, head)
        self.rope = rope_table(spec.rope, spec.head_dim, max_context or spec.max_context).numpy()
        assert not weights, f"weights left over: {sorted(weights)}"
        # A native step is one call from embeddings to logits, in which nobody can be waited for.
        self._native = stacks.native(self) if ranks.size == 1 else None
        # int8 has rounded more by far already.
        self._attention_dtype = rounded_dtype(spec.head_dim) if quantize else torch.float32

    def __call__(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        """Compute `batch` against `cache`; the logits of its sample rows, `[R, V]` float32. Ranks call it with the same
        batches, and rank 0 alone gets all columns."""
        # Kernels do not check bounds.
        assert int(batch.positions.max()) < len(self.rope), "a position lies past the context"
        assert int(batch.slots.max()) < cache.num_blocks * cache.block_tokens, "a slot lies past the pool"
        num_rows = len(batch.token_ids)
        if (
            self._native is not None
            and num_rows <= _MOST_NATIVE_ROWS
            and num_rows == batch.num_decode == len(batch.sampled)
            and not batch.pooled  # who samples is past what is scored
        ):
            return torch.from_numpy(self._step(batch, cache, self._native))
        return self._layer_by_layer(batch, cache)

    @torch.inference_mode()
    def _layer_by_layer(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        hidden = self.embedding.index_select(0, torch.from_numpy(batch.token_ids)).float()  # [T, hidden size]
        kept_rows = torch.from_numpy(batch.kept_rows)
        step = Step.of(batch, self.spec.sliding_window, self._attention_dtype)
        eps, ranks = self.spec.rms_eps, self.ranks
        delta: torch.Tensor | None = None
        for index, layer in enumerate(self.layers):
            qkv = layer.qkv(rms_norm(hidden, delta, layer.input_norm, eps))  # [T, (H + 2K) * D]
            attended = self._attend(qkv, step, layer, index, cache)  # [T, H * D]
            if index + 1 == len(self.layers):  # from here on only these rows matter
                attended = attended.index_select(0, kept_rows)
                hidden = hidden.index_select(0, kept_rows)
            normed = rms_norm(hidden, ranks.sum(layer.output(attended)), layer.post_norm, eps)
            delta = ranks.sum(layer.down(silu_mul(layer.gate_up(normed))))
        final, num_sampled = rms_norm(hidden, delta, self.norm, eps), len(batch.sample_rows)
        num_unscored = len(kept_rows) - len(batch.scored_rows)
        if batch.pooled:
            batch.pool(final[num_sampled:num_unscored].numpy())
        if len(batch.scored_rows):
            self._score(final[num_unscored:], batch)
        return ranks.gather(self.head(final[:num_sampled]), self.spec.vocab_size)

    def _score(self, hidden: torch.Tensor, batch: Batch) -> None:
        """A few rows at a time; every rank computes its part of them, and rank 0 alone knows whose they are."""
        at_once = max(_SCORED_BYTES // (4 * self.spec.vocab_size), 1)
        for begin in range(0, len(hidden), at_once):
            logits = self.ranks.gather(self.head(hidden[begin : begin + at_once]), self.spec.vocab_size)
            if batch.scored:
                ids = batch.scored_ids[begin : begin + at_once]
                batch.score(begin, scores_of(logits.numpy(), ids, batch.num_top))

    def _step(self, batch: Batch, cache: KVCache, weights: decode_step.Weights) -> np.ndarray:
        """What `__call__` computes, for one token of each sequence; without torch, for the reason that `Batch` has."""
        hidden = self._embed(batch.token_ids)
        positions, slots = batch.positions, batch.slots
        tables, lengths = batch.block_tables, batch.context_lens
        logits = decode_step.decode_step(weights, hidden, positions, slots, tables, lengths, cache.array)
        return np.ascontiguousarray(logits[:, : self.spec.vocab_size])

    def _embed(self, token_ids: np.ndarray) -> np.ndarray:
        """A row `[hidden size]` float32 of its own for each token."""
        if self.embedding.dtype is torch.float32:
            rows: np.ndarray = self.embedding.numpy()[token_ids]
            return rows
        return self.embedding[torch.from_numpy(token_ids)].float().numpy()

    def _attend(self, qkv: torch.Tensor, step: Step, layer: Layer, index: int, cache: KVCache) -> torch.Tensor:
        part, pool, array = self._part, cache.own_heads, qkv.numpy()
        rope_cache(array, self.rope, step.positions, step.slots, pool, index, layer.head_norms, part.rms_eps)
        out = torch.empty(len(qkv), part.query_size)
        if step.num_decode:
            rows = out[: step.num_decode].numpy()
            decode_attention(array, pool, index, step.block_tables, step.context_lens, rows, layer.window)
        for chunk in step.chunks:
            prefill_attention(qkv, pool, index, chunk, out, slides=layer.window is not None)
        return out


class _Stacks:
    """The matrices of all layers, by kind."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        num_layers, hidden, query = spec.num_layers, spec.hidden_size, spec.query_size
        self.qkv = LinearStack(num_layers, query + 2 * spec.kv_size, hidden, dtype)
        self.output = LinearStack(num_layers, hidden, query, dtype)
        self.gate_up = LinearStack(num_layers, 2 * spec.mlp_size, hidden, dtype)
        self.down = LinearStack(num_layers, hidden, spec.mlp_size, dtype)
        self.head = LinearStack(1, -(-spec.vocab_size // COLUMNS) * COLUMNS, hidden, dtype)

    def native(self, decoder: Decoder) -> decode_step.Weights | None:
        """All weights for the native step; None where a matrix has no panels."""
        qkv, output, gate_up = self.qkv.panels, self.output.panels, self.gate_up.panels
        down, head = self.down.panels, self.head.panels
        if not (qkv and output and gate_up and down and head):
            return None
        spec, layers = decoder.spec, decoder.layers
        none = np.empty((0, spec.head_dim), np.float32)
        return decode_step.Weights(
            qkv=qkv,
            output=output,
            gate_up=gate_up,
            down=down,
            head=head.layer(0),
            input_norms=np.stack([layer.input_norm for layer in layers]),
            post_norms=np.stack([layer.post_norm for layer in layers]),
            norm=decoder.norm,
            head_norms=np.stack([none if layer.head_norms is None else layer.head_norms for layer in layers]),
            windows=np.array([layer.window or NO_WINDOW for layer in layers], np.int64),
            rope=decoder.rope,
            eps=spec.rms_eps,
        )


def _layer(spec: ModelSpec, weights: Weights, index: int, stacks: _Stacks) -> Layer:
    prefix = f"model.layers.{index}."
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    head_norms = None
    if spec.qk_norm:
        norms = [_vector(weights, f"{attention}{part}_norm.weight") for part in ("q", "k")]
        head_norms = np.stack(norms)
    return Layer(
        input_norm=_vector(weights, f"{prefix}input_layernorm.weight"),
        qkv=_linear(stacks.qkv, index, weights, [f"{attention}{part}_proj" for part in ("q", "k", "v")]),
        head_norms=head_norms,
        output=_linear(stacks.output, index, weights, [f"{attention}o_proj"]),
        post_norm=_vector(weights, f"{prefix}post_attention_layernorm.weight"),
        gate_up=_linear(stacks.gate_up, index, weights, [f"{mlp}gate_proj", f"{mlp}up_proj"]),
        down=_linear(stacks.down, index, weights, [f"{mlp}down_proj"]),
        window=spec.window(index),
    )


def _linear(stack: LinearStack, index: int, weights: Weights, names: list[str]) -> AnyLinear:
    """One matrix of several stacked."""
    matrix = torch.cat([weights.pop(f"{name}.weight") for name in names])
    if f"{names[0]}.bias" not in weights:
        return stack.put(index, matrix)
    return stack.put(index, matrix, torch.cat([weights.pop(f"{name}.bias") for name in names]))


def _vector(weights: Weights, name: str) -> np.ndarray:
    return weights.pop(name).float().numpy()
