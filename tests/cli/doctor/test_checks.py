"""What the doctor thinks of machines that there are not."""

from dataclasses import replace

import pytest

from cli.doctor.checks import (
    check_cores,
    check_cpu,
    check_gpu,
    check_limits,
    check_memory,
    check_packages,
    check_ports,
    check_python,
)
from cli.doctor.findings import Finding, Level
from cli.doctor.links import SLOW_BYTES_PER_S, check_links
from cli.doctor.machine import Cores, Cpu, Gpu, Limits, Memory
from cli.doctor.report import report
from cli.doctor.server import FAR_S, Heard, check_clocks, check_server
from frontend.api import KvLinkStatus
from tests.statuses import status, worker

OK, WARNING, FAILURE = Level.OK, Level.WARNING, Level.FAILURE
GIB = 1 << 30


def test_python() -> None:
    assert check_python("3.11.7").level is OK
    assert check_python("3.14.0").level is OK
    assert check_python("3.9.18").level is FAILURE


WANTED = ["torch==2.13.0", "grpcio==1.85.1", "grpcio-status==1.85.1", "numpy>=2", 'triton>=3.9; extra == "gpu"']
INSTALLED = {"torch": "2.13.0+cpu", "grpcio": "1.85.1", "grpcio-status": "1.85.1", "numpy": "2.4"}


def test_packages_as_they_should_be() -> None:
    (found,) = check_packages(WANTED, INSTALLED)
    assert found.level is OK
    assert "torch 2.13.0+cpu" in found.says


@pytest.mark.parametrize(
    ("change", "level", "word"),
    [
        ({"numpy": None}, FAILURE, "numpy is not installed"),
        ({"numpy": "1.26.4"}, WARNING, "numpy is 1.26.4; >=2 was tested"),
        ({"torch": "2.9.1"}, WARNING, "torch is 2.9.1"),
        ({"grpcio-status": "1.70.0"}, FAILURE, "several versions: 1.70.0, 1.85.1"),
    ],
)
def test_packages_that_are_not(change: dict[str, str | None], level: Level, word: str) -> None:
    installed = {name: version for name, version in {**INSTALLED, **change}.items() if version is not None}
    found = list(check_packages(WANTED, installed))
    assert any(each.level is level and word in each.says and each.change for each in found)
    assert not [each for each in found if each.level is OK]


def cpu(*flags: str, architecture: str = "x86_64") -> Cpu:
    return Cpu("A CPU", frozenset(flags), architecture)


