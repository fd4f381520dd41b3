"""A decode worker that computes nothing: it grants every leg at once and says a token for each of them at every tick.

    python -m bench.fake_worker --tick-ms 20

Speaks the Session protocol of protos/worker.proto as `decode/` does; prints `ready ADDRESS` when it serves. What a
frontend costs is measured with it, without a model's work beside it.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc.aio
import uvloop

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc

TOKEN = 325
"""The word " token" of the demonstration model's vocabulary: clients count it."""


class FakeDecodeWorker(worker_pb2_grpc.WorkerServicer):
    """Every leg gets its `max_tokens`, one per tick; a tick of 0 s follows the last at once."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s

    async def Session(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[pb.WorkerCommand], context: object
    ) -> AsyncIterator[pb.WorkerEvent]:
        legs: dict[int, list[int]] = {}  # tokens said so far, and to say
        answers: asyncio.Queue[pb.WorkerEvent] = asyncio.Queue()
        wake = asyncio.Event()
        reader = asyncio.create_task(self._read(request_iterator, legs, answers, wake))
        try:
            yield pb.WorkerEvent(hello=_hello())
            yield pb.WorkerEvent(load=pb.Load(free_blocks=1 << 20))
            due = time.monotonic()
            while not reader.done():
                while not answers.empty():
                    yield answers.get_nowait()
                if not legs:
                    wake.clear()
                    await wake.wait()
                    due = time.monotonic()
                    continue
                yield pb.WorkerEvent(step_output=self._step(legs))
                due = max(due + self._tick_s, time.monotonic())
                await asyncio.sleep(max(due - time.monotonic(), 0.0))
        finally:
            reader.cancel()

    async def _read(
        self,
        commands: AsyncIterator[pb.WorkerCommand],
        legs: dict[int, list[int]],
        answers: "asyncio.Queue[pb.WorkerEvent]",
        wake: asyncio.Event,
    ) -> None:
        async for command in commands:
            if command.HasField("admit"):
                leg = command.admit.leg
                answers.put_nowait(pb.WorkerEvent(granted=pb.Granted(leg=leg)))
                answers.put_nowait(pb.WorkerEvent(prefill_done=pb.PrefillDone(leg=leg, num_chunks=1)))
                legs[leg] = [0, command.admit.sampling.max_tokens]
            elif command.HasField("abort"):
                legs.pop(command.abort.leg, None)
                answers.put_nowait(pb.WorkerEvent(released=pb.Released(leg=command.abort.leg)))
            wake.set()

    def _step(self, legs: dict[int, list[int]]) -> pb.StepOutput:
        now = time.monotonic_ns()
        output = pb.StepOutput(start_ns=now - int(self._tick_s * 1e9), end_ns=now)
        for leg, progress in list(legs.items()):
            progress[0] += 1
            ended = progress[0] >= progress[1]
            output.legs.append(leg)
            output.indices.append(progress[0] - 1)
            output.token_ids.append(TOKEN)
            output.finish_reasons.append(pb.FINISH_REASON_LENGTH if ended else pb.FINISH_REASON_UNSPECIFIED)
            if ended:
                del legs[leg]
        return output


def _hello() -> pb.Hello:
    return pb.Hello(
        worker_id="fake",
        incarnation="1",
        role=pb.ROLE_DECODE,
        model="bench",
        layout="bench",
        num_blocks=1 << 20,
        block_tokens=16,
        block_bytes=1024,
        max_context=1 << 17,
        max_sequences=4096,
        lease_ms=10_000,
        vocab_size=2048,
        max_step_tokens=4096,
    )


async def serve(tick_s: float) -> None:
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServicer_to_server(FakeDecodeWorker(tick_s), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tick-ms", type=float, default=20.0, help="between two tokens of a stream; 0: flat out")
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(args.tick_ms / 1e3))


if __name__ == "__main__":
    main()
