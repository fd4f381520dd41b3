"""The pieces of `bench/gpu.py` that need no GPU: verdicts, a part's process that dies, what is imported, limits."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from bench.gpu_parts import records
from bench.gpu_parts.errors import worst_row_error
from bench.gpu_parts.report import DRY, Row, from_json, table
from bench.gpu_parts.rival import rate_of_all
from bench.gpu_parts.shapes import LLAMA_1B, LLAMA_8B, attention_flops
from bench.gpu_parts.supervise import Plan, supervise

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "gpu.py"
ABSENT = (
    *("google", "grpc", "huggingface_hub", "jinja2", "llguidance", "msgspec", "numba", "opentelemetry", "orjson"),
    *("prometheus_client", "pydantic", "pydantic_settings", "rich", "safetensors", "starlette", "tokenizers"),
    *("transformers", "typer", "uvicorn", "uvloop", "xxhash", "zmq"),
)
"""What this repository needs elsewhere, and `bench/gpu.py` does without."""


def test_a_row_is_held_against_its_target() -> None:
    assert Row("a", 90.0, limit=100.0, share=0.9, least_share=0.85).met
    assert Row("a", 90.0, share=0.9, most_share=0.03).met is False
    assert Row("a", 9_000.0, "tok/s", least_value=10_000).met is False
    assert Row("a", "not built", least_value=10_000).met is None
    assert Row("a", 1.0).met is None


def test_a_row_survives_its_file_and_a_dry_run_claims_nothing(tmp_path: Path) -> None:
    row = Row("decode", 9_000.0, "tok/s", 10_000.0, 0.9, least_share=0.8)
    records.append(tmp_path / "f", {"row": row.as_json(), "task": "decode"})

    assert records.rows(records.read(tmp_path / "f")) == [row] == [from_json(row.as_json())]
    assert "met" in table([row], is_dry=False)
    dry = table([row], is_dry=True)
    assert dry.startswith(DRY)
    assert "met" not in dry


def test_the_shapes_are_the_models_they_are_named_for() -> None:
    assert LLAMA_8B.weight_bytes == pytest.approx(2 * 8.03e9, rel=1e-3)
    assert LLAMA_1B.weight_bytes == pytest.approx(2 * 1.236e9, rel=1e-3)
    assert LLAMA_8B.position_bytes == 128 << 10
    assert attention_flops(1, 1, 2, 3) == 4 * (4 + 5)


def child(folder: Path, body: str) -> Path:
    """A script that is a part's process: `note(record)` adds to its file, `begun` are the tasks before."""
    start = f"""
import json, os, sys
file = sys.argv[sys.argv.index("--file") + 1]
def note(record):
    print(json.dumps(record), file=open(file, "a"))
begun = [json.loads(line)["began"] for line in open(file) if "began" in line] if os.path.exists(file) else []
note({{"machine": {{"device": "none"}}}})
{body}
"""
    script = folder / "child.py"
    script.write_text(start)
    return script


