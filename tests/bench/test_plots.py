"""Figures from small results: every system is named, every median is a mark, and what cannot be drawn is refused."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.rivals.plots import COLOURS, colour, draw, read
from bench.rivals.plots import main as plots
from bench.rivals.results import Results, Sample, Value
from bench.rivals.systems import ARRANGEMENTS
from engine.errors import ConfigError

THROUGHPUT = "output and prefill throughput"
INTERFERENCE = "interference of long prompts with running streams"
SYSTEMS = ("tandem f32 unified", "tandem int8 unified", "vllm f32", "llama.cpp Q8_0", "transformers f32")


def write(path: Path, what: str, samples: list[tuple[str, str, int, dict[str, Value]]]) -> Path:
    path.write_text(json.dumps(Results(what, samples=[Sample(*sample) for sample in samples]).to_json()))
    return path


def throughput_file(path: Path, rounds: tuple[int, ...] = (0, 1, 2)) -> Path:
    samples: list[tuple[str, str, int, dict[str, Value]]] = []
    for number in rounds:
        samples.append(("memory bandwidth", "1 stream", number, {"output tok/s": 80.0, "GB/s": 30.0}))
        for place, system in enumerate(SYSTEMS):
            speed = 10.0 * (place + 1) + number
            samples += [
                (system, "1 stream", number, {"output tok/s": speed, "failed": ""}),
                (system, "8 streams", number, {"output tok/s": 5 * speed, "failed": ""}),
                (system, "512-token prompts", number, {"prefill tok/s": 100 * speed, "failed": ""}),
            ]
    return write(path, THROUGHPUT, samples)


def interference_file(path: Path) -> Path:
    gaps: dict[str, Value] = {"quiet p50 ms": 20.0, "busy p99 ms": 50.0, "worst gap ms": 900.0, "long TTFT ms": 400.0}
    samples = [(system, "6 streams", 0, gaps) for system in SYSTEMS]
    return write(path, INTERFERENCE, [*samples, ("vllm W8A8", "6 streams", 0, {"failed": "all: gone"})])


def words(svg: Path) -> list[str]:
    return [node.text or "" for node in ElementTree.parse(svg).iter() if node.tag.endswith("text")]


def marks(svg: Path, kind: str = "median") -> list[str]:
    return [node.get("d", "") for node in ElementTree.parse(svg).iter() if node.get("class") == kind]


def test_throughput_has_a_point_for_each_median_and_names_all_systems(tmp_path: Path) -> None:
    drawn = draw([throughput_file(tmp_path / "results.json")], tmp_path / "plots")
    assert [path.name for path in drawn] == ["throughput.svg", "prefill.svg"]
    assert set(SYSTEMS) | {"memory bandwidth", "float32: output tok/s", "int8: output tok/s"} <= set(words(drawn[0]))
    assert len(marks(drawn[0])) == 2 * len(SYSTEMS) + 1
    assert len(marks(drawn[0], "spread")) == 2 * len(SYSTEMS), "memory was as fast in all rounds"
    assert "vllm f32: 3100 (3000-3200)" in words(drawn[1])
    assert len(marks(drawn[1])) == len(SYSTEMS)


def test_interference_has_three_points_a_system_and_the_trade_one(tmp_path: Path) -> None:
    drawn = draw([interference_file(tmp_path / "results.json")], tmp_path / "plots")
    assert [path.name for path in drawn] == ["interference.svg", "trade.svg"]
    assert [len(marks(path)) for path in drawn] == [3 * len(SYSTEMS), len(SYSTEMS)]
    for path in drawn:
        assert set(SYSTEMS) <= set(words(path))
        assert "vllm W8A8" not in words(path), "nothing was measured of it"


def test_goodput_shows_the_result_of_a_search_and_not_its_probes(tmp_path: Path) -> None:
    case = "TTFT 1000, TPOT 60 ms"
    found: list[tuple[str, str, int, dict[str, Value]]] = [(name, case, 0, {"goodput req/s": 4.0}) for name in SYSTEMS]
    path = write(tmp_path / "results.json", "goodput", [(SYSTEMS[0], "4/s", 0, {"good": 0.95}), *found])
    (drawn,) = draw([path], tmp_path / "plots")
    assert len(marks(drawn)) == len(SYSTEMS)
    assert f"{SYSTEMS[0]}: 4.00" in words(drawn)


def test_files_of_one_runner_are_rounds_of_one_figure(tmp_path: Path) -> None:
    parts = [throughput_file(tmp_path / f"{n}.json", (n,)) for n in range(3)]
    whole = throughput_file(tmp_path / "whole.json")
    assert [results.what for results in read([*parts, interference_file(tmp_path / "gaps.json")])] == [
        THROUGHPUT,
        INTERFERENCE,
    ]
    apart, together = draw(parts, tmp_path / "apart"), draw([whole], tmp_path / "together")
    assert [path.read_bytes() for path in apart] == [path.read_bytes() for path in together]


def test_a_system_has_one_colour_and_those_that_are_measured_have_their_own(tmp_path: Path) -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert {f"tandem f32 {arrangement}" for arrangement in ARRANGEMENTS} <= set(COLOURS)
    assert colour("somebody else") == colour("somebody else") != "#000"
    files = [throughput_file(tmp_path / "a.json"), interference_file(tmp_path / "b.json")]
    for path in draw(files, tmp_path / "plots"):
        assert colour("vllm f32") in re.findall(r'fill="(#\w{6})"', path.read_text())


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"what": "weather", "samples": []}', "about 'weather', of which there is no figure; there is: output and"),
        ('{"what": "goodput"}', "holds no results: KeyError"),
        ('{"what": "goodput", "samples": [{"system": "vllm"}]}', "holds no results: KeyError: 'case'"),
        ('{"what": "goodput", "samples": [7]}', "holds no results"),
        ("[]", "holds no results"),
        ("no JSON", "holds no results: JSONDecodeError"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, written: str, told: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(written)
    with pytest.raises(ConfigError, match=re.escape(told)):
        draw([path], tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_nothing_measured_makes_no_figure(tmp_path: Path) -> None:
    assert draw([write(tmp_path / "results.json", "goodput", [])], tmp_path / "plots") == []


def test_the_command_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plots"
    monkeypatch.setattr(sys, "argv", ["plots", str(throughput_file(tmp_path / "results.json")), "--out", str(out)])
    plots()
    assert capsys.readouterr().out.split() == [str(out / "throughput.svg"), str(out / "prefill.svg")]
    monkeypatch.setattr(sys, "argv", ["plots", str(tmp_path / "missing.json")])
    with pytest.raises(SystemExit, match="holds no results: FileNotFoundError"):
        plots()
