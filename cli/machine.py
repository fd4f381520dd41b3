"""What `tandem up` takes from the machine: free ports and a private folder for sockets. It gives both back."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine.errors import ConfigError

MAX_SOCKET_PATH = 107
"""Bytes that Linux takes as the path of a unix socket (sockaddr_un, less the final NUL)."""


def take_ports(host: str, wanted: dict[str, int]) -> dict[str, int]:
    """Check that the ports of these options are free on `host`, and choose one for each 0. Raises ConfigError.

    Every port is held until all are known, so that no two options get the same one.
    """
    with ExitStack() as held:
        return {option: _take_port(host, port, option, held) for option, port in wanted.items()}


def _take_port(host: str, port: int, option: str, held: ExitStack) -> int:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = held.enter_context(socket.socket(family, kind, protocol))
        # Skips the TIME_WAIT of connections that ended; a port that is listened on stays refused.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Two sockets may be bound with SO_REUSEADDR; only one may listen.
        listener.listen(1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on port {port} of {host}: {reason} (choose another with {option})") from error
    return int(listener.getsockname()[1])


@contextmanager
def runtime_folder(names: Sequence[str]) -> Iterator[Path]:
    """A private folder (mode 0700) in which each of `names` fits the length of a socket's path; removed at the end."""
    longest = max((len(os.fsencode(name)) for name in names), default=0)
    folder = _make_folder(longest)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder(longest_name: int) -> Path:
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if not parent or not os.access(parent, os.W_OK | os.X_OK):
            continue
        folder = Path(tempfile.mkdtemp(prefix="tandem-", dir=os.path.abspath(parent)))
        if len(os.fsencode(folder)) + 1 + longest_name <= MAX_SOCKET_PATH:
            return folder
        folder.rmdir()
    raise ConfigError("no folder for sockets: XDG_RUNTIME_DIR, TMPDIR and /tmp are not writable or too long")
