"""Requests that workers die of: found out, and kept from further workers.

A worker that dies takes all its requests with it, and does not say which it died of. So each gets a strike (as soon as
it is known that the worker was started anew: a stream that broke is no death), and loses its strikes when it gets on.
Suspects are tried one at a time: a worker that dies then has died of the one, and others are cleared. A request with
too many strikes is refused, and so is the same one when it is asked again.
"""

import asyncio
import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from engine.errors import Poisoned
from frontend.job import Job
from frontend.leg_events import Start

SUSPECT_STRIKES = 2
PROGRESS_TOKENS = 8
"""As many new tokens clear a request: one that a worker dies of at a certain token gets no further."""
MAX_REMEMBERED = 1000
REMEMBERED_S = 600.0

Fingerprint = bytes


class Quarantine:
    """Who has strikes, and who was convicted."""

    def __init__(self, max_strikes: int, died: Callable[[Start], bool]) -> None:
        """`died` says whether a start of a worker is certain to be over."""
        self._max_strikes = max_strikes
        self._died = died
        self._alone = asyncio.Lock()
        self._convicted: OrderedDict[Fingerprint, float] = OrderedDict()
        """When, oldest first."""

    def check(self, job: Job) -> None:
        """Raises Poisoned for a request like one that was convicted."""
        if not self._convicted:
            return
        convicted_at = self._convicted.get(_fingerprint(job))
        if convicted_at is not None and time.monotonic() - convicted_at < REMEMBERED_S:
            raise _poisoned(self._max_strikes)

    @asynccontextmanager
    async def watched(self, job: Job) -> AsyncIterator["Watch"]:
        """One attempt at the job; waits while another suspect is tried, if it is one."""
        job.tried_alone = self.suspects(job)
        if job.tried_alone:
            await self._alone.acquire()
        watch = Watch(self._alone, job, suspect=job.tried_alone)
        try:
            yield watch
        finally:
            watch.clear()

    def suspects(self, job: Job) -> bool:
        """Whether the next attempt at it is to be the only one of a suspect."""
        return len(job.lost_with) >= SUSPECT_STRIKES

    def strike(self, job: Job, worker: Start, num_gained: int) -> None:
        """A worker was lost with it, after so many new tokens. Raises Poisoned when that was too often."""
        if num_gained >= PROGRESS_TOKENS:
            job.lost_with.clear()
        strikes = sum(map(self._died, job.lost_with)) + 1  # of this one nobody can know yet
        job.lost_with.append(worker)
        if strikes >= self._max_strikes and job.tried_alone:
            self._convicted[_fingerprint(job)] = time.monotonic()
            while len(self._convicted) > MAX_REMEMBERED:
                self._convicted.popitem(last=False)
            raise _poisoned(strikes)


class Watch:
    """Looks at one attempt for progress, and holds `alone` until then if the job is a suspect."""

    def __init__(self, alone: asyncio.Lock, job: Job, *, suspect: bool) -> None:
        self.suspect = suspect
        self._alone = alone
        self._job = job
        self._from = job.num_output

    def note_tokens(self) -> None:
        """The job has more tokens than before."""
        if self._job.num_output - self._from >= PROGRESS_TOKENS:
            self.clear()

    def clear(self) -> None:
        """Others may be tried."""
        if self.suspect:
            self.suspect = False
            self._alone.release()


def _fingerprint(job: Job) -> Fingerprint:
    """Of what was asked, whoever asks and whatever the answer: the prompt."""
    return hashlib.blake2b(array("i", job.tokens[: job.num_prompt]).tobytes(), digest_size=16).digest()


def _poisoned(strikes: int) -> Poisoned:
    return Poisoned(f"{strikes} workers died with this request, one after the other: it is not tried again")
