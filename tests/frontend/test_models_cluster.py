"""Two models on real workers behind one frontend: each answers as it does alone, beside the other."""

import asyncio

from engine.hub import DEMO_MODEL
from frontend.request import GenerateRequest, TokenPrompt
from tests.cluster import cluster
from tests.e2e.clients import STORIES, goldens
from tests.shared_data import shared_data

DEMO = DEMO_MODEL.name
QUESTIONS = ("What is prefill?", "What is a KV cache? " * 20, "Why?")
"""One fills several blocks, which move from prefill to decode."""


def greedy(model: str, prompt: str | list[int], max_tokens: int) -> GenerateRequest:
    text = prompt if isinstance(prompt, str) else TokenPrompt(tuple(prompt))
    return GenerateRequest(prompt=text, model=model, max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


async def test_each_answers_as_it_does_alone() -> None:
    async with cluster(DEMO_MODEL) as alone:
        expected = [(await alone.complete(greedy(DEMO, question, 24))).token_ids for question in QUESTIONS]
    rows = goldens(STORIES)
    requests = [greedy(DEMO, question, 24) for question in QUESTIONS]
    requests += [greedy(STORIES, row.prompt, row.answer.num_tokens) for row in rows]
    async with cluster(shared_data("models", STORIES), DEMO_MODEL) as running:
        for _ in range(2):  # the second time, out of the prefix caches
            answers = await asyncio.gather(*map(running.complete, requests))
            assert [answer.token_ids for answer in answers[: len(expected)]] == expected
            assert [answer.text for answer in answers[len(expected) :]] == [row.answer.text for row in rows]
            assert [answer.started.model for answer in answers] == [request.model for request in requests]
        used = {each.model: each.requests for each in running.inference.accounts.all()}
        assert used == {DEMO: 2 * len(expected), STORIES: 2 * len(rows)}
        assert all(status.ready for status in running.inference.statuses())
