"""Whether a worker gets on: each way in which it does not is told in words, and is over when it is."""

import pytest

from engine.progress import Progress
from protos import worker_pb2 as pb


class Scene:
    """A worker whose load, clock and disks are the test's; a step may take 5 s, a transfer stall for 10."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.busy = 0.0
        self.disks = ""
        self.load = pb.Load(free_blocks=100)
        self.progress = Progress(
            lambda: self.busy,
            lambda: self.load,
            lambda: self.disks,
            longest_step_s=5,
            stall_limit_s=10,
            now=lambda: self.now_s,
        )

    def after(self, seconds: float) -> tuple[str, str]:
        """What it says so much later, having looked four times a second until then."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(self.now_s + 0.25, end_s)
            self.progress.look()
        return self.progress.stalled, self.progress.unready


def test_who_has_nothing_to_do_gets_on() -> None:
    assert Scene().after(100) == ("", "")


def test_a_change_is_told_once() -> None:
    scene = Scene()
    assert not scene.progress.look()
    scene.disks = "full"
    assert [scene.progress.look(), scene.progress.look()] == [True, False]
    assert scene.progress.unready == "full"
    scene.disks = ""
    assert scene.progress.look()


def test_a_step_that_does_not_end() -> None:
    scene = Scene()
    scene.busy = 5.1
    assert scene.after(0.25) == ("a step takes longer than 5 s", "")
    scene.busy = 0.0
    assert scene.after(0.25) == ("", "")


STUCK = "3 requests wait for KV blocks, of which none has come free for 20 s"


def test_a_pool_in_which_nothing_moves() -> None:
    scene = Scene()
    scene.load = pb.Load(free_blocks=2, waiting=3)
    assert scene.after(19) == ("", "")
    assert scene.after(2) == (STUCK, "")
    scene.load.free_blocks = 3
    assert scene.after(0.25) == ("", "")


@pytest.mark.parametrize("what", ["steps", "blocks", "a promise", "a transfer", "a long step"])
def test_who_waits_for_what_is_under_way_gets_on(what: str) -> None:
    scene = Scene()
    scene.load = pb.Load(free_blocks=2, waiting=3, step_seconds=pb.Histogram(counts=[0]))
    if what == "a promise":
        scene.load.promised_blocks = 1
    if what == "a transfer":
        scene.load.links.add(in_flight=1)
    if what == "a long step":
        scene.busy = 4.9
    for _ in range(10):
        if what == "steps":
            scene.load.step_seconds.counts[0] += 1
        if what == "blocks":
            scene.load.free_blocks ^= 1
        assert scene.after(15) == ("", "")


def test_a_pool_that_has_leaked_away() -> None:
    scene = Scene()
    scene.load = pb.Load(free_blocks=60, leaked_blocks=40)
    assert scene.after(1) == ("", ""), "there is room, and a gauge that says it"
    scene.load = pb.Load(free_blocks=40, leaked_blocks=60)
    assert scene.after(1) == ("", "60 KV blocks have leaked, and 40 are left")


WEDGED = "transfers of KV stall: d1 took nothing"


def links(*, stalled: int = 0, taken: int = 0, other: int = 0) -> list[pb.KvLink]:
    return [
        pb.KvLink(decode_worker_id="d1", failures={"stalled": stalled, "lost": 3}, size_bytes=taken),
        pb.KvLink(decode_worker_id="d2", size_bytes=other),
    ]


def test_transfers_that_stall() -> None:
    scene = Scene()
    scene.load = pb.Load(links=links())
    assert scene.after(1) == ("", "")
    scene.load = pb.Load(links=links(stalled=1))
    assert scene.after(1) == ("", WEDGED)
    assert scene.after(8) == ("", WEDGED)
    assert scene.after(2) == ("", ""), "it may be tried again"
    scene.load = pb.Load(links=links(stalled=2))
    assert scene.after(1) == ("", WEDGED)
    scene.load = pb.Load(links=links(stalled=2, taken=1))
    assert scene.after(0.25) == ("", "")


def test_one_peer_that_stalls_beside_one_that_does_not() -> None:
    scene = Scene()
    for count in range(20):
        scene.load = pb.Load(links=links(stalled=count, other=count))
        assert scene.after(0.25) == ("", "")
