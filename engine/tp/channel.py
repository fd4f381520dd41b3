"""Messages between rank 0 and another one over a pair of connected Unix sockets; each begins with its size."""

import socket
import struct
from collections.abc import Sequence

FINE = b""
"""What a rank answers when it has done what it was told; anything else says why it cannot."""
_SIZE = struct.Struct("<I")


class Channel:
    """One end. Ends when the other side closes its own, however that comes about."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        return self._connection.fileno()

    def limit(self, seconds: float | None) -> None:
        """The other side may take so long to take in or send a message; None is for ever."""
        self._connection.settimeout(seconds)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Raises OSError (a TimeoutError where the other side takes nothing)."""
        size = _SIZE.pack(len(data))
        if descriptors:
            socket.send_fds(self._connection, [size], descriptors)
            self._connection.sendall(data)
        else:
            self._connection.sendall(size + data)

    def receive(self) -> bytearray | None:
        """The next message; None at the end."""
        size = self._read(_SIZE.size)
        return None if size is None else self._read(_SIZE.unpack(size)[0])

    def receive_with(self, num_descriptors: int) -> tuple[bytearray, list[int]] | None:
        """The next message and the descriptors that came with it, which are now this process's to close."""
        try:
            size, descriptors, _, _ = socket.recv_fds(self._connection, _SIZE.size, num_descriptors)
        except ConnectionError:
            return None
        data = self._read(_SIZE.unpack(size)[0]) if len(size) == _SIZE.size else None
        return None if data is None else (data, descriptors)

    def close(self) -> None:
        self._connection.close()

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._connection.recv_into(view)
            except ConnectionError:
                return None
            if not count:
                return None
            view = view[count:]
        return data
