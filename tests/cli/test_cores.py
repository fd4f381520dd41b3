"""How `tandem up` divides the machine's CPUs: everybody's own, or nobody's."""

import os

import pytest

from cli.cores import DEFAULT_BORROWERS, Cores, check_ranks, divide_cores
from engine.errors import ConfigError


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def divide(
    num_prefill: int = 1, num_decode: int = 1, *, split: bool = False, borrow: str | None = None, **lists: str
) -> Cores:
    given = {"prefill": "", "decode": "", "frontend": "", **lists}
    return divide_cores(given, num_prefill=num_prefill, num_decode=num_decode, split=split, borrow=borrow)


def test_shared_pins_nobody() -> None:
    assert divide() == Cores({"prefill": (), "decode": (), "frontend": ()})


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("prefill", "decode", "cpus"),
    [(1, 1, ((0, 1), (2, 3))), (1, 3, ((0,), (1, 2, 3))), (2, 1, ((0, 1), (2, 3))), (3, 2, ((), ())), (0, 1, ((), ()))],
)
def test_split_gives_each_worker_its_own_where_there_are_enough(
    prefill: int, decode: int, cpus: tuple[tuple[int, ...], ...]
) -> None:
    divided = divide(prefill, decode, split=True)
    assert (divided.cpus["prefill"], divided.cpus["decode"]) == cpus
    assert divided.borrowers == (DEFAULT_BORROWERS if cpus[0] else ())
    assert divided.cpus["frontend"] == ()


@pytest.mark.usefixtures("four")
def test_decode_workers_alone_are_split_too_and_lend_nothing() -> None:
    assert divide(0, 2, split=True) == Cores({"prefill": (), "decode": (0, 1, 2, 3), "frontend": ()})


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("split", [True, False])
def test_more_workers_than_cpus_have_one_thread_each(split: bool) -> None:
    assert divide(3, 2, split=split).threads == 1
    assert divide(2, 2, split=split).threads == 0
    assert divide(3, 2, split=split, decode="0-3").threads == 0, "whoever names CPUs has thought of it"


@pytest.mark.usefixtures("four")
def test_lists_go_before_split() -> None:
    divided = divide(split=True, decode="3", frontend="0")
    assert divided == Cores({"prefill": (), "decode": (3,), "frontend": (0,)})
    assert divide(prefill="0", decode="1-3", borrow="both").borrowers == ("prefill", "decode")
    assert divide(prefill="0", decode="1-3", borrow="decode").borrowers == ("decode",)
    assert divide(split=True, borrow="none").borrowers == ()


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"prefill": 0, "prefill_cpus": "1"}, "--prefill-cpus"),
        ({"decode_cpus": "9"}, "--decode-cpus"),
        ({"frontend_cpus": "x"}, "--frontend-cpus"),
        ({"borrow": "prefill"}, "--borrow"),
        ({"borrow": "both", "prefill_cpus": "0-1", "decode_cpus": "1-2"}, "--borrow"),
        ({"borrow": "both", "prefill_cpus": "0", "decode_cpus": "1", "decode": 2}, "--borrow"),
        ({"borrow": "decode", "prefill": 0, "split": True}, "--borrow"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: dict[str, object], option: str) -> None:
    lists = {role: str(arguments.get(f"{role}_cpus", "")) for role in ("prefill", "decode", "frontend")}
    with pytest.raises(ConfigError) as refused:
        divide_cores(
            lists,
            num_prefill=int(str(arguments.get("prefill", 1))),
            num_decode=int(str(arguments.get("decode", 1))),
            split=bool(arguments.get("split")),
            borrow=str(arguments["borrow"]) if "borrow" in arguments else None,
        )
    assert refused.value.field == option
    assert option in refused.value.message


@pytest.mark.parametrize(
    ("ranks", "prefill", "borrow", "option"),
    [((2, 1), 0, None, "--prefill-tp"), ((2, 1), 1, "prefill", "--borrow"), ((1, 2), 1, "both", "--borrow")],
)
def test_ranks_without_a_worker_or_that_should_borrow_are_refused_by_name(
    ranks: tuple[int, int], prefill: int, borrow: str | None, option: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_ranks({"prefill": ranks[0], "decode": ranks[1]}, prefill, borrow)
    assert refused.value.field == option
    assert option in refused.value.message


def test_ranks_may_stand_beside_workers_that_borrow() -> None:
    check_ranks({"prefill": 1, "decode": 2}, 1, "prefill")
    check_ranks({"prefill": 2, "decode": 2}, 1, None)
    check_ranks({"prefill": 1, "decode": 2}, 0, "none")
