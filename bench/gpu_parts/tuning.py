"""The candidates of each kernel's list; a kernel is launched with one by changing what its module chooses from.

Nothing of a kernel's file is written; what wins is printed, and goes into the file by hand.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch

from bench.gpu_parts import kernels, kernels_of_ops
from bench.gpu_parts.bench import Bench, Call
from engine.kernels.gpu import (
    adjust_logits,
    candidates,
    copy_blocks,
    copy_summed,
    decode_attention,
    int4_linear,
    int8_linear,
    norm,
    prefill_attention,
    quantize,
    rope_cache,
    sample,
    silu_mul,
    thin_linear,
    top_logits,
)
from engine.kernels.gpu.paged import is_hopper

Config = Any
"""triton.Config has no types."""
HEAD_DIM = 128


@dataclass(frozen=True, slots=True)
class Tuning:
    """One kernel for one class of shapes."""

    name: str
    modules: tuple[ModuleType, ...]
    candidates: tuple[Config, ...]
    changes: Callable[[Config], Mapping[str, object]]
    """Names of the modules and their values, with which they launch the candidate"""
    make: Callable[[], list[Call]]
    """Calls on inputs made for the candidate that is in place"""

    @contextmanager
    def in_place(self, candidate: Config) -> Iterator[None]:
        with ExitStack() as stack:
            for name, value in self.changes(candidate).items():
                for module in self.modules:
                    if hasattr(module, name):
                        stack.callback(setattr, module, name, getattr(module, name))
                        setattr(module, name, value)
            yield


class _With:
    """A kernel that is launched with so many warps, whatever its caller says."""

    def __init__(self, kernel: Any, num_warps: int) -> None:
        self._kernel, self._num_warps = kernel, num_warps

    def __getitem__(self, grid: Any) -> Callable[..., object]:
        launch = self._kernel[grid]
        return lambda *args, **options: launch(*args, **{**options, "num_warps": self._num_warps})


def tunings(bench: Bench) -> list[Tuning]:
    made = [_decode(bench, *decoding) for decoding in kernels.DECODES]
    made += [_prefill(bench, tokens, prefix) for tokens, prefix in kernels.PREFILLS[1:3]]
    of_ops = kernels_of_ops
    for rows in (64, of_ops.PROMPT):
        count = bench.size(rows, 2)
        made += [
            _of("rms_norm", rows, norm, norm.CONFIGS, _only_warps, partial(of_ops.a_norm, bench, count)),
            _of("rope_cache", rows, rope_cache, rope_cache.CONFIGS, _rope, partial(of_ops.a_rope, bench, count)),
            _of("silu_mul", rows, silu_mul, silu_mul.CONFIGS, _silu_mul, partial(of_ops.a_silu_mul, bench, count)),
            _of("quantize_rows", rows, quantize, quantize.CONFIGS, _only_warps, partial(_int8, bench, count)),
        ]
    for rows in (1, 64):
        count = bench.size(rows, 1)
        draw = partial(of_ops.a_sample, bench, count, (0.8, 0, 0.95))
        top = partial(of_ops.a_top_logits, bench, count)
        penalty = partial(of_ops.a_penalty, bench, count)
        made.append(_of("penalise", rows, adjust_logits, adjust_logits.CONFIGS, _penalise, penalty))
        made.append(_of("sample", rows, sample, sample.CONFIGS, _sample, draw))
        made.append(_of("sample: parts", rows, (sample, candidates), candidates.CONFIGS, _parts, draw))
        made.append(_of("top_logits", rows, top_logits, top_logits.CONFIGS, _top_logits, top))
    made.append(_of("copy_blocks", 256, copy_blocks, copy_blocks.CONFIGS, _copy, partial(of_ops.a_copy, bench)))
    made.append(_of("copy_summed", 16, copy_summed, copy_summed.CONFIGS, _summed, partial(of_ops.a_summed_copy, bench)))
    for rows in (1, 64, 256):
        product = partial(of_ops.a_four_bit_product, bench, bench.size(rows, 1))
        made.append(_of("int4_linear", rows, int4_linear, int4_linear.CONFIGS, _int4, product))
        product = partial(of_ops.an_eight_bit_product, bench, bench.size(rows, 1), torch.int8)
        made.append(_of("int8_linear", rows, int8_linear, int8_linear.CONFIGS, _int8_tile, product))
    for rows in (1, 8):
        for what in of_ops.PRODUCTS:
            product = partial(_thin_product, bench, bench.size(rows, 1), what)
            made.append(_of(f"thin_linear {what}", rows, thin_linear, thin_linear.CONFIGS, _thin, product))
    return made


def _of(
    name: str,
    rows: int,
    modules: ModuleType | tuple[ModuleType, ...],
    configs: tuple[Config, ...],
    changes: Callable[[Config], Mapping[str, object]],
    make: Callable[[], kernels_of_ops.Made],
) -> Tuning:
    every = modules if isinstance(modules, tuple) else (modules,)
    return Tuning(f"{name}, {rows} rows", every, configs, changes, lambda: kernels_of_ops.calls_over_sets(make)[0])


def _int8(bench: Bench, rows: int) -> kernels_of_ops.Made:
    return kernels_of_ops.a_quantize(bench, rows, torch.int8)


def _thin_product(bench: Bench, rows: int, what: str) -> kernels_of_ops.Made:
    return kernels_of_ops.a_thin_product(bench, rows, what, thin_linear.NARROW)


def _decode(bench: Bench, num_sequences: int, context: int) -> Tuning:
    def changes(config: Config) -> Mapping[str, object]:
        tile = decode_attention.Tile(config.kwargs["BLOCK_N"], config.num_warps, config.num_stages)
        return {"TILES": {**decode_attention.TILES, (is_hopper(bench.device), HEAD_DIM): tile}}

    def make() -> list[Call]:
        return kernels.decode_calls(bench, num_sequences, context)[0]

    name = f"decode attention {num_sequences} x {context}"
    return Tuning(name, (decode_attention,), tuple(decode_attention.CANDIDATES), changes, make)


def _prefill(bench: Bench, num_tokens: int, prefix: int) -> Tuning:
    def changes(config: Config) -> Mapping[str, object]:
        sizes = config.kwargs["BLOCK_M"], config.kwargs["BLOCK_N"]
        tile = prefill_attention.Tile(*sizes, config.num_warps, config.num_stages)
        return {"TILES": {**prefill_attention.TILES, (is_hopper(bench.device), HEAD_DIM): tile}}

    def make() -> list[Call]:
        return [kernels.prefill_call(bench, num_tokens, prefix)]

    name = kernels.name_of_prefill(num_tokens, prefix)
    return Tuning(name, (prefill_attention,), tuple(prefill_attention.CANDIDATES), changes, make)


def _only_warps(config: Config) -> Mapping[str, object]:
    return {"_num_warps": lambda _: config.num_warps}


def _rope(config: Config) -> Mapping[str, object]:
    pairs = config.kwargs["HEADS"] * HEAD_DIM // 2
    return {"_PAIRS_OF_FEW": pairs, "_PAIRS_OF_MANY": pairs, **_only_warps(config)}


def _silu_mul(config: Config) -> Mapping[str, object]:
    return {"_BLOCK": config.kwargs["BLOCK"], "_silu_mul": _With(silu_mul._silu_mul, config.num_warps)}


def _copy(config: Config) -> Mapping[str, object]:
    return {"_BLOCK": config.kwargs["BLOCK"], "_copy_runs": _With(copy_blocks._copy_runs, config.num_warps)}


def _penalise(config: Config) -> Mapping[str, object]:
    return {"_BLOCK": config.kwargs["BLOCK"], "_penalise": _With(adjust_logits._penalise, config.num_warps)}


def _sample(config: Config) -> Mapping[str, object]:
    return {"_BLOCK": config.kwargs["BLOCK"], "_NUM_WARPS": config.num_warps}


def _parts(config: Config) -> Mapping[str, object]:
    return {"PART_SIZE": config.kwargs["PART"], "NUM_WARPS": config.num_warps}


def _summed(config: Config) -> Mapping[str, object]:
    return {"_BLOCK": config.kwargs["BLOCK"], "_NUM_WARPS": config.num_warps}


def _top_logits(config: Config) -> Mapping[str, object]:
    return {"_PART": config.kwargs["PART"], "_of_parts": _With(top_logits._of_parts, config.num_warps)}


def _int4(config: Config) -> Mapping[str, object]:
    sizes = config.kwargs["ROWS"], config.kwargs["OUTPUTS"]
    return {"TILES": ((None, int4_linear._Tile(*sizes, config.num_warps, config.num_stages)),)}


def _int8_tile(config: Config) -> Mapping[str, object]:
    sizes = config.kwargs["ROWS"], config.kwargs["OUTPUTS"], config.kwargs["DEPTH"]
    return {"TILES": ((None, int8_linear.Tile(*sizes, config.num_warps, config.num_stages)),)}


def _thin(config: Config) -> Mapping[str, object]:
    sizes = config.kwargs["OUTPUTS"], config.kwargs["DEPTH"]
    tile = thin_linear.Tile(*sizes, config.num_warps, config.num_stages)
    return {"NARROW": thin_linear.Tiles(tile, tile, tile)}
