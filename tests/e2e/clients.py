"""What tests say to a running server, the way its users do: OpenAI's client, gRPC, plain HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from protos import generate_pb2 as pb
from protos import generate_pb2_grpc
from tests.e2e.server import Tandem
from tests.shared_data import shared_data

DEMO = "tandem-demo"
STORIES = "stories260K"
BABYLLAMA = "babyllama105"
PATIENCE_S = 120.0
"""What is not there by then will not come."""
GRPC_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1))


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    num_tokens: int
    finish: str


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt and its greedy continuation, as the reference computes it."""

    prompt: str | list[int]
    answer: Answer


def goldens(model: str, name: str = "golden_greedy.json") -> list[Golden]:
    """Rows whose continuation has no end token, so that its text is all of it."""
    rows = json.loads((shared_data("models", model) / name).read_text())["cases"]
    return [
        Golden(
            row["prompt"] or row["prompt_ids"],  # an empty text is refused; its tokens, <s> alone, are not
            Answer(row["text"].removeprefix(row["prompt"]), len(row["output_ids"]), "length"),
        )
        for row in rows
        if row["first_end_token_at"] is None
    ]


def model_folder(model: str) -> str:
    folder: Path = shared_data("models", model)
    return str(folder)


# -- REST ------------------------------------------------------------------------------------------------------------


def openai_client(server: Tandem, api_key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.http}/v1", api_key=api_key, max_retries=0, timeout=PATIENCE_S)


def http_client(server: Tandem, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.http, timeout=PATIENCE_S, trust_env=False, **options)


async def stream_text(
    client: AsyncOpenAI,
    model: str,
    prompt: str | list[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    on_text: Callable[[], None] = lambda: None,
    **options: Any,
) -> Answer:
    """Stream one completion that goes on for `max_tokens`; `on_text` hears of each piece of text."""
    chunks = await client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        **options,
    )
    text, finish, num_tokens = "", "", 0
    async for chunk in chunks:
        for choice in chunk.choices:
            text += choice.text
            finish = choice.finish_reason or finish
            if choice.text:
                on_text()
        num_tokens = chunk.usage.completion_tokens if chunk.usage else num_tokens
    return Answer(text, num_tokens, finish)


async def until(condition: Callable[[], Awaitable[bool]], seen: object) -> None:
    """Wait until it holds; what other processes do can only be asked for. Fails with what was `seen`."""
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.05)


async def until_idle(server: Tandem, *, num_workers: int, api_key: str = "") -> None:
    """Wait until every worker is there and holds nothing for anybody; nothing has leaked then."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    reports: list[dict[str, Any]] = []

    async def idle() -> bool:
        reports[:] = (await http.get("/debug/custody")).json()
        return len(reports) == num_workers and all(report.get("holders") == [] for report in reports)

    async with http_client(server, headers=headers) as http:
        await until(idle, reports)
    assert [report["leaked_blocks"] for report in reports] == [0] * num_workers, reports
    for report in reports:
        assert report["free_blocks"] + report["cached_blocks"] == report["num_blocks"]


async def metric(server: Tandem, name: str, **labels: str) -> list[float]:
    """The values of all samples of this name that carry these labels."""
    async with http_client(server) as http:
        families = text_string_to_metric_families((await http.get("/metrics")).text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return [sample.value for sample in samples if labels.items() <= sample.labels.items()]


# -- gRPC ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def grpc_stub(server: Tandem) -> AsyncIterator[generate_pb2_grpc.InferenceStub]:
    async with grpc.aio.insecure_channel(server.grpc, options=GRPC_OPTIONS) as channel:
        yield generate_pb2_grpc.InferenceStub(channel)


def chat_request(question: str, max_tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=question)]),
        sampling=pb.Sampling(temperature=0.0),
        stopping=pb.Stopping(max_tokens=max_tokens),
    )


def endless_request(prompt: list[int], max_tokens: int) -> pb.GenerateRequest:
    """Greedy, and goes on for `max_tokens`."""
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt),
        sampling=pb.Sampling(temperature=0.0),
        stopping=pb.Stopping(max_tokens=max_tokens, ignore_eos=True),
    )


async def read_to_end(call: "grpc.aio.UnaryStreamCall[Any, pb.GenerateResponse]") -> None:
    """What is left of a stream whose messages are read one by one. Raises what it ends with."""
    while await call.read() is not grpc.aio.EOF:
        pass
