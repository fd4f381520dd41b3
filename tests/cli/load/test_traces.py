import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from cli.load.client import ServedModel
from cli.load.config import LoadConfig, TargetConfig, TraceConfig
from cli.load.traces import Row, read_trace, scale
from cli.load.workload import Workload, build
from engine.errors import ConfigError

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:48.5000000,12,0
"""


def mooncake(*rows: tuple[float, int, int, list[int]]) -> str:
    names = "timestamp", "input_length", "output_length", "hash_ids"
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


def written(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def replay(config: TraceConfig, **more: object) -> Workload:
    target = TargetConfig(url="http://fake")
    return build(LoadConfig(target=target, trace=config, **more), ServedModel("fake", vocab=1000))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_an_azure_trace_is_read_by_time_and_empty_answers_have_one_token(tmp_path: Path, name: str) -> None:
    rows = read_trace(written(tmp_path / name, AZURE))
    assert [(row.input_len, row.output_len) for row in rows] == [(374, 44), (12, 1), (396, 109)]
    assert [row.due_s for row in rows] == pytest.approx([0.0, 1.81941, 4.314579], abs=1e-5)


def test_equal_hash_ids_are_equal_tokens_and_others_are_not(tmp_path: Path) -> None:
    text = mooncake((2000, 1024, 5, [7, 8]), (3500, 1500, 6, [7, 8, 9]), (4000, 600, 7, [6, 9]), (9000, 512, 8, [9]))
    work = replay(TraceConfig(path=written(tmp_path / "m.jsonl", text)))
    first, second, third, fourth = (np.array(job.prompt) for job in work.jobs)
    assert [len(prompt) for prompt in (first, second, third, fourth)] == [1024, 1500, 600, 512]
    assert (first == second[:1024]).all()
    assert (fourth[: 1500 - 1024] == second[1024:]).all()
    assert (fourth[:88] == third[512:]).all()
    assert (first[:512] != third[:512]).mean() > 0.9
    assert [(job.due_s, job.output_tokens) for job in work.jobs] == [(0.0, 5), (1.5, 6), (2.0, 7), (7.0, 8)]


def test_scaled_blocks_still_share_what_they_shared(tmp_path: Path) -> None:
    text = mooncake((0, 1024, 100, [7, 8]), (1000, 1024, 10, [7, 9]))
    trace = TraceConfig(path=written(tmp_path / "m.jsonl", text), length_scale=0.25, time_scale=0.5)
    work = replay(trace)
    assert work.jobs == replay(trace).jobs, "another run asks the same"
    first, second = (job.prompt for job in work.jobs)
    assert len(first) == len(second) == 256
    assert first[:128] == second[:128]
    assert first[128:] != second[128:]
    assert [(job.due_s, job.output_tokens) for job in work.jobs] == [(0.0, 25), (0.5, 2)]


def test_what_does_not_fit_is_clipped_or_dropped_and_counted(tmp_path: Path) -> None:
    rows = [Row(0.0, 80, 20), Row(1.0, 81, 20), Row(2.0, 500, 99), Row(3.0, 1, 100), Row(4.0, 1, 500)]
    scaled = scale(rows, TraceConfig(path=Path("t"), max_context=100))
    assert [(row.input_len, row.output_len) for row in scaled.rows] == [(80, 20), (80, 20), (1, 99)]
    assert (scaled.clipped, scaled.dropped) == (2, 2)
    text = AZURE.splitlines()[0] + "".join(
        f"\n2023-11-16 18:15:0{r.due_s:.0f}.0,{r.input_len},{r.output_len}" for r in rows
    )
    work = replay(TraceConfig(path=written(tmp_path / "a.csv", text), max_context=100))
    assert len(work.jobs) == 3
    assert "5 of 5 requests" in work.notes[0]
    assert "2 prompts clipped, 2 requests dropped" in work.notes[0]


def test_a_rate_or_a_closed_loop_replaces_the_times_of_the_trace(tmp_path: Path) -> None:
    trace = TraceConfig(path=written(tmp_path / "a.csv", AZURE))
    assert [job.due_s for job in replay(trace, concurrency=2).jobs] == [0, 0, 0]
    assert replay(trace, request_rate=10.0).jobs[-1].due_s == pytest.approx(0.3)
    assert len(replay(trace, num_prompts=2).jobs) == 2
    assert "times of the trace not used" in replay(trace, concurrency=2).notes[0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "x", "neither .csv"),
        ("a.csv", "time,in,out\n", "begins with"),
        ("a.csv", AZURE.splitlines()[0], "no requests"),
        ("a.csv", AZURE + "2023-11-16 18:15:46.1,-5,3\n", "line 5"),
        ("a.csv", AZURE + "yesterday,5,3\n", "line 5"),
        ("m.jsonl", mooncake((0, 5, 5, [1])) + "{}\n", "line 2"),
        ("m.jsonl", mooncake((0, 513, 5, [1])), "do not cover"),
        ("m.jsonl", "[1, 2]\n", "line 1"),
        ("m.jsonl.gz", None, "cannot read"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    path.write_text(text if text is not None else "not gzip")
    with pytest.raises(ConfigError, match=said):
        read_trace(path)


@pytest.mark.parametrize("change", [{"length_scale": 0.0}, {"time_scale": float("inf")}, {"time_scale": float("nan")}])
def test_scales_that_are_no_numbers_above_0_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        scale([Row(0.0, 1, 1)], TraceConfig(path=Path("t"), **change))  # type: ignore[arg-type]
