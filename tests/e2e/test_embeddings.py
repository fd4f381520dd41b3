"""Vectors of a real server, against transformers with the same weights."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.hub import DEMO_MODEL
from protos import generate_pb2 as pb
from tests.e2e.clients import DEMO, grpc_stub, openai_client, until_idle
from tests.e2e.conftest import StartTandem
from tests.e2e.server import Tandem

TEXTS = ["What is a KV cache?", "Blocks of keys and values move from prefill to decode. " * 12, "!"]


@torch.inference_mode()
def expected(ids: list[int], pooling: str) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    hidden = model.model(torch.tensor([ids])).last_hidden_state[0].numpy()
    pooled = hidden.mean(0) if pooling == "mean" else hidden[-1]
    return pooled / np.linalg.norm(pooled)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        pytest.param(("--prefill", "0"), marks=pytest.mark.slow),
        pytest.param(("--embedding-pooling", "last"), marks=pytest.mark.slow),
    ],
)
async def test_vectors_are_those_of_the_reference(tandem_up: StartTandem, arguments: tuple[str, ...]) -> None:
    server = tandem_up(*arguments)
    async with openai_client(server) as client, grpc_stub(server) as stub:
        answer = await client.embeddings.create(model=DEMO, input=TEXTS)
        again = await client.embeddings.create(model=DEMO, input=TEXTS)
        tokens = [await stub.Tokenize(pb.TokenizeRequest(text=text)) for text in TEXTS]
    pooling = "last" if "last" in arguments else "mean"
    for row, same, told in zip(answer.data, again.data, tokens, strict=True):
        ids = list(told.token_ids)
        assert np.abs(np.array(row.embedding) - expected(ids, pooling)).max() < 1e-4
        assert np.abs(np.array(same.embedding) - np.array(row.embedding)).max() < 1e-5
    assert answer.usage.prompt_tokens == sum(len(told.token_ids) for told in tokens)
    await until_idle(server, num_workers=1 if "0" in arguments else 2)


async def test_grpc_says_the_same_and_more(demo: Tandem) -> None:
    async with openai_client(demo) as client, grpc_stub(demo) as stub:
        rest = (await client.embeddings.create(model=DEMO, input=TEXTS[0])).data[0].embedding
        unit = await stub.Embed(pb.EmbedRequest(text=TEXTS[0]))
        raw = await stub.Embed(pb.EmbedRequest(text=TEXTS[0], normalize=False))
        ids = list((await stub.Tokenize(pb.TokenizeRequest(text=TEXTS[0]))).token_ids)
        last = await stub.Embed(pb.EmbedRequest(token_ids=pb.TokenIds(ids=ids), pooling=pb.POOLING_LAST))
    assert list(unit.values) == pytest.approx(rest, abs=1e-6)
    assert np.linalg.norm(raw.values) != pytest.approx(1, abs=0.01)
    assert np.array(raw.values) / np.linalg.norm(raw.values) == pytest.approx(np.array(rest), abs=1e-5)
    assert np.array(last.values) == pytest.approx(expected(ids, "last"), abs=1e-4)
    assert (unit.model, unit.prompt_tokens) == (DEMO, len(ids))
