"""The router: room as workers count it, the better way to the first token, and when to wait."""

from dataclasses import replace

import pytest

from engine.sequence import BlockHash
from frontend.router import Need, Placement, Policy, WorkerView, can_ever_serve, place

ROOM = Policy()
HOP_S = 0.002


def worker(name: str = "w", **fields: object) -> WorkerView:
    view = WorkerView(
        worker_id=name,
        model="m",
        layout="l",
        num_blocks=100,
        block_tokens=4,
        block_bytes=1000,
        max_context=400,
        max_sequences=8,
        free_blocks=100,
    )
    return replace(view, **fields)


def need(num_tokens: int = 40, max_tokens: int = 50, num_hashes: int = 0) -> Need:
    return Need("m", num_tokens, max_tokens, tuple(hash_of(i) for i in range(num_hashes)))


def hash_of(number: int) -> BlockHash:
    return BlockHash(bytes([number]) * 16)


def placed(
    decodes: list[WorkerView],
    prefills: list[WorkerView] | None = None,
    policy: Policy = ROOM,
    asked: Need | None = None,
) -> Placement | None:
    return place(asked or need(), decodes, prefills or [], policy, HOP_S)


def test_nobody_is_chosen_where_there_is_nobody() -> None:
    assert placed([]) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"draining": True},
        {"model": "other"},
        {"max_context": 49},
        {"full": True},
        {"waiting": 1, "running": 1},
        {"running": 8},
        {"running": 4, "sent_legs": 4},
        {"free_blocks": 9},
        {"free_blocks": 20, "sent_blocks": 11},
        {"free_blocks": 12, "running": 3},
    ],
)
def test_a_worker_without_room_is_not_asked(fields: dict[str, object]) -> None:
    assert placed([worker(**fields)]) is None
    other = worker("other")
    assert placed([worker(**fields), other]) == Placement(other, None, 0, 0.0, 0.0)


def test_room_is_exactly_enough() -> None:
    assert placed([worker(free_blocks=13, running=3)]) is not None
    assert placed([worker(max_context=50, running=7, free_blocks=99)]) is not None


def test_the_emptier_worker_is_chosen_counting_what_was_sent_since_its_report() -> None:
    a, b = worker("a", free_blocks=80), worker("b", free_blocks=90)
    assert placed([a, b]).decode is b
    b.sent_blocks, b.sent_legs = 20, 1
    assert placed([a, b]).decode is a


def test_the_worker_that_holds_the_prefix_is_chosen() -> None:
    a = worker("a")
    b = worker("b", free_blocks=60, running=1, hashes=frozenset(hash_of(i) for i in range(8)))

    placement = placed([a, b], asked=need(num_hashes=10))

    assert placement.decode is b
    assert placement.cached_tokens == 32


def test_the_last_token_is_never_cached() -> None:
    view = worker(hashes=frozenset(hash_of(i) for i in range(10)))
    assert placed([view], asked=need(num_hashes=10)).cached_tokens == 39


def test_a_hole_in_the_prefix_ends_it() -> None:
    view = worker(hashes=frozenset([hash_of(0), hash_of(2)]))
    assert view.cached_tokens([hash_of(0), hash_of(1), hash_of(2)]) == 4


def test_without_measurements_a_prefill_worker_computes() -> None:
    prefill = worker("p")
    assert placed([worker()], [prefill]).prefill is prefill


def test_the_cheaper_way_is_taken() -> None:
    decode, prefill = worker(prefill_tokens_per_s=1000.0), worker("p", prefill_tokens_per_s=1000.0)

    quiet = placed([decode], [prefill])
    prefill.waiting_tokens = 1000
    queued = placed([decode], [prefill])
    decode.running = 50
    decode.max_sequences = 64
    busy = placed([decode], [prefill])

    assert (quiet.prefill, quiet.remote_s) == (prefill, pytest.approx(0.042))
    assert quiet.local_s == pytest.approx(0.08), "its own time, and that of the stream that may start next"
    assert queued.prefill is None
    assert busy.prefill is prefill


def test_a_slow_link_speaks_for_local() -> None:
    decode = worker(prefill_tokens_per_s=1000.0)
    prefill = worker("p", prefill_tokens_per_s=1000.0, transfer_bytes_per_s=10_000.0)
    assert placed([decode], [prefill]).remote_s == pytest.approx(1.042)
    assert placed([decode], [prefill]).prefill is None
    assert placed([decode], [prefill], Policy(always_remote=True)).prefill is prefill


def test_the_operator_sends_short_prompts_to_decode() -> None:
    decode, prefill = worker(), worker("p")
    assert placed([decode], [prefill], Policy(local_prefill_tokens=40)).prefill is None
    assert placed([decode], [prefill], Policy(local_prefill_tokens=39)).prefill is prefill


def test_the_prefill_worker_with_the_least_wait_and_compute_is_chosen() -> None:
    decode = worker()
    near = worker("near", prefill_tokens_per_s=1000.0, waiting_tokens=100)
    fast = worker("fast", prefill_tokens_per_s=4000.0, waiting_tokens=300, sent_tokens=40)
    assert placed([decode], [near, fast], Policy(always_remote=True)).prefill is fast


@pytest.mark.parametrize("fields", [{"draining": True}, {"model": "x"}, {"layout": "x"}, {"num_blocks": 9}])
def test_a_prefill_worker_that_cannot_is_as_good_as_none(fields: dict[str, object]) -> None:
    placement = placed([worker()], [worker("p", **fields)], Policy(always_remote=True))
    assert placement is not None
    assert placement.prefill is None


def test_always_remote_waits_for_a_full_prefill_worker_and_others_do_not() -> None:
    full, other = worker("p", full=True), worker("q")
    assert placed([worker()], [full], Policy(always_remote=True)) is None
    assert placed([worker()], [full]).prefill is None
    assert placed([worker()], [full, other], Policy(always_remote=True)).prefill is other


def test_who_drains_or_is_too_small_can_never_serve() -> None:
    assert can_ever_serve(need(), [worker(full=True, free_blocks=0)])
    assert not can_ever_serve(need(), [worker(draining=True), worker(max_context=49), worker(model="x")])
