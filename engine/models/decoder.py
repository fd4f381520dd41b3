"""The decoder transformer that all supported families share.

    hidden = embedding[token_ids]
    for each layer:
        hidden += output(attention(rope(qkv(norm(hidden)))))
        hidden += down(silu(gate(norm(hidden))) * up(norm(hidden)))
    logits = head(norm(hidden[sample_rows]))

Knows weights, layers and the order of kernels. Does not know files, blocks' owners or sampling. The residual stream and
all that kernels touch is float32; only matrix products are computed in the model's own type.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.batch import Batch
from engine.cache import KVCache
from engine.kernels.decode_attention import decode_attention
from engine.kernels.linear import Linear
from engine.kernels.norm import rms_norm
from engine.kernels.prefill_attention import PrefillChunk, prefill_attention
from engine.kernels.rope_cache import rope_cache
from engine.kernels.silu_mul import silu_mul
from engine.models.rope import rope_table
from engine.models.spec import ModelSpec

Weights = MutableMapping[str, torch.Tensor]
"""Tensors by their name in the checkpoint, all of the type to compute in."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, fused and packed."""

    input_norm: np.ndarray
    qkv: Linear
    head_norms: np.ndarray | None
    """[2, D], of queries and of keys"""
    output: Linear
    post_norm: np.ndarray
    gate_up: Linear
    down: Linear
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
    def of(cls, batch: Batch, window: int | None) -> "Step":
        starts, lengths = batch.query_starts.tolist(), batch.context_lens.tolist()
        tables = batch.block_tables.numpy()
        return cls(
            positions=batch.positions.numpy(),
            slots=batch.slots.numpy(),
            num_decode=batch.num_decode,
            block_tables=tables[: batch.num_decode],
            context_lens=batch.context_lens.numpy()[: batch.num_decode],
            chunks=tuple(
                PrefillChunk.of(starts[s], starts[s + 1], lengths[s], tables[s], window)
                for s in range(batch.num_decode, len(lengths))
            ),
        )


class Decoder:
    """A model ready to compute on the CPU."""

    def __init__(self, spec: ModelSpec, weights: Weights, max_context: int | None = None) -> None:
        """Fuse and pack `weights`, emptying it on the way so that no weight is held twice."""
        self.spec = spec
        self.embedding = weights.pop("model.embed_tokens.weight")  # [V, hidden size]
        self.layers = [_layer(spec, weights, index) for index in range(spec.num_layers)]
        self.norm = _vector(weights, "model.norm.weight")
        self.head = Linear(self.embedding if spec.tied_embeddings else weights.pop("lm_head.weight"))
        self.rope = rope_table(spec.rope, spec.head_dim, max_context or spec.max_context).numpy()
        assert not weights, f"weights left over: {sorted(weights)}"

    @torch.inference_mode()
    def __call__(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        """Compute `batch` against `cache`; the logits of its sample rows, `[R, V]` float32."""
        step = Step.of(batch, self.spec.sliding_window)
        # Kernels do not check bounds.
        assert step.positions.max() < len(self.rope), "a position lies past the context"
        assert step.slots.max() < cache.num_blocks * cache.block_tokens, "a slot lies past the pool"
        eps = self.spec.rms_eps
        hidden = self.embedding.index_select(0, batch.token_ids).float()  # [T, hidden size]
        delta: torch.Tensor | None = None
        for index, layer in enumerate(self.layers):
            qkv = layer.qkv(rms_norm(hidden, delta, layer.input_norm, eps))  # [T, (H + 2K) * D]
            attended = self._attend(qkv, step, layer, index, cache)  # [T, H * D]
            if index + 1 == len(self.layers):  # from here on only rows that sample matter
                attended = attended.index_select(0, batch.sample_rows)
                hidden = hidden.index_select(0, batch.sample_rows)
            normed = rms_norm(hidden, layer.output(attended), layer.post_norm, eps)
            delta = layer.down(silu_mul(layer.gate_up(normed)))
        return self.head(rms_norm(hidden, delta, self.norm, eps))

    def _attend(self, qkv: torch.Tensor, step: Step, layer: Layer, index: int, cache: KVCache) -> torch.Tensor:
        spec, pool, array = self.spec, cache.array, qkv.numpy()
        rope_cache(array, self.rope, step.positions, step.slots, pool, index, layer.head_norms, spec.rms_eps)
        out = torch.empty(len(qkv), spec.query_size)
        if step.num_decode:
            rows = out[: step.num_decode].numpy()
            decode_attention(array, pool, index, step.block_tables, step.context_lens, rows, layer.window)
        for chunk in step.chunks:
            prefill_attention(qkv, pool, index, chunk, out, slides=layer.window is not None)
        return out


def _layer(spec: ModelSpec, weights: Weights, index: int) -> Layer:
    prefix = f"model.layers.{index}."
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    head_norms = None
    if spec.qk_norm:
        norms = [_vector(weights, f"{attention}{part}_norm.weight") for part in ("q", "k")]
        head_norms = np.stack(norms)
    return Layer(
        input_norm=_vector(weights, f"{prefix}input_layernorm.weight"),
        qkv=_linear(weights, [f"{attention}{part}_proj" for part in ("q", "k", "v")]),
        head_norms=head_norms,
        output=_linear(weights, [f"{attention}o_proj"]),
        post_norm=_vector(weights, f"{prefix}post_attention_layernorm.weight"),
        gate_up=_linear(weights, [f"{mlp}gate_proj", f"{mlp}up_proj"]),
        down=_linear(weights, [f"{mlp}down_proj"]),
        window=spec.window(index),
    )


def _linear(weights: Weights, names: list[str]) -> Linear:
    """One matrix of several stacked."""
    matrix = torch.cat([weights.pop(f"{name}.weight") for name in names])
    if f"{names[0]}.bias" not in weights:
        return Linear(matrix)
    return Linear(matrix, torch.cat([weights.pop(f"{name}.bias") for name in names]))


def _vector(weights: Weights, name: str) -> np.ndarray:
    return weights.pop(name).float().numpy()
