"""How many KV blocks fit on a GPU, from what was measured. Arithmetic only."""

from dataclasses import dataclass

from engine.errors import ConfigError

MIB = 2**20
MAX_NCCL_GROUPS = 16
"""Of one worker."""
NCCL_GROUP_BYTES = 100 * MIB
"""That one takes at most, beside what torch knows of."""


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
    asked: int | None = None,
) -> int:
    """Blocks that leave room for the largest step and `reserve_bytes` (captured graphs, the CUDA libraries' own).

    A worker takes no more than `share` of the whole device, all of that included, and no more than is free. It takes
    `asked` blocks if that is given. Raises ConfigError with the arithmetic when so many do not fit, or when the blocks
    that do cannot hold `min_tokens` positions.
    """
    free = min(measured.free, int(share * measured.total) - measured.taken)
    fit = max(free - measured.activations - reserve_bytes, 0) // block_bytes
    if (asked or 0) > fit or fit * block_tokens < min_tokens:
        few = f"too few for {min_tokens} tokens" if asked is None else f"and {asked} were asked for"
        raise ConfigError(
            f"{fit} KV blocks of {block_tokens} tokens fit on the GPU, {few}: of "
            f"{mib(measured.total)}, {mib(measured.free)} are free beside the weights{_of(share, measured)}; the "
            f"largest step takes {mib(measured.activations)}, {mib(reserve_bytes)} are kept, and a block has "
            f"{block_bytes} bytes. Fewer --max-step-tokens or --max-sequences take less, and a shorter --max-context "
            f"needs less{'' if share == 1.0 else '; fewer workers on a GPU have larger shares'}",
            field="max_context" if asked is None else "num_blocks",
        )
    return fit if asked is None else asked


def reserve_bytes(reserve_mb: int, kv_groups: str) -> int:
    """What a pool leaves free: groups of NCCL take theirs as they are made, while the worker serves."""
    groups = MAX_NCCL_GROUPS * NCCL_GROUP_BYTES if kv_groups == "nccl" else 0
    return reserve_mb * MIB + groups


def _of(share: float, measured: Measured) -> str:
    if share == 1.0:
        return ""
    has = mib(measured.taken)
    return f", and this worker's share of {share:g} is {mib(share * measured.total)}, of which they take {has}"


def mib(size_bytes: float) -> str:
    """For people."""
    return f"{size_bytes / MIB:.0f} MiB"
