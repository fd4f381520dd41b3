"""Answers held to a grammar over real workers: they match it, and are the same wherever and however they are made."""

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from engine.errors import InvalidRequest
from frontend.events import Finish
from frontend.request import GenerateRequest, Grammar, GrammarKind
from frontend.router import Policy
from protos import worker_pb2 as pb
from tests.cluster import Cluster, Completion, cluster
from tests.shared_data import shared_data

MODEL = ("models", "stories260K")
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,6}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", None, 1.5]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}, "minItems": 2, "maxItems": 4},
    {"$defs": {"p": POINT}, "prefixItems": [{"$ref": "#/$defs/p"}], "items": False, "minItems": 1, "type": "array"},
    {"type": "string", "format": "ipv4"},
    {"oneOf": [{"type": "integer", "multipleOf": 5, "minimum": -50, "maximum": 50}, {"const": {"a": [1]}}]},
]
WORD = Grammar(GrammarKind.REGEX, "(cat|dog)( [a-z]{2,8}){1,3}!")
REQUESTS: list[Mapping[str, Any]] = [
    {"grammar": Grammar(GrammarKind.JSON_SCHEMA, json.dumps(PERSON)), "seed": 1},
    {"grammar": Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMAS[1])), "seed": 2, "top_k": 5, "logprobs": 2},
    {"grammar": WORD, "seed": 3, "repetition_penalty": 1.3},
    {"seed": 4},
    {"grammar": Grammar(GrammarKind.CHOICE, '["red", "green", "no colour at all"]'), "seed": 5, "min_tokens": 3},
    {"grammar": Grammar(GrammarKind.LARK, 'start: "[" /[0-9]/ ("," /[0-9]/){8,20} "]"'), "seed": 6, "min_p": 0.1},
    {"grammar": WORD, "temperature": 0.0},
]


def request(**options: Any) -> GenerateRequest:
    defaults = {"temperature": 1.0, "top_p": 0.98, "max_tokens": 60}
    return GenerateRequest(prompt="Once upon a time", **{**defaults, **options})


async def answers(running: Cluster, copies: int = 1) -> list[list[int]]:
    made = await asyncio.gather(*(running.complete(request(**options)) for options in list(REQUESTS) * copies))
    for first, other in zip(made, made[len(REQUESTS) :], strict=False):
        assert first.token_ids == other.token_ids
    return [answer.token_ids for answer in made[: len(REQUESTS)]]


def check(answer: Completion, schema: Mapping[str, Any]) -> bool:
    """Whether the answer is complete; if so, it is an instance of the schema."""
    if answer.finished.reason is not Finish.STOP:
        return False
    jsonschema.validate(json.loads(answer.text), schema, format_checker=jsonschema.FormatChecker())
    return True


def constrained(schema: Mapping[str, Any], seed: int, max_tokens: int = 400) -> GenerateRequest:
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
    return request(grammar=grammar, seed=seed, top_p=None, max_tokens=max_tokens)


async def test_every_answer_matches_and_is_the_same_wherever_it_is_made() -> None:
    folder = shared_data(*MODEL)
    async with cluster(folder) as running:
        expected = await answers(running)
        words = await running.complete(request(**REQUESTS[2]))
        assert re.fullmatch("(cat|dog)( [a-z]{2,8}){1,3}!", words.text)
        assert (words.finished.reason, words.finished.matched) == (Finish.STOP, None)
        made = await asyncio.gather(*(running.complete(constrained(s, seed)) for s in SCHEMAS for seed in range(3)))
        asked = [schema for schema in SCHEMAS for _ in range(3)]
        complete = [check(answer, schema) for answer, schema in zip(made, asked, strict=True)]
        assert sum(complete) >= 0.8 * len(complete)
    async with cluster(folder, prefill=0) as running:
        assert await answers(running) == expected, "prefill and decode compute the same masks"
    async with cluster(folder, worker={"num_blocks": 30, "block_tokens": 4, "max_step_tokens": 5}) as running:
        assert await answers(running, copies=4) == expected
        assert sum(load.preemptions for load in running.loads(pb.ROLE_DECODE)) > 0


async def test_an_answer_goes_on_in_its_grammar_where_its_workers_are_lost() -> None:
    async with cluster(shared_data(*MODEL), prefill=2, decode=2, policy=Policy(always_remote=True)) as running:
        expected = await answers(running)
        made = asyncio.create_task(answers(running, copies=4))
        for name in ("decode-0", "prefill-1", "decode-1"):
            await asyncio.sleep(0.05)
            running.proxies[name].cut()
        assert await made == expected
        assert running.metrics.exposition().count(b"tandem_retries_total 0.0") == 0, "nobody was interrupted"


async def test_stop_strings_lengths_and_token_limits_go_with_a_grammar() -> None:
    async with cluster(shared_data(*MODEL), prefill=0) as running:
        digits = Grammar(GrammarKind.REGEX, "[0-9]{30}")
        whole = await running.complete(request(grammar=digits, seed=1))
        assert len(whole.text) == 30
        cut = await running.complete(request(grammar=digits, seed=1, stop=(whole.text[4:6],)))
        assert cut.text == whole.text[: whole.text.index(whole.text[4:6])]
        short = await running.complete(request(grammar=digits, seed=1, max_tokens=4))
        assert (short.finished.reason, short.token_ids) == (Finish.LENGTH, whole.token_ids[:4])
        ignored = await running.complete(request(grammar=Grammar(GrammarKind.REGEX, "(ab)*"), seed=1, ignore_eos=True))
        assert re.fullmatch("(ab)*", ignored.text) or ignored.finished.reason is Finish.LENGTH


async def test_what_cannot_be_honoured_costs_no_worker_anything_and_a_dead_end_is_said() -> None:
    async with cluster(shared_data(*MODEL)) as running:
        schema = {"type": "array", "uniqueItems": True}
        with pytest.raises(InvalidRequest, match="uniqueItems"):
            await running.complete(constrained(schema, 1))
        for letters, word in ((b"a", "a{5}"), (b"a", "ba{5}")):  # nothing may come first, nothing may come second
            stops = tuple(t for t in range(3, 512) if not running.inference.token_bytes(None, t).strip(letters))
            grammar = Grammar(GrammarKind.REGEX, word)
            with pytest.raises(InvalidRequest, match="min_tokens"):
                await running.complete(request(grammar=grammar, stop_token_ids=stops, min_tokens=9))
        assert (await running.complete(request(seed=1, max_tokens=3))).finished.reason is Finish.LENGTH


@pytest.mark.slow
async def test_two_hundred_answers_are_instances_of_their_schemas() -> None:
    async with cluster(shared_data(*MODEL), prefill=1) as running:
        asked = [(schema, seed) for seed in range(200 // len(SCHEMAS)) for schema in SCHEMAS]
        gate = asyncio.Semaphore(16)

        async def ask(schema: Mapping[str, Any], seed: int) -> bool:
            async with gate:
                return check(await running.complete(constrained(schema, seed)), schema)

        complete = await asyncio.gather(*(ask(schema, seed) for schema, seed in asked))
        sys.stdout.write(f"{sum(complete)} of {len(asked)} answers complete, every one of them valid\n")
        assert sum(complete) >= 0.95 * len(asked)
