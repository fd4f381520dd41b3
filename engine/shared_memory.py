"""Memory that another process of this host can map once it is handed the descriptor; nothing of it outlives its users.

Anonymous (a memfd): it has no name to guess or to clean up after, and the kernel frees it with its last mapping,
however the processes end. Every page is there from the start, and the size is sealed: whoever maps it meets no page
that is missing.
"""

import fcntl
import mmap
import os
import sys
from pathlib import Path

from engine.errors import ConfigError

F_SEAL_FUTURE_WRITE = 0x10
"""No writable mapping but those there are; `fcntl` does not name it."""


class SharedMemory:
    """`size_bytes` of zeroed memory, writable here, readable for whoever gets `fd`."""

    def __init__(self, size_bytes: int, *, sealed: bool = True) -> None:
        """Until it is `seal`ed, whoever gets `fd` can write, too."""
        self.size_bytes = size_bytes
        if size_bytes > (available := _available_bytes()):  # the kernel would end processes to make room
            raise ConfigError(f"no {size_bytes >> 20} MiB of memory to share: {available >> 20} are available")
        self.fd = os.memfd_create("tandem-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, size_bytes)
            self._mapping = mmap.mmap(self.fd, size_bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            if sealed:
                self.seal()
        except OSError as error:
            raise ConfigError(f"no {size_bytes >> 20} MiB of memory to share: {error.strerror}") from error
        self.buffer = memoryview(self._mapping)

    def seal(self) -> None:
        """From now on nobody can map it to write; who has done so still can."""
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)  # the mapping lives as long as somebody uses the buffer


def map_writable(fd: int) -> memoryview:
    """All of the memory that another process has not sealed yet; `fd` is closed. Raises ConfigError."""
    try:
        return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED | mmap.MAP_POPULATE))
    except OSError as error:
        raise ConfigError(f"the KV pool cannot be mapped: {error.strerror}") from error
    finally:
        os.close(fd)


def _available_bytes() -> int:
    """What can be used without swapping."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def can_share_memory() -> bool:
    """Whether this system has what it takes: descriptors of anonymous memory, handed over Unix sockets."""
    return sys.platform == "linux"
