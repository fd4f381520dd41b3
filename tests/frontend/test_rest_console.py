"""The console as files: how they are served, that they are small, and that nothing in them leads elsewhere."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

import frontend
from frontend.balance import Balance
from frontend.callers import KeyRing
from frontend.history import NUM_PERIODS, PERIOD_S
from frontend.rest.app import build_app
from frontend.rest.console import FOLDER, MEDIA_TYPES, facts
from frontend.segments import SEGMENTS
from frontend.status import ServerHistory, ServerStatus
from tests.frontend.fake_inference import FakeInference
from tests.frontend.test_rest_app import error_of, rest_client
from tests.statuses import record

MOST_BYTES = 200_000
FILES = sorted(path for path in FOLDER.iterdir())
BODIES = {path: path.read_bytes() for path in FILES}
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
SVG_NAMES = "http://www.w3.org/2000/svg"
"""The one address that is none: the name of SVG's elements."""

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(FakeInference(), api_key="secret") as client:
        yield client


# -- the files ---------------------------------------------------------------------------------------------------------


def test_all_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES) + len(facts()) <= MOST_BYTES


@each_file
def test_a_file_is_of_a_kind_that_is_served_and_leads_nowhere_else(path: Path) -> None:
    assert path.suffix in MEDIA_TYPES
    text = path.read_text().replace(SVG_NAMES, "")
    assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text)
    assert not re.search(r"@import|@font-face|\burl\(|sourceMappingURL", text)


@each_file
def test_texts_of_others_can_only_be_text(path: Path) -> None:
    """Besides, the policy demands it of the browser."""
    text = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text)
    assert not re.search(r"\son[a-z]+=|javascript:|<style|style=", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)


@each_file
def test_modules_import_what_is_there(path: Path) -> None:
    names = {each.name for each in FILES} | {"facts.js"}
    asked = re.findall(r"""(?:from |import\()"\./([\w.]+)";""", path.read_text())
    assert set(asked) <= names
    assert set(re.findall(r'(?:href|src)="console/([\w.]+)"', path.read_text())) <= names


def test_the_package_carries_them() -> None:
    """As package data, which an installed wheel has, too."""
    pyproject = msgspec.toml.decode((Path(frontend.__file__).parents[1] / "pyproject.toml").read_bytes())
    assert "console/*" in pyproject["tool"]["setuptools"]["package-data"]["frontend"]


def test_every_segment_has_a_colour_and_its_words_are_told() -> None:
    style = (FOLDER / "console.css").read_text()
    told = facts().decode()
    for segment in SEGMENTS:
        assert re.search(rf"\.s-{segment.name}\b", style), segment.name
        assert segment.meaning in told
    assert "OVERLOADED" in told


# -- how they are served -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/console"])
async def test_a_browser_gets_the_page_and_needs_no_key(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers=BROWSER)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == (FOLDER / "index.html").read_text()
    assert "Accept" in answer.headers["vary"]


async def test_ollamas_clients_get_their_words(client: httpx.AsyncClient) -> None:
    for accept in ("*/*", "application/json", ""):
        answer = await client.get("/", headers={"accept": accept})
        assert answer.text == "Ollama is running"
        assert "Accept" in answer.headers["vary"]


@each_file
async def test_files_are_open_and_guarded_against_all_else(client: httpx.AsyncClient, path: Path) -> None:
    answer = await client.get("/console" if path.name == "index.html" else f"/console/{path.name}")
    assert answer.status_code == 200
    assert answer.content == BODIES[path]
    assert answer.headers["content-type"] == MEDIA_TYPES[path.suffix]
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["object-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not {"script-src", "style-src", "connect-src"} & set(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_what_is_not_there_is_not_served(client: httpx.AsyncClient) -> None:
    headers = {"authorization": "Bearer secret"}
    for path in ("/console/", "/console/nothing.js", "/console/..%2fconfig.py", "/console/%2e%2e/config.py"):
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers=headers)).status_code == 404
    assert (await client.post("/console", headers=headers)).status_code == 405


async def test_what_a_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/console/app.js")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = await client.get("/console/app.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert (await client.get("/console/app.js", headers={"if-none-match": '"other"'})).status_code == 200
    assert (await client.get("/console/api.js")).headers["etag"] != tag


async def test_it_is_compressed_for_who_takes_that(client: httpx.AsyncClient) -> None:
    packed = await client.get("/console/console.css", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < (FOLDER / "console.css").stat().st_size / 2
    assert packed.text == (FOLDER / "console.css").read_text()


async def test_head(client: httpx.AsyncClient) -> None:
    assert (await client.head("/console")).status_code == 200


# -- what it reads besides the status ----------------------------------------------------------------------------------


async def test_its_numbers_are_behind_the_key(client: httpx.AsyncClient) -> None:
    for path in ("/debug/history", "/debug/balance"):
        answer = await client.get(path)
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "invalid_api_key"


async def test_history_and_balance() -> None:
    inference = FakeInference()
    inference.recorder.add(record())
    async with rest_client(inference) as client:
        history = msgspec.json.decode((await client.get("/debug/history")).content, type=ServerHistory)
        balance = msgspec.json.decode((await client.get("/debug/balance")).content, type=Balance)
    (period,) = history.periods
    assert (period.num_answered, history.period_s, history.num_periods) == (1, PERIOD_S, NUM_PERIODS)
    assert abs(history.at_s - period.at_s) < 60
    assert (balance.num_requests, balance.ttft_ms) == (1, 180.0)


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:16686"])
async def test_where_traces_are(address: str) -> None:
    app = build_app(FakeInference(), keys=KeyRing(), max_body_bytes=1 << 20, metrics=lambda: b"", trace_ui=address)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        status = msgspec.json.decode((await client.get("/debug/status")).content, type=ServerStatus)
    assert status.trace_ui == address
