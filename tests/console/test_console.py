"""The console in a real browser, before a real server under some load: what it shows, and that it keeps the key."""

import json
import re
from typing import Any

import httpx
import pytest

from frontend.ledger import IF_ANY, TTFT_SEGMENTS
from tests.console.browser import Page, Pipe
from tests.console.conftest import KEY, TRACES
from tests.e2e.server import Tandem, tandem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEGMENTS = [name for name in TTFT_SEGMENTS if name not in IF_ANY]
VIEWS = ("chat", "live", "requests", "tune")
LOADED = {
    "chat": "document.querySelector('#model option')",
    "live": "document.querySelectorAll('.node').length === 3 && document.querySelector('.chart rect')",
    "requests": "document.querySelector('.requests tbody tr')",
    "tune": "document.querySelector('.verdict-card')",
}
NAUGHTY = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


def opened(page: Page, server: Tandem, view: str) -> None:
    page.go(f"{server.http}/console#{view}")
    page.until(LOADED[view])


def ask(page: Page, text: str) -> None:
    page.until("document.activeElement.id === 'prompt'")
    page.type(text)
    page.press("Enter")


def parameters(page: Page, **values: object) -> None:
    """Fill in the form; greedy answers, whose length is known."""
    for name, value in {"temperature": 0, **values}.items():
        page.js(f"document.querySelector('#{name}').value = {json.dumps(str(value))}")


