"""A real Prometheus, by our configuration and rules, scrapes a real server under some load: every panel has data."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.files import PROMETHEUS, RULES
from tests.deploy.queries import Asked, of_dashboards, of_rules
from tests.deploy.tools import free_ports, program
from tests.e2e.server import Tandem, tandem

pytestmark = pytest.mark.slow

LOAD_S = 20.0
PATIENCE_S = 60.0
AUTO = {"$__rate_interval": "30s", "$__interval": "1s"}


@contextmanager
def prometheus(server: Tandem, folder: Path) -> Iterator[str]:
    """Its address, once it is ready."""
    config = yaml.safe_load(PROMETHEUS.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [server.http.removeprefix("http://")]}]
    (file := folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [program("prometheus", "prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_ready(f"http://{address}/-/ready"):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


async def load(server: Tandem) -> None:
    """Streams side by side, and a request that is refused, for some scrapes."""
    deadline = time.monotonic() + LOAD_S

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < deadline:
            number += 100
            prompt = f"{number} What is a KV cache? " * (1 + number % 7)
            await complete(client, prompt, 200)
            await complete(client, "a long prompt " * 20_000, 400)

    async with httpx.AsyncClient(base_url=server.http, timeout=120, trust_env=False) as client:
        await asyncio.gather(*(ask(client, number) for number in range(4)))


async def complete(client: httpx.AsyncClient, prompt: str, status: int) -> None:
    body = {"model": "tandem-demo", "prompt": prompt, "max_tokens": 12, "temperature": 0}
    answered = await client.post("/v1/completions", json=body)
    assert answered.status_code == status, answered.text


def result(address: str, asked: Asked) -> list[dict[str, Any]]:
    answered = httpx.post(f"{address}/api/v1/query", data={"query": asked.expression}, trust_env=False).json()
    assert answered["status"] == "success", (asked, answered)
    found: list[dict[str, Any]] = answered["data"]["result"]
    return found


def test_every_panel_has_data_and_every_rule_is_evaluated(tmp_path: Path) -> None:
    asked = of_dashboards(AUTO)
    assert len(asked) > 40
    with tandem(environment={"TANDEM_ALWAYS_REMOTE": "true"}) as server, prometheus(server, tmp_path) as address:
        asyncio.run(load(server))
        empty = [each for each in asked if not [row for row in result(address, each) if row["value"][1] != "NaN"]]
        assert not empty, "\n".join(f"{each.where}: {each.expression}" for each in empty)

        groups = httpx.get(f"{address}/api/v1/rules", trust_env=False).json()["data"]["groups"]
        evaluated = [rule for group in groups for rule in group["rules"]]
        assert len(evaluated) == len(of_rules())
        assert not [rule for rule in evaluated if rule["health"] != "ok"]
