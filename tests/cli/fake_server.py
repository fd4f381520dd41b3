"""A frontend without a model: answers the public gRPC API with a fixed text."""

import threading
from collections.abc import Iterator
from concurrent import futures

import grpc

from protos import generate_pb2 as pb
from protos.generate_pb2_grpc import InferenceServicer, add_InferenceServicer_to_server


class FakeInference(InferenceServicer):
    """Remembers what it was asked."""

    def __init__(self, words: tuple[str, ...] = ("Keys ", "and ", "values."), api_key: str | None = None) -> None:
        self.words = words
        self.api_key = api_key
        self.finishes = True
        """Otherwise an answer stops after its words until the call ends."""
        self.asked: list[pb.GenerateRequest] = []

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(name="fake")])

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        if self.api_key and dict(context.invocation_metadata()).get("authorization") != f"Bearer {self.api_key}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the key is wrong")
        self.asked.append(request)
        yield pb.GenerateResponse(started=pb.Started(request_id="r-1", model="fake"))
        for index, word in enumerate(self.words):
            yield pb.GenerateResponse(delta=pb.Delta(text=word, token_ids=[index], first_index=index))
        if not self.finishes:
            is_over = threading.Event()
            if context.add_callback(is_over.set):
                is_over.wait()
            return
        timing = pb.Timing(
            ttft_ms=10.0,
            ttft_segments=[pb.Segment(name="tokenize", ms=2.5), pb.Segment(name="prefill_compute", ms=7.5)],
            second_token_ms=4.0,
            second_token_segments=[pb.Segment(name="decode_step", ms=4.0)],
            clock_within_ms=0.25,
        )
        usage = pb.Usage(prompt_tokens=20, completion_tokens=len(self.words), cached_tokens=16)
        yield pb.GenerateResponse(finished=pb.Finished(usage=usage, timing=timing))


def start(
    inference: FakeInference, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> tuple[grpc.Server, int]:
    """Serve; the second value is the port."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_InferenceServicer_to_server(inference, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    return server, port
