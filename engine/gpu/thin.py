"""A decode step of few sequences on a GPU, by products that take in what stands beside them: the layers of `decoder.py`
in seven kernels each instead of eleven (`engine/kernels/gpu/thin_linear.py`).

Whether that is faster than torch's products is measured on each GPU (`graphs.py`).
"""

from dataclasses import dataclass, replace

import torch

from engine.gpu.decoder import GpuDecoder, Space
from engine.gpu.inputs import Inputs
from engine.gpu.linear import Linear
from engine.kernels.gpu.early import can_launch_early
from engine.kernels.gpu.norm import rms_norm
from engine.kernels.gpu.thin_linear import (
    DTYPES,
    MOST_ROWS,
    NARROW,
    WIDE,
    Norm,
    Stream,
    Tiles,
    linear_into,
    normed_linear,
    thin_linear,
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """What these products take of one."""

    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear


class ThinStep:
    """Steps in which everybody decodes, up to `MOST_ROWS` of them."""

    def __init__(self, decoder: GpuDecoder, layers: list[_Layer], tiles: Tiles) -> None:
        """`ThinStep.all_of` makes them where the model allows it."""
        self._decoder, self._layers, self._tiles = decoder, layers, tiles
        sums = MOST_ROWS * tiles.num_parts(decoder.part.hidden_size)
        self._squares = torch.empty(sums, dtype=torch.float32, device=decoder.device)

    @classmethod
    def all_of(cls, decoder: GpuDecoder) -> "dict[str, ThinStep]":
        """By name, one for each way to cut the products; none where weights are quantized, of float32, or split among
        ranks, whose sums come in between."""
        if decoder.dtype not in DTYPES or decoder.ranks.size > 1:
            return {}
        layers = []
        for layer in decoder.layers:
            products = layer.qkv, layer.output, layer.gate_up, layer.down
            plain = [product for product in products if isinstance(product, Linear)]
            if len(plain) < len(products):
                return {}
            layers.append(_Layer(*plain))
        tiles = {"thin products": NARROW, "thin products in wider tiles": WIDE}
        if can_launch_early(decoder.device):
            tiles |= {f"{name}, launched early": replace(one, is_early=True) for name, one in tiles.items()}
        return {name: cls(decoder, layers, tiles) for name, tiles in tiles.items()}

    @torch.inference_mode()
    def __call__(self, inputs: Inputs, pool: torch.Tensor, space: Space, splits: int) -> torch.Tensor:
        """As `GpuDecoder`, for a step in which every row is sampled; what lies in `space.normed` means nothing."""
        decoder, rows = self._decoder, inputs.num_sampled
        assert rows == inputs.num_decode
        assert inputs.kept_rows is None
        stream = Stream(space.hidden[:rows], self._squares, self._tiles)
        normed, qkv, gated = space.normed[:rows], space.qkv[:rows], space.gated[:rows]
        stream.hidden.copy_(decoder.embedding.index_select(0, inputs.token_ids))
        eps = decoder.part.rms_eps
        for index, (layer, products) in enumerate(zip(decoder.layers, self._layers, strict=True)):
            if index == 0:  # nobody has added to the stream yet
                rms_norm(stream.hidden, None, layer.input_norm, eps, normed)
                thin_linear(normed, products.qkv.weight, products.qkv.bias, qkv, self._tiles.plain)
            else:
                norm = Norm(layer.input_norm, eps)
                normed_linear(stream, norm, products.qkv.weight, products.qkv.bias, qkv)
            attended = decoder.attend(qkv, inputs, layer, index, pool, space, splits, is_early=self._tiles.is_early)
            linear_into(attended, products.output.weight, products.output.bias, stream)
            norm = Norm(layer.post_norm, eps)
            normed_linear(stream, norm, products.gate_up.weight, products.gate_up.bias, gated, gated=True)
            linear_into(gated, products.down.weight, products.down.bias, stream)
        logits = space.logits[:rows]
        normed_linear(stream, Norm(decoder.norm, eps), decoder.head, None, logits)
        return logits
