"""The decoder transformer of `engine/models/decoder.py` on a GPU: products of `linear.py`, our kernels between them.

The residual stream and the logits are float32, all else is of one type. A step allocates as little as can be and reads
nothing back, so that one in which everybody decodes can be captured as a CUDA graph.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.errors import ConfigError
from engine.four_bit import FourBitMatrix, FourBitWeights
from engine.gpu.inputs import Inputs
from engine.gpu.linear import AnyLinear, EightBitLinear, FourBitLinear, Linear, Room
from engine.kernels.gpu.decode_attention import decode_attention
from engine.kernels.gpu.norm import rms_norm
from engine.kernels.gpu.prefill_attention import prefill_attention
from engine.kernels.gpu.rope_cache import rope_cache
from engine.kernels.gpu.runs import Workspace
from engine.kernels.gpu.silu_mul import silu_mul
from engine.models.rope import rope_table
from engine.models.spec import ModelSpec
from engine.tp.ranks import ALONE, DeviceRanks
from engine.tp.split import Split

if TYPE_CHECKING:
    from engine.checkpoint import Weights


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, fused."""

    input_norm: torch.Tensor
    qkv: AnyLinear
    head_norms: torch.Tensor | None
    """[2, D], of queries and of keys"""
    output: AnyLinear
    post_norm: torch.Tensor
    gate_up: AnyLinear
    down: AnyLinear
    window: int | None


@dataclass(frozen=True, slots=True)
class Space:
    """What a step leaves between its kernels; every layer uses the same. As large as the largest step needs."""

    hidden: torch.Tensor
    """[rows, hidden size] float32, the residual stream"""
    normed: torch.Tensor
    qkv: torch.Tensor
    attended: torch.Tensor
    gate_up: torch.Tensor
    gated: torch.Tensor
    delta: torch.Tensor
    logits: torch.Tensor
    """[samples, V] float32"""
    runs: Workspace
    room: Room

    @classmethod
    def allocate(cls, decoder: "GpuDecoder", rows: int, samples: int, runs: int) -> "Space":
        """For steps of up to so many rows, of which so many sample, and `runs` of decode attention."""
        spec, device = decoder.part, decoder.device

        def of(width: int, dtype: torch.dtype = decoder.dtype) -> torch.Tensor:
            return torch.empty(rows, width, dtype=dtype, device=device)

        return cls(
            hidden=of(spec.hidden_size, torch.float32),
            normed=of(spec.hidden_size),
            qkv=of(spec.query_size + 2 * spec.kv_size),
            attended=of(spec.query_size),
            gate_up=of(2 * spec.mlp_size),
            gated=of(spec.mlp_size),
            delta=of(spec.hidden_size),
            logits=torch.empty(samples, spec.vocab_size, dtype=torch.float32, device=device),
            runs=Workspace.allocate(runs, spec.num_heads, spec.head_dim, device),
            room=Room(rows, max(spec.hidden_size, spec.query_size, spec.mlp_size), decoder.quantized, device),
        )