def test_a_task_that_kills_its_process_is_one_failure_and_the_next_is_done(tmp_path: Path) -> None:
    script = child(
        tmp_path,
        """
for task in ("first", "second"):
    if task not in begun:
        note({"began": task})
        if task == "first":
            os._exit(9)
        note({"row": {"measure": task, "value": 1.0}, "task": task})
        note({"ended": task})
""",
    )

    status = supervise(Plan(("limits",), 2, False, False, tmp_path), script)

    rows = {row["measure"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert status == 1
    assert rows["first"]["is_failure"]
    assert "status 9" in rows["first"]["note"]
    assert rows["second"]["value"] == 1.0


def test_a_part_that_breaks_costs_no_other_part_its_results(tmp_path: Path) -> None:
    script = child(
        tmp_path,
        """
part = sys.argv[sys.argv.index("--child") + 1]
if part == "checks":
    os._exit(5)
note({"began": part})
if part == "model":  # what there is if nothing follows
    whole = json.load(open(os.path.join(os.path.dirname(__file__), "gpu.json")))
    part = " ".join(sorted({row["measure"] for row in whole["rows"]}))
note({"row": {"measure": part, "value": 1.0}, "task": part})
note({"ended": part})
""",
    )

    status = supervise(Plan((), 2, False, False, tmp_path), script)

    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["measure"]: row for row in found["rows"]}
    assert status == 1
    assert set(rows) == {"limits", "checks: start", "kernels", "checks: start kernels limits"}
    assert "status 5" in rows["checks: start"]["note"]
    assert found["seed"] >= 0


def test_a_start_that_breaks_is_not_taken_for_a_machine_without_a_gpu(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text("import sys; sys.exit(7)")

    assert supervise(Plan(("limits",), 2, False, False, tmp_path), script) == 1
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert (row["measure"], row["is_failure"]) == ("limits: start", True)


def test_without_a_gpu_it_says_so_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "child.py"
    script.write_text("")

    assert supervise(Plan((), 2, False, False, None), script) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().out


@pytest.mark.usefixtures("needs_triton")
def test_a_part_runs_in_a_dry_run_without_what_a_gpu_machine_may_lack(tmp_path: Path) -> None:
    arguments = [str(SCRIPT), "--dry-run", "--child", "limits", "--file", str(tmp_path / "f")]
    program = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        f"sys.argv = {arguments!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    measured = {row.measure for row in records.rows(records.read(tmp_path / "f"))}
    assert {"device copy", "bf16 matrix product"} <= measured
    assert set(records.limits(records.read(tmp_path / "f"))) == {"copy GB/s", "gemm TFLOP/s", "launch us"}


@pytest.mark.slow
@pytest.mark.usefixtures("needs_triton")
def test_every_part_is_imported_without_what_a_gpu_machine_may_lack() -> None:
    program = (
        "import importlib, pkgutil, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "import bench.gpu\n"
        "bench.gpu._leave_out_the_cpu_kernels()\n"
        "import bench.gpu_parts\n"
        "for part in pkgutil.iter_modules(bench.gpu_parts.__path__):\n"
        "    importlib.import_module(f'bench.gpu_parts.{part.name}')\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(loaded & {'engine', 'decode', 'protos', 'kvtransfer'}))\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["decode", "engine"], "the engine and decode's scheduler, and nothing of the wire"


@pytest.fixture
def needs_triton() -> None:
    pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.slow
@pytest.mark.usefixtures("needs_triton")
def test_every_path_of_a_dry_run(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--dry-run", "--out", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=900)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["note"] == DRY
    words = [str(row["value"]) for row in found["rows"]]
    measured = {row["measure"] for row in found["rows"] if not isinstance(row["value"], str)}
    parts = ("8B decode, 64 streams x 1024: host gap", "8B decode, 64 streams, FP8", "8B prefill, 8192")
    assert measured >= set(parts)
    assert sum(name.endswith(("in chunks", "two processes")) for name in measured) == 2
    assert not [word for word in words if word == "not reached"]


def test_an_error_of_nan_is_never_right() -> None:
    exact = torch.randn(3, 4)
    one_wrong = exact.clone()
    one_wrong[1, 2] = torch.nan

    assert worst_row_error(exact, exact) == 0
    assert worst_row_error(one_wrong, exact) == float("inf")
    assert worst_row_error(torch.ones(1, 2), torch.zeros(1, 2)) == float("inf")
    assert worst_row_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0
    assert worst_row_error(1.01 * exact, exact) == pytest.approx(0.01, rel=1e-3)


def test_the_rival_s_rate_counts_while_all_its_streams_decode() -> None:
    # the second's prompt came a second behind, and its last token as well
    came_s = [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]]

    assert rate_of_all(came_s) == pytest.approx(4 / 2)


@pytest.mark.usefixtures("needs_triton")
def test_an_engine_that_is_closed_is_gone_at_once(tmp_path: Path) -> None:
    from bench.gpu_parts.bench import Bench
    from bench.gpu_parts.model import Engines

    class Knot:
        def __init__(self) -> None:
            self.itself = self

    engines = Engines(Bench(torch.device("cpu"), True, 0.0, {}, tmp_path / "f"))
    knot = Knot()
    gone = weakref.ref(knot)
    engines._open.append(knot)  # type: ignore[arg-type]
    del knot

    engines.clear()

    assert gone() is None, "its memory is another one's"
