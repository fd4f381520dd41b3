"""The proxy that steps in front of a unix socket: bytes pass, and what is done to them."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cli.chaos.links import LinkProxy, proxies


@asynccontextmanager
async def echoing(path: Path, prefix: bytes = b"") -> AsyncIterator[None]:
    """What a worker does: whatever file is there is replaced."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(prefix + data)
        writer.close()

    with suppress(FileNotFoundError):
        os.unlink(path)
    server = await asyncio.start_unix_server(echo, path)
    try:
        yield
    finally:
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (what the proxy does to files can only be looked at)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def in_front_of(path: Path) -> AsyncIterator[LinkProxy]:
    async with proxies({"decode-0": f"ipc://{path}"}) as made:
        await until(lambda: Path(f"{path}.aside").exists() and path.exists())
        yield made["decode-0"]


async def said(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    answer = await reader.read(1 << 20)
    writer.close()
    return answer


async def test_bytes_pass_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    async with echoing(path), in_front_of(path) as link:
        assert await said(path, b"blocks") == b"blocks"
        assert link.num_bytes == 12


async def test_a_worker_that_listens_anew_is_stepped_in_front_of_again(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    async with echoing(path), in_front_of(path) as link, echoing(path, b"new "):
        theirs = path.stat().st_ino
        await until(lambda: path.exists() and os.stat(f"{path}.aside").st_ino == theirs)
        assert await said(path, b"blocks") == b"new blocks"
        assert link.num_connections == 1


async def test_a_cut_breaks_every_connection(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    async with echoing(path), in_front_of(path) as link:
        assert link.cut() == 0
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert link.cut() == 1
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
        assert await said(path, b"again") == b"again"


async def test_corruption_changes_a_byte_of_large_pieces_only(tmp_path: Path) -> None:
    path, large = tmp_path / "kv", bytes(8192)
    async with echoing(path), in_front_of(path) as link:
        corrupting = asyncio.create_task(link.corrupt(2, 60.0, seed=1))
        await asyncio.sleep(0)
        assert await said(path, b"small") == b"small"
        assert link.num_corrupted == 0
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(large)
        changed = await reader.readexactly(len(large))
        writer.close()
        assert 1 <= sum(byte != 0 for byte in changed) <= 2
        assert link.num_corrupted == 2
        corrupting.cancel()
        await asyncio.gather(corrupting, return_exceptions=True)
        assert await said(path, b"fine") == b"fine"


async def test_a_delay_holds_bytes_back_and_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    async with echoing(path), in_front_of(path) as link:
        delaying = asyncio.create_task(link.delay(0.05))
        await asyncio.sleep(0)
        answer = asyncio.create_task(said(path, b"late"))
        await delaying
        assert await answer == b"late"
