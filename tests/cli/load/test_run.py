"""Whole runs against a server that plays scripts."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from cli.load.config import LoadConfig, TargetConfig
from cli.load.run import Result, run_load
from engine.errors import ConfigError, Unavailable
from tests.cli.load.fake_openai import Answer, FakeOpenAI, serving


class Serve(Protocol):
    def __call__(self, fake: FakeOpenAI) -> str: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda fake: stack.enter_context(serving(fake))


def bench(url: str, timeout_s: float = 20.0, target: dict[str, object] | None = None, **fields: object) -> Result:
    asked = TargetConfig(url=url, timeout_s=timeout_s, **(target or {}))  # type: ignore[arg-type]
    defaults: dict[str, object] = {"num_prompts": 6, "input_len": 8, "output_len": 3, "num_warmups": 0}
    return run_load(LoadConfig(target=asked, **(defaults | fields)))  # type: ignore[arg-type]


def test_known_chunks_are_counted_and_requests_ask_what_was_wanted(serve: Serve) -> None:
    fake = FakeOpenAI()
    result = bench(serve(fake), num_warmups=1, target={"api_key": "secret", "extra_body": {"top_k": 5}})
    assert (result.summary["completed"], result.summary["failed"]) == (6, 0)
    assert (result.summary["total_input_tokens"], result.summary["total_output_tokens"]) == (48, 18)
    assert [len(record.reply.chunks_s) for record in result.records] == [3] * 6
    assert [record.index for record in result.records] == list(range(6))
    assert result.notes == ("random prompts, token ids below 50 (told by the server)",)
    assert len(fake.bodies) == 7, "one is the warm-up"
    assert set(fake.keys) == {"Bearer secret"}
    body = fake.bodies[-1]
    prompt = body.pop("prompt")
    assert isinstance(prompt, list)
    assert len(prompt) == 8
    assert body == {
        "model": "fake",
        "max_tokens": 3,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_k": 5,
    }


def test_times_are_in_order_within_the_run(serve: Serve) -> None:
    result = bench(serve(FakeOpenAI()), request_rate=1000.0)
    for record in result.records:
        times = [record.due_s, record.sent_s, *record.reply.chunks_s, record.end_s, result.duration_s]
        assert times == sorted(times)


def test_several_tokens_in_a_chunk_are_counted_as_the_usage_counts_them(serve: Serve) -> None:
    result = bench(serve(FakeOpenAI(rest=Answer(("ab", "c"), tokens=3))))
    assert result.summary["total_output_tokens"] == 18
    assert result.summary["tokens_per_chunk"] == pytest.approx(1.5)


def test_failures_are_counted_by_kind_and_each_keeps_its_words(serve: Serve) -> None:
    answers = [Answer(status=500), Answer(status=429), Answer(status=429), Answer(is_cut=True), Answer(("a",))]
    result = bench(serve(FakeOpenAI(answers)), concurrency=1)
    assert result.failures == {"HTTP 429": 2, "HTTP 500": 1, "stream cut short": 1}
    assert (result.summary["completed"], result.summary["failed"]) == (2, 4)
    assert "no place for number 2" in (result.records[1].error or "")
    assert len(result.records[3].reply.chunks_s) == 3, "what came is kept"
    assert result.summary["total_output_tokens"] == 4
    assert "1 answers have another length than was asked for" in result.notes


def test_an_answer_that_never_ends_is_a_timeout(serve: Serve) -> None:
    result = bench(serve(FakeOpenAI(rest=Answer(is_held=True))), timeout_s=1.0, num_prompts=3)
    assert result.failures == {"timeout after 1 s": 3}
    assert [record.output_tokens for record in result.records] == [3, 3, 3]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_closed_loop_never_has_more_requests_open_than_clients(serve: Serve, concurrency: int) -> None:
    result = bench(serve(FakeOpenAI()), concurrency=concurrency, num_prompts=12)
    assert result.summary["completed"] == 12
    assert result.summary["peak_concurrency"] == concurrency


def test_a_cap_holds_an_open_loop_back(serve: Serve) -> None:
    capped = bench(serve(FakeOpenAI()), request_rate=float("inf"), concurrency=1)
    assert capped.summary["peak_concurrency"] == 1
    assert [record.due_s for record in capped.records] == [0] * 6
    assert bench(serve(FakeOpenAI(rest=Answer(is_held=True))), timeout_s=1.0).summary["peak_concurrency"] == 6


def test_chat_sends_messages(serve: Serve, tmp_path: Path) -> None:
    fake = FakeOpenAI()
    prompts = tmp_path / "p.txt"
    prompts.write_text("hello\n")
    result = bench(serve(fake), target={"endpoint": "chat"}, prompts=prompts, num_prompts=1)
    assert fake.bodies[0]["messages"] == [{"role": "user", "content": "hello"}]
    assert (result.summary["completed"], len(result.records[0].reply.chunks_s)) == (1, 3)


def test_a_first_request_that_fails_ends_the_run_with_its_reason(serve: Serve) -> None:
    with pytest.raises(Unavailable, match="HTTP 500: .*no place for number 1"):
        bench(serve(FakeOpenAI([Answer(status=500)])), num_warmups=1)


def test_a_model_that_is_not_served_and_a_server_that_is_not_there_are_refused(serve: Serve) -> None:
    with pytest.raises(ConfigError, match="has no model 'other'; it has: fake"):
        bench(serve(FakeOpenAI()), target={"model": "other"})
    with pytest.raises(ConfigError, match="no server at"):
        bench("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="neither http"):
        bench("ftp://127.0.0.1")


def test_what_a_server_tells_of_its_vocabulary_is_believed_in_every_dialect(serve: Serve) -> None:
    assert bench(serve(FakeOpenAI(model={"id": "m", "meta": {"n_vocab": 40}}))).vocab == 40
    silent = bench(serve(FakeOpenAI(model={"id": "m", "max_model_len": 99})))
    assert (silent.vocab, silent.model.max_context) == (32_000, 99)
