"""A real Jaeger v2, by our own configuration, has a request as one trace over its three processes.

No package registry has Jaeger, so this is skipped, on CI too, where there is no `jaeger` to be started.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import yaml

from tests.deploy.files import DASHBOARDS, JAEGER
from tests.deploy.queries import panels
from tests.deploy.tools import free_ports
from tests.e2e.server import tandem
from tests.e2e.test_traces import SERVICES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 60.0
QUESTION = {"model": "tandem-demo", "messages": [{"role": "user", "content": "What is a KV cache? " * 40}]}


@dataclass(frozen=True, slots=True)
class Jaeger:
    ui: str
    otlp: str
    log: Path

    def read(self, path: str) -> Any:
        return httpx.get(f"{self.ui}/api/{path}", trust_env=False).raise_for_status().json()["data"]


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with running(tmp_path_factory.mktemp("jaeger")) as started:
        yield started


@contextmanager
def running(folder: Path) -> Iterator[Jaeger]:
    """By deploy/jaeger/config.yaml, on free ports of loopback."""
    if not (program := shutil.which("jaeger")):
        pytest.skip("jaeger is missing: no package registry has it")
    ports = dict(zip(("16686", "16685", "4317"), free_ports(3), strict=True))
    text = JAEGER.read_text()
    for usual, port in ports.items():
        for host in ("0.0.0.0", "127.0.0.1"):  # noqa: S104 - what the file has
            text = text.replace(f"{host}:{usual}", f"127.0.0.1:{port}")
    (config := folder / "config.yaml").write_text(text)
    made = Jaeger(f"http://127.0.0.1:{ports['16686']}", f"http://127.0.0.1:{ports['4317']}", folder / "log")
    with made.log.open("wb") as log:
        process = subprocess.Popen([program, "--config", str(config)], stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or answers(made), made)
        assert process.poll() is None, made.log.read_text()
        yield made
        process.terminate()
        assert process.wait(30) == 0, made.log.read_text()
    finally:
        process.kill()
        process.wait()


def answers(jaeger: Jaeger) -> bool:
    try:
        return jaeger.read("services") is not False
    except httpx.HTTPError:
        return False


def until(done: Callable[[], Any], jaeger: Jaeger) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := done()):
        assert time.monotonic() < deadline, jaeger.log.read_text()
        time.sleep(0.1)
    return found


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def references(span: dict[str, Any], kind: str) -> set[str]:
    return {each["spanID"] for each in span["references"] if each["refType"] == kind}


def test_every_setting_is_one_that_jaeger_knows(jaeger: Jaeger) -> None:
    """Jaeger ends at once on a setting that it does not know."""
    text = yaml.safe_load(JAEGER.read_text())
    text["extensions"]["jaeger_query"]["ui_colour"] = "green"
    (wrong := jaeger.log.with_name("wrong.yaml")).write_text(yaml.safe_dump(text))
    done = subprocess.run(["jaeger", "--config", str(wrong)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode
    assert "ui_colour" in done.stdout + done.stderr


def test_a_request_is_one_trace_and_dashboards_find_it(jaeger: Jaeger) -> None:
    options = ("--otlp-endpoint", jaeger.otlp, "--trace-ui", jaeger.ui)
    with tandem(*options, environment={"TANDEM_ALWAYS_REMOTE": "true"}) as server:
        with httpx.Client(base_url=server.http, timeout=120, trust_env=False) as client:
            answered = client.post("/v1/chat/completions", json={**QUESTION, "max_tokens": 8}).raise_for_status()
            record = client.get(f"/debug/requests/{answered.headers['x-request-id']}").raise_for_status().json()
            assert client.post("/v1/chat/completions", json={**QUESTION, "max_tokens": 1_000_000}).status_code == 400
        trace = until(lambda: whole(jaeger, record["trace_id"]), jaeger)
        failed = until(lambda: jaeger.read('traces?service=tandem-frontend&tags={"error":"true"}'), jaeger)
    check_trace(trace, record)
    assert record["trace_id"] not in {each["traceID"] for each in failed}
    assert set(SERVICES.values()) <= set(jaeger.read("services"))
    # Where the console's link leads to.
    page = httpx.get(f"{jaeger.ui}/trace/{record['trace_id']}", trust_env=False).raise_for_status()
    assert "text/html" in page.headers["content-type"]
    for search in searches():
        assert jaeger.read(f"traces?{urlencode(search)}"), search


def whole(jaeger: Jaeger, trace_id: str) -> dict[str, Any] | None:
    """Once all of its spans are there."""
    found = httpx.get(f"{jaeger.ui}/api/traces/{trace_id}", trust_env=False)
    trace: dict[str, Any] = found.json()["data"][0] if found.status_code == 200 else {"spans": ()}
    return trace if len(trace["spans"]) == len(SERVICES) + 1 else None


def check_trace(trace: dict[str, Any], record: dict[str, Any]) -> None:
    of = {span["operationName"]: span for span in trace["spans"]}
    services = {name: trace["processes"][span["processID"]]["serviceName"] for name, span in of.items()}
    root = of.pop("chat tandem-demo")
    assert services == {**SERVICES, "chat tandem-demo": "tandem-frontend"}
    assert references(root, "CHILD_OF") == set()
    for name, span in of.items():
        assert root["spanID"] in references(span, "CHILD_OF"), name
    assert of["kv.transfer"]["spanID"] in references(of["decode"], "FOLLOWS_FROM")
    # That a parent is missing it says of spans that were looked at before all had come, and goes on saying it.
    assert "duplicate" not in str([each.get("warnings") for each in (root, *of.values())])
    assert tags(root)["tandem.request_id"] == record["request_id"]
    assert tags(root)["tandem.ttft_ms"] == pytest.approx(record["ttft_ms"], abs=0.01)
    assert tags(of["kv.transfer"])["tandem.transfer.size_bytes"] > 0
    assert "queued" in str(of["prefill"]["logs"])


def searches() -> Iterator[dict[str, str]]:
    """What Grafana asks Jaeger for each panel that looks for traces; however short these took."""
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get("targets", ()):
                if target.get("queryType") == "search":
                    asked = {name: str(target[name]) for name in ("service", "operation", "limit") if name in target}
                    told = dict(tag.split("=") for tag in target.get("tags", "").split())
                    yield {**asked, **({"tags": json.dumps(told)} if told else {})}
