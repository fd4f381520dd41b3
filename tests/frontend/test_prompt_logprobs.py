"""How likely prompts are, through whole clusters, against transformers with the same weights."""

import asyncio
import json
from array import array
from dataclasses import replace

import pytest
import torch

from engine.config import WorkerConfig
from engine.device import OpenModel, open_model
from engine.errors import InvalidRequest, ProtocolError
from frontend.checks import MAX_PROMPT_LOGPROBS, ModelLimits, resolve
from frontend.events import Finish, PromptToken
from frontend.request import GenerateRequest, TokenPrompt
from frontend.router import Policy
from frontend.scores import PromptScores
from frontend.text.tokenizer import Tokenizer
from protos import worker_pb2 as pb
from tests.cluster import Cluster, Completion, cluster
from tests.reference import load_reference, reference_logits
from tests.shared_data import shared_data

MODEL = ("models", "stories260K")
TOP = 3


def prompts() -> list[tuple[int, ...]]:
    """Of different lengths; two of them begin alike."""
    rows = json.loads((shared_data(*MODEL) / "golden_greedy.json").read_text())["cases"][:4]
    made = [tuple(row["prompt_ids"] + row["output_ids"]) for row in rows]
    return [made[0], made[1][:9], made[2], (*made[0], *made[1][1:]), (1,)]


@pytest.fixture(scope="module")
def expected() -> dict[tuple[int, ...], torch.Tensor]:
    """Log-probabilities at every position, by prompt."""
    model = load_reference(shared_data(*MODEL))
    return {prompt: reference_logits(model, prompt).double().log_softmax(-1) for prompt in prompts()}


def asked(prompt: tuple[int, ...], max_tokens: int = 4, top: int = TOP) -> GenerateRequest:
    return GenerateRequest(
        prompt=TokenPrompt(prompt), max_tokens=max_tokens, temperature=0.0, ignore_eos=True, prompt_logprobs=top
    )


