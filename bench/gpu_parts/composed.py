"""The kernels in a model's shape, with random weights and the engine's products between them.

It measures the kernels as a model uses them: the same operations in the same order as a Llama's, the residual stream
and the logits in float32, one CUDA graph a decode step, tokens handed on to the next step on the device. It is no
engine: it knows no requests, and all sequences are of one length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.gpu_parts.inputs import rope_table
from bench.gpu_parts.shapes import Shape
from engine.gpu.linear import AnyLinear, EightBitLinear, Linear, Room
from engine.kernels.gpu.norm import rms_norm
from engine.kernels.gpu.rope_cache import rope_cache
from engine.kernels.gpu.silu_mul import silu_mul

EPS = 1e-5
PEAK = 5.0
"""Standard deviation of the logits: some hundred tokens are likely, as in a trained model."""
Attend = Callable[[torch.Tensor, int, torch.Tensor], None]
"""Queries `[T, H, D]`, the layer, and where to: `[T, H, D]`"""


@dataclass(frozen=True, slots=True)
class Layer:
    """The products of one layer, and its norms."""

    qkv: AnyLinear
    output: AnyLinear
    gate_up: AnyLinear
    down: AnyLinear
    input_norm: torch.Tensor
    post_norm: torch.Tensor


@dataclass(frozen=True, slots=True)
class Space:
    """What lies between the kernels of a step of so many rows."""

    hidden: torch.Tensor
    """[T, hidden size] float32"""
    normed: torch.Tensor
    qkv: torch.Tensor
    attended: torch.Tensor
    gate_up: torch.Tensor
    gated: torch.Tensor
    delta: torch.Tensor
    room: Room

    @classmethod
    def allocate(cls, model: "ComposedModel", rows: int) -> "Space":
        shape, dtype = model.shape, model.dtype
        widest = max(shape.hidden_size, shape.num_heads * shape.head_dim, shape.mlp_size)

        def of(width: int, kind: torch.dtype = dtype) -> torch.Tensor:
            return torch.empty(rows, width, dtype=kind)

        return cls(
            hidden=of(shape.hidden_size, torch.float32),
            normed=of(shape.hidden_size),
            qkv=of(shape.qkv_size),
            attended=of(shape.num_heads * shape.head_dim),
            gate_up=of(2 * shape.mlp_size),
            gated=of(shape.mlp_size),
            delta=of(shape.hidden_size),
            room=Room(rows, widest, model.quantized, torch.get_default_device()),
        )


class ComposedModel:
    """On the current default device."""

    def __init__(
        self, shape: Shape, max_context: int, dtype: torch.dtype, quantized: torch.dtype | None = None
    ) -> None:
        """`quantized` is the type of the layers' weights, if it is not `dtype`."""
        self.shape, self.dtype, self.quantized = shape, dtype, quantized
        size, attention = shape.hidden_size, shape.num_heads * shape.head_dim
        norm = torch.ones(size, dtype=dtype)
        self.layers = [
            Layer(
                qkv=self._linear(shape.qkv_size, size),
                output=self._linear(size, attention),
                gate_up=self._linear(2 * shape.mlp_size, size),
                down=self._linear(size, shape.mlp_size),
                input_norm=norm,
                post_norm=norm,
            )
            for _ in range(shape.num_layers)
        ]
        self.norm = norm
        self.head = self._matrix(shape.vocab_size, size).mul_(PEAK)
        self.embedding = self.head if shape.tied_embeddings else self._matrix(shape.vocab_size, size)
        self.rope = rope_table(max_context, shape.head_dim)

    def _linear(self, outputs: int, inputs: int) -> AnyLinear:
        weight = self._matrix(outputs, inputs)
        return Linear(weight) if self.quantized is None else EightBitLinear.of(weight, None, self.quantized)

    def _matrix(self, outputs: int, inputs: int) -> torch.Tensor:
        return torch.empty(outputs, inputs, dtype=self.dtype).normal_(0, inputs**-0.5)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        pool: torch.Tensor,
        space: Space,
        attend: Attend,
        logits: torch.Tensor,
    ) -> None:
        """Logits of the last `len(logits)` rows into `logits` float32; `tokens`, `positions` and `slots` are `[T]`."""
        hidden, shape = space.hidden, self.shape
        hidden.copy_(self.embedding.index_select(0, tokens))
        delta: torch.Tensor | None = None
        for index, layer in enumerate(self.layers):
            rms_norm(hidden, delta, layer.input_norm, EPS, space.normed)
            layer.qkv(space.normed, space.qkv, space.room)
            rope_cache(space.qkv, self.rope, positions, slots, pool, index)
            queries = space.qkv.view(len(tokens), -1, shape.head_dim)[:, : shape.num_heads]
            attend(queries, index, space.attended.view(len(tokens), shape.num_heads, shape.head_dim))
            layer.output(space.attended, space.delta, space.room)
            rms_norm(hidden, space.delta, layer.post_norm, EPS, space.normed)
            layer.gate_up(space.normed, space.gate_up, space.room)
            silu_mul(space.gate_up, space.gated)
            layer.down(space.gated, space.delta, space.room)
            delta = space.delta
        rms_norm(hidden, delta, self.norm, EPS, space.normed)
        _to_logits(space.normed[len(tokens) - len(logits) :], self.head, logits)


def _to_logits(normed: torch.Tensor, head: torch.Tensor, out: torch.Tensor) -> None:
    """In float32 from sums in float32, where this torch can."""
    if normed.is_cuda and hasattr(torch.ops.aten.mm, "dtype_out"):
        torch.mm(normed, head.t(), out_dtype=torch.float32, out=out)
    else:
        out.copy_(torch.mm(normed, head.t()))
