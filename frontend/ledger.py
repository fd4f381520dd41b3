"""Where one request's time to its first and second token went. Segments do not overlap and add up by construction.

    admit           arrival to the end of checks
    tokenize        template and tokenizer
    route           choosing workers
    grant           waiting for room and for a decode worker's promise of it
    retry           what attempts cost that failed: from what the first of them had to what the last was granted
    prefill_queue   on the worker that prefills, before the first chunk
    prefill_compute first chunk to first token
    transfer_wait   what the first token waited for KV to move: nothing, it goes straight to the frontend
    egress          the hops to the worker and back, and handing the token to the client's stream

    transfer_tail   from token one to the commit of the KV on decode
    decode_queue    from there to the step that joins it
    decode_step     that step
    decode_egress   the hop back from there, and handing the token to the client's stream
    client          the token was here, and the client had not taken yet what came before it

`retry` and `client` are told only where they took any time. What the rest of the answer waited for its client is one
number beside them, and so is the share of the prompt that the prefix cache had: computing the rest of it is what
`prefill_compute` is.

Durations measured on a worker are of its own clock. Where they stand on the frontend's axis hangs on one moment of each
worker, the end of the step that made the token, as the round trips of `frontend.clock` place it. It is kept between
what was certainly before it and when the token was heard of: a clock that is wrong moves time between neighbours, and
the sum stays.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from frontend.clock import Moment
from frontend.events import Timing
from frontend.leg_events import Row

TTFT_SEGMENTS = (
    "admit",
    "tokenize",
    "route",
    "grant",
    "retry",
    "prefill_queue",
    "prefill_compute",
    "transfer_wait",
    "egress",
)
SECOND_TOKEN_SEGMENTS = ("transfer_tail", "decode_queue", "decode_step", "decode_egress", "client")
IF_ANY = frozenset({"retry", "client"})
"""Segments that are told only where they took any time."""
NUM_TIMED = 2
"""Tokens of an answer that have segments."""


@dataclass(slots=True)
class Ledger:
    """Filled in as a request goes along. Times are `time.monotonic_ns()` of this process."""

    arrived_ns: int = field(default_factory=time.monotonic_ns)
    arrived_unix_ns: int = field(default_factory=time.time_ns)
    checked_ns: int = 0
    tokenized_ns: int = 0
    route_ns: int = 0
    """Spent choosing workers, over all attempts."""
    granted_ns: int = 0
    granted_route_ns: int = 0
    """What of `route_ns` was before that."""
    lost_ns: int = 0
    """How far the first attempt had got that failed: to `granted_ns`, or to its end if it was granted nothing. 0: none
    has failed."""
    lost_route_ns: int = 0
    """What of `route_ns` was before that."""
    sent_ns: int = 0
    """When a worker was asked last."""
    queue_ns: int = 0
    """Of the worker that prefilled."""
    compute_ns: int = 0
    made: dict[int, Moment] = field(default_factory=dict)
    """When workers had the tokens that have segments, by index; never after they were heard of."""
    first_token_ns: int = 0
    second_token_ns: int = 0
    commit_ns: int = 0
    """Of the decode worker's clock, as `step_start_ns` and `step_end_ns` of the second token's step."""
    step_start_ns: int = 0
    step_end_ns: int = 0
    handed_ns: int = 0
    """When the client was given something last, and when it had taken that."""
    resumed_ns: int = 0
    client_ns: int = 0
    """That tokens were here and the client had not taken yet what came before them, over the whole answer."""
    second_client_ns: int = 0
    """Of the second token."""

    def granted(self) -> None:
        """A decode worker has promised room."""
        self.granted_ns, self.granted_route_ns = time.monotonic_ns(), self.route_ns

    def sent(self) -> None:
        """A worker is asked for something that the first token perhaps waits for."""
        if not self.first_token_ns:
            self.sent_ns = time.monotonic_ns()

    def heard(self, row: Row, made: Moment | None) -> None:
        """One of the tokens that have segments has come; where it was made that was at `made`, as far as is known."""
        if self.second_token_ns if row.index else self.first_token_ns:
            return
        earliest_ns = 0 if row.index else self.sent_ns + self.queue_ns + self.compute_ns
        made = made or Moment(row.heard_ns, None)
        self.made[row.index] = Moment(min(max(made.ns, earliest_ns), row.heard_ns), made.within_ns)

    def interrupted(self) -> None:
        """An attempt has failed; of account only before the first token."""
        if self.lost_ns or self.first_token_ns:
            return
        if self.granted_ns:
            self.lost_ns, self.lost_route_ns = self.granted_ns, self.granted_route_ns
        else:
            self.lost_ns, self.lost_route_ns = time.monotonic_ns(), self.route_ns

    def took(self, rows: Sequence[Row]) -> None:
        """The next tokens are taken from those that are here."""
        first, waited_ns = rows[0], 0
        if self.resumed_ns > first.heard_ns:
            waited_ns = self.resumed_ns - max(first.heard_ns, self.handed_ns)
            self.client_ns += waited_ns
        if first.index > 1:
            return
        now_ns = time.monotonic_ns()
        for row in rows:
            if row.index == 0:
                self.first_token_ns = now_ns
            elif row.index == 1:
                self.second_token_ns, self.second_client_ns = now_ns, waited_ns
                self.step_start_ns, self.step_end_ns = row.start_ns, row.end_ns

    def unix_ns(self, monotonic_ns: int) -> int:
        """The wall-clock time of a moment of this request."""
        return self.arrived_unix_ns + monotonic_ns - self.arrived_ns

    def timing(self) -> Timing:
        ttft_ns = self.first_token_ns - self.arrived_ns
        admit = self.checked_ns - self.arrived_ns
        tokenize = self.tokenized_ns - self.checked_ns
        grant, retry = self._grant()
        rest = ttft_ns - admit - tokenize - self.route_ns - grant - retry
        made = self._made(0, self.first_token_ns - rest, rest)
        compute = min(self.compute_ns, made)
        queue = min(self.queue_ns, made - compute)
        parts = (admit, tokenize, self.route_ns, grant, retry, queue, compute, 0, rest - queue - compute)
        timing = Timing(
            _ms(ttft_ns),
            _told(TTFT_SEGMENTS, parts),
            client_ms=_ms(self.client_ns),
            way_ms=_ms(made - compute - queue),
            clock_within_ms=self._within_ms(),
        )
        if self.second_token_ns:
            second_ns = self.second_token_ns - self.first_token_ns
            timing = replace(timing, second_token_ms=_ms(second_ns), second_token_segments=self._second(second_ns))
        return timing

    def so_far(self, now_ns: int) -> dict[str, float]:
        """Where the time went of a request that has no first token: the last segment is the one it is in. Once it has
        room that is `prefill`, of which only the worker knows the parts."""
        moments = {"admit": self.checked_ns, "tokenize": self.tokenized_ns, "grant": self.lost_ns or self.granted_ns}
        if self.lost_ns:
            moments["retry"] = self.granted_ns if self.granted_ns > self.lost_ns else 0
        moments["prefill"] = 0
        parts, began_ns = {}, self.arrived_ns
        for name, ended_ns in moments.items():
            parts[name] = (ended_ns or now_ns) - began_ns
            if not ended_ns:
                break
            began_ns = ended_ns
        if self.route_ns and "grant" in parts:
            before_ns = self.lost_route_ns if self.lost_ns else self.route_ns
            parts = {"admit": 0, "tokenize": 0, "route": self.route_ns} | parts
            parts["grant"] -= before_ns
            if self.lost_ns:
                parts["retry"] -= self.route_ns - before_ns
        return {name: _ms(ns) for name, ns in parts.items()}

    def _grant(self) -> tuple[int, int]:
        """What room was waited for, and what attempts cost that failed; without the routing in between."""
        if not self.lost_ns:
            return self.granted_ns - self.tokenized_ns - self.route_ns, 0
        grant = self.lost_ns - self.tokenized_ns - self.lost_route_ns
        return grant, self.granted_ns - self.lost_ns - (self.route_ns - self.lost_route_ns)

    def _second(self, second_ns: int) -> dict[str, float]:
        client = min(self.second_client_ns, second_ns)
        rest = second_ns - client
        made = self._made(1, self.first_token_ns, rest)
        step = min(max(self.step_end_ns - self.step_start_ns, 0), made)
        queue = made - step
        if self.commit_ns:
            queue = min(max(self.step_start_ns - self.commit_ns, 0), queue)
        return _told(SECOND_TOKEN_SEGMENTS, (made - step - queue, queue, step, rest - made, client))

    def _made(self, index: int, since_ns: int, rest_ns: int) -> int:
        """How long after `since_ns` a worker had the token, of `rest_ns` that it took to be taken."""
        made = self.made.get(index)
        return rest_ns if made is None else min(max(made.ns - since_ns, 0), rest_ns)

    def _within_ms(self) -> float | None:
        """How far off may be what hangs on workers' clocks; None where nobody knows."""
        within_ns = [made.within_ns for made in self.made.values() if made.within_ns is not None]
        return _ms(max(within_ns)) if within_ns and len(within_ns) == len(self.made) else None


def _told(names: Sequence[str], parts: Sequence[int]) -> dict[str, float]:
    return {name: _ms(ns) for name, ns in zip(names, parts, strict=True) if ns or name not in IF_ANY}


def _ms(ns: int) -> float:
    return ns / 1e6
