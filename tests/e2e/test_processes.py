"""What the processes of a server are made of, and what of them can be reached."""

import ipaddress
import json
import subprocess
import sys

import psutil
import pytest

from tests.e2e.clients import BABYLLAMA, DEMO, model_folder, openai_client, stream_text
from tests.e2e.server import ROOT, Tandem, tandem

HEAVY = ("torch", "transformers", "numba", "llvmlite", "triton")


def test_the_frontend_program_imports_nothing_heavy() -> None:
    program = "import json, sys, frontend.__main__; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60)
    modules = {name.partition(".")[0] for name in json.loads(printed.stdout)}
    assert "frontend" in modules
    assert not modules.intersection(HEAVY)


async def test_nor_does_a_frontend_that_has_served(demo: Tandem) -> None:
    async with openai_client(demo) as client:
        await stream_text(client, DEMO, "What is a KV cache?", max_tokens=4)
    processes = demo.processes()
    assert sorted(processes) == ["decode-0", "frontend", "prefill-0"]
    assert heavy_libraries(processes["frontend"]) == set()
    assert "torch" in heavy_libraries(processes["decode-0"]), "what the test looks for is not how it shows"


def heavy_libraries(process: psutil.Process) -> set[str]:
    """Packages whose native code the process has mapped."""
    parts = {part for mapped in process.memory_maps() for part in mapped.path.split("/")}
    return parts.intersection(HEAVY)


def test_nothing_listens_beyond_the_loopback(demo: Tandem) -> None:
    ports = {int(address.rpartition(":")[2]) for address in (demo.http, demo.grpc)}
    assert listening_ports(demo) == ports


@pytest.mark.slow
def test_nor_with_kv_over_tcp() -> None:
    with tandem("--model", model_folder(BABYLLAMA), "--transport", "tcp", "--decode", "2") as server:
        assert len(listening_ports(server)) == 4


def listening_ports(server: Tandem) -> set[int]:
    """Ports that the server's processes listen on; each is on a loopback address."""
    processes = [psutil.Process(server.process.pid), *server.processes().values()]
    sockets = [each for process in processes for each in process.net_connections("inet")]
    listening = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
    assert all(is_loopback(address.ip) for address in listening), listening
    return {address.port for address in listening}


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None  # gRPC's sockets are of both
    return (mapped or parsed).is_loopback
