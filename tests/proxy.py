"""A proxy between two unix sockets whose connections a test can cut, slow down and refuse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards every connection made to `listen`; `cut` breaks those there are."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.refuses = False
        """Whether connections that are made now break at once."""
        self.bytes_per_s: float | None = None
        """What goes through each connection, each way; None: as fast as it can."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_connections = 0
        """That were ever made."""

    def cut(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.num_connections += 1
        self._tasks.add(task)
        try:
            if self.refuses:
                return
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            with suppress(asyncio.CancelledError, ConnectionError):
                await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
            far_writer.transport.abort()
        except OSError:
            pass  # the target is not there
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
        writer.transport.abort()


@asynccontextmanager
async def proxy(listen: str, target: str) -> AsyncIterator[Proxy]:
    """Run a proxy from one socket path to another."""
    made = Proxy(target)
    server = await asyncio.start_unix_server(made.handle, listen)
    try:
        yield made
    finally:
        server.close()
        made.cut()
