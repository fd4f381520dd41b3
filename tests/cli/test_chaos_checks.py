from cli.chaos.checks import MAX_RSS_KIB, Processes, complaints
from cli.chaos.victims import Vitals

NAMES = frozenset({"prefill-0", "decode-0"})


def report(name: str, **fields: object) -> dict[str, object]:
    blocks = {"num_blocks": 8, "free_blocks": 5, "cached_blocks": 3, "leaked_blocks": 0, "holders": []}
    return {"address": f"unix:{name}", "worker_id": name, **blocks, **fields}


def test_an_idle_server_is_well() -> None:
    assert complaints([report("prefill-0"), report("decode-0")], NAMES) == []


def test_whoever_holds_blocks_is_named_with_its_request() -> None:
    holder = {"request_id": "req-1", "state": "sending", "blocks": [1, 2]}
    held = report("prefill-0", holders=[holder], free_blocks=3)
    assert complaints([held, report("decode-0")], NAMES) == [
        "prefill-0: req-1 still holds 2 blocks, sending",
        "prefill-0: [3, 3] blocks are free and cached, of 8",
    ]


def test_leaked_blocks_are_told() -> None:
    assert complaints([report("prefill-0"), report("decode-0", leaked_blocks=2, free_blocks=3)], NAMES) == [
        "decode-0: 2 blocks are leaked",
        "decode-0: [3, 3] blocks are free and cached, of 8",
    ]


def test_a_worker_that_says_nothing_is_told() -> None:
    lost: dict[str, object] = {"address": "unix:decode-0", "error": "not connected"}
    assert complaints([report("prefill-0"), lost], NAMES) == [
        "unix:decode-0: not connected",
        "decode-0 gives no custody report",
    ]


def processes(**taken: tuple[int, Vitals]) -> Processes:
    return Processes(taken, {"decode": 1000})


def test_growth_is_of_the_same_process_only() -> None:
    small, large = Vitals(10_000, 20, 5), Vitals(10_000 + MAX_RSS_KIB + 500, 60, 50)
    before = processes(frontend=(1, small), decode=(2, small), prefill=(3, small), gone=(4, small))
    after = processes(frontend=(1, large), decode=(2, large), prefill=(33, large))
    told = {one.name: one.wrong for one in before.grown_to(after)}
    assert told == {
        "frontend": [
            "frontend has grown by 64 MiB; 64 MiB are plenty",
            "frontend has 40 file descriptors more",
            "frontend has 45 threads more",
        ],
        # its pool was touched meanwhile
        "decode": ["decode has 40 file descriptors more", "decode has 45 threads more"],
        "prefill": [],
    }
