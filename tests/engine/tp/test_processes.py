"""Ranks as processes: what they compute, that they end together, and what is refused before any is started."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from engine.config import WorkerConfig
from engine.device import OpenModel, open_model
from engine.errors import ConfigError
from engine.runner import Runner
from engine.tp import team
from engine.tp.ranks import RankFailed
from engine.tp.team import num_rank_threads
from protos import worker_pb2 as pb
from tests.reference import Blocks, make_model, sequence_of, step
from tests.shared_data import shared_data

PROMPT = [1, 403, 407, 261, 378, 432, 401, 410, 261, 402]
PATIENCE_S = 60.0


class Worker:
    """An open model of some ranks, and what was said of those that were lost."""

    def __init__(self, model: OpenModel, lost: "list[str]", heard: threading.Event) -> None:
        self.model = model
        self.lost = lost
        self.heard = heard
        assert model.team is not None
        self.pids = model.team.followers.pids

    def logits(self) -> torch.Tensor:
        runner = self.model.runner
        assert isinstance(runner, Runner)
        sequence, blocks = sequence_of("a", PROMPT), Blocks(runner)
        return step(runner, blocks, [(sequence, len(PROMPT))])[sequence.id]


def config(**options: object) -> WorkerConfig:
    fields = {"model": str(shared_data("models", "stories260K")), "num_blocks": 40, "profile_s": 0, "threads": 1}
    return WorkerConfig(**{**fields, **options})  # type: ignore[arg-type]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    lost: list[str] = []
    heard = threading.Event()

    def note(why: str) -> None:
        lost.append(why)
        heard.set()

    monkeypatch.setattr(team, "_end_process", note)
    model = open_model(config(tensor_parallel=2, stall_limit_s=2.0), pb.ROLE_PREFILL)
    opened = Worker(model, lost, heard)
    yield opened
    model.close()
    assert not any(psutil.pid_exists(pid) for pid in opened.pids)


def test_a_rank_that_is_killed_takes_the_worker_with_it(worker: Worker) -> None:
    alone = open_model(config(), pb.ROLE_PREFILL)
    sequence, runner = sequence_of("a", PROMPT), alone.runner
    assert isinstance(runner, Runner)
    expected = step(runner, Blocks(runner), [(sequence, len(PROMPT))])[sequence.id]
    torch.testing.assert_close(worker.logits(), expected, atol=1e-4, rtol=0)
    assert worker.model.who.layout == alone.who.layout, "one may take KV from the other"
    assert worker.model.shared is not None, "and copy it out of the pool"

    os.kill(worker.pids[0], signal.SIGKILL)

    assert worker.heard.wait(PATIENCE_S)
    assert worker.lost == ["rank 1 of 2 was ended by SIGKILL"]
    with pytest.raises(RankFailed):
        worker.logits()


@pytest.mark.slow
def test_a_rank_that_hangs_is_not_waited_for(worker: Worker) -> None:
    os.kill(worker.pids[0], signal.SIGSTOP)
    with pytest.raises(RankFailed, match="the other ranks do not answer"):
        worker.logits()
    assert worker.lost == []


LEADER = """
import sys
from engine.config import WorkerConfig
from engine.device import open_model
from protos import worker_pb2 as pb
config = WorkerConfig(model=sys.argv[1], num_blocks=40, profile_s=0, threads=1, tensor_parallel=2)
model = open_model(config, pb.ROLE_DECODE)
print(*model.team.followers.pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_ranks_end_with_a_worker_that_is_killed() -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(shared_data("models", "stories260K"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert leader.stdout is not None
    followers = [psutil.Process(int(pid)) for pid in leader.stdout.readline().split()]
    assert len(followers) == 1
    leader.kill()
    leader.communicate()
    _, left = psutil.wait_procs(followers, timeout=PATIENCE_S)
    assert not left


@pytest.mark.slow
def test_a_worker_process_ends_with_its_rank() -> None:
    model = str(shared_data("models", "stories260K"))
    options = ("--model", model, "--num-blocks", "40", "--profile-s", "0", "--threads", "1", "--tensor-parallel", "2")
    process = subprocess.Popen([sys.executable, "-m", "decode", *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "listening" in line:
            break
    (follower,) = psutil.Process(process.pid).children()
    follower.kill()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "rank 1 of 2 was ended by SIGKILL, and the worker with it" in errors


def test_ranks_share_the_threads() -> None:
    assert num_rank_threads(config(threads=0, tensor_parallel=2), 8) == 4
    assert num_rank_threads(config(threads=6, tensor_parallel=4), 8) == 1
    assert num_rank_threads(config(threads=1, tensor_parallel=4), 0) == 1
    assert num_rank_threads(config(threads=0), 0) == 0
    everything = len(os.sched_getaffinity(0))
    assert num_rank_threads(config(threads=0, tensor_parallel=2), 0) == max(1, everything // 2)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel is 3, which does not divide the 8 attention heads"),
        ({"tensor_parallel": 8}, "tensor_parallel is 8, which does not divide the 172 columns of the MLP"),
        ({"tensor_parallel": 2, "borrow_cpus": "0"}, "tensor_parallel is 2: ranks cannot borrow CPUs"),
        ({"pipeline_parallel": 2}, "pipeline_parallel is 2: a model's layers are not spread"),
    ],
)
def test_what_cannot_be_is_refused_before_a_process_starts(
    options: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "Followers", lambda size: pytest.fail("started"))
    with pytest.raises(ConfigError, match=why):
        open_model(config(**options), pb.ROLE_DECODE)


def test_what_another_rank_cannot_load_is_told_by_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file changes under them: rank 0 has read it, the other one finds it broken."""
    make_model("llama", tmp_path, num_hidden_layers=1)
    weights = tmp_path / "model.safetensors"
    load = team.Team.load

    def break_after(self: team.Team, *arguments: object) -> object:
        whole = weights.read_bytes()
        weights.write_bytes(whole[:100])
        try:
            pool = load(self, *arguments)  # type: ignore[arg-type]
            self.followers.hear()
        finally:
            weights.write_bytes(whole)
        return pool

    monkeypatch.setattr(team.Team, "load", break_after)
    with pytest.raises(ConfigError, match="model.safetensors"):
        open_model(config(model=str(tmp_path), tensor_parallel=2), pb.ROLE_DECODE)
