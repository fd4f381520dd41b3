"""Whether there is room where this process writes: its log, where that is a file, and folders that it was told of.

A full disk stops no request that is under way: nothing of it is written. But what goes wrong is told to nobody then,
and a process that ends may not be able to start again. Looks from a thread, as a disk may hang. Knows file systems.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

LOOK_S = 1.0
MIN_FREE_BYTES = 1 << 20
MIN_FREE_SHARE = 1 / 16
"""Of a disk that is hardly larger than that."""
OUTPUTS = ("/proc/self/fd/1", "/proc/self/fd/2")
"""The log goes to one of these. Only Linux knows them by these names."""


class Disks:
    """The file systems of some paths."""

    def __init__(self, folders: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None) -> None:
        """`tell` hears, on the event loop, when `full` has changed."""
        self.full = ""
        """Why there is no room, of the first path without any."""
        self._paths = (*OUTPUTS, *folders)
        self._tell = tell

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            full = await asyncio.to_thread(self._look)
            if full != self.full:
                log.warning("%s", full or "there is room on the disk again")
                self.full = full
                self._tell(full)
            await asyncio.sleep(LOOK_S)

    def _look(self) -> str:
        return next(filter(None, map(_full, self._paths)), "")


def _full(path: str) -> str:
    try:
        disk = os.statvfs(path)
    except OSError:  # gone, or nothing that we may look at
        return ""
    size_bytes = disk.f_blocks * disk.f_frsize
    if not size_bytes or disk.f_flag & os.ST_RDONLY:  # a pipe or a terminal; or nothing that is written to
        return ""
    holds = f"that holds {os.path.realpath(path)}"
    if (free := disk.f_bavail * disk.f_frsize) < min(MIN_FREE_BYTES, size_bytes * MIN_FREE_SHARE):
        return f"the disk {holds} is full: {free >> 10} KiB are left"
    return f"the disk {holds} takes no more files" if disk.f_files and not disk.f_favail else ""