def check(prompt: tuple[int, ...], told: tuple[PromptToken, ...], expected: torch.Tensor) -> None:
    assert [token.token_id for token in told] == list(prompt)
    assert (told[0].logprob, told[0].rank, told[0].top) == (None, None, ())
    for place, token in enumerate(told[1:], 1):
        row = expected[place - 1]
        assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-3)
        assert token.rank is not None
        likelier = float((row > row[token.token_id]).sum())
        assert token.rank == pytest.approx(1 + likelier, abs=2), "where many are hardly likely, some are equally so"
        best = row.topk(TOP)
        assert [other.logprob for other in token.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert row[[other.token_id for other in token.top]].tolist() == pytest.approx(best.values.tolist(), abs=1e-3)


async def answers(running: Cluster, expected: dict[tuple[int, ...], torch.Tensor]) -> list[Completion]:
    made = await asyncio.gather(*(running.complete(asked(prompt)) for prompt in prompts()))
    for prompt, answer in zip(prompts(), made, strict=True):
        check(prompt, answer.prompt, expected[prompt])
        assert answer.finished.usage.cached_tokens == 0
    return list(made)


@pytest.mark.parametrize("prefill", [0, 1])
async def test_they_are_those_of_the_reference_whatever_was_cached(
    prefill: int, expected: dict[tuple[int, ...], torch.Tensor]
) -> None:
    worker = {"max_step_tokens": 13, "block_tokens": 4}
    async with cluster(shared_data(*MODEL), prefill=prefill, worker=worker) as running:
        plain = [
            GenerateRequest(prompt=TokenPrompt(prompt), max_tokens=4, temperature=0.0, ignore_eos=True)
            for prompt in prompts()
        ]
        first = [await running.complete(request) for request in plain]
        again = [await running.complete(request) for request in plain]
        assert any(answer.finished.usage.cached_tokens for answer in again), "the test is about prefix caches"
        told = await answers(running, expected)
        assert [answer.token_ids for answer in told] == [answer.token_ids for answer in first]


async def test_with_preemptions_nothing_is_said_twice(expected: dict[tuple[int, ...], torch.Tensor]) -> None:
    options = {"num_blocks": 24, "block_tokens": 8, "max_step_tokens": 16}
    async with cluster(shared_data(*MODEL), prefill=0, worker=options) as running:
        longer = [asked(prompt, max_tokens=60) for prompt in prompts()[:3]] * 2
        made = await asyncio.gather(*map(running.complete, longer))
        for request, answer in zip(longer, made, strict=True):
            assert isinstance(request.prompt, TokenPrompt)
            check(request.prompt.ids, answer.prompt, expected[request.prompt.ids])
        assert sum(load.preemptions for load in running.loads(pb.ROLE_DECODE)) > 0, "the test is about preemption"


async def test_a_prefill_worker_that_is_lost_changes_nothing(expected: dict[tuple[int, ...], torch.Tensor]) -> None:
    """Whether what it said was heard, in part or not at all."""
    options = {"max_step_tokens": 4, "block_tokens": 4}
    async with cluster(shared_data(*MODEL), prefill=2, policy=Policy(always_remote=True), worker=options) as running:
        tasks = [asyncio.create_task(answers(running, expected)) for _ in range(3)]
        for name in ("prefill-0", "prefill-1", "prefill-0"):
            await asyncio.sleep(0.05)
            running.proxies[name].cut()
        await asyncio.gather(*tasks)


async def test_an_answer_may_be_left_out(expected: dict[tuple[int, ...], torch.Tensor]) -> None:
    prompt = prompts()[0]
    async with cluster(shared_data(*MODEL)) as running:
        made = await running.complete(asked(prompt, max_tokens=0))
        check(prompt, made.prompt, expected[prompt])
        assert (made.token_ids, made.text) == ([], "")
        assert made.finished.reason is Finish.LENGTH
        assert (made.finished.usage.prompt_tokens, made.finished.usage.completion_tokens) == (len(prompt), 0)
        with pytest.raises(InvalidRequest) as raised:
            await running.complete(GenerateRequest(prompt="hi", max_tokens=0))
        assert raised.value.field == "max_tokens"


@pytest.mark.slow
async def test_with_several_ranks(expected: dict[tuple[int, ...], torch.Tensor]) -> None:
    def of_two_ranks(config: WorkerConfig, role: "pb.Role") -> OpenModel:
        size = 2 if role == pb.ROLE_PREFILL else 1
        return open_model(config.model_copy(update={"tensor_parallel": size, "stall_limit_s": 30.0}), role)

    async with cluster(shared_data(*MODEL), open_worker=of_two_ranks, worker={"max_step_tokens": 13}) as running:
        await answers(running, expected)


@pytest.mark.slow
async def test_with_int8_the_likeliest_are_mostly_the_same(expected: dict[tuple[int, ...], torch.Tensor]) -> None:
    async with cluster(shared_data(*MODEL), worker={"quantization": "int8", "max_step_tokens": 13}) as running:
        made = [await running.complete(asked(prompt)) for prompt in prompts()]
    pairs = [
        (token.top[0].token_id, int(expected[prompt][place].argmax()))
        for prompt, answer in zip(prompts(), made, strict=True)
        for place, token in enumerate(answer.prompt[1:])
    ]
    assert sum(ours == theirs for ours, theirs in pairs) / len(pairs) > 0.9


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "top", "together"), [(20_000, 20, 1), (200, 20, 100), (5, -1, 1), (5, 21, 1)])
def test_more_than_one_response_holds_is_refused(tokens: int, top: int, together: int) -> None:
    limits = ModelLimits(vocab_size=512, max_context=1 << 20, eos_token_ids=frozenset())
    request = replace(asked((1,), top=top), num_together=together)
    with pytest.raises(InvalidRequest) as raised:
        resolve(request, tokens, limits)
    assert raised.value.field == "prompt_logprobs"
    most = MAX_PROMPT_LOGPROBS // 2
    assert resolve(replace(request, prompt_logprobs=1, num_together=1), most, limits).max_tokens == 4


# -- what workers say --------------------------------------------------------------------------------------------------


def part(first: int, count: int, top: int = 1, value: float = -1.0) -> pb.PromptScores:
    numbers = array("f", [value] * count)
    return pb.PromptScores(
        first=first,
        logprobs=numbers.tobytes(),
        ranks=array("I", [2] * count).tobytes(),
        top_ids=array("i", [7] * count * top).tobytes(),
        top=array("f", [-0.5] * count * top).tobytes(),
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(shared_data(*MODEL))


async def test_what_is_said_anew_is_what_counts(tokenizer: Tokenizer) -> None:
    scores = PromptScores(6, 1)
    for said in (part(1, 2), part(3, 1), part(1, 1, value=-3.0), part(2, 4, value=-4.0)):
        scores.take(said)
    told = (await scores.told([1, 2, 3, 4, 5, 6], tokenizer)).tokens
    assert [token.logprob for token in told] == [None, -3.0, -4.0, -4.0, -4.0, -4.0]
    assert told[3].rank == 2
    assert [(other.token_id, other.logprob) for other in told[3].top] == [(7, -0.5)]


async def test_a_gap_is_seen(tokenizer: Tokenizer) -> None:
    scores = PromptScores(6, 1)
    scores.take(part(1, 2))
    with pytest.raises(ProtocolError):
        await scores.told([1, 2, 3, 4, 5, 6], tokenizer)
    for wrong in (part(4, 2), part(0, 1), part(3, 4), part(3, 1, top=2), pb.PromptScores(first=3, logprobs=b"abc")):
        with pytest.raises(ProtocolError):
            scores.take(wrong)
