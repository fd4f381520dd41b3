import grpc
import pytest
from typer.testing import CliRunner, Result

from cli.__main__ import app
from engine.tls import Tls
from tests.certificates import Authority
from tests.cli.fake_server import FakeInference, start


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


def chat(inference: FakeInference, *arguments: str, typed: str | None = None) -> Result:
    server, port = start(inference)
    try:
        return CliRunner().invoke(app, ["chat", "--grpc", f"127.0.0.1:{port}", *arguments], input=typed)
    finally:
        server.stop(None).wait()


def test_one_question_gets_its_answer() -> None:
    inference = FakeInference()
    result = chat(inference, "--temperature", "0", "--max-tokens", "9", "--system", "Be brief.", "What is it?")
    assert result.exit_code == 0
    assert result.output == "Keys and values.\n"
    (request,) = inference.asked
    assert [(m.role, m.content) for m in request.chat.messages] == [("system", "Be brief."), ("user", "What is it?")]
    assert (request.sampling.temperature, request.stopping.max_tokens) == (0.0, 9)
    assert request.sampling.HasField("temperature")


def test_what_is_not_given_is_left_to_the_model() -> None:
    inference = FakeInference()
    chat(inference, "hello")
    assert not inference.asked[0].sampling.HasField("temperature")
    assert not inference.asked[0].stopping.HasField("max_tokens")


def test_a_conversation_remembers_what_was_said() -> None:
    inference = FakeInference(words=("yes",))
    result = chat(inference, typed="first\nsecond\n\nnever asked\n")
    assert result.exit_code == 0
    assert [len(request.chat.messages) for request in inference.asked] == [1, 3]
    assert [m.content for m in inference.asked[1].chat.messages] == ["first", "yes", "second"]


def test_timing_shows_the_ledger_under_the_answer() -> None:
    output = chat(FakeInference(), "--timing", "hello").output
    assert output.startswith("Keys and values.\n")
    lines = {line.split("  ")[0].strip(): line for line in output.splitlines()[1:]}
    assert "7.5 ms" in lines["prefill_compute"]
    assert lines["prefill_compute"].count("█") == 3 * lines["tokenize"].count("█")
    assert "10.0 ms" in lines["time to first token"]
    assert "4.0 ms" in lines["first to second token"]
    assert "20 prompt tokens (16 cached), 3 completion tokens" in output
    assert "workers' clocks are known ± 0.25 ms" in output


def test_the_key_is_sent_and_an_error_is_told() -> None:
    assert chat(FakeInference(api_key="k"), "--api-key", "k", "hello").exit_code == 0
    refused = chat(FakeInference(api_key="k"), "--api-key", "other", "hello")
    assert refused.exit_code == 1
    assert "tandem: unauthenticated: the key is wrong" in refused.output


def test_a_server_that_is_not_there_is_told() -> None:
    server, port = start(FakeInference())
    server.stop(None).wait()
    result = CliRunner().invoke(app, ["chat", "--grpc", f"127.0.0.1:{port}", "hello"])
    assert result.exit_code == 1
    assert "tandem: unavailable" in result.output


def test_a_failed_question_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    inference = FakeInference(words=("yes",))
    generate = inference.Generate

    def fail_once(request: object, context: grpc.ServicerContext) -> object:
        if not inference.asked:
            inference.asked.append(request)
            context.abort(grpc.StatusCode.UNAVAILABLE, "no worker")
        return generate(request, context)

    monkeypatch.setattr(inference, "Generate", fail_once)
    chat(inference, typed="first\nsecond\n")
    assert [m.content for m in inference.asked[1].chat.messages] == ["second"]


def test_a_server_with_tls_is_believed_by_its_authority_and_asks_who_one_is(authority: Authority) -> None:
    own, mine = authority.issue("server"), authority.issue("me")
    server, port = start(FakeInference(), credentials=Tls(own.cert, own.key, authority.cert).listens())
    try:
        command = ["chat", "--grpc", f"grpcs://127.0.0.1:{port}", "hello"]
        known = [*command, "--ca", authority.cert, "--cert", mine.cert, "--key", mine.key]
        assert CliRunner().invoke(app, known).output == "Keys and values.\n"
        for arguments in (command, [*command, "--ca", authority.cert]):
            refused = CliRunner().invoke(app, arguments)
            assert refused.exit_code == 1
            assert "tandem: unavailable" in refused.output
    finally:
        server.stop(None).wait()


def test_an_authority_without_tls_is_refused(authority: Authority) -> None:
    refused = CliRunner().invoke(app, ["chat", "--grpc", "127.0.0.1:1", "--ca", authority.cert, "hello"])
    assert refused.exit_code == 1
    assert "does not begin with grpcs://" in " ".join(refused.output.split())
