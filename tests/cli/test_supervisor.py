import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import cli.supervisor
from cli.process import GaveUp, Phase, ProcessSpec, Restarts, Status, Tell
from cli.supervisor import Ending, Supervisor

ROOT = Path(__file__).resolve().parents[2]
QUICK = Restarts(first_delay_s=0.02, max_delay_s=0.05, attempts=3)

SERVES = """
import signal, sys
def drain(*_): print("draining", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, drain)
print("up", flush=True)
while True: signal.pause()
"""
DRAINS_SLOWLY = SERVES.replace("sys.exit(0)", "import time; time.sleep(0.3); print('drained', flush=True); sys.exit(0)")
FAILS_TO_DRAIN = SERVES.replace("sys.exit(0)", "sys.exit(7)")
IGNORES_SIGTERM = SERVES.replace("sys.exit(0)", "0")
DIES_ONCE_UP = "import sys, time; print('up', flush=True); time.sleep(0.1); sys.exit(3)"
NEVER_UP = "import sys; print('no weights here'); sys.exit(3)"
REFUSES_ITS_OPTIONS = "import sys; print('unknown option'); sys.exit(2)"


class Recorder:
    """A Reporter that remembers, in order, what it was told."""

    def __init__(self) -> None:
        self.statuses: list[Status] = []
        self.lines: list[str] = []

    def status(self, status: Status) -> None:
        self.statuses.append(status)

    def output(self, name: str, line: str) -> None:
        self.lines.append(f"{name}: {line}")

    def phases(self, name: str) -> list[Phase]:
        return [status.phase for status in self.statuses if status.name == name]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  # nobody signals this recorder
                await asyncio.sleep(0.005)

    async def until_line(self, line: str, times: int = 1) -> None:
        await self.until(lambda: self.lines.count(line) >= times)


def process(recorder: Recorder, script: str, name: str = "worker", stage: int = 1) -> ProcessSpec:
    """A process that is ready once it has written "up" as often as it was started."""
    starts = 0

    async def until_ready(tell: Tell) -> None:
        nonlocal starts
        starts += 1
        await recorder.until_line(f"{name}: up", starts)

    command = (sys.executable, "-S", "-c", script)
    return ProcessSpec(
        name=name, command=command, environment=dict(os.environ), until_ready=until_ready, drain_stage=stage
    )


@asynccontextmanager
async def supervised(
    recorder: Recorder, *specs: ProcessSpec, restarts: Restarts = QUICK, drain_timeout_s: float = 10.0
) -> AsyncIterator[tuple[Supervisor, asyncio.Task[Ending]]]:
    supervisor = Supervisor(specs, recorder, restarts=restarts, drain_timeout_s=drain_timeout_s)
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, running
    finally:
        if not running.done():
            supervisor.stop()
            supervisor.stop()
        await asyncio.wait([running])


async def test_it_is_ready_once_every_process_is() -> None:
    recorder = Recorder()
    async with supervised(recorder, process(recorder, SERVES, "a"), process(recorder, SERVES, "b")) as (
        supervisor,
        running,
    ):
        assert await supervisor.ready()
        assert recorder.phases("a")[-1] is recorder.phases("b")[-1] is Phase.READY

        supervisor.stop()
        assert await running is Ending.DRAINED
        assert recorder.phases("a") == [Phase.STARTING, Phase.READY, Phase.STOPPING, Phase.STOPPED]


async def test_a_process_that_dies_is_started_again_however_often() -> None:
    recorder = Recorder()
    async with supervised(recorder, process(recorder, DIES_ONCE_UP)) as (supervisor, running):
        await recorder.until(lambda: recorder.phases("worker").count(Phase.READY) == 5)  # more than attempts
        supervisor.stop()
        assert await running is Ending.DRAINED
    told = [status.detail for status in recorder.statuses if status.phase is Phase.RESTARTING]
    # Ready for 0.1 s, longer than max_delay_s: the delay starts over.
    assert told == ["exited with status 3; starts again in 0.02 s"] * 4


async def test_delays_double_for_a_process_that_never_stays() -> None:
    recorder = Recorder()
    restarts = Restarts(first_delay_s=0.02, max_delay_s=0.05, attempts=5)
    async with supervised(recorder, process(recorder, NEVER_UP), restarts=restarts) as (_, running):
        with pytest.raises(GaveUp):
            await running
    told = [status.detail.split()[-2] for status in recorder.statuses if status.phase is Phase.RESTARTING]
    assert told == ["0.02", "0.04", "0.05", "0.05"]


async def test_a_process_that_is_never_ready_is_given_up_with_its_last_lines_and_the_others_drain() -> None:
    recorder = Recorder()
    other = process(recorder, SERVES, "other")
    async with supervised(recorder, process(recorder, NEVER_UP), other) as (supervisor, running):
        assert not await supervisor.ready()
        with pytest.raises(GaveUp, match="worker exited with status 3") as gave_up:
            await running
    assert gave_up.value.last_lines == ("no weights here",) * QUICK.attempts
    assert recorder.phases("other")[-1] is Phase.STOPPED


