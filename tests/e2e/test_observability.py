"""Where a request's time went, as a user of a real server finds it out: by its id, by looking, and in the log."""

import json
import os
import secrets
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from frontend.records import RequestRecord
from frontend.status import RequestList, ServerStatus
from tests.e2e.clients import DEMO, http_client, until
from tests.e2e.server import ROOT, Tandem, tandem

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is a KV cache? " * 30}]
BODY: dict[str, Any] = {"model": DEMO, "messages": QUESTION, "max_tokens": 8, "ignore_eos": True}


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_the_record_of_an_answer_is_what_the_client_was_told(demo: Tandem) -> None:
    async with http_client(demo, headers={"x-tandem-timing": "1"}) as http:
        response = await http.post(CHAT, json=BODY)
        answer = response.json()
        record = msgspec.json.decode((await http.get(f"/debug/requests/{answer['id']}")).content, type=RequestRecord)
        listed = msgspec.json.decode((await http.get("/debug/requests?limit=1")).content, type=RequestList)
    assert record.request_id == response.headers["x-request-id"] == listed.requests[0].request_id
    assert record.ttft_ms == pytest.approx(answer["timing"]["ttft_ms"], abs=0.01)
    assert record.ttft_segments == pytest.approx(answer["timing"]["segments"], abs=0.01)
    assert sum(record.ttft_segments.values()) == pytest.approx(record.ttft_ms, abs=0.01)
    assert record.second_token_ms == pytest.approx(sum(record.second_token_segments.values()), abs=0.01)
    assert (record.prompt_tokens, record.output_tokens) == (answer["usage"]["prompt_tokens"], 8)
    (attempt,) = record.attempts
    assert attempt.decision is not None
    assert attempt.decision.decode == "decode-0"
    assert attempt.decision.prefill in ("prefill-0", None)
    told = command("explain", answer["id"], "--url", demo.http)
    assert told.returncode == 0, told.stderr
    assert record.request_id in told.stdout
    assert all(name in told.stdout for name in (*record.ttft_segments, *record.second_token_segments, "decode-0"))


async def test_a_refusal_is_explained_by_the_id_that_came_with_it(demo: Tandem) -> None:
    async with http_client(demo) as http:
        response = await http.post(CHAT, json={**BODY, "max_tokens": 1_000_000})
        assert response.status_code == 400
        told = command("explain", response.headers["x-request-id"], "--url", demo.http)
    assert told.returncode == 0, told.stderr
    assert "CONTEXT_LENGTH_EXCEEDED" in told.stdout
    assert "no first token" in told.stdout


async def test_top_in_a_pipe(demo: Tandem) -> None:
    async with http_client(demo) as http:
        for _ in range(3):
            assert (await http.post(CHAT, json=BODY)).status_code == 200
    drawn, told = command("top", "--url", demo.http), command("top", "--url", demo.http, "--json")
    assert drawn.returncode == told.returncode == 0, drawn.stderr + told.stderr
    status = msgspec.json.decode(told.stdout, type=ServerStatus)
    assert status.ready
    assert sorted(worker.worker_id for worker in status.workers) == ["decode-0", "prefill-0"]
    assert all(worker.ready and worker.num_blocks and worker.max_sequences for worker in status.workers)
    assert status.last_minute.num_answered >= 3
    mean_ms = status.last_minute.ttft_mean_ms
    assert sum(status.last_minute.ttft_segments.values()) == pytest.approx(mean_ms, abs=0.01)
    assert len(status.decisions) >= 3
    for wanted in ("decode-0", "prefill-0", "time to first token", status.slowest[0].request_id):
        assert wanted in drawn.stdout


async def test_every_line_of_a_json_log_is_an_object_and_each_request_has_one() -> None:
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    with tandem("--log-level", "info", "--log-format", "json") as server:
        async with http_client(server, headers=headers) as http:
            answered = await http.post(CHAT, json=BODY)
            refused = await http.post(CHAT, json={**BODY, "max_tokens": 1_000_000})
        ids = [answered.headers["x-request-id"], refused.headers["x-request-id"]]
        lines: list[dict[str, Any]] = []

        async def both_ended() -> bool:
            lines[:] = [json.loads(line) for line in server.log.read_text().splitlines()]
            return {line["request_id"] for line in lines if line["message"] == "request ended"} >= set(ids)

        await until(both_ended, lines)
        text = server.log.read_text()
    ended = {line["request_id"]: line for line in lines if line["message"] == "request ended"}
    first, second = (ended[request_id] for request_id in ids)
    assert first["trace_id"] == second["trace_id"] == trace_id
    assert (first["outcome"], second["outcome"]) == ("length", "CONTEXT_LENGTH_EXCEEDED")
    assert sum(first["ttft_segments"].values()) == pytest.approx(first["ttft_ms"], abs=0.01)
    assert {line["process"] for line in lines} >= {"frontend", "prefill-0", "decode-0"}
    assert "What is a KV cache?" not in text
