"""A server for the client package, whose connections a test can cut, and both kinds of client with one face."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from frontend.callers import KeyRing
from frontend.service import build_server
from tandem_client import Answer, AsyncClient, Client, Retries, TandemError, pb
from tests.proxy import Proxy, proxy

QUICK = Retries(first_wait_s=0.01)


def ignore(number: int) -> None:
    """The part of an answer with this number came."""


@asynccontextmanager
async def serving(
    inference: Any, folder: Path, *, api_key: str = "", tls: grpc.ServerCredentials | None = None
) -> AsyncIterator[tuple[str, Proxy]]:
    """The address of a server, behind a proxy; over TLS it is a port's, without one."""
    server, _ = build_server(inference, keys=KeyRing(api_key), max_message_bytes=2**24, version="1.2.3")
    server.add_insecure_port(f"unix:{folder}/server")
    port = server.add_secure_port("localhost:0", tls) if tls else None
    await server.start()
    try:
        async with proxy(f"{folder}/proxy", f"{folder}/server") as between:
            yield f"localhost:{port}" if port else f"unix:{folder}/proxy", between
    finally:
        await server.stop(None)


@dataclass(frozen=True)
class Asyncio:
    """What `AsyncClient` does."""

    client: AsyncClient

    async def ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        """A method of the client's."""
        return await getattr(self.client, name)(*arguments, **options)

    async def follow(
        self, request: pb.GenerateRequest, each: Callable[[int], None] = ignore, *, most: int = 10_000, **options: Any
    ) -> Answer:
        """Reads an answer, `most` parts of it; tells `each` the number of each."""
        async with self.client.stream(request, **options) as stream:
            number = 0
            async for _ in stream:
                number += 1
                each(number)
                if number == most:
                    break
            return stream.so_far

    async def cancelled(self, request: pb.GenerateRequest) -> TandemError:
        """What who reads hears when another one cancels the answer at its first part."""
        async with self.client.stream(request) as stream:
            tasks = []
            try:
                async for _ in stream:
                    tasks.append(asyncio.create_task(stream.cancel()))
            except TandemError as error:
                await asyncio.gather(*tasks)
                return error
        raise AssertionError("it came to its end")


@dataclass(frozen=True)
class Blocking:
    """What `Client` does, in a thread."""

    client: Client

    async def ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, name), *arguments, **options)

    async def follow(
        self, request: pb.GenerateRequest, each: Callable[[int], None] = ignore, *, most: int = 10_000, **options: Any
    ) -> Answer:
        loop = asyncio.get_running_loop()

        def read() -> Answer:
            with self.client.stream(request, **options) as stream:
                for number, _ in enumerate(stream, 1):
                    loop.call_soon_threadsafe(each, number)
                    if number == most:
                        break
                return stream.so_far

        return await asyncio.to_thread(read)

    async def cancelled(self, request: pb.GenerateRequest) -> TandemError:
        loop = asyncio.get_running_loop()

        def read() -> TandemError:
            with self.client.stream(request) as stream:
                try:
                    for _ in stream:
                        loop.call_soon_threadsafe(loop.run_in_executor, None, stream.cancel)
                except TandemError as error:
                    return error
            raise AssertionError("it came to its end")

        return await asyncio.to_thread(read)


Either = Asyncio | Blocking


@asynccontextmanager
async def client_of(kind: str, address: str, **options: Any) -> AsyncIterator[Either]:
    """`kind` is blocking or asyncio."""
    options = {"retries": QUICK, "timeout_s": 60.0, **options}
    if kind == "asyncio":
        async with AsyncClient(address, **options) as client:
            yield Asyncio(client)
    else:
        with Client(address, **options) as blocking:
            yield Blocking(blocking)