class GpuDecoder:
    """A model, or one rank's part of it, ready to compute on a GPU."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: "Weights",
        max_context: int | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        quantized: torch.dtype | None = None,
        ranks: DeviceRanks = ALONE,
    ) -> None:
        """Move `weights` to `device`, fused, emptying the mapping on the way. `spec` is of the whole model, `weights`
        are this rank's.

        `quantized` is int8 or e4m3: the type that the weights of all layers are brought to there, one by one, and
        multiplied in. The head stays as it is: a step reads it once, and its rounding would be seen in every token.
        """
        self.spec, self.device, self.dtype, self.quantized = spec, device, dtype, quantized
        self.ranks, split = ranks, Split.of(spec, ranks.rank, ranks.size)
        self.part = split.part
        load = _Loader(weights, device, dtype, quantized)
        self.embedding = load.matrix(["model.embed_tokens.weight"])  # [V, hidden size]
        self.layers = [_layer(spec, load, index) for index in range(spec.num_layers)]
        self.norm = load.vector("model.norm.weight")
        self.head = self.embedding[split.vocab] if spec.tied_embeddings else load.matrix(["lm_head.weight"])
        self.rope = rope_table(spec.rope, spec.head_dim, max_context or spec.max_context).to(device)
        assert not weights, f"weights left over: {sorted(weights)}"

    @torch.inference_mode()
    def __call__(
        self, inputs: Inputs, pool: torch.Tensor, space: Space, splits: int, *, is_early: bool = False
    ) -> torch.Tensor:
        """Compute a batch against `pool` `[N, L, 2, K, P, D]`; the logits of its sample rows, `[R, V]` float32, which
        lie in `space` until the next step, as in `space.normed` the last hidden states of all kept rows do. `splits` is
        that of decode attention, whose kernels are launched before those before them have ended if `is_early`. Ranks
        call it with the same batches, and rank 0 alone gets all columns."""
        rows, eps = len(inputs.token_ids), self.spec.rms_eps
        hidden, normed, delta = space.hidden[:rows], space.normed[:rows], space.delta[:rows]
        gate_up, gated = space.gate_up[:rows], space.gated[:rows]
        hidden.copy_(self.embedding.index_select(0, inputs.token_ids))
        added: torch.Tensor | None = None
        for index, layer in enumerate(self.layers):
            rms_norm(hidden, added, layer.input_norm, eps, normed)
            qkv = layer.qkv(normed, space.qkv[:rows], space.room)  # [T, (H + 2K) * D]
            where = layer, index, pool, space, splits
            attended = self.attend(qkv, inputs, *where, is_early=is_early)  # [T, H * D]
            if index + 1 == len(self.layers) and inputs.kept_rows is not None:  # only these rows matter now
                attended = attended.index_select(0, inputs.kept_rows)
                hidden = hidden.index_select(0, inputs.kept_rows)
                rows = len(hidden)
                normed, delta = space.normed[:rows], space.delta[:rows]
                gate_up, gated = space.gate_up[:rows], space.gated[:rows]
            summed = self.ranks.sum(layer.output(attended, delta, space.room))
            rms_norm(hidden, summed, layer.post_norm, eps, normed)
            silu_mul(layer.gate_up(normed, gate_up, space.room), gated)
            added = self.ranks.sum(layer.down(gated, delta, space.room))
        rms_norm(hidden, added, self.norm, eps, normed)
        logits = self._logits(normed[: inputs.num_sampled], space.logits[: inputs.num_sampled])
        return self.ranks.gather(logits, self.spec.vocab_size)

    @torch.inference_mode()
    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """Of last hidden states that a step has left in `space.normed`, `[rows, V]` float32; rank 0 alone gets all
        columns."""
        out = torch.empty(len(normed), len(self.head), dtype=torch.float32, device=self.device)
        return self.ranks.gather(self._logits(normed, out), self.spec.vocab_size)

    def _logits(self, normed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """In float32 from sums in float32: rounded to bfloat16, many of the likely tokens would be equally likely."""
        head = self.head.t()
        if normed.dtype is torch.float32:
            return torch.mm(normed, head, out=out)
        if normed.is_cuda:
            return torch.mm(normed, head, out_dtype=torch.float32, out=out)
        return torch.mm(normed.float(), head.float(), out=out)

    def attend(
        self,
        qkv: torch.Tensor,
        inputs: Inputs,
        layer: Layer,
        index: int,
        pool: torch.Tensor,
        space: Space,
        splits: int,
        *,
        is_early: bool = False,
    ) -> torch.Tensor:
        """Attention of one layer, to what `qkv` `[T, (H + 2K) * D]` has too, which goes into the pool; `[T, H * D]`.
        `is_early`: whether decode's kernels are launched before those before them have ended."""
        spec, decoding = self.part, inputs.num_decode
        rope = self.rope, inputs.positions, inputs.slots
        rope_cache(qkv, *rope, pool, index, layer.head_norms, spec.rms_eps, is_early=is_early)
        queries = qkv.view(len(qkv), -1, spec.head_dim)[:, : spec.num_heads]  # [T, H, D]
        attended = space.attended[: len(qkv)]
        out = attended.view(len(qkv), spec.num_heads, spec.head_dim)
        tables, lengths = inputs.block_tables, inputs.context_lens
        if decoding:
            some = tables[:decoding], lengths[:decoding], out[:decoding]
            runs = space.runs, splits, layer.window
            decode_attention(queries[:decoding], pool, index, *some, *runs, is_early=is_early)
        if len(inputs.tiles):
            starts = inputs.query_starts
            prefill_attention(queries, pool, index, tables, starts, lengths, inputs.tiles, out, layer.window)
        return attended


class _Loader:
    """Takes weights out of a mapping and onto the device."""

    def __init__(
        self, weights: "Weights", device: torch.device, dtype: torch.dtype, quantized: torch.dtype | None
    ) -> None:
        self.weights, self.device, self.dtype, self.quantized = weights, device, dtype, quantized

    def vector(self, name: str) -> torch.Tensor:
        return self.weights.pop(name).to(self.device, self.dtype)

    def matrix(self, names: Iterable[str]) -> torch.Tensor:
        """Several tensors of as many columns, one above the other; copied part by part, so that none is held twice."""
        parts = [self.weights.pop(name) for name in names]
        whole = torch.empty(sum(len(part) for part in parts), *parts[0].shape[1:], dtype=self.dtype, device=self.device)
        first = 0
        for part in parts:
            whole[first : first + len(part)].copy_(part)
            first += len(part)
        return whole

    def linear(self, names: list[str]) -> AnyLinear:
        """Of several matrices, one above the other. One at a time is on the device in another form than its last."""
        four_bits = self._four_bits(names)
        weight = None if four_bits else self.matrix(f"{name}.weight" for name in names)
        has_bias = f"{names[0]}.bias" in self.weights
        bias = self.matrix(f"{name}.bias" for name in names) if has_bias else None
        if weight is None:
            try:
                return FourBitLinear.of(four_bits, bias)
            except ConfigError as error:
                raise ConfigError(f"{names[0]}: {error.message}; --quantization int8 or fp8 unpacks it") from error
        return Linear(weight, bias) if self.quantized is None else EightBitLinear.of(weight, bias, self.quantized)

    def _four_bits(self, names: list[str]) -> list[FourBitMatrix]:
        """The matrices, if they are in four bits and are to stay so."""
        if self.quantized is not None or not isinstance(self.weights, FourBitWeights):
            return []
        packed = (self.weights.take_packed(f"{name}.weight") for name in names)
        return [matrix.to(self.device).unpack() for matrix in packed if matrix is not None]


def _layer(spec: ModelSpec, load: _Loader, index: int) -> Layer:
    prefix = f"model.layers.{index}."
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    head_norms = None
    if spec.qk_norm:
        head_norms = torch.stack([load.vector(f"{attention}{part}_norm.weight") for part in ("q", "k")])
    return Layer(
        input_norm=load.vector(f"{prefix}input_layernorm.weight"),
        qkv=load.linear([f"{attention}{part}_proj" for part in ("q", "k", "v")]),
        head_norms=head_norms,
        output=load.linear([f"{attention}o_proj"]),
        post_norm=load.vector(f"{prefix}post_attention_layernorm.weight"),
        gate_up=load.linear([f"{mlp}gate_proj", f"{mlp}up_proj"]),
        down=load.linear([f"{mlp}down_proj"]),
        window=spec.window(index),
    )
