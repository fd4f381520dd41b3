"""The router: room as workers count it, the better way to the first token, and when to wait."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost import Costs
from engine.sequence import BlockHash
from frontend.router import (
    STALL_WEIGHT,
    Need,
    Placement,
    Policy,
    Why,
    can_ever_serve,
    first_token_s,
    num_places,
    place,
)
from frontend.worker_view import WorkerView

ROOM = Policy()
HOP_S = 0.002
COSTS = Costs((1, 16, 64, 256, 512), (0.0325, 0.0437, 0.0762, 0.2372, 0.539), 4.7e-7, 0.0309, 0.00104, 2.6e-6)
"""As a worker of the 160m shape measured them on one core."""


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


def large(name: str, **fields: object) -> WorkerView:
    sizes = {"num_blocks": 1000, "max_context": 4000, "max_sequences": 64, "free_blocks": 1000}
    return worker(name, **{**sizes, **fields})


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


@given(st.integers(0, 60), st.integers(0, 8), st.integers(1, 40))
@settings(deadline=None)
def test_there_are_as_many_places_as_requests_that_find_one(free_blocks: int, running: int, num_tokens: int) -> None:
    views = [worker("a", free_blocks=free_blocks, running=running), worker("b", max_sequences=2)]
    asked, predicted, found = need(num_tokens), num_places(need(num_tokens), views), 0
    while (placement := place(asked, views, [], ROOM, HOP_S)) is not None:
        placement.decode.sent_legs += 1
        placement.decode.sent_blocks += -(-num_tokens // placement.decode.block_tokens)
        found += 1
    assert found == predicted


def test_prompts_on_their_way_to_a_worker_go_first() -> None:
    alone = first_token_s(need(), [], [worker("p", costs=COSTS)])
    view = worker("p", costs=COSTS)
    with view.expecting(64):
        assert first_token_s(need(), [], [view]) > alone
    assert first_token_s(need(), [], [view]) == alone


def test_prompts_that_nobody_has_yet_are_shared_and_go_first() -> None:
    alone = first_token_s(need(), [], [worker("p", costs=COSTS)])
    assert first_token_s(need(), [], [worker("p", costs=COSTS)], 64) > alone
    two = [worker("p", costs=COSTS), worker("q", costs=COSTS)]
    assert first_token_s(need(), [], two, 64) == first_token_s(need(), [], [worker("p", costs=COSTS)], 32)
    assert first_token_s(need(), [], [], 64) == 0


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
    assert placed([worker(**fields), other]) == Placement(other, None, 0, Why.NO_PREFILL)


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


# -- local or remote -------------------------------------------------------------------------------------------------


def test_on_an_idle_machine_short_prompts_stay_and_long_ones_need_not() -> None:
    decode, prefill = large("d", costs=COSTS), large("p", costs=COSTS)
    short = placed([decode], [prefill], asked=need(32))
    long = placed([decode], [prefill], asked=need(512))
    assert short.prefill is None, "the hop would be 4 % of the time to the first token"
    assert long.prefill is prefill, "the hop costs nothing to speak of, and decode stays free"
    assert (short.local_s, short.remote_s) == (pytest.approx(0.05453, abs=1e-4), pytest.approx(0.05653, abs=1e-4))
    assert long.remote_s <= 1.02 * long.local_s
    assert short.local_loss_s == long.local_loss_s == long.remote_loss_s == 0


def test_while_streams_run_long_prompts_go_away_and_wait_there_if_need_be() -> None:
    decode = large("d", costs=COSTS, running=6, free_blocks=900)
    prefill = large("p", costs=COSTS)
    placement = placed([decode], [prefill], asked=need(512))
    assert placement.prefill is prefill
    quiet_s = COSTS.decode_step_s(6, 400)
    both_s = COSTS.prompt_step_s(506, 0) + quiet_s - COSTS.decode_s
    rest_s = COSTS.prompt_step_s(6, 506) + quiet_s - COSTS.decode_s
    assert rest_s < 4 * quiet_s < both_s
    stalls_s = STALL_WEIGHT * (both_s - 4 * quiet_s)
    assert placement.local_loss_s == pytest.approx(6 * (both_s + rest_s - 2 * quiet_s + stalls_s))
    assert placement.remote_loss_s == 0, "its CPUs are its own"
    assert placement.local_s == pytest.approx(quiet_s / 2 + both_s + rest_s)
    prefill.waiting_tokens = 2048
    assert placed([decode], [prefill], asked=need(512)).prefill is prefill


def test_a_prompt_within_the_tolerance_may_join_the_streams_when_prefill_is_busy() -> None:
    decode = large("d", costs=COSTS, running=6, free_blocks=900)
    prefill = large("p", costs=COSTS, waiting_tokens=512)
    joined = placed([decode], [prefill], asked=need(20))
    assert joined.prefill is None
    strict = placed([decode], [prefill], Policy(itl_tolerance=1.0), asked=need(20))
    assert strict.local_loss_s == pytest.approx((1 + STALL_WEIGHT) * joined.local_loss_s)
    assert strict.local_s == joined.local_s


def lenders(**decode: object) -> tuple[WorkerView, WorkerView]:
    lends = {"costs": COSTS, "own_costs": COSTS.slower(2), "cpu_board": "board"}
    return large("d", **lends, **decode), large("p", **lends)


def test_between_lenders_a_prompt_costs_the_streams_their_lent_cpus() -> None:
    decode, prefill = lenders(running=6, free_blocks=900)
    placement = placed([decode], [prefill], asked=need(512))
    assert placement.prefill is prefill, "slower streams for a while, rather than a stall"
    compute_s = 2 * COSTS.prefill_s(512, 0, 512)
    assert placement.remote_loss_s == pytest.approx(6 * compute_s / 2)
    assert placement.remote_s == pytest.approx(COSTS.decode_step_s(6, 400) / 2 + compute_s + HOP_S)


def test_between_lenders_short_prompts_join_the_streams() -> None:
    lending = lenders(running=6, free_blocks=900)
    apart = [replace(view, cpu_board=view.worker_id) for view in lending]
    assert placed([lending[0]], [lending[1]], asked=need(40)).prefill is None
    assert placed([apart[0]], [apart[1]], asked=need(40)).prefill is apart[1]


def test_an_idle_lender_has_all_cpus_and_a_busy_ones_streams_are_slower() -> None:
    decode, prefill = lenders()
    idle = placed([decode], [prefill], asked=need(512))
    assert idle.local_s == pytest.approx(COSTS.table_s(512))
    assert idle.remote_s == pytest.approx(COSTS.table_s(512) + HOP_S)
    prefill.running, prefill.waiting_tokens = 1, 5000
    assert placed([decode], [prefill], asked=need(512)).local_s == pytest.approx(2 * COSTS.table_s(512))
    prefill.waiting_tokens = 256
    crowded_s = COSTS.table_s(256)
    rest_s = COSTS.table_s(512) - crowded_s / 2
    assert placed([decode], [prefill], asked=need(512)).local_s == pytest.approx(crowded_s + rest_s)


def test_prompts_that_wait_share_a_step() -> None:
    decode = large("d", costs=COSTS, sent_tokens=100)
    assert placed([decode], [large("p")], asked=need(156)).local_s == pytest.approx(COSTS.table_s(256))


def test_a_prompt_of_which_decode_holds_nearly_all_stays_there() -> None:
    hashes = frozenset(hash_of(i) for i in range(120))
    decode = large("d", costs=COSTS, running=1, free_blocks=870, hashes=hashes)
    asked = need(484, num_hashes=121)
    assert placed([decode], [large("p", costs=COSTS)], asked=asked).prefill is None
    cached_too = large("p", costs=COSTS, hashes=hashes)
    assert placed([decode], [cached_too], asked=asked).remote_s < 0.06, "its own cache counts as well"


def test_a_slow_link_speaks_for_local_unless_computing_hides_it() -> None:
    costs = Costs.flat(1000.0)
    decode = worker(costs=costs)
    slow = worker("p", costs=costs, transfer_bytes_per_s=10_000.0)
    assert placed([decode], [slow]).remote_s == pytest.approx(0.04 + 0.002 + 1.0)
    assert placed([decode], [slow]).prefill is None
    assert placed([decode], [slow], Policy(always_remote=True)).prefill is slow
    fast = worker("p", costs=costs, transfer_bytes_per_s=1e6, max_step_tokens=10)
    assert placed([decode], [fast]).remote_s == pytest.approx(0.04 + 0.002 + 0.0025), "the last chunk's blocks alone"


def test_one_known_speed_stands_for_the_other() -> None:
    known = worker("p", costs=Costs.flat(1e6), waiting_tokens=40_000)
    assert placed([worker()], [known]).local_s == pytest.approx(40e-6)
    assert placed([worker()], [known]).prefill is None


@st.composite
def fleets(draw: st.DrawFn, *, lending: bool = True) -> tuple[Need, WorkerView, WorkerView]:
    def view(name: str) -> WorkerView:
        costs = draw(st.sampled_from([None, COSTS, COSTS.slower(3), Costs.flat(500.0), Costs.flat(5000.0, 0.01)]))
        return large(
            name,
            costs=costs,
            running=draw(st.integers(0, 30)),
            sent_legs=draw(st.integers(0, 5)),
            free_blocks=draw(st.integers(500, 1000)),
            waiting_tokens=draw(st.integers(0, 5000)),
            sent_tokens=draw(st.integers(0, 500)),
            max_step_tokens=draw(st.integers(1, 1000)),
            transfer_bytes_per_s=draw(st.sampled_from([0.0, 1e5, 1e9])),
            hashes=frozenset(hash_of(i) for i in range(draw(st.integers(0, 40)))),
            own_costs=costs and draw(st.sampled_from([None, costs.slower(2)])),
            cpu_board=draw(st.sampled_from(["", "board"])) if lending else name,
        )

    return need(draw(st.integers(1, 1500)), 1600, draw(st.integers(0, 40))), view("d"), view("p")


@settings(deadline=None)
@given(fleets())
def test_placing_changes_nothing_and_is_the_same_every_time(fleet: tuple[Need, WorkerView, WorkerView]) -> None:
    asked, decode, prefill = fleet
    before = replace(decode), replace(prefill)
    first = placed([decode], [prefill], asked=asked)
    assert placed([decode], [prefill], asked=asked) == first
    assert (decode, prefill) == before
    assert first.local_loss_s >= 0
    assert first.remote_loss_s >= 0
    assert first.local_s > 0
    assert first.remote_s > 0


@settings(deadline=None)
@given(fleets(lending=False), st.integers(1, 5000))
def test_a_longer_queue_never_attracts(fleet: tuple[Need, WorkerView, WorkerView], more: int) -> None:
    """Between lenders it may: while prefill is busy, decode computes prompts on its own CPUs, to its streams' harm."""
    asked, decode, prefill = fleet
    first = placed([decode], [prefill], asked=asked)
    if first.prefill is not None:
        decode.waiting_tokens += more
        assert placed([decode], [prefill], asked=asked).prefill is prefill
    else:
        prefill.waiting_tokens += more
        assert placed([decode], [prefill], asked=asked).prefill is None


