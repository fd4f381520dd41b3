"""The same request gives the same answer: in any company, on any worker, preempted, interrupted or not."""

import asyncio
from collections.abc import Mapping

import pytest

from frontend.events import Finish
from frontend.request import GenerateRequest
from frontend.router import Policy
from protos import worker_pb2 as pb
from tests.cluster import Cluster, Completion, cluster
from tests.shared_data import shared_data

MODEL = ("models", "stories260K")
SAMPLED = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 40}
REQUESTS: list[Mapping[str, object]] = [
    {"seed": 1},
    {"seed": 2, "top_k": 5},
    {"seed": 3, "min_p": 0.1, "repetition_penalty": 1.3},
    {"seed": 4, "presence_penalty": 1.0, "frequency_penalty": 0.5},
    {"seed": 5, "logit_bias": {300: 5.0, 310: -100.0}},
    {"seed": 6, "min_tokens": 30},
]


def request(**options: object) -> GenerateRequest:
    return GenerateRequest(prompt="Once upon a time", **{**SAMPLED, **options})


async def alone(running: Cluster) -> list[Completion]:
    return [await running.complete(request(**options)) for options in REQUESTS]


async def together(running: Cluster, copies: int = 2) -> list[Completion]:
    answers = await asyncio.gather(*(running.complete(request(**options)) for options in REQUESTS * copies))
    for first, *others in zip(*(iter([answers[i :: len(REQUESTS)] for i in range(len(REQUESTS))]),), strict=True):
        assert all(other.token_ids == first.token_ids for other in others)
    return answers[: len(REQUESTS)]


async def test_a_seed_means_one_answer_wherever_it_is_made() -> None:
    folder = shared_data(*MODEL)
    async with cluster(folder) as running:
        expected = [answer.token_ids for answer in await alone(running)]
        assert len({tuple(tokens) for tokens in expected}) == len(expected), "seeds do not matter"
        assert [answer.token_ids for answer in await together(running)] == expected
    async with cluster(folder, prefill=0, decode=2) as running:
        assert [answer.token_ids for answer in await together(running)] == expected
    async with cluster(folder, worker={"num_blocks": 30, "block_tokens": 4, "max_step_tokens": 5}) as running:
        assert [answer.token_ids for answer in await together(running, copies=4)] == expected
        assert sum(load.preemptions for load in running.loads(pb.ROLE_DECODE)) > 0


async def test_an_answer_survives_the_loss_of_its_workers() -> None:
    folder = shared_data(*MODEL)
    async with cluster(folder, prefill=2, decode=2, policy=Policy(always_remote=True)) as running:
        expected = [answer.token_ids for answer in await alone(running)]
        answers = asyncio.gather(*(running.complete(request(**options)) for options in REQUESTS * 4))
        for name in ("decode-0", "prefill-1", "decode-1"):
            await asyncio.sleep(0.05)
            running.proxies[name].cut()
        assert [answer.token_ids for answer in await answers] == expected * 4
        assert running.metrics.exposition().count(b"tandem_retries_total 0.0") == 0, "nobody was interrupted"


async def test_stop_strings_cut_the_text_and_never_leak() -> None:
    async with cluster(shared_data(*MODEL)) as running:
        whole = await running.complete(request(temperature=0.0))
        stop = whole.text[20:26]
        answer = await running.complete(request(temperature=0.0, stop=("never there", stop)))
        included = await running.complete(request(temperature=0.0, stop=(stop,), include_stop=True))

    assert answer.text == whole.text[: whole.text.index(stop)]
    assert (answer.finished.reason, answer.finished.matched) == (Finish.STOP, stop)
    assert included.text == answer.text + stop


async def test_stop_tokens_end_the_answer_and_are_not_in_its_text() -> None:
    async with cluster(shared_data(*MODEL)) as running:
        whole = await running.complete(request(temperature=0.0))
        token = whole.token_ids[7]
        first = whole.token_ids.index(token)
        answer = await running.complete(request(temperature=0.0, stop_token_ids=(token,)))
        later = await running.complete(request(temperature=0.0, stop_token_ids=(token,), min_tokens=first + 1))

    assert answer.token_ids == whole.token_ids[: first + 1]
    assert (answer.finished.reason, answer.finished.matched) == (Finish.STOP, token)
    assert whole.text.startswith(answer.text)
    assert len(later.token_ids) > first + 1


@pytest.mark.parametrize("prefill", [0, 1])
async def test_an_answer_of_one_token_needs_no_transfer(prefill: int) -> None:
    async with cluster(shared_data(*MODEL), prefill=prefill) as running:
        answer = await running.complete(request(temperature=0.0, max_tokens=1))

        assert len(answer.token_ids) == 1
        assert answer.finished.reason is Finish.LENGTH
        assert answer.finished.timing.second_token_ms is None
        timing = answer.finished.timing
        assert sum(timing.ttft_segments.values()) == pytest.approx(timing.ttft_ms, abs=1e-6)
