"""Triton's gRPC client over the Open Inference Protocol: health, metadata, answers whole and in parts."""

import json
import queue
from typing import Any

import numpy as np
import pytest
from served import ANSWER, GRPC, MODEL, QUESTION
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
GREEDY = {"temperature": 0, "max_tokens": 100}


@pytest.fixture
def client() -> Any:
    with InferenceServerClient(GRPC) as client:
        yield client


def tensors(text: str, *, stream: bool = False, **sampling: object) -> list[InferInput]:
    values = {
        "text_input": np.array([text.encode()], dtype=np.object_),
        "stream": np.array([stream], dtype=bool),
        "sampling_parameters": np.array([json.dumps({**GREEDY, **sampling}).encode()], dtype=np.object_),
    }
    made = []
    for name, value in values.items():
        made.append(InferInput(name, [1], "BOOL" if value.dtype == bool else "BYTES"))
        made[-1].set_data_from_numpy(value)
    return made


def said(result: Any, name: str = "text_output") -> str:
    return str(result.as_numpy(name)[0].decode())


def test_health_and_metadata(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("other")
    assert "tandem" in client.get_server_metadata().name.lower()
    metadata = client.get_model_metadata(MODEL)
    assert {"text_input", "stream", "sampling_parameters"} <= {tensor.name for tensor in metadata.inputs}
    assert [tensor.name for tensor in metadata.outputs] == ["text_output", "finish_reason"]


def test_an_answer(client: InferenceServerClient) -> None:
    result = client.infer(MODEL, tensors(PROMPT), request_id="7")
    assert (said(result), said(result, "finish_reason"), result.get_response().id) == (ANSWER, "stop", "7")
    short = client.infer(MODEL, tensors(PROMPT, max_tokens=3), outputs=[InferRequestedOutput("finish_reason")])
    assert said(short, "finish_reason") == "length"
    assert short.as_numpy("text_output") is None
    given = client.infer(MODEL, tensors(PROMPT)[:1], parameters={"temperature": "0", "max_tokens": 100})
    assert said(given) == ANSWER


def test_an_answer_that_is_awaited_elsewhere(client: InferenceServerClient) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    client.async_infer(MODEL, tensors(PROMPT), callback=lambda result, error: heard.put((result, error)))
    result, error = heard.get(timeout=120)
    assert error is None
    assert said(result) == ANSWER


def test_streams(client: InferenceServerClient) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)))
    for number in range(2):
        client.async_stream_infer(
            MODEL, tensors(PROMPT, stream=True), request_id=str(number), enable_empty_final_response=True
        )
    texts, num_parts, open_ids = {"0": "", "1": ""}, 0, {"0", "1"}
    while open_ids:
        result, error = heard.get(timeout=120)
        assert error is None, error.message()
        response = result.get_response()
        texts[response.id] += said(result)
        num_parts += 1
        if response.parameters["triton_final_response"].bool_param:
            open_ids.remove(response.id)
    client.stop_stream()
    assert texts == {"0": ANSWER, "1": ANSWER}
    assert num_parts > 10


def test_errors(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="not served here"):
        client.infer("other", tensors(PROMPT))
    with pytest.raises(InferenceServerException, match="temperature"):
        client.infer(MODEL, tensors(PROMPT, temperature=9))
    with pytest.raises(InferenceServerException) as failure:
        client.get_model_config(MODEL)
    assert failure.value.status() == "StatusCode.UNIMPLEMENTED"
