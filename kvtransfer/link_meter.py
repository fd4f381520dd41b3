"""What goes over each way from a sender to a receiver: bytes, speed, transfers that are under way and that failed.

A way is a receiver's worker and a transport, whatever connections that makes; a transport that does not reach the
receiver has a failure, and the next one that is tried a way of its own. Belongs to one event loop.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.errors import TransferFailed
from kvtransfer.speed import Speed
from kvtransfer.transport import Unreachable

MAX_LINKS = 64
"""That are remembered: receivers come and go. The idle one longest unused is forgotten."""


@dataclass(slots=True)
class LinkMeter:
    """One way."""

    worker_id: str
    transport: str
    size_bytes: int = 0
    """That the receiver has acknowledged."""
    transfers: int = 0
    """That it has taken, whole."""
    failures: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    """Transfers that are sending now."""
    in_flight_bytes: int = 0
    _speed: Speed = field(default_factory=Speed)
    _progress_s: float = 0.0
    """Up to when the time was counted that the link was busy."""

    @property
    def bytes_per_s(self) -> float:
        """While it was busy lately; 0 until something was sent."""
        return self._speed.bytes_per_s

    @contextmanager
    def sending(self, size_bytes: int) -> Iterator[None]:
        """Cover one call that sends so much. TransferFailed is counted by why, and passes."""
        if not self.in_flight:
            self._progress_s = time.monotonic()
        self.in_flight += 1
        self.in_flight_bytes += size_bytes
        try:
            yield
        except TransferFailed as error:
            self.failures[_why(error)] += 1
            raise
        else:
            if size_bytes:
                now_s = time.monotonic()
                self.size_bytes += size_bytes
                self._speed.add(size_bytes, now_s - self._progress_s)
                self._progress_s = now_s
        finally:
            self.in_flight -= 1
            self.in_flight_bytes -= size_bytes


class LinkMeters:
    """Those of one sender."""

    def __init__(self) -> None:
        self._meters: OrderedDict[tuple[str, str], LinkMeter] = OrderedDict()

    def of(self, worker_id: str, transport: str) -> LinkMeter:
        way = worker_id, transport
        if way not in self._meters:
            if len(self._meters) >= MAX_LINKS:
                idle = next((key for key, meter in self._meters.items() if not meter.in_flight), None)
                if idle is not None:
                    del self._meters[idle]
            self._meters[way] = LinkMeter(worker_id, transport)
        self._meters.move_to_end(way)
        return self._meters[way]

    @property
    def all(self) -> Sequence[LinkMeter]:
        return tuple(self._meters.values())


def _why(error: TransferFailed) -> str:
    return "unreachable" if isinstance(error, Unreachable) else error.why
