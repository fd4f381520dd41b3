"""Every public schema asked of `tandem up` over REST: it is followed, or refused with a 400 that says why.

The suite's documents are at hand by `--schemas`; without it, what refers to them is refused. Answers are judged by
jsonschema. What a grammar accepts and rejects, whole, is tested in `tests/frontend/test_schema_suites.py`.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest

from frontend.schemas.places import no_documents
from tests.e2e.clients import DEMO
from tests.e2e.server import Tandem, tandem
from tests.frontend.suite_documents import write_documents
from tests.frontend.test_schema_suites import (
    BEYOND_PYTHON,
    REFUSED,
    UNSATISFIABLE,
    Group,
    compiled,
    exactly,
    groups,
    validator_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PARAM = "structured_outputs.json"
NUM_ANSWERS, MAX_TOKENS = 2, 80
"""Of each schema: the model seldom ends a string by itself, so that not every answer comes to its end."""
LONG_S = 600.0
"""For one schema: what is asked here is not how fast."""


@dataclass
class Asked:
    """What became of one schema."""

    group: Group
    error: str = ""
    ended: list[str] = field(default_factory=list)
    """Answers that the model, or the schema, has ended."""
    num_cut: int = 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tandem]:
    with tandem("--schemas", write_documents(tmp_path_factory.mktemp("documents"))) as server:
        yield server


def ask_each(server: Tandem, asked: list[Group]) -> list[Asked]:
    with (
        httpx.Client(base_url=server.http, timeout=LONG_S, trust_env=False) as http,
        ThreadPoolExecutor(4) as threads,
    ):
        return list(threads.map(partial(ask, http), asked))


def ask(http: httpx.Client, group: Group) -> Asked:
    body = {
        "model": DEMO,
        "messages": [{"role": "user", "content": "Give me one."}],
        "structured_outputs": {"json": json.dumps(group.schema)},
        "max_tokens": MAX_TOKENS,
        "n": NUM_ANSWERS,
        "seed": 1,
    }
    response = http.post("/v1/chat/completions", json=body)
    if response.status_code != 200:
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error"), (group.name, error)
        assert error["param"] == PARAM, (group.name, error)
        return Asked(group, error=error["message"])
    choices: list[dict[str, Any]] = response.json()["choices"]
    ended = [choice["message"]["content"] for choice in choices if choice["finish_reason"] == "stop"]
    return Asked(group, ended=ended, num_cut=len(choices) - len(ended))


def test_each_is_honoured_or_refused_by_its_keyword(server: Tandem, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ask_each(server, groups())
    refused = {
        each.group.name: each.error
        for each in asked
        if each.error and not (UNSATISFIABLE in each.error and not each.group.valid)
    }
    expected = {name: said for said, names in REFUSED.items() for name in names}
    assert refused.keys() == expected.keys()
    assert [error for name, error in refused.items() if expected[name] not in error] == []

    judged = [each for each in asked if not any(words in each.group.name for words in BEYOND_PYTHON)]
    for each in judged:
        validator = validator_of(each.group.schema)
        assert [text for text in each.ended if not validator.is_valid(exactly(text))] == [], each.group.name
    num_ended, num_cut = sum(len(each.ended) for each in judged), sum(each.num_cut for each in judged)
    with capsys.disabled():
        sys.stdout.write(f"\n{num_ended} answers are valid; {num_cut} were cut, and nothing is said of them\n")
    assert num_ended > num_cut


def test_without_their_documents_schemas_are_refused(demo: Tandem) -> None:
    lacking = [group for group in groups() if "$ref leads to" in compiled(group.schema, no_documents)[1]]
    assert len(lacking) > 10
    assert [each.group.name for each in ask_each(demo, lacking) if "$ref leads to" not in each.error] == []
