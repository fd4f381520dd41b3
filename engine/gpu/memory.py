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
    activations: int
    """What the largest step took beside that, at its highest; it is free again"""


def blocks_that_fit(
    measured: Measured, block_bytes: int, block_tokens: int, *, reserve_bytes: int, min_tokens: int
) -> int:
    """Blocks that leave room for the largest step and `reserve_bytes` (captured graphs, the CUDA libraries' own).

    Raises ConfigError with the arithmetic when they cannot hold `min_tokens` positions.
    """
    room = measured.free - measured.activations - reserve_bytes
    fit = max(room, 0) // block_bytes
    if fit * block_tokens < min_tokens:
        raise ConfigError(
            f"{fit} KV blocks of {block_tokens} tokens fit on the GPU, too few for {min_tokens} tokens: of "
            f"{_mib(measured.total)}, {_mib(measured.free)} are free beside the weights; the largest step takes "
            f"{_mib(measured.activations)}, {_mib(reserve_bytes)} are kept, and a block has {block_bytes} bytes. Fewer "
            "--max-step-tokens or --max-sequences take less, and a shorter --max-context needs less",
            field="max_context",
        )
    return fit


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.0f} MiB"
