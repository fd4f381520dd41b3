"""Traps: each moment at which workers are killed comes, and who is armed for one dies there and nowhere else."""

import importlib
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.kills.__main__ import ROUNDS, schedule, shares
from bench.kills.arms import Arms
from bench.kills.phases import PHASES, Way
from bench.kills.traps import Traps
from frontend.events import Delta, Finish
from frontend.request import GenerateRequest, TokenPrompt
from frontend.router import Policy
from tests.cluster import cluster
from tests.shared_data import shared_data

COMES_TO_A_MOMENT = """
import sys
from bench.kills.arms import Trap
trap = Trap(sys.argv[1], "decode-0")
for number in range(int(sys.argv[2])):
    trap.passed("KV frame came")
    trap.passed("COMMIT came", number)
"""


def comes(folder: Path, times: int) -> int:
    """A process that comes to two moments so often; its exit status."""
    return subprocess.run([sys.executable, "-c", COMES_TO_A_MOMENT, str(folder), str(times)]).returncode


@pytest.mark.parametrize(("moment", "number"), [("KV frame came", 3), ("COMMIT came", 2)])
def test_who_is_armed_dies_at_that_moment_and_the_bench_knows(tmp_path: Path, moment: str, number: int) -> None:
    arms = Arms(tmp_path)
    arms.arm("decode-1", moment, 1)
    arm = arms.arm("decode-0", moment, number)
    assert comes(tmp_path, 2) == 0
    assert not arms.died(arm)
    assert comes(tmp_path, 3) == -signal.SIGKILL
    assert arms.died(arm)
    assert not arms.take_back("decode-0")
    assert comes(tmp_path, 3) == 0, "it was for one death"


def test_an_arm_that_is_taken_back_kills_nobody(tmp_path: Path) -> None:
    arms = Arms(tmp_path)
    arm = arms.arm("decode-0", "KV frame came", 1)
    assert arms.take_back("decode-0")
    assert comes(tmp_path, 3) == 0
    assert not arms.died(arm)


class Recorder:
    """Hears of moments; holds back what a moment would be waited for."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self.chunks: set[int | None] = set()

    def armed_for(self, moment: str) -> bool:
        return True

    def passed(self, moment: str, number: int | None = None, linger_s: float = 0.0) -> None:
        self.heard.add(moment)
        if moment == "chunk computed":
            self.chunks.add(number)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["shm", "ipc"])
async def test_each_moment_comes(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, recorder = shared_data("models", "stories260K"), Recorder()
    traps = Traps(recorder, monkeypatch.setattr)
    for name in traps.by_module:
        traps.set(importlib.import_module(name))
    prompt = TokenPrompt(tuple(random.Random(0).randrange(3, 250) for _ in range(60)))
    request = GenerateRequest(prompt=prompt, temperature=0.0, max_tokens=8, ignore_eos=True)
    small = {"max_step_tokens": 16}
    async with cluster(folder, transport=transport, worker=small) as running:
        answer = await running.complete(request)
        assert answer.finished.reason == Finish.LENGTH
        for at_once in (True, False):  # who leaves at once, and amid the answer
            left = running.inference.generate(
                GenerateRequest(prompt=TokenPrompt(prompt.ids[::-1]), max_tokens=100, ignore_eos=True)
            )
            async for event in left:
                if at_once or isinstance(event, Delta):
                    break
            await left.aclose()
        await running.until_idle()
    async with cluster(folder, policy=Policy(local_prefill_tokens=1000), worker=small) as running:
        assert (await running.complete(request)).token_ids == answer.token_ids
    missing = {phase.name.removeprefix("draining, ") for phase in PHASES} - recorder.heard
    assert not missing
    assert recorder.chunks >= {1, 2, 3, 4}


def test_kills_are_spread_over_all_moments() -> None:
    kills = [
        phase
        for (_, _, ways, _), count in zip(ROUNDS.values(), shares(300), strict=True)
        for phase in schedule(ways, count, random.Random(0))
    ]
    assert len(kills) == 300
    assert set(kills) == set(PHASES)
    assert sum(shares(7)) == 7
    assert shares(5, "shm") == [5, 0, 0, 0]
    assert all(Way.ANY in ways for _, _, ways, _ in ROUNDS.values())
