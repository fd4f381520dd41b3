"""Every part of the GPU bench on a GPU that is only pretended, on tiny sizes: graphs, events and streams as on a real
one, and figures that mean nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.gpu_parts import bench, beside, checks, kernels, limits, model, records, tune, warm
from bench.gpu_parts.bench import Bench
from bench.gpu_parts.child import run_tasks
from bench.gpu_parts.report import Row
from tests.gpu.kernels.conftest import bfloat16_products
from tests.gpu.pretend.install import pretended
from tests.gpu.pretend.tensors import DEVICE

__all__ = ["bfloat16_products"]
PARTS = {"limits": limits, "checks": checks, "kernels": kernels, "model": model, "tune": tune, "warm": warm}


class NoOther:
    """Another process, that there cannot be: its memory would not be of the same device."""

    def is_ready(self) -> bool:
        return False


@contextmanager
def no_other(_: Bench) -> Iterator[NoOther]:
    yield NoOther()


def rows_of(part: str, file: Path) -> dict[str, Row]:
    """What a part finds."""
    with pretended(total_mib=512) as gpu:
        assert run_tasks(Bench(DEVICE, True, time.monotonic() + 600, {}, file), part, "0/1", 3) == 0
        assert part == "warm" or gpu.num_replays or part == "checks"
    return {row.measure: row for row in records.rows(records.read(file))}


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.slow) if part != "limits" else part for part in PARTS]
)
def test_every_task_of_a_part_runs_on_a_gpu(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_MOST_COPIES", 2)
    monkeypatch.setattr(bench, "_LEAST_REPEATS", 1)
    monkeypatch.setattr(bench, "_MOST_REPEATS", 1)
    monkeypatch.setattr(beside, "_other_process", no_other)

    found = rows_of(part, tmp_path / "f")

    failed = [f"{row.measure}: {row.value} {row.note}" for row in found.values() if row.is_failure]
    assert all(line.startswith("8B, 1 streams beside prompts of 16: two processes") for line in failed), failed
    assert len(found) > 4 or part == "warm"
    behind = [row.note for name, row in found.items() if name.startswith("prefill attention") and "behind" in name]
    assert all("of torch's flash attention" in note and "parts" not in note for note in behind)