@settings(deadline=None)
@given(fleets(), st.floats(0.5, 3), st.floats(0.5, 3))
def test_more_tolerance_never_sends_away_what_could_stay(
    fleet: tuple[Need, WorkerView, WorkerView], a: float, b: float
) -> None:
    asked, decode, prefill = fleet
    strict, lax = (placed([decode], [prefill], Policy(itl_tolerance=t), asked=asked) for t in sorted((a, b)))
    assert lax.local_loss_s <= strict.local_loss_s
    assert strict.prefill is not None or lax.prefill is None


# -- the operator's word ---------------------------------------------------------------------------------------------


def test_the_operator_sends_short_prompts_to_decode() -> None:
    decode, prefill = worker(), worker("p")
    assert placed([decode], [prefill], Policy(local_prefill_tokens=40)).prefill is None
    assert placed([decode], [prefill], Policy(local_prefill_tokens=39)).prefill is prefill


def test_the_prefill_worker_with_the_least_wait_and_compute_is_chosen() -> None:
    decode = worker()
    near = worker("near", costs=Costs.flat(1000.0), waiting_tokens=100)
    fast = worker("fast", costs=Costs.flat(4000.0), waiting_tokens=300, sent_tokens=40)
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


# -- answers of a single token ---------------------------------------------------------------------------------------


