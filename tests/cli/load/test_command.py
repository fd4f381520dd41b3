"""`tandem bench` as it is typed: what is refused, what is written, how it exits."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.__main__ import app
from tests.cli.load.fake_openai import Answer, FakeOpenAI, serving

NOWHERE = "http://127.0.0.1:1"


def bench(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "110"}).invoke(app, ["bench", *args])


def test_a_run_is_printed_and_written_and_exits_with_0(tmp_path: Path) -> None:
    out, plot = tmp_path / "run.json", tmp_path / "run.html"
    fake = FakeOpenAI()
    with serving(fake) as url:
        told = ("--goodput", "ttft:1e6", "tpot:1e6", "--output", str(out), "--plot", str(plot))
        result = bench(url, "--num-prompts", "4", "--output-len", "3", "--input-len", "5", "--concurrency", "2", *told)
    assert result.exit_code == 0, result.output
    assert "4 completed, 0 failed" in result.output
    assert "100.0 % of requests (ttft:1e+06 tpot:1e+06)" in result.output
    written = json.loads(out.read_text())
    assert written["summary"]["total_output_tokens"] == 12
    assert written["config"]["goodput"] == {"ttft": 1e6, "tpot": 1e6}
    assert "4 completed, 0 failed" in plot.read_text()
    assert {len(body["prompt"]) for body in fake.bodies} == {5}  # type: ignore[arg-type]


@pytest.mark.parametrize(("allowed", "status"), [((), 1), (("--allow-failures",), 0)])
def test_failed_requests_exit_with_1_unless_allowed(allowed: tuple[str, ...], status: int) -> None:
    with serving(FakeOpenAI([Answer(), Answer(status=500)])) as url:
        result = bench(url, "--num-prompts", "3", "--output-len", "3", *allowed)
    assert result.exit_code == status
    assert "failed: 1 x HTTP 500" in result.output


def test_a_server_that_refuses_the_first_request_exits_with_2_and_its_reason() -> None:
    with serving(FakeOpenAI([Answer(status=429)])) as url:
        result = bench(url)
    assert result.exit_code == 2
    assert "HTTP 429" in result.output
    assert "Traceback" not in result.output


def test_interference_is_printed_and_written(tmp_path: Path) -> None:
    out, plot = tmp_path / "run.json", tmp_path / "run.html"
    fake = FakeOpenAI(rest=Answer(is_held=True), long_answer=Answer())
    with serving(fake) as url:
        times = ("--quiet", "0.1", "--duration", "0.1", "--long-every", "0.05", "--streams", "2", "--input-len", "5")
        result = bench(url, "--interference", *times, "--output", str(out), "--plot", str(plot))
    assert result.exit_code == 0, result.output
    assert "2 of 1024 tokens, one every 0.05 s" in result.output
    assert json.loads(out.read_text())["summary"]["longs_completed"] == 2
    assert "Gaps between the tokens of each stream" in plot.read_text()


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["--interference", "--num-prompts", "5"], "--num-prompts does not go with --interference"),
        (["--interference", "--concurrency", "5"], "--concurrency does not go with --interference"),
        (["--interference", "--goodput", "ttft:5"], "--goodput does not go with --interference"),
        (["--interference", "--num-warmups", "0"], "--num-warmups does not go with --interference"),
        (["--interference", "--endpoint", "chat"], "chat"),
        (["--streams", "6"], "--streams needs --interference"),
        (["--quiet", "15"], "--quiet needs --interference"),
        (["--long-every", "4"], "--long-every needs --interference"),
        (["--length-scale", "0.5"], "--length-scale needs --trace"),
        (["--max-context", "100"], "--max-context needs --trace"),
        (["--trace", "TRACE", "--input-len", "128"], "--input-len does not go with --trace"),
        (["--trace", "TRACE", "--output-len", "5"], "--output-len does not go with --trace"),
        (["--trace", "TRACE", "--concurrency", "5", "--time-scale", "0.5"], "--time-scale means nothing"),
        (["--prompts", "TRACE", "--vocab", "5"], "--vocab does not go with --prompts"),
        (["--goodput", "speed:5"], "speed:5"),
        (["--extra-body", "[1]"], "--extra-body is not a JSON object"),
        (["--extra-body", '{"a": NaN}'], "--extra-body: NaN is not JSON"),
        (["--timeout", "inf"], "--timeout must be a finite number"),
        (["--output", "run.html"], "--output writes .json, not .html"),
        (["--plot", "run"], "--plot writes .html"),
        (["--plot", "nowhere/run.html"], "--plot: there is no folder nowhere"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_done_is_refused_by_name_before_anything_is_sent(
    args: list[str], option: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,3,4\n")
    result = bench(NOWHERE, *(str(trace) if arg == "TRACE" else arg for arg in args))
    assert result.exit_code == 2
    assert option in result.output.replace("\n", " ")
    assert "no server" not in result.output


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["--burstiness", "0.5"], "--burstiness needs --request-rate"),
        (["--endpoint", "chat"], "chat takes texts"),
        (["--trace", "TRACE", "--prefix-len", "5"], "--prefix-len is for random prompts"),
        (["--trace", "TRACE", "--prompts", "TRACE"], "exclude each other"),
        (["--trace", "TRACE", "--block-tokens", "5"], "--block-tokens is for traces with hash_ids"),
    ],
)
def test_what_only_the_workload_can_tell_is_refused_before_a_request_is_sent(
    args: list[str], option: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,3,4\n")
    fake = FakeOpenAI()
    with serving(fake) as url:
        result = bench(url, *(str(trace) if arg == "TRACE" else arg for arg in args))
    assert result.exit_code == 2
    assert option in result.output.replace("\n", " ")
    assert fake.bodies == []
