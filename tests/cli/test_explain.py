"""The waterfall: what it draws of a record, and how a record comes to it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from cli.__main__ import app
from cli.ledger import EIGHTHS
from cli.waterfall import drawn, waterfall
from frontend.ledger import SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS
from frontend.records import MAX_ATTEMPTS, RequestAttempt, RequestRecord
from frontend.segments import BY_NAME
from tests.cli.pages import serving
from tests.statuses import LOCAL, REMOTE, record, refused


def text(made: RequestRecord, width: int = 80) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(waterfall(made, width))
    return capture.get()


WATERFALL = """\
req-000000000000000000000000  stop  chat  demo
2027-01-15 07:59:47 UTC
812 prompt tokens (256 cached), 64 output tokens
trace 4bf92f3577b34da6a3ce929d0e0e4736

                               0 ────────────────────────────────────── 220.0 ms
admit                0.10   0% ▏
tokenize             1.40   1% ▍
route                0.08   0% ▍
grant                6.50   4% █▊
prefill_queue        22.0  12%   ████▉
prefill_compute     148.0  82%       █████████████████████████████████▉
transfer_wait        0.00   0%
egress               1.92   1%  █                                     █▏
first token         180.0
transfer_tail        17.0  42%                                         ███▉
decode_queue         6.00  15%                                            ██▎
decode_step          16.0  40%                                              ███▊
decode_egress        1.00   2%                                                 █
second token        220.0

62 more tokens in 1,240 ms, 20.0 ms each
82% of the time to first token was prefill_compute (computing the prompt)
where that is much: a worker that is slower than predicted; long prompts that
are not cached: beginnings that they share, --quantization int8, more CPUs per
worker
workers' clocks are known ± 0.21 ms: so far their segments may be shifted

at 8.10 ms: remote, prefill-1 → decode-0
  256 tokens of the prompt were in its cache
  predicted
  local     212.5 ms to the first token, 48.0 ms lost by others' streams
  remote    168.2 ms to the first token
  remote was chosen: by the estimates
"""


def test_the_whole_of_a_request() -> None:
    assert [line.rstrip() for line in text(record()).splitlines()] == WATERFALL.splitlines()


def test_what_is_not_known_of_clocks_is_not_told() -> None:
    plain = text(record(way_ms=0.0, clock_within_ms=None))
    assert "clocks" not in plain
    (egress,) = [line for line in plain.splitlines() if line.startswith("egress")]
    assert len(egress[31:].split()) == 1, "one piece, where nothing tells the way there from the way back"
    assert len([line for line in text(record()).splitlines() if line.startswith("egress")][0][31:].split()) == 2


def test_a_request_that_was_refused() -> None:
    drawing = " ".join(text(refused()).split())
    assert "OVERLOADED" in drawing
    assert "1024 requests are waiting" in drawing
    assert "no first token 2.50" in drawing
    assert "76% of the time until it failed was tokenize" in drawing
    assert "second token" not in drawing
    assert "attempt" not in drawing


def test_what_a_second_token_waited_for_is_told_where_it_was_more_than_the_first_one_did() -> None:
    segments = {"transfer_tail": 880.0, "decode_queue": 10.0, "decode_step": 10.0}
    drawing = " ".join(text(record(second_token_ms=900.0, second_token_segments=segments)).split())
    assert "98% of the time to second token was transfer_tail (KV on its way to the decode worker)" in drawing
    assert "where that is much: a faster link" in drawing
    assert "of the time to second token" not in text(record())


def test_every_attempt_with_what_became_of_it() -> None:
    attempts = [
        RequestAttempt(1, 8.0, REMOTE, "worker prefill-1 went away"),
        RequestAttempt(2, 50.0, None, "FAILURE_REASON_EXPIRED: lease"),
        RequestAttempt(3, 61.0, LOCAL),
    ]
    drawing = text(record(num_attempts=3, attempts=attempts))
    assert "attempt 1 of 3, at 8.00 ms: remote, prefill-1 → decode-0" in drawing
    assert "failed: worker prefill-1 went away" in drawing
    assert "attempt 2 of 3, at 50.0 ms: no worker had taken it" in drawing
    assert "attempt 3 of 3, at 61.0 ms: local on decode-1" in drawing
    assert "local was chosen: no prefill worker can take it" in drawing


def test_attempts_that_are_not_kept_are_counted() -> None:
    kept = [RequestAttempt(number, 1.0, LOCAL, "lost") for number in range(MAX_ATTEMPTS)]
    assert "of 40 attempts only the first and the latest are kept" in text(record(num_attempts=40, attempts=kept))


def test_every_segment_has_a_meaning() -> None:
    assert {*TTFT_SEGMENTS, *SECOND_TOKEN_SEGMENTS} <= set(BY_NAME)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_bar_is_broken_in_two(width: int) -> None:
    lines = text(record(), width).splitlines()
    segments = {**record().ttft_segments, **record().second_token_segments}
    assert all(len(line) <= width for line in lines)
    assert sum(any(cell in line for cell in EIGHTHS.strip()) for line in lines) == sum(map(bool, segments.values()))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.integers(5, 150))
def test_bars_follow_one_another_and_stay_on_the_axis(parts: list[float], cells: int) -> None:
    whole, began = sum(parts), 0.0
    for part in parts:
        bar = drawn(began, part, whole, cells)
        assert len(bar) <= cells
        assert bool(bar) == (part > 0 and whole > 0)
        if bar:
            assert abs(len(bar) - len(bar.lstrip(" ")) - cells * began / whole) < 1.001
        began += part


def test_words_of_the_server_are_not_markup() -> None:
    assert "[red]lost[/red]" in text(record(attempts=[RequestAttempt(1, 1.0, None, "[red]lost[/red]")]))


def test_the_record_comes_from_the_frontend() -> None:
    made = record(3)
    body = msgspec.json.encode(made)
    with serving({f"/debug/requests/{made.request_id}": body}, key="secret") as url:
        arguments = ["explain", made.request_id, "--url", url]
        drawn_ = CliRunner().invoke(app, [*arguments, "--api-key", "secret"])
        plain = CliRunner().invoke(app, [*arguments, "--api-key", "secret", "--json"])
        wrong = CliRunner().invoke(app, [*arguments, "--api-key", "other"])
        missing = CliRunner().invoke(app, ["explain", "req/../x", "--url", url, "--api-key", "secret"])
    assert drawn_.exit_code == 0, drawn_.output
    assert "prefill_compute" in drawn_.output
    assert msgspec.json.decode(plain.output, type=RequestRecord) == made
    assert (wrong.exit_code, missing.exit_code) == (1, 1)
    assert "401 the API key is wrong" in wrong.output
    assert "404 no such record" in missing.output


@pytest.mark.parametrize(("body", "told"), [(b"{}", "missing required field"), (b"<html>", "malformed")])
def test_what_is_no_record_is_said_to_be_none(body: bytes, told: str) -> None:
    with serving({"/debug/requests/r": body}) as url:
        result = CliRunner().invoke(app, ["explain", "r", "--url", url])
    assert result.exit_code == 1
    assert told in result.output


def test_a_client_that_reads_slowly_and_a_prompt_that_was_in_no_cache_are_told() -> None:
    quick = text(record())
    assert "for the client to read" not in quick
    assert "none of the prompt" not in quick
    slow = text(record(client_ms=730.0, cached_tokens=0))
    assert "tokens waited 730.0 ms for the client to read, 50% of it all" in slow
    assert "none of the prompt was in the prefix cache" in slow
