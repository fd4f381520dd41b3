"""The decode scheduler: everybody steps, the newest yields, promises are kept, custody holds under any history."""

import random

import pytest

from decode.residents import State
from decode.scheduler import DecodeScheduler, Left, Prefilled, Room, Token
from engine.batch import Chunk
from engine.sequence import FinishReason, SamplingParams, Sequence, SequenceId
from tests.workload import prompt, sequence

P = 4


def make(num_blocks: int = 16, max_step_tokens: int = 8, max_sequences: int = 8) -> DecodeScheduler:
    return DecodeScheduler(num_blocks, P, max_step_tokens=max_step_tokens, max_sequences=max_sequences)


def admit(
    scheduler: DecodeScheduler, name: str, tokens: list[int], *, local: bool = True, max_tokens: int = 4
) -> tuple[SequenceId, Room | None]:
    made = sequence(name, tokens, block_tokens=P, max_tokens=max_tokens)
    return made.id, scheduler.admit(made, local=local)


def step(scheduler: DecodeScheduler, token: int = 1) -> list[object]:
    chunks = scheduler.plan()
    sampled = [(chunk.sequence, token) for chunk in chunks if chunk.samples]
    return list(scheduler.commit(chunks, sampled))


def states(scheduler: DecodeScheduler) -> dict[str, str]:
    return {holder.id: holder.state for holder in scheduler.holders()}


def test_a_local_prompt_is_prefilled_in_chunks_then_decoded() -> None:
    scheduler = make(max_step_tokens=6)
    a, room = admit(scheduler, "a", list(range(10)), max_tokens=2)

    assert room == Room((0, 1, 2), 0)
    assert step(scheduler) == []
    assert step(scheduler) == [Prefilled(a, 0, 2), Token(a, 1, 0, None)]
    assert step(scheduler) == [Token(a, 1, 1, FinishReason.LENGTH)]
    assert scheduler.holders() == []


def test_reserved_room_is_idle_until_the_kv_arrives() -> None:
    scheduler = make()
    a, room = admit(scheduler, "a", [1, 2, 3], local=False)

    assert room == Room((0,), 0)
    assert not scheduler.has_work()
    assert scheduler.arrive(a, 9)
    assert step(scheduler) == [Token(a, 1, 1, None)]


@pytest.mark.parametrize("local", [False, True])
def test_reserved_room_stays_when_it_is_filled_another_way(local: bool) -> None:
    scheduler = make()
    a, room = admit(scheduler, "a", [1, 2, 3, 4, 5], local=False)
    assert scheduler.regrant(a, None, local=local) == room
    scheduler.check()
    assert states(scheduler) == {a: State.PREFILLING if local else State.RESERVED}
    assert (scheduler.num_promised_blocks, scheduler.waiting_tokens) == ((0, 5) if local else (2, 0))
    if local:
        assert not scheduler.arrive(a, 9)
        assert step(scheduler) == [Prefilled(a, 0, 1), Token(a, 1, 0, None)]
    else:
        assert scheduler.arrive(a, 9)
        assert step(scheduler) == [Token(a, 1, 1, None)]
    scheduler.check()


def test_who_is_computed_in_the_room_it_was_promised_yields_like_others() -> None:
    scheduler = make(num_blocks=4, max_step_tokens=4)
    admit(scheduler, "a", [1, 2, 3, 4], max_tokens=9)
    b, _ = admit(scheduler, "b", [5, 6, 7, 8], local=False)
    scheduler.regrant(b, 7, local=True)
    tokens: list[object] = []
    for _ in range(40):
        tokens += [event for event in step(scheduler) if isinstance(event, Token) and event.id == b]
        scheduler.check()
    assert [(token.index, token.token) for token in tokens] == [(0, 7), (1, 1), (2, 1), (3, 1)]  # type: ignore[attr-defined]


def test_kv_for_somebody_who_is_gone_is_not_taken() -> None:
    scheduler = make()
    a, _ = admit(scheduler, "a", [1, 2, 3], local=False)
    scheduler.abort(a)

    assert not scheduler.arrive(a, 9)
    assert scheduler.pool.num_available == 16


