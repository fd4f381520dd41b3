"""The queue for workers: bounded, in order, and never stuck whoever gives up when."""

import asyncio
import random

import pytest

from frontend.admission import Admission, Displaced
from frontend.callers import ANYBODY, Caller
from frontend.forecast import Demand


class Visitors:
    """Requests that take their turn and hold it until told."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.served: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, num_tokens: int = 1, *, first: bool = False, caller: Caller = ANYBODY) -> None:
        self.leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._visit(name, num_tokens, first=first, caller=caller))
        await settle()

    async def _visit(self, name: str, num_tokens: int, *, first: bool, caller: Caller) -> None:
        async with self.admission.turn(Demand(num_tokens, 1), first=first, caller=caller):
            self.served.append(name)
            await self.leave[name].wait()

    async def go(self, name: str) -> None:
        self.leave[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def visitors(max_requests: int = 10, max_tokens: int = 100) -> Visitors:
    return Visitors(Admission(max_requests, max_tokens))


async def test_first_come_first_served() -> None:
    queue = visitors()
    for name in "abc":
        await queue.come(name)
    assert queue.served == ["a"]
    assert queue.admission.queued_requests == 3
    for name in "abc":
        await queue.go(name)
    assert queue.served == ["a", "b", "c"]
    assert (queue.admission.queued_requests, queue.admission.queued_tokens) == (0, 0)


async def test_who_comes_back_goes_first_in_the_order_they_came_back() -> None:
    queue = visitors()
    for name in "ab":
        await queue.come(name)
    for name in "xy":
        await queue.come(name, first=True)
    for name in "axyb":
        await queue.go(name)
    assert queue.served == ["a", "x", "y", "b"]


async def test_callers_take_turns_however_many_requests_one_of_them_has_sent() -> None:
    queue = visitors(max_tokens=1000)
    many, few = Caller("many"), Caller("few")
    await queue.come("now", caller=Caller("now"))
    for number in range(6):
        await queue.come(f"m{number}", 10, caller=many)
    for number in range(2):
        await queue.come(f"f{number}", 10, caller=few)
    await serve_all(queue)
    assert queue.served == ["now", "m0", "f0", "m1", "f1", "m2", "m3", "m4", "m5"]


async def test_tokens_count_not_requests() -> None:
    queue = visitors(max_tokens=1000)
    await queue.come("now", caller=Caller("now"))
    for number in range(2):
        await queue.come(f"long{number}", 100, caller=Caller("long"))
    for number in range(4):
        await queue.come(f"short{number}", 30, caller=Caller("short"))
    await serve_all(queue)
    assert queue.served == ["now", "long0", "short0", "short1", "short2", "short3", "long1"]


async def test_nobody_saves_up_turns_by_asking_nothing() -> None:
    queue = visitors(max_tokens=1000)
    busy, late = Caller("busy"), Caller("late")
    await queue.come("now", caller=busy)
    for number in range(6):
        await queue.come(f"b{number}", 10, caller=busy)
    for name in ("now", "b0", "b1"):
        await queue.go(name)
    for number in range(3):
        await queue.come(f"l{number}", 10, caller=late)
    await serve_all(queue)
    assert queue.served == ["now", "b0", "b1", "b2", "b3", "l0", "b4", "l1", "b5", "l2"]


async def test_a_lower_number_goes_first_whoever_waits() -> None:
    queue = visitors()
    await queue.come("now")
    await queue.come("later", caller=Caller("a", priority=1))
    await queue.come("usual", caller=Caller("b"))
    await queue.come("urgent", caller=Caller("c", priority=-5))
    await serve_all(queue)
    assert queue.served == ["now", "urgent", "usual", "later"]


async def serve_all(queue: Visitors) -> None:
    while present := [name for name in queue.served if not queue.tasks[name].done()]:
        await queue.go(present[0])


async def test_a_full_queue_says_so_and_takes_who_was_let_in_before() -> None:
    queue = visitors(max_requests=2, max_tokens=10)
    await queue.come("a", 6)
    assert queue.admission.full(Demand(5, 1)) == "6 prompt tokens are waiting"
    assert not queue.admission.full(Demand(4, 1))
    await queue.come("b", 4)
    assert queue.admission.full(Demand(0, 1)) == "2 requests are waiting"
    await queue.come("c", 50, first=True)
    for name in "acb":
        await queue.go(name)
    assert queue.served == ["a", "c", "b"]


URGENT, USUAL, IDLE = (Caller(name, priority=priority) for name, priority in (("u", -1), ("n", 0), ("i", 1)))


async def test_who_would_go_last_makes_room_for_a_higher_priority_in_a_full_queue() -> None:
    queue = visitors(max_requests=4)
    for name, caller in (("a", USUAL), ("b", USUAL), ("c", IDLE), ("d", IDLE)):
        await queue.come(name, caller=caller)
    assert queue.admission.full(Demand(1, 1), IDLE) == "4 requests are waiting"
    assert not queue.admission.full(Demand(1, 1), USUAL)
    for name in "efg":
        await queue.come(name, caller=URGENT)
    for name in "dcb":
        with pytest.raises(Displaced):
            await queue.tasks[name]
    assert queue.admission.full(Demand(1, 1), URGENT) == "4 requests are waiting"
    for name in "aefg":
        await queue.go(name)
    assert queue.served == ["a", "e", "f", "g"]
    assert (queue.admission.queued_requests, queue.admission.queued_tokens) == (0, 0)


async def test_as_many_make_room_as_it_takes_and_nobody_where_that_is_not_enough() -> None:
    queue = visitors(max_tokens=10)
    for name, caller in (("a", USUAL), ("b", IDLE), ("c", IDLE), ("d", IDLE)):
        await queue.come(name, 2, caller=caller)
    assert queue.admission.full(Demand(9, 1), URGENT) == "8 prompt tokens are waiting"
    await queue.come("e", 9, first=True, caller=URGENT)  # was let in before
    assert not any(task.done() for task in queue.tasks.values())
    await queue.cancel("e")
    assert not queue.admission.full(Demand(6, 1), URGENT)
    await queue.come("f", 6, caller=URGENT)
    assert [name for name, task in queue.tasks.items() if task.done()] == ["c", "d", "e"]


async def test_who_gives_up_at_the_very_moment_of_making_room_leaves_the_turn_with_who_has_it() -> None:
    queue = visitors(max_requests=2)
    await queue.come("a", caller=USUAL)
    await queue.come("b", caller=IDLE)
    queue.leave["c"] = asyncio.Event()
    queue.tasks["c"] = asyncio.create_task(queue._visit("c", 1, first=False, caller=URGENT))
    await asyncio.sleep(0)  # c has come, and b has not heard of it
    await queue.cancel("b")
    assert queue.tasks["b"].cancelled()
    assert queue.served == ["a"]
    for name in "ac":
        await queue.go(name)
    assert queue.served == ["a", "c"]
    assert queue.admission.queued_requests == 0


async def test_one_alone_may_be_larger_than_the_bound() -> None:
    queue = visitors(max_tokens=10)
    assert not queue.admission.full(Demand(11, 1))
    await queue.come("a", 11)
    assert queue.served == ["a"]


async def test_who_gives_up_while_waiting_is_passed_over_and_not_counted() -> None:
    queue = visitors()
    for name in "abc":
        await queue.come(name)
    await queue.cancel("b")
    assert queue.admission.queued_requests == 2
    await queue.go("a")
    assert queue.served == ["a", "c"]


async def test_who_gives_up_with_the_turn_in_hand_passes_it_on() -> None:
    queue = visitors()
    for name in "ab":
        await queue.come(name)
    await queue.cancel("a")
    assert queue.served == ["a", "b"]


async def test_who_gives_up_at_the_very_moment_of_the_turn_passes_it_on() -> None:
    queue = visitors()
    for name in "abc":
        await queue.come(name)
    queue.leave["a"].set()
    while queue.tasks["a"] and not queue.tasks["a"].done():
        await asyncio.sleep(0)
        if len(queue.admission._new) == 1:
            break  # b has the turn and does not know it yet
    await queue.cancel("b")
    assert queue.served == ["a", "c"]


async def test_who_gives_up_just_before_the_turn_is_passed_on_is_passed_over() -> None:
    queue = visitors()
    for name in "abc":
        await queue.come(name)
    queue.tasks["b"].cancel()
    await queue.go("a")
    assert queue.served == ["a", "c"]


@pytest.mark.parametrize("seed", range(30))
async def test_any_order_of_coming_going_and_giving_up_leaves_nothing_behind(seed: int) -> None:
    rng = random.Random(seed)
    queue = visitors(max_requests=rng.choice((5, 1000)), max_tokens=rng.choice((30, 10_000)))
    for number in range(60):
        action = rng.random()
        present = [name for name, task in queue.tasks.items() if not task.done()]
        if action < 0.5:
            caller = Caller(rng.choice("abc"), priority=rng.randint(0, 1))
            await queue.come(str(number), rng.randint(1, 9), first=rng.random() < 0.3, caller=caller)
        elif action < 0.75 and present:
            queue.tasks[rng.choice(present)].cancel()
        elif present:
            queue.leave[rng.choice(present)].set()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    for name in queue.tasks:
        queue.leave[name].set()
    await asyncio.gather(*queue.tasks.values(), return_exceptions=True)

    assert all(task.done() for task in queue.tasks.values())
    assert (queue.admission.queued_requests, queue.admission.queued_tokens) == (0, 0)


@pytest.mark.parametrize("seed", range(30))
async def test_who_goes_before_a_newcomer_is_known_when_it_comes(seed: int) -> None:
    rng = random.Random(seed)
    queue = visitors(max_requests=1000, max_tokens=10_000)
    for number in range(rng.randint(0, 20)):
        caller = Caller(rng.choice("abc"), priority=rng.choice((0, 0, 1)))
        await queue.come(str(number), rng.randint(1, 9), first=rng.random() < 0.2, caller=caller)
        if rng.random() < 0.3:
            await queue.go(queue.served[-1])
    newcomer = Caller(rng.choice("abcd"), priority=rng.choice((0, 1)))
    already = [name for name in queue.served if queue.tasks[name].done()]

    before = queue.admission.before(newcomer)
    await queue.come("newcomer", 5, caller=newcomer)
    await serve_all(queue)

    assert queue.served.index("newcomer") == len(already) + len(before)


async def test_nobody_goes_before_the_only_one() -> None:
    assert visitors().admission.before(ANYBODY) == []
