"""Takes the pictures of docs/console: python -m tests.console.pictures FOLDER. Starts a server and loads it, and tells
what `tandem top` shows of it.

pngquant makes them small.
"""

import asyncio
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.console.browser import Page, chromium
from tests.console.load import load
from tests.e2e.server import tandem

LOAD_S = 75.0
SIZE = {"width": 1280, "height": 860}


def main(folder: Path) -> None:
    options = ("--prefill", "2", "--decode", "2", "--trace-ui", "http://127.0.0.1:16686")
    settings = {"TANDEM_LOCAL_PREFILL_TOKENS": "48"}
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        server = stack.enter_context(tandem(*options, environment=settings))
        page = Page(stack.enter_context(chromium(Path(scratch))))
        page.look(**SIZE)
        page.go(f"{server.http}/console#live")
        loading = threading.Thread(target=lambda: asyncio.run(load(server.http, seconds=LOAD_S)), daemon=True)
        loading.start()
        page.js(f"new Promise((done) => setTimeout(done, {1000 * (LOAD_S - 15)}))")
        for dark in (False, True):
            ending = "dark" if dark else "light"
            page.look(**SIZE, dark=dark)
            live(page, folder, ending)
            requests(page, folder, ending)
            tune(page, folder, ending)
        subprocess.run([sys.executable, "-m", "cli", "top", "--once", "--url", server.http], check=True)
        loading.join()
        for dark in (False, True):
            page.look(**SIZE, dark=dark)
            chat(page, folder, "dark" if dark else "light")
    pictures = [str(path) for path in folder.glob("*.png")]
    subprocess.run(["pngquant", "--force", "--ext", ".png", "--strip", *pictures], check=True)


def live(page: Page, folder: Path, ending: str) -> None:
    page.js("location.hash = '#live'")
    page.until("document.querySelector('.chart rect')")
    page.js("scrollTo(0, 0)")
    page.picture(folder / f"live-{ending}.png")
    page.js("document.querySelector('.live .columns').scrollIntoView(); scrollBy(0, -70)")
    page.picture(folder / f"live-time-{ending}.png")


def requests(page: Page, folder: Path, ending: str) -> None:
    page.js("scrollTo(0, 0); location.hash = '#requests/slowest'")
    page.until("document.querySelector('.requests tbody tr')")
    page.click(".requests tbody th a")
    page.until("document.querySelector('.detail .waterfall .total')")
    page.js("scrollTo(0, 0)")
    page.picture(folder / f"requests-{ending}.png")


def tune(page: Page, folder: Path, ending: str) -> None:
    page.js("location.hash = '#tune'")
    page.until("document.querySelector('.verdict-card')")
    page.picture(folder / f"tune-{ending}.png")


def chat(page: Page, folder: Path, ending: str) -> None:
    page.js("location.hash = '#chat'; document.querySelector('.composer .quiet')?.click()")
    page.until("document.activeElement.id === 'prompt'")
    page.js("document.querySelector('#max_tokens').value = 120")
    page.type("What is a KV cache, and why does Tandem move it?")
    page.press("Enter")
    page.until("document.querySelector('.said.assistant:not(.going) .split')")
    page.picture(folder / f"chat-{ending}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