@pytest.mark.parametrize("heard", [None, 7])
def test_kv_with_a_token_that_ends_the_answer_ends_it(heard: int | None) -> None:
    scheduler = make()
    a, _ = admit(scheduler, "a", [1, 2, 3, 4, 5], max_tokens=1, local=False)
    if heard is not None:
        scheduler.regrant(a, heard, local=False)

    assert scheduler.arrive(a, 9) == Token(a, heard or 9, 0, FinishReason.LENGTH)
    scheduler.check()
    assert (scheduler.holders(), scheduler.num_promised_blocks) == ([], 0)
    assert scheduler.arrive(a, 9) is None


def test_arrived_blocks_serve_the_next_prompt() -> None:
    scheduler = make()
    a, _ = admit(scheduler, "a", list(range(8)), local=False)
    scheduler.arrive(a, 9)
    scheduler.abort(a)

    _, room = admit(scheduler, "b", [*range(8), 5], local=False)

    assert room is not None
    assert room.num_cached == 8


def test_running_sequences_decode_while_a_prompt_is_prefilled_beside_them() -> None:
    scheduler = make(max_step_tokens=5)
    a, _ = admit(scheduler, "a", [1])
    step(scheduler)
    b, _ = admit(scheduler, "b", [2] * 6)

    chunks = scheduler.plan()

    assert [(chunk.sequence.id, chunk.num_tokens) for chunk in chunks] == [(a, 1), (b, 4)]


def test_a_full_worker_refuses() -> None:
    scheduler = make(max_sequences=1)
    admit(scheduler, "a", [1])

    assert admit(scheduler, "b", [1])[1] is None


def test_room_is_kept_for_those_who_run() -> None:
    scheduler = make(num_blocks=3)
    admit(scheduler, "a", [1, 2, 3, 4])
    step(scheduler)

    assert admit(scheduler, "b", [5] * 8)[1] is None, "two blocks are free, but a needs its next one"
    assert admit(scheduler, "c", [5] * 4)[1] is not None


def test_the_newest_yields_and_comes_back_with_the_same_tokens() -> None:
    scheduler = make(num_blocks=4, max_step_tokens=64)
    a, _ = admit(scheduler, "a", [1] * 4, max_tokens=9)
    b, _ = admit(scheduler, "b", [2] * 4, max_tokens=9)
    tokens: dict[str, list[int]] = {a: [], b: []}
    preempted = set()
    for number in range(40):
        for event in step(scheduler, token=number):
            if isinstance(event, Token):
                tokens[event.id].append(event.index)
        preempted |= {name for name, state in states(scheduler).items() if state is State.PREEMPTED}
        scheduler.pool.check()

    assert preempted == {b}
    assert tokens == {a: list(range(9)), b: list(range(9))}
    assert scheduler.num_preemptions == 1


def test_nobody_new_is_let_in_before_who_was_preempted() -> None:
    scheduler = make(num_blocks=4, max_step_tokens=64)
    admit(scheduler, "a", [1] * 8, max_tokens=9)
    admit(scheduler, "b", [2] * 3, max_tokens=9)
    while State.PREEMPTED not in states(scheduler).values():
        step(scheduler)

    assert admit(scheduler, "c", [3])[1] is None


def test_one_alone_that_finds_no_block_beside_promises_waits_without_spinning() -> None:
    scheduler = make(num_blocks=4, max_step_tokens=64)
    a, _ = admit(scheduler, "a", [1] * 4, max_tokens=8)
    step(scheduler)
    promised, room = admit(scheduler, "b", [2] * 8, local=False)
    assert room is not None
    for _ in range(5):
        step(scheduler)

    assert states(scheduler) == {a: State.PREEMPTED, promised: State.RESERVED}
    assert not scheduler.has_work()
    assert scheduler.plan() == []

    scheduler.abort(promised)

    assert scheduler.has_work()
    assert [chunk.sequence.id for chunk in scheduler.plan()] == [a]


def check_sums(scheduler: DecodeScheduler, made: dict[SequenceId, Sequence]) -> None:
    """What the scheduler counts along is what there is to count."""
    of = {state: [h for h in scheduler.holders() if h.state == state] for state in State}
    waiting = [made[SequenceId(h.id)] for h in (*of[State.PREFILLING], *of[State.PREEMPTED])]
    assert scheduler.num_promised_blocks == sum(len(holder.blocks) for holder in of[State.RESERVED])
    assert scheduler.waiting_tokens == sum(len(s.tokens) - s.num_computed for s in waiting)
    assert scheduler.num_preempted == len(of[State.PREEMPTED])


