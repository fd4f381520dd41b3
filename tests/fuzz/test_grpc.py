"""The public service and the worker's stream with messages that nobody of ours sends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from frontend.callers import KeyRing
from frontend.grpc_errors import DETAILS_KEY
from frontend.service import SERVICE, build_server
from protos import generate_pb2, worker_pb2
from protos import kvtransfer_pb2 as kv
from tests.frontend.fake_inference import FakeInference
from tests.fuzz.budget import fuzz
from tests.fuzz.strategies import messages, mutated
from tests.fuzz.workers import Workers

METHODS: dict[str, SearchStrategy[bytes]] = {
    "Generate": messages(generate_pb2.GenerateRequest).map(lambda m: m.SerializeToString()),
    "Tokenize": messages(generate_pb2.TokenizeRequest).map(lambda m: m.SerializeToString()),
    "Detokenize": messages(generate_pb2.DetokenizeRequest).map(lambda m: m.SerializeToString()),
    "ListModels": messages(generate_pb2.ListModelsRequest).map(lambda m: m.SerializeToString()),
    "GetServerInfo": messages(generate_pb2.GetServerInfoRequest).map(lambda m: m.SerializeToString()),
}
THEIR_FAULT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
BEYOND_THE_MODEL = grpc.StatusCode.UNIMPLEMENTED
"""It has no tokens for what stands between two texts."""


@st.composite
def calls(draw: DrawFn) -> tuple[str, bytes]:
    method = draw(st.sampled_from(sorted(METHODS)))
    return method, draw(mutated(METHODS[method] | st.binary(max_size=40), max_edits=draw(st.sampled_from([0, 0, 3]))))


def test_no_message_is_a_servers_fault() -> None:
    inference = FakeInference()

    async def ask(channel: grpc.aio.Channel, method: str, raw: bytes) -> None:
        path = f"/{SERVICE}/{method}"
        call = channel.unary_stream(path)(raw, timeout=30)  # an answer is a stream of one
        with suppress(grpc.aio.AioRpcError):
            assert [answer async for answer in call] or method != "Generate"
        if (code := await call.code()) is not grpc.StatusCode.OK:
            assert code in THEIR_FAULT or (code is BEYOND_THE_MODEL and method == "Generate"), await call.details()
            trailers = dict(await call.trailing_metadata())
            status = Status.FromString(trailers[DETAILS_KEY])
            assert status.details[0].Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
        assert inference.running == 0
        inference.requests.clear()

    with asyncio.Runner() as runner, a_channel(runner, inference) as channel:
        fuzz("gRPC", calls(), lambda call: runner.run(ask(channel, *call)), quick=150)


@contextmanager
def a_channel(runner: asyncio.Runner, inference: FakeInference) -> Iterator[grpc.aio.Channel]:
    async def start() -> tuple[grpc.aio.Server, grpc.aio.Channel]:
        server, _ = build_server(inference, keys=KeyRing(), max_message_bytes=1 << 20, version="1")
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    async def stop() -> None:
        await channel.close()
        await server.stop(None)

    server, channel = runner.run(start())
    try:
        yield channel
    finally:
        runner.run(stop())


# -- a worker's stream -------------------------------------------------------------------------------------------------

SESSION = "/tandem.worker.v1.Worker/Session"
LAST_LEG = 2**63
"""Given up at the end of each example: its answer says that all before it was read."""
LAST = worker_pb2.WorkerCommand(abort=worker_pb2.Abort(leg=LAST_LEG)).SerializeToString()

legs = st.integers(0, 4)
odd_numbers = st.sampled_from([0, 1, 2, 300, 2**31, 2**32 - 1])


@st.composite
def samplings(draw: DrawFn) -> worker_pb2.Sampling:
    """What a frontend would send, with at most one thing wrong."""
    made = worker_pb2.Sampling(max_tokens=3, temperature=0.7, top_p=1.0, repetition_penalty=1.0, seed=draw(legs))
    odd_floats = st.sampled_from([-1.0, 0.0, 1e-300, 1e300, float("nan"), float("inf")]) | st.floats()
    match draw(st.sampled_from(["nothing", "a number", "a fraction", "a bias", "stops"])):
        case "a number":
            name = draw(st.sampled_from(["max_tokens", "min_tokens", "top_k", "num_logprobs"]))
            setattr(made, name, draw(odd_numbers))
        case "a fraction":
            names = ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
            setattr(made, draw(st.sampled_from(names)), draw(odd_floats))
        case "a bias":
            made.logit_bias[draw(st.integers(-1, 5000))] = draw(odd_floats)
        case "stops":
            made.stop_token_ids.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)))
    return made


@st.composite
def admits(draw: DrawFn) -> worker_pb2.WorkerCommand:
    tokens = draw(st.lists(st.integers(0, 200), min_size=1, max_size=40))
    made = worker_pb2.Admit(
        leg=draw(legs), request_id="r", attempt=draw(st.sampled_from([1, 2**32 - 1])), token_ids=tokens
    )
    made.num_prompt = draw(st.just(len(tokens)) | st.integers(1, len(tokens)) | odd_numbers)
    made.sampling.CopyFrom(draw(samplings()))
    made.traceparent = draw(st.sampled_from(["", "00-x", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "\0"]))
    if draw(st.booleans()):
        made.hash_root = draw(st.just(bytes(16)) | st.binary(max_size=20))
        made.block_hashes = draw(st.just(bytes(16 * (made.num_prompt % 100 // 16))) | st.binary(max_size=40))
    match draw(st.sampled_from(["reserve", "local", "push", "single", "none"])):
        case "reserve":
            made.reserve.SetInParent()
        case "local":
            made.local.SetInParent()
        case "push":
            made.push.ticket.CopyFrom(draw(messages(kv.Ticket)))
        case "single":
            made.single_token.SetInParent()
            made.sampling.max_tokens = draw(st.sampled_from([0, 1, 2]))
    return worker_pb2.WorkerCommand(admit=made)


commands = st.lists(
    (admits() | messages(worker_pb2.WorkerCommand).filter(lambda m: not m.HasField("drain"))).map(
        lambda m: m.SerializeToString()
    ),
    max_size=6,
)
streams = commands | st.lists(mutated(admits().map(lambda m: m.SerializeToString())), max_size=3)


def test_no_command_ends_a_worker_or_keeps_its_blocks() -> None:
    async def tell(commands: list[bytes]) -> None:
        running = await workers.running()
        for _, link in running.fleet.all_links:
            async with grpc.aio.insecure_channel(link.address) as channel:
                await _talk(channel, commands)
        await running.until_idle()
        ended = [name for name, task in running.tasks.items() if task.done()]
        assert not ended

    workers = Workers()
    with asyncio.Runner() as runner:
        try:
            fuzz("worker stream", streams, lambda commands: runner.run(tell(commands)), quick=60)
        finally:
            runner.run(workers.stop())


async def _talk(channel: grpc.aio.Channel, commands: list[bytes]) -> None:
    """Say all of it, and listen until the worker has read it, or has ended the stream over it."""
    stay = asyncio.Event()

    async def say() -> AsyncIterator[bytes]:
        for command in [*commands, LAST]:
            yield command
        await stay.wait()

    call = channel.stream_stream(SESSION, response_deserializer=worker_pb2.WorkerEvent.FromString)(say())
    with suppress(grpc.aio.AioRpcError):
        async with asyncio.timeout(30):
            async for event in call:
                if event.HasField("released") and event.released.leg == LAST_LEG:
                    break
    stay.set()
    call.cancel()
