"""Several models behind one frontend: who is asked, who stands in, and that nothing of one is the other's."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from engine.errors import ConfigError, Overloaded, PermissionDenied, Poisoned, Unavailable, UnknownModel
from engine.hashes import block_hashes
from engine.pooling import Pooling
from frontend.callers import SHARED, Caller
from frontend.events import Event, Finished, Started
from frontend.model import LoadedModel
from frontend.quarantine import _fingerprint
from frontend.request import Chat, GenerateRequest, TokenPrompt
from protos import worker_pb2 as pb
from tests.frontend.models import Several, demo, request


def falling_back(*names: str, **changes: object) -> Mapping[str, LoadedModel]:
    return {"big": replace(demo(), fallback=names, **changes)}


def who(events: list[Event]) -> str:
    """Which model says that it answers."""
    started, *_ = events
    assert isinstance(started, Started)
    return started.model


# -- names -------------------------------------------------------------------------------------------------------------


async def test_a_request_goes_to_a_worker_of_its_model_by_name_alias_or_default() -> None:
    several = Several("big", "small", changes={"small": replace(demo(), aliases=frozenset({"gpt-4o-mini"}))})
    for name, expected in ((None, "big"), ("", "big"), ("big", "big"), ("small", "small"), ("gpt-4o-mini", "small")):
        assert who(await several.ask(request(name), expected)) == expected
    assert [model.name for model in several.inference.models()] == ["big", "small", "gpt-4o-mini"]
    assert several.inference.model("gpt-4o-mini").name == "small"
    with pytest.raises(UnknownModel, match="'other' is not served here; 'big' and 'small' are"):
        await several.ask(request("other"), "big")


async def test_any_name_is_the_defaults_where_that_is_said() -> None:
    several = Several("big", "small", changes={"big": replace(demo(), takes_any_name=True)})
    assert who(await several.ask(request("gpt-5"), "big")) == "big"
    assert who(await several.ask(request("small"), "small")) == "small"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"big": replace(demo(), aliases=frozenset({"small"}))}, "two models are called 'small'"),
        (falling_back("tiny"), "'big' cannot fall back on 'tiny': nobody is called so"),
        (falling_back("own", aliases=frozenset({"own"})), "'big' cannot fall back on 'own': that is itself"),
    ],
)
def test_names_that_do_not_fit_together_are_refused(changes: Mapping[str, LoadedModel], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Several("big", "small", changes=changes)


# -- fallbacks ---------------------------------------------------------------------------------------------------------


async def test_the_next_that_has_a_worker_stands_in_and_says_so() -> None:
    several = Several("big", "small", "tiny", changes=falling_back("small", "tiny"))
    several.decode["big"].load(draining=True)
    assert who(await several.ask(request("big"), "small")) == "small"
    several.decode["small"].down()
    assert who(await several.ask(request("big"), "tiny")) == "tiny"
    with pytest.raises(Unavailable, match="no decode worker serves small now"):  # which falls back on nobody
        await several.ask(request("small"), "tiny")
    several.decode["tiny"].down()
    with pytest.raises(Unavailable, match="no decode worker serves big now"):
        await several.ask(request("big"), "tiny")
    several.decode["big"].up()
    assert who(await several.ask(request("big"), "big")) == "big"
    assert {(used.model, used.requests) for used in several.inference.accounts.all()} == {
        ("small", 1),
        ("tiny", 1),
        ("big", 1),
    }


@pytest.mark.parametrize(
    "asked",
    [
        GenerateRequest(prompt=TokenPrompt((5, 6)), model="big", max_tokens=1),
        request("big", logit_bias={5: 1.0}),
        request("big", stop_token_ids=(5,)),
        request("big", pooling=Pooling.MEAN),
    ],
)
async def test_nobody_stands_in_for_what_means_something_to_one_model_alone(asked: GenerateRequest) -> None:
    several = Several("big", "small", changes=falling_back("small"))
    several.decode["big"].down()
    with pytest.raises(Unavailable, match="no decode worker serves big now"):
        await several.ask(asked, "small")
    assert several.decode["small"].admits() == []


async def test_who_cannot_take_the_request_is_passed_over() -> None:
    """What is wrong with it for a model that stands in is not for who asks to hear."""
    several = Several(
        "big", "small", "tiny", changes={**falling_back("small", "tiny"), "small": replace(demo(), template=None)}
    )
    several.decode["big"].down()
    chat = GenerateRequest(prompt=Chat(({"role": "user", "content": "hi"},)), model="big", max_tokens=1)
    assert who(await several.ask(chat, "tiny")) == "tiny"
    several.decode["tiny"].down()
    with pytest.raises(Unavailable, match="no decode worker serves big now"):
        await several.ask(chat, "small")


async def test_a_key_gets_no_answer_of_a_model_it_may_not_ask() -> None:
    several = Several("big", "small", "tiny", changes=falling_back("small", "tiny"))
    several.decode["big"].down()
    some = Caller("some", models=frozenset({"big", "tiny"}))
    assert who(await several.ask(request("big", caller=some), "tiny")) == "tiny"
    with pytest.raises(PermissionDenied):
        await several.ask(request("big", caller=Caller("other", models=frozenset({"small"}))), "small")


# -- nothing of one is the other's -------------------------------------------------------------------------------------


async def test_one_models_full_queue_refuses_nobody_of_the_other() -> None:
    several = Several("big", "small", max_queued=1)
    several.decode["big"].load(free_blocks=0)
    waiting = asyncio.create_task(several.events(request("big")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (several.inference.queued_requests, several.inference.max_queued_requests) == (1, 2)
    assert [(each.name, each.queued_requests) for each in several.inference.statuses()] == [("big", 1), ("small", 0)]
    with pytest.raises(Overloaded):
        await several.ask(request("big"), "big")
    assert who(await several.ask(request("small"), "small")) == "small"
    exposition = several.metrics.exposition().decode()
    assert 'tandem_model_queued_requests{model="big"} 1.0' in exposition
    assert 'tandem_model_queued_requests{model="small"} 0.0' in exposition
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_keys_limits_hold_for_each_model_by_itself() -> None:
    several, once = Several("big", "small"), Caller("once", requests_per_minute=1)
    assert who(await several.ask(request("big", caller=once), "big")) == "big"
    with pytest.raises(Overloaded, match="'once' has used up its 1 requests per minute"):
        await several.ask(request("big", caller=once), "big")
    assert who(await several.ask(request("small", caller=once), "small")) == "small"


async def test_what_the_workers_of_one_model_die_of_the_other_answers() -> None:
    several = Several("big", "small")
    job = await several.job(request("big"))
    several.served["big"]._quarantine._convicted[_fingerprint(job)] = asyncio.get_running_loop().time()
    with pytest.raises(Poisoned):
        await several.ask(request("big"), "big")
    assert who(await several.ask(request("small"), "small")) == "small"


async def test_blocks_of_one_model_are_no_prefix_of_the_others() -> None:
    """Though prompts, keys and salts are the same, and so are the hashes."""
    several = Several("big", "small")
    prompt = "All work and no play makes Jack a dull boy. " * 4
    ids = several.inference.tokenize("big", prompt)
    several.decode["big"].say(blocks_stored=pb.BlocksStored(hashes=b"".join(block_hashes(ids, 4, SHARED))))
    for name, cached in (("big", True), ("small", False)):
        job = await several.job(replace(request(name), prompt=prompt))
        placement = several.served[name].attempts.places.find(job)
        assert placement is not None
        assert placement.decode.worker_id == f"decode-{name}"
        assert bool(placement.cached_tokens) is cached


# -- how they are ------------------------------------------------------------------------------------------------------


async def test_the_server_is_as_ready_as_its_default_and_each_model_says_why_it_is_not() -> None:
    several = Several("big", "small", prefill=True)
    inference = several.inference
    assert inference.readiness().ready
    several.decode["small"].down()
    several.prefill["small"].load(draining=True)
    assert inference.readiness().ready
    assert inference.readiness("small").reason == "no decode worker is ready"
    several.decode["small"].up()
    assert inference.readiness("small").reason == "no prefill worker is ready"
    several.prefill["big"].down()
    several.prefill["small"].up()
    assert inference.readiness("small").ready
    assert inference.readiness().reason == "no prefill worker is ready"
    assert [(each.name, each.ready) for each in inference.statuses()] == [("big", False), ("small", True)]
    inference.draining = True
    assert {each.reason for each in inference.statuses()} == {"draining"}


async def test_who_should_get_nothing_new_is_not_ready_and_says_why() -> None:
    several = Several("big", "small", prefill=True)
    inference, decode, prefill = several.inference, several.decode["big"], several.prefill["big"]
    prefill.load(unready="transfers of KV stall")
    assert inference.readiness().reason == "no prefill worker is ready (prefill-big: transfers of KV stall)"
    views = several.served["big"].attempts.places.views()
    assert prefill.link.view not in views[1], "decode computes prompts"
    prefill.load()
    decode.load(unready="the disk is full")
    assert inference.readiness().reason == "no decode worker is ready (decode-big: the disk is full)"
    assert [worker.state for worker in inference.workers() if not worker.ready] == ["the disk is full"]
    views = several.served["big"].attempts.places.views()
    assert decode.link.view in views[0], "there is no other"


async def test_a_frontend_that_should_get_nothing_says_why_and_serves_who_comes() -> None:
    several = Several("big")
    several.inference.unready = "the disk is full"
    assert several.inference.readiness().reason == "the disk is full"
    assert [(each.ready, each.reason) for each in several.inference.statuses()] == [(False, "the disk is full")]
    assert who(await several.ask(request("big"), "big")) == "big"


async def test_a_model_without_prefill_workers_is_ready_beside_one_that_has_some() -> None:
    several = Several("big", "small", prefill=True)
    del several.fleet._links["prefill-small"], several.fleet._roles["prefill-small"]
    assert several.inference.readiness("small").ready
    several.prefill["big"].down()  # it was big's, and will be
    assert several.inference.readiness("small").ready
    assert not several.inference.readiness("big").ready


async def test_a_worker_whose_model_nobody_serves_says_so() -> None:
    several = Several("big")
    stranger = several._add(pb.ROLE_DECODE, "huge")
    status = {worker.worker_id: worker for worker in several.inference.workers()}[stranger.name]
    assert (status.ready, status.state) == (False, "its model 'huge' is not served here")
    assert status.model == "huge"


async def test_answers_end_with_what_was_used_of_the_model_that_answered() -> None:
    several = Several("big", "small", changes=falling_back("small"))
    several.decode["big"].down()
    *_, finished = await several.ask(request("big", caller=Caller("alice")), "small")
    assert isinstance(finished, Finished)
    (used,) = several.inference.accounts.all()
    assert (used.key, used.model, used.requests) == ("alice", "small", 1)
    assert (used.prompt_tokens, used.completion_tokens) == (finished.usage.prompt_tokens, 1)