@pytest.mark.parametrize("seed", range(30))
def test_any_history_keeps_custody_and_numbers_every_token_once(seed: int) -> None:
    rng = random.Random(seed)
    num_blocks = rng.randint(6, 24)
    scheduler = make(num_blocks, max_step_tokens=rng.choice([2, 8, 64]), max_sequences=rng.randint(1, 10))
    reserved: set[SequenceId] = set()
    made: dict[SequenceId, Sequence] = {}
    alive: set[SequenceId] = set()
    next_index: dict[SequenceId, int] = {}

    def advance() -> None:
        for event in step(scheduler, rng.randint(0, 3)):
            if isinstance(event, Token):
                assert event.index == next_index[event.id], "a gap or a repeat"
                next_index[event.id] += 1
                if event.finish:
                    alive.discard(event.id)

    for number in range(300):
        action = rng.random()
        if action < 0.3:
            tokens = prompt(rng, 3 * P)
            max_tokens = rng.randint(2, 6)
            if scheduler.fits(len(tokens) + max_tokens):
                local = rng.random() < 0.5
                asked = sequence(f"s{number}", tokens, block_tokens=P, max_tokens=max_tokens)
                name, room = asked.id, scheduler.admit(asked, local=local)
                if room is not None:
                    made[name] = asked
                    alive.add(name)
                    next_index[name] = 0
                    if not local:
                        reserved.add(name)
        elif action < 0.45 and reserved:
            name = rng.choice(sorted(reserved))
            reserved.discard(name)
            if scheduler.arrive(name, 1):
                next_index[name] = 1
        elif action < 0.55 and alive:
            name = rng.choice(sorted(alive))
            scheduler.abort(name)
            alive.discard(name)
            reserved.discard(name)
        else:
            advance()
        scheduler.pool.check()
        assert set(states(scheduler)) == alive
        check_sums(scheduler, made)
    for name in sorted(reserved):
        scheduler.arrive(name, 1)
        next_index[name] = 1
    for _ in range(2_000):
        if not alive:
            break
        assert scheduler.has_work(), "somebody is left and nothing will ever happen"
        advance()

    assert not alive
    assert scheduler.pool.num_available == num_blocks
    assert scheduler.pool.num_leaked() == 0


def test_ten_thousand_admissions_leak_nothing() -> None:
    rng = random.Random(0)
    scheduler = make(num_blocks=64, max_step_tokens=64, max_sequences=16)
    alive: list[SequenceId] = []
    for number in range(10_000):
        tokens = prompt(rng, 6 * P)
        name, room = admit(scheduler, f"s{number}", tokens, local=rng.random() < 0.7, max_tokens=rng.randint(2, 5))
        if room is not None:
            alive.append(name)
        if rng.random() < 0.3 and alive:
            scheduler.abort(alive.pop(rng.randrange(len(alive))))
        if scheduler.has_work():
            step(scheduler)
        if number % 500 == 0:
            scheduler.pool.check()
    for name in alive:
        scheduler.abort(name)

    scheduler.pool.check()
    assert scheduler.pool.num_available == 64
    assert scheduler.holders() == []


def launch(scheduler: DecodeScheduler, *, ahead: bool = False) -> list[Chunk]:
    chunks = scheduler.plan_ahead() if ahead else scheduler.plan()
    scheduler.launched(chunks)
    scheduler.check()
    return chunks


def land(scheduler: DecodeScheduler, chunks: list[Chunk], token: int = 1) -> list[object]:
    events = list(scheduler.commit(chunks, [(chunk.sequence, token) for chunk in chunks if chunk.samples]))
    scheduler.check()
    return events


