"""What stands between two texts, asked of a model that has tokens for it: what it computes, in every dialect."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from transformers import PreTrainedTokenizerFast

from engine.errors import InvalidRequest, Unsupported
from frontend.infill import MAX_CHARS, infill_tokens
from frontend.model import LoadedModel
from frontend.prompt import encode
from frontend.request import GenerateRequest, Infill, OtherFile, TokenPrompt
from tests.cluster import Cluster, cluster
from tests.frontend.test_rest_app import rest_client
from tests.reference import make_model
from tests.shared_data import shared_data

NAMES = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
PREFIX, SUFFIX = "Once upon a", "a red ball"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model, whose tokenizer is a real one that has learnt three tokens more."""
    path, plain = tmp_path_factory.mktemp("fim"), shared_data("models", "stories260K")
    make_model("llama", path, vocab_size=516)
    spec = json.loads((plain / "tokenizer.json").read_text())
    spec["added_tokens"] += [
        {**spec["added_tokens"][-1], "id": 512 + number, "content": name} for number, name in enumerate(NAMES)
    ]
    (path / "tokenizer.json").write_text(json.dumps(spec))
    shutil.copy(plain / "tokenizer_config.json", path)
    return path


@pytest.fixture
async def running(folder: Path) -> AsyncIterator[Cluster]:
    async with cluster(folder, prefill=0) as running:
        yield running


@pytest.fixture
async def client(running: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(running.inference) as client:  # type: ignore[arg-type]
        yield client


def expected(folder: Path) -> list[int]:
    """Each text tokenized by itself, as transformers does it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    prefix, suffix = (tokenizer.encode(text, add_special_tokens=False) for text in (PREFIX, SUFFIX))
    ids: list[int] = [1, 512, *prefix, 513, *suffix, 514]
    return ids


async def test_every_dialect_asks_the_same_of_the_model(
    folder: Path, running: Cluster, client: httpx.AsyncClient
) -> None:
    ids = expected(folder)
    name = running.inference.model(None).name
    body = {
        "model": name,
        "prompt": PREFIX,
        "suffix": SUFFIX,
        "max_tokens": 4,
        "temperature": 0,
        "return_token_ids": True,
    }
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert choice["prompt_token_ids"] == ids
    made = await running.complete(GenerateRequest(prompt=TokenPrompt(tuple(ids)), max_tokens=4, temperature=0))
    assert (choice["token_ids"], choice["text"]) == (made.token_ids, made.text)
    by_ids = {**body, "prompt": running.inference.tokenize(None, PREFIX, add_special_tokens=False)}
    (same,) = (await client.post("/v1/completions", json=by_ids)).json()["choices"]
    assert same["prompt_token_ids"] == ids
    given = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 4, "temperature": 0}
    infilled = (await client.post("/infill", json={**given, "return_tokens": True})).json()
    assert infilled["tokens"] == made.token_ids
    given = {"model": name, "prompt": PREFIX, "suffix": SUFFIX, "options": {"num_predict": 4, "temperature": 0}}
    inserted = (await client.post("/api/generate", json={**given, "stream": False})).json()
    assert (inserted["response"], inserted["prompt_eval_count"]) == (made.text, len(ids))
    assert "insert" in (await client.post("/api/show", json={"model": name})).json()["capabilities"]


async def test_what_cannot_be_asked(folder: Path) -> None:
    model, plain = (LoadedModel.load(path, "m", None) for path in (folder, shared_data("models", "stories260K")))
    with pytest.raises(Unsupported) as missing:
        await encode(plain, Infill("a", "b"), 100)
    assert missing.value.field == "infill"
    for wrong, truncate, field in (
        (Infill("a", "b"), 5, "truncate_prompt"),
        (Infill(TokenPrompt((5, 999)), "b"), None, "prompt"),
        (Infill("a" * 100_000, "b"), None, "prompt"),
        (Infill("a", "b" * 100_000), None, "prompt"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            await encode(model, wrong, 100, truncate=truncate)
        assert raised.value.field == field
    assert await encode(model, Infill(PREFIX, SUFFIX), 100) == expected(folder)
    assert await encode(model, Infill(PREFIX, SUFFIX), 100, add_special_tokens=False) == expected(folder)[1:]


def test_other_files_come_first() -> None:
    def tokenize(text: str, *, add_special_tokens: bool | None = None) -> list[int]:
        return [300 + NAMES.index(text)] if text in NAMES else [1] * bool(add_special_tokens) + list(text.encode())

    ids = infill_tokens(Infill("a", "b", "c", (OtherFile("x"),)), tokenize)
    assert ids == [1, *b"\n\n--- snippet ---\n\nx", 300, *b"ac", 301, *b"b", 302]
    with pytest.raises(InvalidRequest):
        infill_tokens(Infill("a" * MAX_CHARS, "b"), tokenize)
