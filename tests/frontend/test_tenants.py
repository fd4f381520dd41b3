"""Tenants on real workers: what one has asked is not found by another, and each has limits of his own."""

from dataclasses import replace

import pytest

from engine.errors import Overloaded, PermissionDenied, UnknownModel
from frontend.callers import Caller
from frontend.catalogue import Catalogue
from frontend.request import GenerateRequest
from tests.cluster import Cluster, cluster
from tests.shared_data import shared_data

PROMPT = "Once upon a time there was a little girl who had a red ball and a big dog. " * 2


async def ask(running: Cluster, caller: Caller, max_tokens: int = 4) -> int:
    """Tokens of the prompt that were found in the cache."""
    request = GenerateRequest(prompt=PROMPT, temperature=0, max_tokens=max_tokens, caller=caller)
    return (await running.complete(request)).finished.usage.cached_tokens


async def test_a_prefix_is_found_by_its_own_tenant_alone() -> None:
    one, colleague = Caller("one", tenant="acme"), Caller("colleague", tenant="acme")
    async with cluster(shared_data("models", "stories260K")) as running:
        assert await ask(running, one) == 0
        found = await ask(running, one)
        assert found > 0
        assert await ask(running, colleague) == found
        assert await ask(running, Caller("two", tenant="other")) == 0
        assert await ask(running, Caller()) == 0
        assert await ask(running, Caller("two", tenant="other")) == found


async def test_limits_and_models_of_a_key_hold() -> None:
    async with cluster(shared_data("models", "stories260K")) as running:
        twice = Caller("twice", requests_per_minute=2)
        for _ in range(2):
            await ask(running, twice)
        with pytest.raises(Overloaded, match="'twice' has used up its 2 requests per minute") as refused:
            await ask(running, twice)
        assert 0 < refused.value.retry_after_s <= 30
        with pytest.raises(PermissionDenied):
            await ask(running, Caller("elsewhere", models=frozenset({"another"})))
        assert await ask(running, Caller("here", models=frozenset({"stories260K"}))) > 0


async def test_what_a_key_has_left_is_told_and_names_of_the_model_are_one() -> None:
    async with cluster(shared_data("models", "stories260K"), prefill=0) as running:
        caller = Caller("limited", requests_per_minute=5, tokens_per_minute=10_000, models=frozenset({"stories260K"}))
        request = GenerateRequest(prompt=PROMPT, max_tokens=4, caller=caller)
        started = (await running.complete(request)).started
        assert started.allowance.requests is not None
        assert started.allowance.requests.left == pytest.approx(4, abs=0.5)
        assert started.allowance.tokens is not None
        assert started.allowance.tokens.limit == 10_000
        with pytest.raises(UnknownModel):
            await running.complete(replace(request, model="other"))
        inference, served = running.inference, running.inference._catalogue.default
        served.model = replace(served.model, aliases=frozenset({"other"}))
        inference._catalogue = Catalogue([served])
        assert (await running.complete(replace(request, model="other"))).started.model == "stories260K"
        assert [model.name for model in inference.models()] == ["stories260K", "other"]
        assert inference.model("other").name == "stories260K"
        with pytest.raises(UnknownModel):
            inference.model("anything")
        served.model = replace(served.model, takes_any_name=True)
        assert inference.model("anything").name == "stories260K"


async def test_tokens_that_were_not_needed_are_given_back() -> None:
    async with cluster(shared_data("models", "stories260K")) as running:
        frugal = Caller("frugal", tokens_per_minute=600)
        for _ in range(3):  # each may have 300 tokens and needs far fewer
            request = GenerateRequest(
                prompt="Once upon a time", temperature=0, max_tokens=300, stop=("a",), caller=frugal
            )
            await running.complete(request)
