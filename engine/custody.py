"""Who holds which KV blocks of a worker, as asked from outside: a question to the step's thread and its answer."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Self

from engine.blocks import BlockPool
from engine.sequence import SequenceId

Moves = Mapping[str, AbstractSet[str]]
"""From each state of a sequence to those that may follow it."""


@dataclass(frozen=True, slots=True)
class Holder:
    id: SequenceId
    state: str
    blocks: tuple[int, ...]
    reason: str
    """In words: what it does with its blocks, or waits for."""


def check_holders(pool: BlockPool[SequenceId], holders: Iterable[Holder]) -> None:
    """Assert that each block is free, cached or owned, and that holders list exactly what the pool counts as theirs."""
    pool.check()
    listed = {holder.id: holder.blocks for holder in holders if holder.blocks}
    owned = {owner: tuple(pool.blocks_of(owner)) for owner in pool.owners if pool.blocks_of(owner)}
    for owner in listed.keys() | owned.keys():
        has, should = listed.get(owner, ()), owned.get(owner, ())
        assert has == should, f"{owner} holds the blocks {has}, the pool's books say {should}"


@dataclass(frozen=True, slots=True)
class Custody:
    """Every block's whereabouts at one moment between two steps."""

    holders: tuple[Holder, ...]
    num_blocks: int
    num_free: int
    num_cached: int
    num_leaked: int

    @classmethod
    def of(cls, pool: BlockPool[SequenceId], holders: Iterable[Holder]) -> Self:
        num_free = pool.num_available - pool.num_cached
        return cls(tuple(holders), pool.num_blocks, num_free, pool.num_cached, pool.num_leaked())


@dataclass(frozen=True, slots=True)
class Inspect:
    """The question, a command to the step loop; the answer is handed to `reply` on the loop's thread."""

    reply: Callable[[Custody], None]


async def inspect(submit: Callable[[Inspect], None]) -> Custody:
    """Ask the step loop behind `submit` and wait for its answer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Custody] = loop.create_future()

    def hear(custody: Custody) -> None:
        if not answer.done():  # who asked may have given up
            answer.set_result(custody)

    def reply(custody: Custody) -> None:
        loop.call_soon_threadsafe(hear, custody)

    submit(Inspect(reply))
    return await answer
