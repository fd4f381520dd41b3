"""Takes the pictures of docs/causes: python -m tests.console.causes FOLDER. Brings each of eight causes about on real
workers, pictures how the console tells of it, and tells what `tandem explain` says.

pngquant makes the pictures small.
"""

import asyncio
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from frontend.__main__ import RestServer, rest_config
from frontend.api import Inference
from frontend.callers import KeyRing
from frontend.rest.app import build_app
from tests.console.browser import Page, chromium
from tests.frontend.causes import CAUSES, Cause

SIZE = {"width": 1280, "height": 860}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        page = Page(stack.enter_context(chromium(Path(scratch(stack)))))
        for name, cause in CAUSES.items():
            asyncio.run(show(cause, Path(scratch(stack)), page, folder / name))
    pictures = [str(path) for path in folder.glob("*.png")]
    subprocess.run(["pngquant", "--force", "--ext", ".png", "--strip", *pictures], check=True)


async def show(cause: Cause, scratch: Path, page: Page, picture: Path) -> None:
    async with cause(scratch) as caused, serving(caused.running.inference) as url:
        for theme in ("light", "dark"):
            page.look(**SIZE, dark=theme == "dark")
            where = f"{url}/console#requests/recent/{caused.request_id}"
            await asyncio.to_thread(take, page, where, picture.with_name(f"{picture.name}-{theme}.png"))
        command = [sys.executable, "-m", "cli", "explain", caused.request_id, "--url", url]
        await asyncio.to_thread(subprocess.run, command, check=True)


def scratch(stack: ExitStack) -> str:
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True))


@asynccontextmanager
async def serving(inference: Inference) -> AsyncIterator[str]:
    app = build_app(inference, keys=KeyRing(), max_body_bytes=1 << 20, metrics=lambda: b"")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = RestServer(rest_config(app, None))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await task


def take(page: Page, url: str, path: Path) -> None:
    page.go(url)
    page.until("document.querySelector('.detail .waterfall .total')")
    page.js("scrollTo(0, 0)")
    page.picture(path, ".detail")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
