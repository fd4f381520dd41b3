"""From prompt to answer between workers of which one or both compute with the GPU's engine, in float32: the tokens of
`transformers`. In Triton's interpreter, which is not made for two threads: they take turns there."""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Generic, ParamSpec, TypeVar

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from engine.cache import DTYPES, layout_fingerprint
from engine.checkpoint import ModelFolder, model_revision
from engine.config import WorkerConfig
from engine.device import OpenModel, open_model, open_on_gpu
from engine.gpu.cache import GpuCache
from engine.models.families import model_spec
from engine.tp.team import Team
from frontend.request import GenerateRequest, TokenPrompt
from protos import worker_pb2 as pb
from tests.cluster import Cluster, cluster
from tests.reference import SHAPE, load_reference, make_model

NUM_TOKENS = 5
WORKER = {
    "max_step_tokens": 16,
    "max_sequences": 3,
    "max_context": 64,
    "num_blocks": 16,
    "block_tokens": 8,
    "dtype": "float32",
    "stall_limit_s": 60.0,
    "lease_s": 60.0,
}
P, R = ParamSpec("P"), TypeVar("R")


class InTurns(Generic[P, R]):
    """A runner, a sampler or a launch, one call of any of them at a time."""

    _turn = threading.Lock()

    def __init__(self, call: Callable[P, R], cache: GpuCache) -> None:
        self._call = call
        self.cache = cache

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._turn:
            return self._call(*args, **kwargs)


def open_worker(
    on_gpu: str, config: WorkerConfig, role: "pb.Role", num_ranks: Mapping[str, int] = MappingProxyType({})
) -> OpenModel:
    """With the GPU's engine if the role is among those of `on_gpu`, spread over its number of ranks."""
    name = pb.Role.Name(role).removeprefix("ROLE_").lower()
    if name not in on_gpu:
        with torch.device("cpu"):
            return open_model(config, role)
    device, config = torch.get_default_device(), config.model_copy(update={"tensor_parallel": num_ranks.get(name, 1)})
    team = Team.start(config, model_spec(ModelFolder.open(Path(config.model)).config), device)
    model = open_on_gpu(config, role, device, team)
    assert isinstance(model.cache, GpuCache)
    assert model.launch is not None
    runner, sampler, launch = (InTurns(part, model.cache) for part in (model.runner, model.sampler, model.launch))
    return replace(model, runner=runner, sampler=sampler, launch=launch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    with torch.device("cpu"):
        make_model("llama", path, head_dim=64, num_hidden_layers=2)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(SHAPE["vocab_size"])}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def prompts() -> list[tuple[int, ...]]:
    """One block in part; several chunks; and the same beginning again, of which decode may hold blocks."""
    rng = random.Random(0)
    long = [rng.randrange(97) for _ in range(37)]
    return [(5, 6, 7), tuple(long), (*long[:33], 1, 2)]


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    with torch.device("cpu"):
        model = load_reference(folder)
        options = {"max_new_tokens": NUM_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        tokens = [torch.tensor([prompt]) for prompt in prompts()]
        answers = [model.generate(each, attention_mask=torch.ones_like(each), **options)[0] for each in tokens]
    return [answer[len(prompt) :].tolist() for answer, prompt in zip(answers, prompts(), strict=True)]


async def answers(running: Cluster) -> list[list[int]]:
    first, *rest = (
        GenerateRequest(prompt=TokenPrompt(prompt), max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
        for prompt in prompts()
    )
    completions = [*await asyncio.gather(running.complete(first), running.complete(rest[0]))]
    completions.append(await running.complete(rest[1]))
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize(
    ("on_gpu", "transport"),
    [("prefill decode", "ipc"), ("prefill decode", "gloo"), ("prefill", "tcp"), ("decode", "shm")],
)
async def test_tokens_are_those_of_the_reference(
    folder: Path, expected: list[list[int]], on_gpu: str, transport: str
) -> None:
    opened = partial(open_worker, on_gpu)
    async with cluster(folder, transport=transport, worker=WORKER, open_worker=opened) as running:
        assert await answers(running) == expected


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [{"prefill": 2}, {"prefill": 2, "decode": 4}], ids=str)
async def test_so_are_those_of_several_ranks(
    folder: Path, expected: list[list[int]], num_ranks: Mapping[str, int]
) -> None:
    if torch.get_default_device().type == "cuda":
        pytest.skip("prefill's ranks and decode's would be on the same GPUs, and as many")
    opened = partial(open_worker, "prefill decode", num_ranks=num_ranks)
    async with cluster(folder, transport="ipc", worker=WORKER, open_worker=opened) as running:
        assert await answers(running) == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_layout_is_that_of_a_cpu_of_the_same_type(folder: Path, dtype: str) -> None:
    options = {"model": str(folder), "threads": 1, "profile_s": 0, **WORKER, "dtype": dtype}
    who = open_worker("prefill", WorkerConfig(**options), pb.ROLE_PREFILL).who  # type: ignore[arg-type]

    opened = ModelFolder.open(folder)
    on_cpu = [
        layout_fingerprint(model_revision(opened), model_spec(opened.config), who.block_tokens, dtype=kept)
        for kept in DTYPES
    ]
    assert [layout == who.layout for layout in on_cpu] == [kept == dtype for kept in DTYPES]


async def test_keys_and_values_of_float8_move_as_they_are(folder: Path) -> None:
    """What decode computes with what came is what a worker computes that has it all."""
    worker = {**WORKER, "dtype": "float16", "kv_cache_dtype": "fp8"}
    opened = partial(open_worker, "prefill decode")
    async with cluster(folder, prefill=0, worker=worker, open_worker=opened) as running:
        alone = await answers(running)
    async with cluster(folder, transport="ipc", worker=worker, open_worker=opened) as running:
        apart = await answers(running)

    assert apart == alone
    who = open_worker("prefill", WorkerConfig(model=str(folder), **worker), pb.ROLE_PREFILL).who  # type: ignore[arg-type]
    opened_folder = ModelFolder.open(folder)
    names = model_revision(opened_folder), model_spec(opened_folder.config), who.block_tokens
    assert who.layout == layout_fingerprint(*names, dtype="float8_e4m3fn")
    assert who.layout not in {layout_fingerprint(*names, dtype=kept) for kept in DTYPES}