def single(num_tokens: int = 40, num_hashes: int = 0) -> Need:
    return replace(need(num_tokens, num_tokens + 1, num_hashes), single_token=True)


def test_a_single_token_needs_no_room_on_a_decode_worker() -> None:
    full, prefill = worker("d", free_blocks=0), worker("p")
    assert placed([full], [prefill], asked=need()) is None
    placement = placed([full], [prefill], asked=single())
    assert placement is not None
    assert (placement.prefill, placement.decode, placement.decodes) == (prefill, prefill, False)
    assert placement.why is Why.SINGLE_TOKEN
    assert placed([full], [worker("p", full=True)], asked=single()) is None
    assert placed([full], [worker("p", model="other")], asked=single()) is None


def test_a_single_token_goes_to_the_prefill_worker_that_is_done_first() -> None:
    idle, busy = worker("a", costs=COSTS), worker("b", costs=COSTS, waiting_tokens=100)
    cached = worker("c", costs=COSTS, hashes=frozenset(map(hash_of, range(9))))
    placement = placed([worker("d", free_blocks=0)], [busy, idle], asked=single(num_hashes=10))
    assert placement is not None
    assert (placement.decode, placement.cached_tokens) == (idle, 0)
    placement = placed([worker("d", free_blocks=0)], [busy, idle, cached], asked=single(num_hashes=10))
    assert placement is not None
    assert (placement.decode, placement.cached_tokens) == (cached, 36)
    assert placement.first_token_s == pytest.approx(COSTS.prefill_s(4, 36, cached.max_step_tokens) + HOP_S)


def test_where_both_have_room_a_single_token_goes_the_quicker_way() -> None:
    decode = worker("d", costs=COSTS)
    here = placed([decode], [worker("p", costs=COSTS, waiting_tokens=1000)], asked=single())
    assert here is not None
    assert (here.decode, here.prefill, here.decodes) == (decode, None, True)
    busy = worker("d", costs=COSTS, running=4, waiting=0)
    there = placed([busy], [worker("p", costs=COSTS)], asked=single())
    assert there is not None
    assert not there.decodes


def test_a_single_token_goes_where_no_kv_could_come_from() -> None:
    placement = placed([worker("d")], [worker("p", layout="other")], Policy(always_remote=True), single())
    assert placement is not None
    assert placement.decode.worker_id == "p"
