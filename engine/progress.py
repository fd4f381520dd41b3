"""Whether a worker gets on, by what it says of its load from one look to the next.

A worker that is *stalled* gets nowhere: what it holds is better done elsewhere. One that is *unready* should get
nothing new, and goes on with what it has. Each has a reason in words, and is over when the reason is. Knows the figures
of a `Load`, durations and disks. Does not know what prefill or decode do.
"""

import time
from collections.abc import Callable

from protos import worker_pb2 as pb

PATIENCE = 2.0
"""Times the limit of a transfer: one that stalls is ended by its link, and its blocks come free."""


class Progress:
    """Looks at one worker, several times a second."""

    def __init__(
        self,
        busy_s: Callable[[], float],
        load: Callable[[], pb.Load],
        disks_full: Callable[[], str],
        *,
        longest_step_s: float,
        stall_limit_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`busy_s` is for how long the step has run that is under way."""
        self._busy_s = busy_s
        self._load = load
        self._disks_full = disks_full
        self._longest_step_s = longest_step_s
        self._stall_limit_s = stall_limit_s
        self._now = now
        self._moved: tuple[int, int] | None = None
        self._moved_s = 0.0
        self._taken: tuple[int, int] = (0, 0)
        self._num_stalls = 0
        self._wedged: str = ""
        self._wedged_s = 0.0
        self.stalled = ""
        self.unready = ""

    def look(self) -> bool:
        """Whether anything is otherwise than at the last look."""
        before = self.stalled, self.unready
        load = self._load()
        self.stalled = self._long_step() or self._stuck(load)
        self.unready = self._leaked(load) or self._wedged_transfers(load) or self._disks_full()
        return before != (self.stalled, self.unready)

    def _long_step(self) -> str:
        limit_s = self._longest_step_s
        return f"a step takes longer than {limit_s:g} s" if self._busy_s() > limit_s else ""

    def _stuck(self, load: pb.Load) -> str:
        """Somebody waits for blocks, and nothing is under way by which any could come free."""
        now, moved = self._now(), (sum(load.step_seconds.counts), load.free_blocks)
        under_way = load.promised_blocks or any(link.in_flight for link in load.links) or self._busy_s()
        if not load.waiting or under_way or moved != self._moved:
            self._moved, self._moved_s = moved, now
        limit_s = PATIENCE * self._stall_limit_s
        if now - self._moved_s <= limit_s:
            return ""
        return f"{load.waiting} requests wait for KV blocks, of which none has come free for {limit_s:g} s"

    def _leaked(self, load: pb.Load) -> str:
        if load.leaked_blocks <= load.free_blocks:
            return ""
        return f"{load.leaked_blocks} KV blocks have leaked, and {load.free_blocks} are left"

    def _wedged_transfers(self, load: pb.Load) -> str:
        """For as long as a transfer may stall after the last one did, unless anybody has taken anything since."""
        now, links = self._now(), load.links
        taken = sum(link.size_bytes for link in links), sum(link.transfers for link in links)
        num_stalls = sum(link.failures["stalled"] for link in links)
        if num_stalls > self._num_stalls:
            peers = sorted({link.decode_worker_id for link in links if link.failures["stalled"]})
            self._wedged, self._wedged_s = f"transfers of KV stall: {', '.join(peers)} took nothing", now
        if taken != self._taken or now - self._wedged_s > self._stall_limit_s:
            self._wedged = ""
        self._taken, self._num_stalls = taken, num_stalls
        return self._wedged
