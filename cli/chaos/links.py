"""Proxies on the KV links of a server of ours, which cut, delay and corrupt what passes.

Over ipc a decode worker listens on a file whose name is in every ticket. The proxy moves that file aside and listens
under its name; a worker that was started again makes the file anew, and is stepped in front of again. No worker knows.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LOOK_S = 0.02
"""Between two looks at whether a worker listens anew."""
CHUNK = 1 << 16
FEW_BYTES = 4096
"""Less is no blocks: what is corrupted is a payload, as a bad cable would do it, not the protocol's own few bytes."""


@dataclass(slots=True)
class LinkProxy:
    """In front of one decode worker's KV socket."""

    path: Path
    name: str
    num_bytes: int = 0
    """Carried so far, both ways."""
    num_corrupted: int = 0
    num_connections: int = 0
    _server: asyncio.Server | None = None
    _inode: int = 0
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    _flows: asyncio.Event = field(default_factory=asyncio.Event)
    _to_corrupt: int = 0
    _rng: random.Random = field(default_factory=random.Random)

    # -- faults ------------------------------------------------------------------------------------------------------

    def cut(self) -> int:
        """Break every connection; return how many there were."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return len(tasks)

    async def delay(self, lasts_s: float) -> None:
        """Carry nothing for so long."""
        self._flows.clear()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            self._flows.set()

    async def corrupt(self, num_pieces: int, lasts_s: float, seed: int) -> int:
        """Change one byte of each of the next larger pieces that come within this time; return how many came.

        A link that corrupts everything for long would only show that a request is given up after so many attempts.
        """
        before, self._to_corrupt, self._rng = self.num_corrupted, num_pieces, random.Random(seed)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            self._to_corrupt = 0
        return self.num_corrupted - before

    # -- carrying ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stand in front of the worker, and of those that follow it, until cancelled."""
        self._flows.set()
        try:
            while True:
                if self._is_new():
                    with suppress(FileNotFoundError):  # the worker went away meanwhile
                        await self._step_in()
                await asyncio.sleep(LOOK_S)
        finally:
            if self._server is not None:
                self._server.close()
            self.cut()

    @property
    def _aside(self) -> str:
        return f"{self.path}.aside"

    def _is_new(self) -> bool:
        """Whether there is a socket under the name, and it is not ours."""
        try:
            return os.stat(self.path).st_ino != self._inode
        except OSError:
            return False  # a worker between two lives

    async def _step_in(self) -> None:
        if self._server is not None:
            self._server.close()
        ours = f"{self.path}.new"
        with suppress(FileNotFoundError):
            os.unlink(ours)
        self._server = await asyncio.start_unix_server(self._carry, ours)
        self._inode = os.stat(ours).st_ino
        os.rename(self.path, self._aside)
        os.rename(ours, self.path)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.num_connections += 1
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._aside)
            with suppress(asyncio.CancelledError, ConnectionError):
                await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
            far_writer.transport.abort()
        except OSError:
            pass  # nobody listens there
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._flows.wait()
            if self._to_corrupt and len(data) >= FEW_BYTES:
                data = _with_one_byte_changed(data, self._rng)
                self._to_corrupt -= 1
                self.num_corrupted += 1
            self.num_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


def _with_one_byte_changed(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
    return bytes(changed)


@asynccontextmanager
async def proxies(kv_addresses: dict[str, str]) -> AsyncIterator[dict[str, LinkProxy]]:
    """One in front of each ipc address, by its worker's name."""
    made = {name: LinkProxy(Path(address.removeprefix("ipc://")), name) for name, address in kv_addresses.items()}
    running = [asyncio.create_task(proxy.run()) for proxy in made.values()]
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
