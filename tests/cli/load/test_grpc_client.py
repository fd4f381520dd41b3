from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cli.load.config import LoadConfig, TargetConfig
from cli.load.grpc_client import read_messages
from cli.load.run import Result, run_load
from cli.trust import Trust
from engine.errors import ConfigError
from engine.tls import Tls
from protos import generate_pb2 as pb
from tests.certificates import Authority
from tests.cli.fake_server import FakeInference, start

DELTA = pb.GenerateResponse(delta=pb.Delta(text="a", token_ids=[1, 2])).SerializeToString()
SILENT = pb.GenerateResponse(delta=pb.Delta(text="b")).SerializeToString()
STARTED = pb.GenerateResponse(started=pb.Started(request_id="r")).SerializeToString()
FINISHED = pb.GenerateResponse(
    finished=pb.Finished(usage=pb.Usage(prompt_tokens=9, completion_tokens=4))
).SerializeToString()


class Inference(FakeInference):
    """Knows its vocabulary; refuses every third request, and lets every other third break off."""

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(name="fake", vocab_size=50, max_context=99)])

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        number = len(self.asked)
        if number % 3 == 1:
            self.asked.append(request)
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"no place for number {number}")
        for response in super().Generate(request, context):
            if number % 3 == 2 and response.HasField("finished"):
                return
            yield response


def bench(url: str, target: dict[str, object] | None = None, **fields: object) -> Result:
    asked = TargetConfig(url=url, **(target or {}))  # type: ignore[arg-type]
    defaults: dict[str, object] = {"num_prompts": 3, "input_len": 8, "output_len": 3, "num_warmups": 0}
    return run_load(LoadConfig(target=asked, concurrency=1, **(defaults | fields)))  # type: ignore[arg-type]


def test_a_run_counts_tokens_and_failures_by_status() -> None:
    inference = Inference(api_key="secret")
    server, port = start(inference)
    try:
        result = bench(f"grpc://127.0.0.1:{port}", {"api_key": "secret"})
        refused = bench(f"grpc://127.0.0.1:{port}", {"api_key": "wrong"}, num_prompts=1)
    finally:
        server.stop(None)
    assert result.failures == {"RESOURCE_EXHAUSTED": 1, "stream cut short": 1}
    assert "no place for number 1" in (result.records[1].error or "")
    assert (result.summary["total_input_tokens"], result.summary["total_output_tokens"]) == (20, 3)
    assert [len(record.reply.chunks_s) for record in result.records] == [3, 0, 3]
    assert (result.vocab, result.model.max_context) == (50, 99)
    assert refused.failures == {"UNAUTHENTICATED": 1}
    asked = inference.asked[0]
    assert (asked.model, len(asked.token_ids.ids), max(asked.token_ids.ids) < 50) == ("fake", 8, True)
    assert (asked.stopping.max_tokens, asked.stopping.ignore_eos, asked.sampling.temperature) == (3, True, 0.0)
    assert asked.sampling.HasField("temperature"), "0 is greedy; without it the model's default would be taken"


def test_only_deltas_with_tokens_are_counted() -> None:
    reply = read_messages([(0.0, STARTED), (1.0, DELTA), (2.0, SILENT), (3.0, DELTA), (4.0, FINISHED)])
    assert (reply.chunks_s, reply.prompt_tokens, reply.output_tokens, reply.error) == ((1.0, 3.0), 9, 4, None)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([STARTED, DELTA], "stream cut short"),
        ([STARTED, FINISHED], "no tokens"),
        ([DELTA, b"\xff\xff"], "malformed message"),
    ],
)
def test_calls_that_end_otherwise_are_failures(messages: list[bytes], error: str) -> None:
    reply = read_messages([(0.0, message) for message in messages])
    assert (reply.error or "").partition(":")[0] == error


def test_a_server_that_is_not_there_and_fields_of_json_are_refused() -> None:
    with pytest.raises(ConfigError, match="no list of models from .*: UNAVAILABLE"):
        bench("grpc://127.0.0.1:1")
    with pytest.raises(ConfigError, match="--extra-body"):
        bench("grpc://127.0.0.1:1", {"extra_body": {"a": 1}})


def test_a_server_with_tls_is_measured_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    own = authority.issue("server")
    server, port = start(Inference(), credentials=Tls(own.cert, own.key).listens())
    try:
        result = bench(f"grpcs://127.0.0.1:{port}", {"trust": Trust(ca=Path(authority.cert))}, num_prompts=1)
    finally:
        server.stop(None)
    assert result.failures == {}
