"""What two processes tell each other while torch.distributed makes a group of them, carried by their control link.

torch's own stores listen on a port of their own and ask nobody who he is. This one is a pair of dictionaries: what one
side sets is pushed to the other through a connection that is there already, encrypted and guarded as that is. Reading
waits, for a limited time, and ends at once when the store is closed.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

from torch.distributed import Store  # type: ignore[attr-defined]

MAX_KEYS = 256
MAX_ENTRY_BYTES = 32 << 10
"""A key with its value: gloo's addresses and NCCL's ids are some hundred bytes."""


class MirroredStore(Store):
    """One side's; `push` hands an entry to the other, from any thread. Waiting ends after `limit_s`, or at `close`."""

    def __init__(self, push: Callable[[str, bytes], None], limit_s: float) -> None:
        super().__init__()
        self._push = push
        self._limit_s = limit_s
        self._entries: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._closed: str | None = None

    def take(self, key: str, value: bytes) -> bool:
        """What the other side has set; False if it is more than anybody needs."""
        with self._changed:
            if len(self._entries) >= MAX_KEYS or len(key) + len(value) > MAX_ENTRY_BYTES:
                return False
            self._entries[key] = value
            self._changed.notify_all()
        return True

    def close(self, why: str) -> None:
        """Who waits, now or later, fails."""
        with self._changed:
            self._closed = self._closed or why
            self._changed.notify_all()

    # -- torch's names and arguments ---------------------------------------------------------------------------------

    def set(self, key: str, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        with self._changed:
            self._entries[key] = data
            self._changed.notify_all()
        self._push(key, data)

    def get(self, key: str) -> bytes:
        self.wait([key])
        with self._changed:
            return self._entries[key]

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        limit_s = min(timeout.total_seconds(), self._limit_s) if timeout else self._limit_s
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has(keys), limit_s)
            if not self._has(keys) or self._closed:
                raise RuntimeError(self._closed or f"the other side said nothing for {limit_s:g} s")

    def check(self, keys: Sequence[str]) -> bool:
        with self._changed:
            return self._has(keys)

    def add(self, key: str, amount: int) -> int:
        """Counts on this side and tells the other; the two never count at once."""
        with self._changed:
            total = int(self._entries.get(key, b"0")) + amount
        self.set(key, str(total))
        return total

    def delete_key(self, key: str) -> bool:
        with self._changed:
            return self._entries.pop(key, None) is not None

    def clone(self) -> "MirroredStore":
        return self

    def _has(self, keys: Sequence[str]) -> bool:
        return all(key in self._entries for key in keys)
