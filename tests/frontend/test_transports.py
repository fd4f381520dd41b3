"""An answer is the same whatever carries its KV, also where a transport fails and another takes its place."""

import pytest

from engine.errors import TransferFailed
from frontend.request import GenerateRequest, TokenPrompt
from tests.cluster import cluster
from tests.shared_data import shared_data

REQUEST = GenerateRequest(prompt=TokenPrompt(tuple(range(1, 100))), max_tokens=12, temperature=0.0, ignore_eos=True)


async def answer(transport: str) -> list[int]:
    async with cluster(shared_data("models", "stories260K"), transport=transport) as running:
        return (await running.complete(REQUEST)).token_ids


async def test_over_gloo_nothing_else_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = await answer("ipc")
    monkeypatch.setattr("kvtransfer.zeromq.ZeroMQChannel", None)  # who falls back fails
    assert await answer("gloo") == expected


async def test_where_there_is_no_group_zeromq_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_group(*_: object) -> None:
        raise TransferFailed("no way")

    expected = await answer("ipc")
    monkeypatch.setattr("kvtransfer.nccl.GroupChannel", no_group)
    assert await answer("gloo") == expected
