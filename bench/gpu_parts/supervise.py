"""Runs each part in a process of its own, so that a kernel that hangs or breaks the device costs itself and no more.

A part's process notes each task before it begins. If it dies, or is killed at its deadline, the task that had begun is
a failure, and another process goes on behind it. Standard library only.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu_parts import records
from bench.gpu_parts.report import DRY, Row, table

WEIGHTS = {"limits": 2.0, "checks": 3.0, "kernels": 4.0, "model": 5.0, "warm": 4.0, "tune": 6.0}
"""How the parts share the time; what one leaves over is the others'."""
SHARDS = {"checks": 4, "warm": 12}
"""Processes at once, where nothing is timed: compiling takes most of the time."""
LEAST_S = 40.0
"""For any part: importing torch for the first time takes a good part of it."""
GRACE_S = 20.0
"""Beyond a part's time, within which it says itself what it did not reach."""
MAX_STARTS = 8
DRY_TIMES = 4
"""A dry run may take so many times as long: whoever runs it has a slow machine, or others on it, and no lease."""
RIVAL = "transformers"
"""What the task begins with that is another program's, and so no failure of ours."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    only: tuple[str, ...]
    minutes: float
    tune: bool
    is_dry: bool
    out: Path | None
    seed: int = field(default_factory=partial(secrets.randbits, 31))
    """Of everything random: another one in every run, so that every run checks other numbers"""

    @property
    def parts(self) -> tuple[str, ...]:
        """Those asked for, behind the limits they are held against; candidates are compiled before they are timed."""
        wanted = {*self.only} or {"checks", "kernels", "model"} | ({"tune"} if self.is_dry else set())
        wanted |= {"limits"} | ({"tune"} if self.tune else set())
        if "tune" in wanted:
            wanted.add("warm")
        return tuple(part for part in WEIGHTS if part in wanted)


def supervise(plan: Plan, script: Path) -> int:
    """Run the parts, print, write; returns the exit status."""
    began = time.monotonic()
    minutes = plan.minutes * (DRY_TIMES if plan.is_dry else 1)
    deadline = began + minutes * 60 - GRACE_S
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for index, part in enumerate(plan.parts):
            weight = sum(WEIGHTS[name] for name in plan.parts[index:])
            left_s = deadline - time.monotonic()
            seconds = left_s if plan.is_dry else max(LEAST_S, left_s * WEIGHTS[part] / weight)
            found += _run_part(plan, script, part, seconds, Path(folder), found)
            _write(plan, found)  # whatever becomes of the other parts, and of this process
            if not found:  # a part's process that has a device says so first
                print("no NVIDIA GPU that this torch can use; --dry-run needs none")
                return 2
    rows = records.rows(found)
    failures = sum(row.is_failure for row in rows)
    print()
    print(", ".join(f"{name} {value}" for name, value in _machine(found).items()))
    print(table(rows, is_dry=plan.is_dry))
    missed = 0 if plan.is_dry else sum(row.met is False for row in rows)
    print(f"{failures} failed, {missed} targets missed; seed {plan.seed}; {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


def _machine(found: list[dict[str, Any]]) -> dict[str, str]:
    """Nothing of it if its process broke before it could say."""
    return next((record["machine"] for record in found if "machine" in record), {"device": "unknown"})


def _write(plan: Plan, found: list[dict[str, Any]]) -> None:
    """What is known by now, in place of what was known before."""
    if plan.out is None or not found:
        return
    rows = records.rows(found)
    plan.out.mkdir(parents=True, exist_ok=True)
    note = {"note": DRY} if plan.is_dry else {}
    of_run = {"machine": _machine(found), "seed": plan.seed, "failures": sum(row.is_failure for row in rows)}
    whole = {**note, **of_run, "rows": [row.as_json() for row in rows]}
    (plan.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n")


def _run_part(
    plan: Plan, script: Path, part: str, seconds: float, folder: Path, before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The records of all shards; a shard's file begins with the limits that were measured before."""
    print(f"{part}: at most {seconds:.0f} s", flush=True)
    shards = 1 if plan.is_dry else SHARDS.get(part, 1)
    until = time.monotonic() + seconds
    known = records.limits(before)
    files = [folder / f"{part}-{shard}" for shard in range(shards)]
    running = []
    for shard, file in enumerate(files):
        for name, value in known.items():
            records.append(file, {"limit": name, "value": value})
        running.append(_Shard(plan, script, part, f"{shard}/{shards}", file, until))
    while running:
        running = [shard for shard in running if shard.goes_on()]
        time.sleep(0.05)
    made = [record for file in files for record in records.read(file)[len(known) :]]
    for row in records.rows(made):
        if row.is_failure:
            print(f"  failed: {row.measure}: {row.value} {row.note}", flush=True)
    return made


class _Shard:
    """One process after another over the tasks of a shard."""

    def __init__(self, plan: Plan, script: Path, part: str, shard: str, file: Path, until: float) -> None:
        self._part, self._file, self._until, self._starts = part, file, until, 0
        self._command = [sys.executable, str(script), "--child", part, "--file", str(file), "--shard", shard]
        self._command += ["--seed", str(plan.seed)]
        if plan.is_dry:
            self._command.append("--dry-run")
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._starts += 1
        left_s = max(1.0, self._until - time.monotonic())
        return subprocess.Popen([*self._command, "--seconds", str(left_s)])

    def goes_on(self) -> bool:
        status = self._process.poll()
        if status is None and time.monotonic() < self._until + GRACE_S / 2:
            return True
        if status is None:
            self._process.kill()
            self._process.wait()
        if status == 0:
            return False
        died_of = records.unfinished(records.read(self._file))
        what = "did not end in time" if status is None else f"its process ended with status {status}"
        for name in died_of or [f"{self._part}: start"]:
            self._note(name, what)
        if not died_of or status is None or self._starts >= MAX_STARTS or time.monotonic() > self._until:
            return False
        self._process = self._start()
        return True

    def _note(self, name: str, what: str) -> None:
        row = Row(name, "failed", note=what, is_failure=not name.startswith(RIVAL))
        records.append(self._file, {"row": row.as_json(), "task": name})
        records.append(self._file, {"ended": name})