def get(server: Tandem, path: str) -> Any:
    answer = httpx.get(server.http + path, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def milliseconds(text: str) -> float:
    """As the page writes times."""
    number, unit = text.replace(",", "").split()
    return float(number) * {"ms": 1.0, "s": 1000.0}[unit]


# -- chat --------------------------------------------------------------------------------------------------------------


def test_an_answer_is_streamed_and_its_time_told(page: Page, server: Tandem) -> None:
    page.go(f"{server.http}/")
    page.until(LOADED["chat"])
    parameters(page, max_tokens=6)
    ask(page, "What is prefill?")
    page.until("document.querySelector('.said.assistant:not(.going) .timing .split')")
    assert page.text(".said.user .text") == "What is prefill?"
    assert page.text(".said.assistant > .text").strip()
    facts = page.text(".timing .facts")
    assert re.fullmatch(
        r"first token [\d.,]+ m?s · \d+ prompt tokens.* · 6 output tokens.* tokens/s · cut at the most tokens", facts
    )
    said = page.js("document.querySelector('.timing .split').getAttribute('aria-label')")
    assert [part.split()[0] for part in said.split(", ")] == SEGMENTS
    assert sum(milliseconds(part.partition(" ")[2]) for part in said.split(", ")) == pytest.approx(
        milliseconds(re.findall(r"first token ([\d.,]+ m?s)", facts)[0]), rel=0.02
    )

    page.click(".timing a")
    page.until("document.querySelector('.detail .waterfall .total')")
    assert "length" in page.text(".detail")
    page.click(".tabs a")
    page.until("document.querySelector('.said.user .text')?.innerText === 'What is prefill?'")


def test_the_whole_conversation_is_sent_on(page: Page, server: Tandem) -> None:
    opened(page, server, "chat")
    parameters(page, max_tokens=4, system="Be brief.")
    for number in (1, 2):
        ask(page, f"Question {number}")
        page.until(f"document.querySelectorAll('.said.assistant:not(.going) .facts').length === {number}")
    latest = get(server, "/debug/requests?list=recent&limit=2")["requests"]
    assert latest[0]["prompt_tokens"] > latest[1]["prompt_tokens"]
    assert page.js("document.querySelector('.log').innerText.includes('Be brief.')") is False


GOES_ON = """(() => {
  const ask = window.fetch;
  window.fetch = (url, options) => {
    const body = options.body?.replace('"stream":true', '"stream":true,"ignore_eos":true');
    return ask(url, { ...options, body });
  };
})()"""
"""Else the model would end its answer before anybody could stop it."""


@pytest.mark.parametrize("how", ["button", "key"])
def test_an_answer_can_be_stopped(page: Page, server: Tandem, how: str) -> None:
    opened(page, server, "chat")
    parameters(page, max_tokens=3000)
    page.js(GOES_ON)
    ask(page, "Tell me everything.")
    page.until("document.querySelector('.said.assistant.going > .text').innerText.length > 10")
    if how == "button":
        page.click("#stop")
    else:
        page.press("Escape")
    page.until("document.querySelector('.said.assistant:not(.going)')")
    assert page.text(".timing .facts").endswith("stopped")
    assert page.js("document.querySelector('#send').hidden") is False
    page.click(".tabs a:nth-child(2)")  # where it is seen that the server has stopped, too
    page.until("document.querySelector('.frontend dd')?.innerText === '0'")


def test_what_is_refused_is_told_and_can_be_sent_again(page: Page, server: Tandem) -> None:
    opened(page, server, "chat")
    parameters(page, max_tokens=1_000_000)
    ask(page, "Too much")
    page.until("document.querySelector('.said .failure')")
    assert "max_tokens" in page.text(".said .failure")
    assert page.js("document.querySelector('#prompt').value") == "Too much"
    parameters(page, max_tokens=2)
    page.press("Enter")
    page.until("[...document.querySelectorAll('.facts')].some((each) => each.innerText.includes('2 output tokens'))")


def test_texts_are_texts(page: Page, server: Tandem) -> None:
    opened(page, server, "chat")
    parameters(page, max_tokens=2)
    ask(page, NAUGHTY)
    page.until("document.querySelector('.said.assistant:not(.going)')")
    assert page.text(".said.user .text") == NAUGHTY
    assert page.js("document.querySelectorAll('.log img, .log script').length") == 0
    assert page.js("document.title") != "run"


# -- live --------------------------------------------------------------------------------------------------------------


def test_live_shows_who_is_there_and_where_the_time_went(page: Page, server: Tandem) -> None:
    opened(page, server, "live")
    names = page.js("[...document.querySelectorAll('.node .name')].map((each) => each.textContent)")
    assert names == ["frontend", "prefill-0", "decode-0"]
    page.until("[...document.querySelectorAll('.ways .kv .way-label')].some((each) => /\\/min/.test(each.textContent))")
    assert page.js("document.querySelectorAll('.ways .local:not(.idle)').length") == 0

    history = get(server, "/debug/history")
    legend = page.text(".live .legend:not([hidden])")
    assert "KV to decode" in legend
    told = page.js("[...document.querySelectorAll('.chart-box + .legend li')].map((each) => each.innerText)")
    assert [each.split()[0] for each in told][: len(SEGMENTS)] == SEGMENTS
    segments = {name for period in history["periods"] for name, ms in period["ttft_segments"].items() if ms}
    drawn = page.js("[...new Set([...document.querySelectorAll('.chart rect')].map((each) => each.className.baseVal))]")
    assert {f"s-{name}" for name in segments} >= set(drawn)
    assert "s-prefill_compute" in drawn


def test_values_are_read_with_keys_alone(page: Page, server: Tandem) -> None:
    opened(page, server, "live")
    page.js("document.querySelector('.chart-box').focus()")
    page.press("ArrowRight")
    note = page.until("document.querySelector('.chart-box .note:not([hidden])')?.innerText")
    assert re.search(r"\d\d:\d\d:\d\d, \d+ requests, mean [\d.,]+ m?s", note)
    assert "prefill_compute" in page.text(".chart-box [aria-live]")


def test_promises_are_counted_by_the_chosen_limit(page: Page, server: Tandem) -> None:
    opened(page, server, "live")
    page.until("document.querySelectorAll('#slo-ttft option').length > 3")
    kept = []
    for limit in ("10", "0.05"):
        page.js(
            f"document.querySelector('#slo-ttft').value = '{limit}';"
            "document.querySelector('#slo-ttft').dispatchEvent(new Event('change'))"
        )
        kept.append(float(page.text(".figure").rstrip("%")))
    assert kept[0] == 100.0
    assert kept[1] <= kept[0]


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_is_drawn_in_full(page: Page, server: Tandem) -> None:
    opened(page, server, "requests")
    # Those that other tests ask for have no trace.
    slowest = next(each for each in get(server, "/debug/requests?list=slowest")["requests"] if each["trace_id"])
    page.click(f".requests tbody tr[data-id='{slowest['request_id']}'] td:nth-child(4)")
    page.until("document.querySelector('.detail .waterfall .total')")
    assert page.text(".detail h2") == slowest["request_id"]
    rows = page.js(
        "[...document.querySelectorAll('.detail .waterfall tbody tr:not(.total)')]"
        ".map((row) => [row.cells[0].innerText, row.cells[1].innerText])"
    )
    whole = slowest["ttft_ms"] + slowest["second_token_ms"]
    assert [name for name, _ in rows] == [*slowest["ttft_segments"], *slowest["second_token_segments"]]
    assert sum(milliseconds(value) for _, value in rows) == pytest.approx(whole, rel=0.02)
    # Bars follow one another on the axis; of `egress`, the way to the worker is before what the worker did.
    falls = page.js(
        "[...document.querySelectorAll('.detail .fall')].map((each) =>"
        " [parseFloat(each.style.left), parseFloat(each.style.width)])"
    )
    falls.sort()
    assert all(later[0] >= earlier[0] + earlier[1] - 0.01 for earlier, later in zip(falls, falls[1:], strict=False))
    assert falls[-1][0] + falls[-1][1] == pytest.approx(100, abs=0.1)
    assert page.js("document.querySelector('.detail a[target]').href") == f"{TRACES}/trace/{slowest['trace_id']}"
    assert "prefill-0 → decode-0" in page.text(".attempt")


def test_lists_and_looking_up(page: Page, server: Tandem) -> None:
    opened(page, server, "requests")
    page.click("[data-name=failed]")
    page.until("location.hash === '#requests/failed' && document.querySelector('.requests td.bad')")
    failed = get(server, "/debug/requests?list=failed")["requests"][0]
    page.js("document.querySelector('#find').focus()")
    page.type(failed["request_id"].replace("req-", "chatcmpl-"))
    page.press("Enter")
    page.until("document.querySelector('.detail .waterfall')")
    assert "no first token" in page.text(".detail")
    assert "context length exceeded" in page.text(".detail")
    page.go(f"{server.http}/console#requests/recent/req-{0:024x}")
    page.until("document.querySelector('.detail .empty')")
    assert "No record is kept" in page.text(".detail")


# -- tune --------------------------------------------------------------------------------------------------------------


def test_tune_says_what_the_server_says(page: Page, server: Tandem) -> None:
    opened(page, server, "tune")
    balance = get(server, "/debug/balance")
    assert page.text(".ratio strong") == "1 : 1"
    assert balance["verdict"] == page.js("document.querySelector('.verdict-card').dataset.verdict")
    assert balance["why"] in page.text(".verdict-card")
    for load in balance["loads"]:
        assert load["what"] in page.text(".tune")


# -- the key -----------------------------------------------------------------------------------------------------------


def test_without_a_key_it_asks_for_one_and_keeps_it_in_the_tab(stranger: Page, server: Tandem) -> None:
    page = stranger
    page.go(f"{server.http}/#live")
    page.until("document.querySelector('#ask-key').open")
    assert page.text("#state") == "key needed"
    assert page.js("document.activeElement.id") == "key-field"
    page.type("wrong")
    page.press("Enter")
    page.until(
        "document.querySelector('#ask-key').open && /does not take/.test(document.querySelector('#ask-key').innerText)"
    )
    page.type(KEY)
    page.press("Enter")
    page.until("document.querySelector('#state').dataset.kind === 'ready'")
    page.until(LOADED["live"])
    kept = page.js("JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie, location.href])")
    session, local, cookie, address = json.loads(kept)
    assert session == {"tandem-key": KEY}
    assert KEY not in json.dumps([local, cookie, address])
    assert not any(KEY.split()[-1] in url for url in page.asked())
    page.go(f"{server.http}/console#tune")
    page.until(LOADED["tune"])
    page.click("#key")
    page.click("#key-forget")
    page.until("document.querySelector('#state').textContent === 'key needed'")


def test_who_says_no_is_not_asked_again(stranger: Page, server: Tandem) -> None:
    page = stranger
    page.go(f"{server.http}/#live")
    page.until("document.querySelector('#ask-key').open")
    page.press("Escape")
    page.until("!document.querySelector('#ask-key').open")
    page.js("new Promise((done) => setTimeout(done, 5000))")  # two more looks at the status
    assert page.js("document.querySelector('#ask-key').open") is False
    assert page.text("#state") == "key needed"


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_texts_can_be_read(page: Page, server: Tandem, view: str, dark: bool) -> None:
    """WCAG's contrast of 4.5 for every visible text, against what is painted behind it."""
    page.look(dark=dark)
    opened(page, server, view)
    background = page.js("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) is dark
    assert page.js(CONTRASTS) == []


CONTRASTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.map((each) => linear(each / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour[3] > 200) return colour;
    }
    return [255, 255, 255];
  };
  const apart = ".hidden, .skip, option, script, dialog";
  const pale = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim();
    const node = walk.currentNode.parentElement;
    if (!text || !node.checkVisibility() || node.closest(apart)) continue;
    const style = getComputedStyle(node);
    const own = rgb(node instanceof SVGElement ? style.fill : style.color);
    const [more, less] = [light(own), light(behind(node))].sort((x, y) => y - x);
    const contrast = (more + 0.05) / (less + 0.05);
    if (contrast < 4.5) pale.push(`${text}: ${contrast.toFixed(2)}`);
  }
  return pale;
})()"""


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_sticks_out(page: Page, server: Tandem, view: str, width: int) -> None:
    page.look(width=width)
    opened(page, server, view)
    if view == "requests":
        page.click(".requests tbody th a")
        page.until("document.querySelector('.detail .waterfall')")
    assert page.js("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("view", VIEWS)
def test_everything_is_reached_with_tab_and_has_a_name(page: Page, server: Tandem, view: str) -> None:
    opened(page, server, view)
    page.js("document.querySelector('.skip').focus()")
    reached = set()
    for _ in range(80):
        named = page.js(
            "((node) => node === document.body ? null : [node.outerHTML.slice(0, 120), node.getAttribute('aria-label')"
            " || node.innerText || node.labels?.[0]?.innerText || node.title || ''])(document.activeElement)"
        )
        if named is None:
            break
        assert named[1].strip(), named[0]
        reached.add(named[0])
        page.press("Tab")
    focusable = page.js(
        "[...document.querySelectorAll('a[href], button, input, select, textarea, summary')]"
        ".filter((each) => each.checkVisibility()).length"
    )
    assert len(reached) >= min(focusable, 60)


def test_its_policy_forbids_what_it_does_not_need(page: Page, server: Tandem) -> None:
    opened(page, server, "chat")
    page.js(
        "new Promise((done) => { const script = document.createElement('script');"
        " try { script.textContent = \"document.title = 'run'\"; document.body.append(script); } catch { }"
        " setTimeout(done, 50); })"
    )
    assert page.js("document.title") != "run"
    refused = page.js("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
    assert refused == "TypeError"
    assert any("Content Security Policy" in each for each in page.complaints())
    page.forget()


def test_a_server_that_is_away_is_told(browser: Pipe) -> None:
    page = Page(browser)
    page.look()
    with tandem("--prefill", "0") as short_lived:
        page.go(f"{short_lived.http}/console#live")
        page.until("document.querySelector('#state').dataset.kind === 'ready'")
        assert page.js("document.querySelector('.column.prefill').hidden") is True
        page.go(f"{short_lived.http}/console#tune")
        page.until("document.querySelector('.verdict-card')")
        assert "unified" in page.text(".ratio")
    page.until("document.querySelector('#state').textContent === 'away'")
    page.until("/No news from the server/.test(document.querySelector('#banner').innerText)")
    page.close()