@pytest.mark.parametrize(
    ("made", "level", "word"),
    [
        (cpu("avx2", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16"), OK, "AMX"),
        (cpu("avx2", "avx512f", "avx512_vnni"), OK, "AVX-512 and VNNI"),
        (cpu("avx2", "avx512f"), OK, "without VNNI"),
        (cpu("avx2", "avx_vnni"), OK, "no AVX-512"),
        (cpu("avx2"), WARNING, "no AVX-512"),
        (cpu("sse4_2"), WARNING, "no AVX2"),
        (cpu("asimd", architecture="aarch64"), WARNING, "aarch64"),
    ],
)
def test_what_a_cpu_is_good_for(made: Cpu, level: Level, word: str) -> None:
    found = check_cpu(made)
    assert (found.level, word in found.says) == (level, True)


@pytest.mark.parametrize(
    ("cores", "num_workers", "level", "word"),
    [
        (Cores(8, 8, None), 2, OK, "8 of 8"),
        (Cores(8, 8, 8.0), 2, OK, "8 of 8"),
        (Cores(1, 8, None), 2, WARNING, "for 2 workers"),
        (Cores(16, 16, 4.0), 2, WARNING, "--threads 2"),
        (Cores(16, 16, 0.5), 2, WARNING, "--threads 1"),
    ],
)
def test_cores_and_what_a_container_grants_of_them(cores: Cores, num_workers: int, level: Level, word: str) -> None:
    (found,) = check_cores(cores, num_workers)
    assert (found.level, word in found.says + found.change) == (level, True)


@pytest.mark.parametrize(
    ("memory", "level"),
    [
        (Memory(100 * GIB, None), OK),
        (Memory(100 * GIB, 11 * GIB), WARNING),
        (Memory(100 * GIB, 9 * GIB), FAILURE),
        (Memory(9 * GIB, 100 * GIB), FAILURE),
    ],
)
def test_memory_for_weights_and_kv_of_each_worker(memory: Memory, level: Level) -> None:
    found = check_memory(memory, 4 * GIB, GIB, num_workers=2)
    assert found.level is level
    assert ("cgroup" in found.says) == (memory.usable_bytes < memory.available_bytes)


H200 = Gpu("570.1", ("NVIDIA H200",), "13.0", usable=True)
NO_GPU = Gpu(None, (), None, usable=False)


@pytest.mark.parametrize(
    ("gpu", "triton", "wanted", "level", "word"),
    [
        (H200, "3.9.0", True, OK, "H200"),
        (H200, None, True, FAILURE, "triton"),
        (H200, None, False, WARNING, "triton"),
        (NO_GPU, None, False, OK, "CPU"),
        (NO_GPU, "3.9.0", True, FAILURE, "driver"),
        (replace(H200, torch_cuda=None, usable=False), "3.9.0", True, FAILURE, "without CUDA"),
        (replace(H200, usable=False), "3.9.0", False, WARNING, "CUDA 13.0"),
    ],
)
def test_gpus(gpu: Gpu, triton: str | None, wanted: bool, level: Level, word: str) -> None:
    found = check_gpu(gpu, triton, wanted=wanted)
    assert (found.level, word in found.says) == (level, True)


def test_limits_of_files_and_shared_memory() -> None:
    def levels(limits: Limits, *, wants_groups: bool = False) -> list[Level]:
        return [found.level for found in check_limits(limits, wants_groups=wants_groups)]

    assert levels(Limits(65_536, 65_536, GIB)) == [OK, OK]
    assert levels(Limits(1024, 1_048_576, GIB)) == [WARNING, OK]
    assert levels(Limits(65_536, 65_536, 1 << 20)) == [OK, OK], "KV pools are not there"
    assert levels(Limits(65_536, 65_536, 1 << 20), wants_groups=True) == [OK, FAILURE]
    assert levels(Limits(65_536, 65_536, None)) == [OK, WARNING]


def test_ports() -> None:
    assert check_ports("127.0.0.1", [], [8000, 50051]).level is OK
    found = check_ports("127.0.0.1", [8000], [8000, 50051])
    assert (found.level, "8000" in found.says) == (FAILURE, True)


def test_links_and_what_they_mean_for_a_prompt() -> None:
    speeds = {way: 10 * slow for way, slow in SLOW_BYTES_PER_S.items()}
    assert [found.level for found in check_links(speeds)] == [OK, OK, OK]
    (slow,) = check_links({"tcp": 1e8}, kv_bytes_per_token=100_000)
    assert slow.level is WARNING
    assert "1,000 tokens (100 MB) takes 1 s" in slow.says


def test_clocks_that_agree_and_one_that_does_not() -> None:
    near = worker("decode-0", clock_ahead_s=-0.001, clock_within_s=0.0002)
    far = worker("decode-1", clock_ahead_s=10 * FAR_S, clock_within_s=0.0002)
    slow = worker("decode-2", clock_ahead_s=10 * FAR_S, clock_within_s=9.5 * FAR_S)
    unknown = worker("prefill-0")
    heard = Heard(status(workers=[near, far, slow, unknown]), ahead_s=0.3, within_s=0.29)
    found = list(check_clocks(heard))
    assert [each.level for each in found] == [OK, OK, WARNING, OK]
    assert "± 290.0" in found[0].says
    assert "1.0 ms behind the frontend's ± 0.2" in found[1].says
    assert "decode-1" in found[2].says
    assert [each.level for each in check_clocks(Heard(status(workers=[]), 0.3, 0.001))] == [WARNING]


def test_a_server_that_is_not_ready_leaks_and_fails_to_send() -> None:
    link = KvLinkStatus(
        decode="decode-0",
        transport="zeromq",
        size_bytes=0,
        transfers=0,
        failures={"stalled": 3},
        bytes_per_s=0.0,
        in_flight=0,
        in_flight_bytes=0,
    )
    workers = [worker("prefill-0", links=(link,)), worker("decode-0", leaked_blocks=2)]
    found = list(check_server(Heard(status(ready=False, reason="no worker", workers=workers), 0.0, 0.0)))
    assert [each.level for each in found] == [FAILURE, WARNING, FAILURE]
    assert [each.level for each in check_server(Heard(status(), 0.0, 0.0))] == [OK]


def test_a_report_says_what_to_change_and_counts() -> None:
    findings = [
        Finding("cpu", OK, "fast"),
        Finding("files", WARNING, "few", "ulimit"),
        Finding("ports", FAILURE, "taken", "stop it"),
    ]
    text = "\n".join(str(line) for line in report(findings).renderables)
    assert "→ ulimit" in text
    assert "1 in the way, 1 to look at" in text
    assert "all is well" in "\n".join(str(line) for line in report(findings[:1]).renderables)