def spans(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    return [(chunk.sequence.id, chunk.start, chunk.end) for chunk in chunks]


def test_a_step_is_planned_behind_one_that_is_not_over() -> None:
    scheduler = make(max_step_tokens=6)
    a, _ = admit(scheduler, "a", list(range(4)), max_tokens=4)
    b, _ = admit(scheduler, "b", list(range(10, 15)), max_tokens=4)

    first = launch(scheduler)
    second = launch(scheduler, ahead=True)

    assert spans(first) == [(a, 0, 4), (b, 0, 2)]
    assert spans(second) == [(a, 4, 5), (b, 2, 5)], "a goes on with a token that nobody knows"
    assert land(scheduler, first) == [Prefilled(a, 0, 1), Token(a, 1, 0, None)]
    third = launch(scheduler, ahead=True)
    assert spans(third) == [(a, 5, 6), (b, 5, 6)]
    assert land(scheduler, second) == [Token(a, 1, 1, None), Prefilled(b, 0, 2), Token(b, 1, 0, None)]


def test_nothing_is_planned_behind_a_last_token() -> None:
    scheduler = make()
    admit(scheduler, "a", [1, 2], max_tokens=1)
    chunks = launch(scheduler)

    assert scheduler.plan_ahead() == []
    assert [type(event) for event in land(scheduler, chunks)] == [Prefilled, Token]
    assert scheduler.holders() == []


def test_who_ends_while_the_next_step_computes_it_leaves_with_that_step() -> None:
    scheduler = make(num_blocks=2)
    made = sequence("a", [1, 2, 3], block_tokens=P, max_tokens=9, stop=frozenset({5}))
    assert scheduler.admit(made, local=True)
    first = launch(scheduler)
    second = launch(scheduler, ahead=True)

    events = land(scheduler, first, 5)

    assert events[-1] == Token(made.id, 5, 0, FinishReason.STOP)
    assert states(scheduler) == {"a": State.LEAVING}
    assert list(scheduler.pool.blocks_of(made.id)) == [0], "the second step writes there"
    assert scheduler.plan_ahead() == []
    assert scheduler.abort(made.id) is False, "what is said twice changes nothing"
    assert land(scheduler, second, 7) == [Left(made.id)]
    assert list(made.tokens) == [1, 2, 3, 5]
    assert scheduler.pool.num_available == 2


@pytest.mark.parametrize("state", [State.PREFILLING, State.RUNNING])
def test_who_is_given_up_while_a_step_computes_it_leaves_with_that_step(state: State) -> None:
    scheduler = make(max_step_tokens=2)
    a, _ = admit(scheduler, "a", [1, 2, 3] if state is State.PREFILLING else [1])
    if state is State.RUNNING:
        step(scheduler)
    chunks = launch(scheduler)
    assert states(scheduler) == {a: state}

    assert scheduler.abort(a) is False

    scheduler.check()
    assert (states(scheduler), scheduler.waiting_tokens) == ({a: State.LEAVING}, 0)
    assert land(scheduler, chunks) == [Left(a)]
    assert (scheduler.pool.num_available, scheduler.holders()) == (16, [])


def test_nobody_yields_while_a_step_is_in_flight() -> None:
    scheduler = make(num_blocks=3)
    admit(scheduler, "a", [1] * 3)
    admit(scheduler, "b", [2] * 3)
    chunks = launch(scheduler)
    land(scheduler, chunks)
    chunks = launch(scheduler)

    assert scheduler.plan_ahead() == [], "b finds no block"
    scheduler.check()
    assert set(states(scheduler).values()) == {State.RUNNING}
    land(scheduler, chunks)
    assert [chunk.sequence.id for chunk in scheduler.plan()] == ["a"]
    assert states(scheduler) == {"a": State.RUNNING, "b": State.PREEMPTED}


def test_who_looks_back_waits_for_the_token_before() -> None:
    class Anything:
        def take(self, token: int) -> bool:
            return False

    scheduler = make()
    made = Sequence.of(SequenceId("a"), [1, 2], SamplingParams(max_tokens=9, seed=0))
    made.constraint = Anything()
    assert scheduler.admit(made, local=True)
    admit(scheduler, "b", [3, 4])
    chunks = launch(scheduler)

    assert scheduler.plan_ahead() == []
    land(scheduler, chunks)
    assert len(scheduler.plan()) == 2


def test_a_token_that_was_heard_is_not_guessed_by_the_device() -> None:
    scheduler = make()
    a, _ = admit(scheduler, "a", [1, 2, 3], local=False)
    scheduler.regrant(a, 7, local=True)
    chunks = launch(scheduler)

    assert scheduler.plan_ahead() == []
    assert land(scheduler, chunks) == [Prefilled(a, 0, 1), Token(a, 7, 0, None)]
