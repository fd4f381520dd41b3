import json
import math
import re
from pathlib import Path

from rich.console import Console

from cli.load.config import TraceConfig
from cli.load.interference import InterferenceResult
from cli.load.overview import overview
from cli.load.report import render, to_json
from cli.load.run import Result
from tests.cli.load.records import record
from tests.cli.load.results import interference_result, load_result

RECORDS = [
    record(0, 0.0, (1.0, 2.0, 4.0), tokens=5),
    record(1, 1.0, (1.5, 2.5)),
    record(2, 2.0, (2.1,), error="HTTP 500: first", end_s=5.0),
    record(3, 2.0, (), error="HTTP 500: second"),
]


def printed(result: Result | InterferenceResult) -> str:
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(overview(result)))
    return console.export_text()


def test_the_terminal_shows_rates_latencies_notes_and_failures_by_kind() -> None:
    text = printed(load_result(RECORDS, concurrency=2))
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "2 completed, 2 failed" in lines["requests"]
    assert "closed loop, 2 at once" in lines["horizon"]
    assert "latest send" not in lines, "a closed loop is never late"
    assert "20 in, 7 out (1.40 per chunk)" in lines["tokens"]
    assert "1.40 tok/s" in lines["output token throughput"]
    assert "0.20 req/s, 25.0 % of requests (ttft:500)" in lines["goodput"]
    assert "5.0 % of a core" in lines["client CPU"]
    assert lines["TTFT"].split()[-5:] == ["750.00", "750.00", "950.00", "995.00", "1000.00"]
    assert "failed: 2 x HTTP 500, first: first" in text
    assert "a note" in text


def test_a_run_without_answers_shows_no_numbers() -> None:
    text = printed(load_result(RECORDS[2:], request_rate=math.inf))
    assert next(line for line in text.splitlines() if line.startswith("ITL")).split()[-5:] == ["-"] * 5
    assert "open loop, all at once" in text
    assert re.search(r"latest send +0\.00 ms after it was due", text)


def test_interference_shows_the_phases_side_by_side() -> None:
    text = printed(interference_result())
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["quiet"][-6:-3] == ["100.00", "100.00", "100.00"]
    assert rows["busy"][-6:-3] == ["100.00", "700.00", "700.00"]
    assert "busy p99 / quiet p50    7.00" in text
    assert "1 of 1024 tokens" in text
    assert "failed: 1 x HTTP 500, first: why" in text


def test_json_holds_the_config_the_summary_and_a_row_per_request() -> None:
    trace = TraceConfig(path=Path("t.csv"))
    text = to_json(load_result(RECORDS, request_rate=math.inf, trace=trace))
    value = json.loads(text, parse_constant=lambda name: f"{name} is not JSON")
    assert "secret" not in text
    assert set(value) == {
        *("kind", "tandem", "config", "model", "notes", "summary"),
        *("failures", "client_cpu_s", "vocab", "requests"),
    }
    assert value["kind"] == "load"
    assert value["config"]["request_rate"] == "inf"
    assert value["config"]["trace"]["path"] == "t.csv"
    assert value["summary"]["median_ttft_ms"] == 750
    assert value["failures"] == {"HTTP 500": 2}
    assert value["requests"][0] == {
        "index": 0,
        "due_s": 0.0,
        "sent_s": 0.0,
        "end_s": 4.0,
        "input_tokens": 10,
        "output_tokens": 5,
        "ttft_ms": 1000.0,
        "tpot_ms": 750.0,
        "e2el_ms": 4000.0,
        "chunks_s": [1.0, 2.0, 4.0],
        "error": None,
    }
    failed = value["requests"][2]
    assert (failed["ttft_ms"], failed["chunks_s"], failed["error"]) == (None, [2.1], "HTTP 500: first")


def test_json_of_interference_holds_streams_long_prompts_and_phases() -> None:
    value = json.loads(to_json(interference_result()))
    assert (value["kind"], len(value["streams"]), len(value["longs"])) == ("interference", 2, 2)
    assert value["phases"] == {"quiet_from": 0.5, "busy_from": 3.0, "busy_until": 5.0}
    assert value["summary"]["busy_max_itl_ms"] > 699
