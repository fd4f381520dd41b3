"""Lists of CPUs: what they mean, what is refused, and that every thread obeys."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cpus import MAX_CPU, available_cpus, format_cpus, parse_cpus, pin, share_out
from engine.errors import ConfigError

HERE = sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("", ()),
        (" ", ()),
        ("0", (0,)),
        ("0-1", (0, 1)),
        ("0,2-3", (0, 2, 3)),
        ("3, 1-2 ,2", (1, 2, 3)),
    ],
)
def test_lists_are_read(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["a", "-1", "1-", "2-1", "0,,1", "0-1-2", "0x1", "1.5", "0-4096", "٣", ","])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--decode-cpus is") as refused:
        parse_cpus(text, "--decode-cpus")
    assert refused.value.field == "--decode-cpus"


@given(st.sets(st.integers(0, MAX_CPU)))
def test_what_is_written_is_read_again(cpus: set[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == tuple(sorted(cpus))


@given(st.sets(st.integers(0, 100)).map(lambda cpus: tuple(sorted(cpus))), st.integers(1, 8))
def test_shares_are_even_and_leave_nobody_without(cpus: tuple[int, ...], num_workers: int) -> None:
    shares = share_out(cpus, num_workers)
    assert len(shares) == num_workers
    if len(cpus) < num_workers:
        assert shares == [cpus] * num_workers
    else:
        assert tuple(cpu for share in shares for cpu in share) == cpus
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_cpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"CPU {MAX_CPU} is not there"):
        available_cpus(f"{HERE[0]},{MAX_CPU}")


def test_no_list_changes_nothing() -> None:
    assert pin("") == 0
    assert sorted(os.sched_getaffinity(0)) == HERE


def test_threads_that_run_already_are_pinned_too() -> None:
    program = """
import os, sys, threading
from engine.cpus import pin
stop = threading.Event()
threading.Thread(target=stop.wait).start()
count = pin(sys.argv[1])
print(count, {tuple(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")})
stop.set()
"""
    cpu = HERE[-1]
    command = [sys.executable, "-c", program, str(cpu)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"1 {{({cpu},)}}\n"


def test_a_worker_computes_with_as_many_threads_as_it_has_cpus() -> None:
    program = """
import sys
from engine.config import WorkerConfig
from engine.device import open_model
from engine.errors import ConfigError
import torch
from protos import worker_pb2 as pb
try:
    open_model(WorkerConfig(cpus=sys.argv[1], model="/nowhere", threads=int(sys.argv[2])), pb.ROLE_DECODE)
except ConfigError as error:
    print(error.field, torch.get_num_threads())
"""
    for threads, expected in (("0", 1), ("2", 2)):
        command = [sys.executable, "-c", program, str(HERE[-1]), threads]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert printed.split()[-1] == str(expected)
