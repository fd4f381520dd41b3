"""How many KV blocks fit on a GPU, from what was measured. Arithmetic only."""

from dataclasses import dataclass

from engine.errors import ConfigError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one GPU when the weights and the buffers of a step are there, and no KV block is."""

    total: int
    free: int
    """Of the whole device, whoever has the rest"""
    taken: int
    """By this worker: its weights and buffers"""
    activations: int
    """What the largest step took beside that, at its highest; it is free again"""


def blocks_that_fit(
    measured: Measured,
    block_bytes: int,
    block_tokens: int,
    *,
    reserve_bytes: int,
    min_tokens: int,
    share: float = 1.0,
) -> int:
    """Blocks that leave room for the largest step and `reserve_bytes` (captured graphs, the CUDA libraries' own).

    A worker takes no more than `share` of the whole device, all of that included, and no more than is free. Raises
    ConfigError with the arithmetic when the blocks cannot hold `min_tokens` positions.
    """
    free = min(measured.free, int(share * measured.total) - measured.taken)
    fit = max(free - measured.activations - reserve_bytes, 0) // block_bytes
    if fit * block_tokens < min_tokens:
        raise ConfigError(
            f"{fit} KV blocks of {block_tokens} tokens fit on the GPU, too few for {min_tokens} tokens: of "
            f"{_mib(measured.total)}, {_mib(measured.free)} are free beside the weights{_of(share, measured)}; the "
            f"largest step takes {_mib(measured.activations)}, {_mib(reserve_bytes)} are kept, and a block has "
            f"{block_bytes} bytes. Fewer --max-step-tokens or --max-sequences take less, and a shorter --max-context "
            f"needs less{'' if share == 1.0 else '; fewer workers on a GPU have larger shares'}",
            field="max_context",
        )
    return fit


def _of(share: float, measured: Measured) -> str:
    if share == 1.0:
        return ""
    has = _mib(measured.taken)
    return f", and this worker's share of {share:g} is {_mib(share * measured.total)}, of which they take {has}"


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / MIB:.0f} MiB"
