"""A browser and a server for all tests of the console: both take seconds to start."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.console.browser import Page, Pipe, chromium
from tests.console.load import load
from tests.e2e.server import Tandem, tandem

KEY = "a key of ours"
TRACES = "http://127.0.0.1:9/jaeger"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipe]:
    with chromium(tmp_path_factory.mktemp("chromium")) as pipe:
        yield pipe


@pytest.fixture(scope="session")
def server(browser: Pipe) -> Iterator[Tandem]:
    """One that has answered, and refused, a few requests. (After the browser: without one there is nothing to do.)"""
    options = ("--api-key", KEY, "--trace-ui", TRACES)
    with tandem(*options, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as started:
        asyncio.run(load(started.http, KEY, seconds=3, at_once=3, max_tokens=8))
        yield started


@pytest.fixture
def page(browser: Pipe, server: Tandem) -> Iterator[Page]:
    """A new tab that has the key and has not gone anywhere. At its end nothing may have gone wrong in it."""
    made = Page(browser)
    made.look()
    made.send(
        "Page.addScriptToEvaluateOnNewDocument",
        source=f"if (!sessionStorage.getItem('tandem-key')) sessionStorage.setItem('tandem-key', {KEY!r})",
    )
    yield made
    complaints, asked = made.complaints(), made.asked()
    made.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((server.http, "about:", "data:"))] == []


@pytest.fixture
def stranger(browser: Pipe, server: Tandem) -> Iterator[Page]:
    """A new tab without a key."""
    made = Page(browser)
    made.look()
    yield made
    made.close()
