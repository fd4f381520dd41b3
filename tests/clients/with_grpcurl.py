"""grpcurl, which knows a server by reflection alone: what there is, questions as JSON, health, the other protocol."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from served import ALIAS, ANSWER, GRPC, MODEL, QUESTION

GRPCURL = Path(sys.executable).parent / "grpcurl"
GENERATE = "tandem.v1.Inference/Generate"


def grpcurl(*words: str, given: object = None, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    data = [] if given is None else ["-d", json.dumps(given)]
    command = [GRPCURL, "-plaintext", "-max-time", "60", *flags, *data, GRPC, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def messages(method: str, given: object = None) -> list[dict[str, Any]]:
    done = grpcurl(method, given=given)
    assert done.returncode == 0, done.stderr
    rest, found, decoder = done.stdout.strip(), [], json.JSONDecoder()
    while rest:
        message, end = decoder.raw_decode(rest)
        found.append(message)
        rest = rest[end:].lstrip()
    return found


def test_what_there_is() -> None:
    services = grpcurl("list").stdout.split()
    assert {"tandem.v1.Inference", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(services)
    for service in services:
        assert grpcurl("describe", service).returncode == 0
    assert "GenerateRequest" in grpcurl("describe", "tandem.v1.Inference").stdout


def test_an_answer_as_the_readme_asks_for_it() -> None:
    chat = {"messages": [{"role": "user", "content": QUESTION}]}
    events = messages(GENERATE, {"chat": chat, "sampling": {"temperature": 0}})
    assert list(events[0]) == ["started"]
    assert "".join(event["delta"].get("text", "") for event in events if "delta" in event) == ANSWER
    assert events[-1]["finished"]["reason"] == "FINISH_REASON_STOP"


def test_health_models_and_the_open_inference_protocol() -> None:
    assert messages("grpc.health.v1.Health/Check", {"service": "tandem.v1.Inference"}) == [{"status": "SERVING"}]
    assert [model["name"] for model in messages("tandem.v1.Inference/ListModels")[0]["models"]] == [MODEL, ALIAS]
    assert messages("inference.GRPCInferenceService/ModelReady", {"name": MODEL}) == [{"ready": True}]


def test_an_error_says_which_field() -> None:
    done = grpcurl(GENERATE, given={"text": "x", "sampling": {"temperature": 9}})
    assert done.returncode != 0
    assert "InvalidArgument" in done.stderr
    assert "sampling.temperature" in done.stderr
    missing = grpcurl(GENERATE, given={"text": "x", "nonsense": 1})
    assert "nonsense" in missing.stderr