async def test_a_process_that_refuses_its_options_is_not_tried_again() -> None:
    recorder = Recorder()
    async with supervised(recorder, process(recorder, REFUSES_ITS_OPTIONS)) as (_, running):
        with pytest.raises(GaveUp, match="status 2"):
            await running
    assert recorder.lines == ["worker: unknown option"]


async def test_a_process_that_was_ready_once_is_tried_for_as_long_as_the_others_serve(tmp_path: Path) -> None:
    """What it refuses now, its memory or a disk, may be there again."""
    recorder, mark = Recorder(), tmp_path / "was up"
    script = f"""
import pathlib, sys, time
mark = pathlib.Path({str(mark)!r})
if mark.exists(): print("no memory"); sys.exit(2)
mark.touch(); print("up", flush=True); time.sleep(0.1); sys.exit(3)
"""
    async with supervised(recorder, process(recorder, script), process(recorder, SERVES, "other")) as (
        supervisor,
        running,
    ):
        await recorder.until_line("worker: no memory", QUICK.attempts + 2)
        assert recorder.phases("other")[-1] is Phase.READY
        supervisor.stop()
        assert await running in (Ending.DRAINED, Ending.UNCLEAN)


async def test_later_stages_drain_after_earlier_ones_have_ended() -> None:
    recorder = Recorder()
    frontend = process(recorder, DRAINS_SLOWLY, "frontend", stage=0)
    async with supervised(recorder, process(recorder, SERVES), frontend) as (supervisor, running):
        assert await supervisor.ready()
        supervisor.stop()
        assert await running is Ending.DRAINED
    drained = [line for line in recorder.lines if "drain" in line]
    assert drained == ["frontend: draining", "frontend: drained", "worker: draining"]


async def test_the_second_stop_kills_at_once() -> None:
    recorder = Recorder()
    frontend = process(recorder, IGNORES_SIGTERM, "frontend", stage=0)
    async with supervised(recorder, frontend, process(recorder, SERVES)) as (supervisor, running):
        assert await supervisor.ready()
        supervisor.stop()
        await recorder.until_line("frontend: draining")
        supervisor.stop()
        assert await running is Ending.FORCED
    assert "worker: draining" not in recorder.lines


async def test_a_process_that_does_not_end_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.supervisor, "GRACE_S", 0.1)
    recorder = Recorder()
    spec = process(recorder, IGNORES_SIGTERM)
    async with supervised(recorder, spec, drain_timeout_s=0.1) as (supervisor, running):
        assert await supervisor.ready()
        supervisor.stop()
        assert await running is Ending.UNCLEAN
    assert "worker: did not end within 0.2 s; killed" in recorder.lines


async def test_a_failure_while_draining_is_told() -> None:
    recorder = Recorder()
    async with supervised(recorder, process(recorder, FAILS_TO_DRAIN)) as (supervisor, running):
        assert await supervisor.ready()
        supervisor.stop()
        assert await running is Ending.UNCLEAN
    assert recorder.lines[-1] == "worker: exited with status 7 while draining"


async def test_stopping_does_not_wait_for_a_restart() -> None:
    recorder = Recorder()
    patient = Restarts(first_delay_s=60.0, max_delay_s=60.0, attempts=3)
    async with supervised(recorder, process(recorder, NEVER_UP), restarts=patient) as (supervisor, running):
        await recorder.until(lambda: Phase.RESTARTING in recorder.phases("worker"))
        supervisor.stop()
        assert await asyncio.wait_for(running, 5) is Ending.DRAINED


async def test_what_a_dead_process_left_behind_goes_with_it() -> None:
    recorder = Recorder()
    script = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.exit(2)"
    async with supervised(recorder, process(recorder, script)) as (_, running):
        with pytest.raises(GaveUp):
            await asyncio.wait_for(running, 5)  # its output pipe is still held by `sleep`
    await recorder.until(lambda: not alive(int(recorder.lines[0].split()[-1])))


async def test_lines_of_any_length_arrive_whole() -> None:
    recorder = Recorder()
    script = "import sys; print('x' * 300_000); print('last', end=''); sys.exit(2)"
    async with supervised(recorder, process(recorder, script)) as (_, running):
        with pytest.raises(GaveUp):
            await running
    assert recorder.lines == ["worker: " + "x" * 300_000, "worker: last"]


PARENT = """
import asyncio, os, sys
from cli.process import ProcessSpec
from cli.supervisor import Supervisor

class Printer:
    def status(self, status): pass
    def output(self, name, line): print(line, flush=True)

async def ready(tell): pass

child = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
spec = ProcessSpec(name="x", command=(sys.executable, "-c", child), environment=dict(os.environ), until_ready=ready)
asyncio.run(Supervisor([spec, spec], Printer()).run())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_killing_the_supervisor_leaves_no_orphans() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in children)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
