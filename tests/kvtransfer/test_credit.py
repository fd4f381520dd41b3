import asyncio

import pytest

from kvtransfer.credit import Credit


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_credit_is_handed_out_in_the_order_of_asking() -> None:
    credit, order = Credit(10), list[str]()

    async def ask(name: str, cost: int) -> None:
        await credit.take(cost)
        order.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name, cost in (("a", 8), ("large", 6), ("small", 1)):
            tasks.create_task(ask(name, cost))
        await turns(5)
        assert order == ["a"]  # there would be room for the small one, but it is not its turn
        credit.give(8)
    assert order == ["a", "large", "small"]


async def test_who_is_cancelled_takes_nothing() -> None:
    credit = Credit(10)
    await credit.take(10)
    waiting, granted, last = (asyncio.create_task(credit.take(10)) for _ in range(3))
    await turns(3)

    waiting.cancel()
    await turns(3)
    credit.give(10)
    granted.cancel()  # it was granted, but did not learn of it
    await last
    for task in (waiting, granted):
        with pytest.raises(asyncio.CancelledError):
            await task
    credit.give(10)
    await credit.take(10)


async def test_when_closed_nobody_waits() -> None:
    credit = Credit(10)
    await credit.take(10)
    waiting = asyncio.create_task(credit.take(5))
    await turns(3)
    about_to = asyncio.create_task(credit.take(5))
    await turns(1)  # it is between asking and waiting

    credit.close()
    await asyncio.gather(waiting, about_to)
    await credit.take(5)
