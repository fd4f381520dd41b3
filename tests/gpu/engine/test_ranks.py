"""Several ranks of the GPU's engine, as processes with a pool of their own heads each: what they compute together, and
blocks that go from one number of ranks to another. In Triton's interpreter sums go through gloo; where there is a GPU
for each rank, through NCCL."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from decode.messages import PrefillHere, Stepped
from decode.scheduler import DecodeScheduler
from decode.worker import DecodeWorker, TicketTemplate
from engine.batch import Batch, Chunk
from engine.checkpoint import ModelFolder
from engine.config import WorkerConfig
from engine.device import OpenModel, open_on_gpu
from engine.errors import ConfigError
from engine.models.families import model_spec
from engine.sequence import Sequence
from engine.tp.team import Team, check_parallel
from kvtransfer.pieces import FRAME_BYTES, Cut, Pieces
from kvtransfer.stores import store_of
from protos import worker_pb2 as pb
from tests.gpu.engine.test_overlap import Continued
from tests.reference import load_reference, make_model, reference_logits, sequence_of

SIZES = (1, 2, 4)
P, NUM_BLOCKS, NUM_TOKENS = 8, 24, 6


def config(folder: Path, size: int, **options: object) -> WorkerConfig:
    limits = {"num_blocks": NUM_BLOCKS, "block_tokens": P, "max_context": 64, "max_sequences": 3, "max_step_tokens": 16}
    fields = {"model": str(folder), "dtype": "float32", "profile_s": 0, "stall_limit_s": 120.0, "threads": 1, **limits}
    return WorkerConfig(tensor_parallel=size, **{**fields, **options})  # type: ignore[arg-type]


def opened(asked: WorkerConfig) -> OpenModel:
    device = torch.get_default_device()
    spec = model_spec(ModelFolder.open(Path(asked.model)).config)
    return open_on_gpu(asked, pb.ROLE_DECODE, device, Team.start(asked, spec, device))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four heads, two KV heads, and a vocabulary that nothing divides."""
    path = tmp_path_factory.mktemp("llama")
    with torch.device("cpu"):
        make_model("llama", path, head_dim=64, num_hidden_layers=2, attention_bias=True, tie_word_embeddings=True)
    return path


@pytest.fixture(scope="module")
def teams(folder: Path) -> Iterator[dict[int, OpenModel]]:
    if torch.get_default_device().type == "cuda" and torch.cuda.device_count() < max(SIZES):
        pytest.skip(f"{max(SIZES)} ranks need as many GPUs")
    models: dict[int, OpenModel] = {}
    try:
        for size in SIZES:
            models[size] = opened(config(folder, size))
        yield models
    finally:
        for model in models.values():
            model.close()


def prompt_of(num_tokens: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(97) for _ in range(num_tokens)]


def greedy_of(folder: Path, prompt: list[int]) -> list[int]:
    """What transformers answers."""
    with torch.device("cpu"):
        model, tokens = load_reference(folder), list(prompt)
        for _ in range(NUM_TOKENS):
            tokens.append(int(reference_logits(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def placed(prompt: list[int], blocks: list[int]) -> Sequence:
    sequence = sequence_of("a", prompt, temperature=0.0, num_prompt=len(prompt))
    sequence.blocks.extend(blocks)
    return sequence


def computed(model: OpenModel, sequence: Sequence, start: int) -> torch.Tensor:
    """The logits behind the last token, computed from `start` on in steps that the worker may take."""
    runner, end = model.runner, len(sequence.tokens)
    for first in range(start, end, 16):
        logits = runner(Batch.build([Chunk(sequence, first, min(first + 16, end))], P))
    sequence.num_computed = end
    return logits.cpu().clone()


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_transformers(size: int, folder: Path, teams: dict[int, OpenModel]) -> None:
    prompt = prompt_of(37, seed=1)
    with torch.device("cpu"):
        expected = reference_logits(load_reference(folder), prompt)

    sequence = placed(prompt[:-1], [5, 1, 9, 2, 7])
    whole = computed(teams[size], sequence, 0)
    sequence.append(prompt[-1])
    one_more = computed(teams[size], sequence, 36)

    torch.testing.assert_close(whole[0], expected[-2], atol=1e-4, rtol=0)
    torch.testing.assert_close(one_more[0], expected[-1], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_steps_that_overlap_continue_tokens_on_every_rank(size: int, folder: Path, teams: dict[int, OpenModel]) -> None:
    model = teams[size]
    assert model.launch is not None
    launch = Continued(model.launch)
    scheduler = DecodeScheduler(NUM_BLOCKS, P, max_step_tokens=16, max_sequences=3)
    tickets = TicketTemplate("w", "i", 1, "l", ())
    worker = DecodeWorker(scheduler, model.runner, model.sampler, tickets, None, launch)
    prompts = {name: prompt_of(length, seed=length) for name, length in (("a", 21), ("b", 3))}
    wish = {"temperature": 0.0, "max_tokens": NUM_TOKENS}
    heard: dict[str, list[int]] = {name: [] for name in prompts}
    worker.apply([PrefillHere(sequence_of(name, prompt, **wish)) for name, prompt in prompts.items()])

    while worker.has_work():
        for event in worker.step():
            for token in event.tokens if isinstance(event, Stepped) else ():
                heard[token.id].append(token.token)

    assert heard == {name: greedy_of(folder, prompt) for name, prompt in prompts.items()}
    assert launch.count >= NUM_TOKENS - 2


@pytest.mark.slow
@pytest.mark.parametrize("target", SIZES)
@pytest.mark.parametrize("source", SIZES)
def test_an_answer_goes_on_with_another_number_of_ranks(
    source: int, target: int, folder: Path, teams: dict[int, OpenModel]
) -> None:
    prompt = prompt_of(29, seed=2)
    here, there = placed(prompt, [3, 11, 6, 8]), placed(prompt, [20, 14, 15, 19, 22])
    first = int(computed(teams[source], here, 0).argmax())
    stores = [store_of(teams[size].cache, teams[size].team) for size in (source, target)]
    frame, cut = np.zeros(FRAME_BYTES, np.uint8), Cut(stores[0].block_bytes)
    assert stores[0].block_bytes == stores[1].block_bytes == teams[1].who.block_bytes
    assert teams[source].who.layout == teams[target].who.layout

    for store, sequence, move in ((stores[0], here, "gather"), (stores[1], there, "scatter")):
        pieces = Pieces(cut, np.array(sequence.blocks[:4]))
        getattr(store, move)(pieces, range(len(pieces)), frame)

    there.append(first)
    while there.num_output < NUM_TOKENS:
        there.append(int(computed(teams[target], there, len(there.tokens) - 1).argmax()))
    assert there.tokens[len(prompt) :].tolist() == greedy_of(folder, prompt)


def test_gpus_that_are_not_there_are_refused_with_their_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)

    check_parallel(config(folder, 2, device="cuda:1"), torch.device("cuda", 1))
    with pytest.raises(ConfigError, match="a GPU of its own, from 2 on, and there are 3"):
        check_parallel(config(folder, 2, device="cuda:2"), torch.device("cuda", 2))
    with pytest.raises(ConfigError, match="go through the host; --kv-groups gloo or off"):
        check_parallel(config(folder, 2, device="cuda", kv_groups="nccl"), torch.device("cuda", 0))
