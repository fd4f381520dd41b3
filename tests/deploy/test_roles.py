"""The roles, each a process by itself, started with compose.yaml's own environment and keys: they find, believe and
serve each other. Containers' names and interfaces are those of loopback here, and shared memory is off, as it is
between containers."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.deploy.compose import environment, services
from tests.deploy.files import COMPOSE, IMAGE, ROOT
from tests.deploy.keys import make_keys
from tests.deploy.tools import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

READY_S = 400.0
"""The first start on a machine compiles, three workers at once."""
DRAIN_S = 90.0


@dataclass(frozen=True, slots=True)
class Role:
    process: "subprocess.Popen[bytes]"
    environment: dict[str, str]
    log: Path

    def health(self) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, str(IMAGE / "health.py")],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def until_healthy(self) -> None:
        deadline = time.monotonic() + READY_S
        while (checked := self.health()).returncode:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{checked.stdout}\n{self.log.read_text()}"
            time.sleep(0.5)


@contextmanager
def role(name: str, keys: Path, log: Path, **own: str) -> Iterator[Role]:
    told = {key: value.replace("/keys/own", str(keys / name)) for key, value in told_by_compose(name).items()}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}
    all_told = {**inherited, **told, "TANDEM_OTLP_ENDPOINT": "", "PYTHONPATH": str(ROOT), **own}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", name], env=all_told, stdout=output, stderr=output
        )
    try:
        yield Role(process, all_told, log)
        process.terminate()
        assert process.wait(DRAIN_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def told_by_compose(name: str) -> dict[str, str]:
    return environment(services(COMPOSE)[name])


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return make_keys(tmp_path / "keys")


def test_they_serve_a_request_whose_kv_moves(keys: Path, tmp_path: Path) -> None:
    prefill, first, second, http_port, grpc_port = free_ports(5)
    worker = {"TANDEM_SHARED_MEMORY": "off", "TANDEM_THREADS": "1", "TANDEM_KV_MEMORY_MB": "32"}
    receives = {
        **worker,
        "TANDEM_KV_LISTEN": told_by_compose("decode")["TANDEM_KV_LISTEN"].replace("eth0:50063", "lo:0"),
    }
    with ExitStack() as stack:

        def start(name: str, log: str, **own: str) -> Role:
            return stack.enter_context(role(name, keys, tmp_path / log, **own))

        workers = [
            start("prefill", "prefill", TANDEM_LISTEN=f"127.0.0.1:{prefill}", **worker),
            start("decode", "decode-1", TANDEM_LISTEN=f"127.0.0.1:{first}", **receives),
            start("decode", "decode-2", TANDEM_LISTEN=f"127.0.0.1:{second}", **receives),
        ]
        frontend = start(
            "frontend",
            "frontend",
            TANDEM_HOST="127.0.0.1",
            TANDEM_HTTP_PORT=str(http_port),
            TANDEM_GRPC_PORT=str(grpc_port),
            TANDEM_PREFILL=f"dns:///localhost:{prefill}",
            TANDEM_DECODE=f"dns:///localhost:{first},dns:///localhost:{second}",
            TANDEM_ALWAYS_REMOTE="true",
        )
        for each in (*workers, frontend):
            each.until_healthy()

        base = f"http://127.0.0.1:{http_port}"
        key = (keys / "client" / "first.key").read_text().strip()
        question = {"model": "tandem-demo", "messages": [{"role": "user", "content": "What is a KV cache?"}]}
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
            assert client.post("/v1/chat/completions", json=question).status_code == 401
            headers = {"Authorization": f"Bearer {key}"}
            for _ in range(4):
                answered = client.post("/v1/chat/completions", json=question, headers=headers)
                assert answered.status_code == 200, answered.text
            assert "cache" in answered.json()["choices"][0]["message"]["content"].lower()
            metrics = client.get("/metrics").text
        assert 'tandem_router_decisions_total{choice="remote"} 4.0' in metrics
        assert "tandem_retries_total 0.0" in metrics
        ready = [
            line for line in metrics.splitlines() if line.startswith("tandem_worker_ready{") and line.endswith(" 1.0")
        ]
        assert len(ready) == 3
