"""One sender as a receiver sees it: a group of two with it, and a thread that takes its frames one after the other.

The bytes of a frame are received into staging memory whatever has become of its ticket: the sender sends them anyway,
and the next frame's come behind them. Only then is the ticket looked at, under whose lock they are copied
(`OpenTickets`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

import torch

from engine.errors import TransferFailed
from kvtransfer.group import CPU, RECEIVER, UNDER_WAY, Backend, Group, GroupLimits, Passing
from kvtransfer.mirrored_store import MirroredStore
from protos import kvtransfer_pb2 as pb

logger = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Frames; credit lets a sender have a fourth of that under way."""


class Hooks(Protocol):
    """What a peer asks of its receiver, on the peer's thread."""

    def payload_bytes(self, frame: pb.SenderFrame) -> int | None:
        """What of the frame comes through the group; None if that cannot be."""

    def answer_frame(self, frame: pb.SenderFrame, payload: torch.Tensor | None) -> bytes:
        """Do what it asks; what the sender is told."""


class GroupPeer:
    """`say` sends something to the sender, from any thread."""

    def __init__(
        self,
        backend: Backend,
        host: str,
        limits: GroupLimits,
        hooks: Hooks,
        say: Callable[[bytes], None],
        device: torch.device = CPU,
    ) -> None:
        self.last_used_s = time.monotonic()
        self._hooks = hooks
        self._say = say
        self._store = MirroredStore(self._push, limits.make_s)
        self._waiting: SimpleQueue[pb.SenderFrame | None] = SimpleQueue()
        self._num_taken, self._num_done = 1, 0
        self._closed = False
        self._group: Group | None = None
        self._thread = threading.Thread(
            target=self._run, args=(backend, host, limits, device), name="kv-group-receiver", daemon=True
        )
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Its group is made, and nothing is to be done."""
        return self._num_taken == self._num_done

    @property
    def ended(self) -> bool:
        """By itself or by `close`: there is no group any more."""
        return not self._thread.is_alive()

    def take_stored(self, stored: pb.Stored) -> bool:
        """Whether it may be."""
        return self._store.take(stored.key, stored.value)

    def take(self, frame: pb.SenderFrame) -> bool:
        """Whether there was room for it."""
        self.last_used_s = time.monotonic()
        if self._waiting.qsize() >= MAX_WAITING:
            return False
        self._num_taken += 1
        self._waiting.put(frame)
        return True

    def close(self, why: str) -> None:
        """Tell the sender, and end the thread: at once, or when what it waits for in the group comes or fails."""
        if self._closed or self.ended:
            return
        self._closed = True
        self._say(refusal(why))
        self._store.close(why)
        self._waiting.put(None)
        if group := self._group:
            group.abort()

    def join(self) -> None:
        self._thread.join()

    def _run(self, backend: Backend, host: str, limits: GroupLimits, device: torch.device) -> None:
        try:
            self._group = Group(backend, self._store, RECEIVER, host, limits, device)
            self._num_done += 1
            self._serve_all(self._group)
        except TransferFailed as error:
            self._say(refusal(error.message))
        except Exception:  # the thread's outermost frame: a fault in one delivery must not end other transfers
            logger.exception("a frame was not answered")
            self._say(refusal("a frame was not answered"))
        finally:
            self._group = None

    def _serve_all(self, group: Group) -> None:
        """One after the other; the next one's bytes travel meanwhile."""
        begun: deque[tuple[pb.SenderFrame, Passing | None]] = deque()
        while not self._closed:
            if not begun or (len(begun) < UNDER_WAY and not self._waiting.empty()):
                if (frame := self._waiting.get()) is None:
                    return
                begun.append((frame, self._begin(group, frame)))
                continue
            frame, passing = begun.popleft()
            if passing:
                passing.finish()
            self._say(self._hooks.answer_frame(frame, passing.received if passing else None))
            self._num_done += 1

    def _begin(self, group: Group, frame: pb.SenderFrame) -> Passing | None:
        """Receive what of the frame comes through the group, if anything does."""
        size_bytes = self._hooks.payload_bytes(frame)
        if size_bytes is None:
            raise TransferFailed("a frame whose bytes nobody could count")
        return group.begin_receive(size_bytes) if size_bytes else None

    def _push(self, key: str, value: bytes) -> None:
        self._say(pb.ReceiverFrame(stored=pb.Stored(key=key, value=value)).SerializeToString())


def refusal(why: str) -> bytes:
    """Ends the connection with a sender."""
    return pb.ReceiverFrame(nack=pb.Nack(reason=pb.NACK_REASON_STALE, message=why)).SerializeToString()
