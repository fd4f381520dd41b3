"""A headless Chromium, driven over its own protocol (CDP) through a pipe: one page, its events, its pictures.

Waiting is done by the page: `until` returns when what it looks for is there, or fails with what was there instead.
"""

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tests.deploy.tools import program

PATIENCE_S = 60.0
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which root does not have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--no-proxy-server",
)
KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9), "ArrowLeft": ("", 37), "ArrowRight": ("", 39)}


class Pipe:
    """Commands to a browser, and what it says. Messages end with a zero byte."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._ids = count(1)
        self._unread = b""
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **params: object) -> Any:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 2 * PATIENCE_S
        while True:
            told = self._receive(deadline)
            if told.get("id") == number:
                assert "error" not in told, (method, params, told["error"])
                return told["result"]
            if "method" in told:
                self.events.append(told)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "the browser says nothing"
            read = os.read(self._answers, 1 << 20)
            assert read, "the browser has ended"
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told


class Page:
    """One tab, in a profile of its own."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        context = pipe.send("Target.createBrowserContext")["browserContextId"]
        self._target = pipe.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = pipe.send("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: object) -> Any:
        return self._pipe.send(method, self._session, **params)

    def look(self, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """The size of the window, and the system's colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send(
            "Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        )

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression: str) -> Any:
        told = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, (expression, told["exceptionDetails"])
        return told["result"].get("value")

    def until(self, expression: str, patience_s: float = PATIENCE_S) -> Any:
        """The first value of it that is not false."""
        found = self.js(
            "new Promise((found) => {"
            f"  const until = performance.now() + {1000 * patience_s};"
            "  (function look() {"
            f"    let value; try {{ value = ({expression}); }} catch {{ }}"
            "    if (value || performance.now() > until) found(value instanceof Node || value);"
            "    else setTimeout(look, 50);"
            "  })();"
            "})"
        )
        assert found, f"never came true: {expression}\n{self.js('document.body.innerText')}"
        return found

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        where = json.dumps(selector)
        self.until(f"document.querySelector({where})")
        self.js(f"document.querySelector({where}).scrollIntoView({{ block: 'center' }})")
        box = self.js(f"(({{ x, y, width, height }}) => [x + width / 2, y + height / 2])"
                      f"(document.querySelector({where}).getBoundingClientRect())")  # fmt: skip
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str, *, shift: bool = False) -> None:
        text, code = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=8 * shift,
                **typed,
            )

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.send("Input.insertText", text=text)

    def picture(self, path: Path, selector: str = "") -> None:
        """What the window shows, or the whole of one element, as a PNG."""
        clip: dict[str, Any] = {}
        if selector:
            box = self.js(f"(({{ x, y, width, height }}) => ({{ x: x + scrollX, y: y + scrollY, width, height }}))"
                          f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")  # fmt: skip
            clip = {"clip": {**box, "scale": 1}, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png", **clip)["data"]))

    def asked(self) -> list[str]:
        """Every address that the page has asked for."""
        return [each["params"]["request"]["url"] for each in self._events("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """What went wrong in the page, but for answers of the server that are no 200."""
        thrown = [json.dumps(each["params"]["exceptionDetails"]) for each in self._events("Runtime.exceptionThrown")]
        said = [
            json.dumps(each["params"])
            for each in self._events("Runtime.consoleAPICalled")
            if each["params"]["type"] in ("error", "warning", "assert")
        ]
        entries = [each["params"]["entry"] for each in self._events("Log.entryAdded")]
        logged = [json.dumps(each) for each in entries if each["level"] == "error" and each["source"] != "network"]
        return thrown + said + logged

    def forget(self) -> None:
        """What was asked for and complained of so far."""
        self._pipe.events = [each for each in self._pipe.events if each.get("sessionId") != self._session]

    def close(self) -> None:
        """Else it would go on asking its server."""
        self.forget()
        self._pipe.send("Target.closeTarget", targetId=self._target)

    def _events(self, method: str) -> Iterator[dict[str, Any]]:
        self.send("Runtime.evaluate", expression="0")  # after which everything before has been read
        return (
            each for each in self._pipe.events if each["method"] == method and each.get("sessionId") == self._session
        )


@contextmanager
def chromium(folder: Path) -> Iterator[Pipe]:
    """A running one; skips by name where there is none."""
    binary = program("chromium", "chromium")
    command_end, commands = os.pipe()
    answers, answer_end = os.pipe()
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (command_end, answer_end)]  # neither is 3 or 4
    shell = ["bash", "-c", 'exec "$@" 3<&{} 4>&{}'.format(*theirs), "bash"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [*shell, binary, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=theirs,
        )
    for end in (command_end, answer_end, *theirs):
        os.close(end)
    pipe = Pipe(commands, answers)
    try:
        yield pipe
        pipe.send("Browser.close")
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)
