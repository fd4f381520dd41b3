"""The whole engine on a GPU that is only pretended: pinned copies, streams, events and captured graphs do what they do
on a real one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from decode.messages import PrefillHere, Stepped
from decode.scheduler import DecodeScheduler
from decode.worker import DecodeWorker, TicketTemplate
from engine.batch import Batch, Chunk
from engine.cache import KVCache
from engine.checkpoint import ModelFolder, load_weights
from engine.config import WorkerConfig
from engine.errors import ConfigError
from engine.gpu.launch import GpuLaunch
from engine.gpu.open import GpuModel, open_gpu
from engine.grammar import Grammars
from engine.hub import DEMO_MODEL
from engine.models.decoder import Decoder
from engine.models.families import model_spec
from engine.runner import Runner
from engine.sampler import Sampler
from engine.sequence import Sequence, SequenceId, TokenLogprobs
from engine.steps import Launch, Pending, StepRunner, StepSampler
from tests.gpu.pretend.gpu import MIB, Gpu
from tests.gpu.pretend.install import pretended
from tests.gpu.pretend.tensors import DEVICE
from tests.reference import make_model, sequence_of

VOCAB, BLOCK_TOKENS, STEP_TOKENS = 2048, 8, 8
LIMITS = {"max_sequences": 3, "max_step_tokens": STEP_TOKENS, "max_context": 40, "block_tokens": BLOCK_TOKENS}
RESERVE_MB = 8
GRAMMARS = Grammars(DEMO_MODEL, VOCAB, (2, 0))
PENALTIES = {"repetition_penalty": 1.7, "frequency_penalty": 0.4, "presence_penalty": 0.5}
WISHES: dict[str, tuple[int, dict[str, Any]]] = {
    "greedy": (13, {"temperature": 0.0, "max_tokens": 6, "num_logprobs": 3}),
    "seeded": (5, {"seed": 7, "temperature": 0.9, "top_p": 0.9, "max_tokens": 7, "num_logprobs": 1}),
    "penalised": (4, {"temperature": 0.0, "max_tokens": 8, **PENALTIES}),
    "biased": (3, {"temperature": 0.8, "seed": 3, "top_k": 20, "max_tokens": 4, "logit_bias": ((9, 4.0), (17, -3.0))}),
    "stops": (2, {"seed": 2, "max_tokens": 5, "min_tokens": 2, "stop_token_ids": frozenset(range(0, VOCAB, 3))}),
}
"""How long each prompt is, and what is asked; each comes one step after the one before, and waits for room."""
Heard = dict[SequenceId, list[tuple[int, TokenLogprobs | None]]]


def config(**fields: object) -> WorkerConfig:
    options = {"device": "cuda", "dtype": "float32", "device_reserve_mb": RESERVE_MB, **LIMITS, **fields}
    return WorkerConfig(**options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("llama")
    make_model("llama", path, head_dim=64, num_hidden_layers=2, vocab_size=VOCAB)
    return ModelFolder.open(path)


@pytest.fixture(scope="module")
def cpu(folder: ModelFolder) -> Runner:
    spec = model_spec(folder.config)
    return Runner(Decoder(spec, load_weights(folder, spec, torch.float32), 40), KVCache(spec, 64, BLOCK_TOKENS))


@dataclass(frozen=True)
class Opened:
    gpu: Gpu
    model: GpuModel
    free_bytes: int
    """Once it was open"""


@pytest.fixture(scope="module")
def opened(folder: ModelFolder, cpu: Runner) -> Iterator[Opened]:
    with pretended(total_mib=64, taken_mib=8) as gpu:
        model = open_gpu(config(), folder, DEVICE)
        yield Opened(gpu, model, gpu.free_bytes)


@dataclass
class Counted:
    """A launch, and how many steps began with tokens that only the device knew."""

    launch: Launch
    steps: int = 0
    continued: int = 0

    def __call__(self, batch: Batch, before: Pending | None) -> Pending:
        self.steps += 1
        self.continued += batch.continues is not None
        return self.launch(batch, before)


def asked(wishes: dict[str, tuple[int, dict[str, Any]]]) -> list[Sequence]:
    generator = torch.Generator(device="cpu").manual_seed(3)
    return [
        sequence_of(name, torch.randint(3, VOCAB, (length,), generator=generator, device="cpu").tolist(), **wish)
        for name, (length, wish) in wishes.items()
    ]


def answers(sequences: list[Sequence], runner: StepRunner, sampler: StepSampler, launch: Launch | None = None) -> Heard:
    """What clients of a decode worker hear, which computes their prompts itself."""
    scheduler = DecodeScheduler(48, BLOCK_TOKENS, max_step_tokens=STEP_TOKENS, max_sequences=3)
    worker = DecodeWorker(scheduler, runner, sampler, TicketTemplate("w", "i", 1, "l", ()), None, launch)
    heard: Heard = {sequence.id: [] for sequence in sequences}
    waiting = list(sequences)
    for _ in range(80):
        if waiting and len(worker.holders()) < 3:
            worker.apply([PrefillHere(waiting.pop(0))])
        elif not worker.has_work():
            break
        for stepped in (event for event in worker.step() if isinstance(event, Stepped)):
            for token in stepped.tokens:
                heard[token.id].append((token.token, stepped.logprobs.get(token.id)))
    assert worker.holders() == []
    return heard


def agree(found: Heard, expected: Heard) -> None:
    for name, tokens in expected.items():
        assert [token for token, _ in found[name]] == [token for token, _ in tokens], name
        for (_, here), (_, there) in zip(found[name], tokens, strict=True):
            assert (here is None) == (there is None)
            if here is not None and there is not None:
                assert here.top_ids == there.top_ids
                torch.testing.assert_close(here.top_logprobs, there.top_logprobs, atol=1e-4, rtol=0)


def test_the_pool_takes_the_memory_that_steps_leave(opened: Opened) -> None:
    cache = opened.model.runner.cache

    assert opened.model.max_context == 40
    assert cache.size_bytes > 16 * MIB
    assert abs(opened.free_bytes - RESERVE_MB * MIB) < MIB
    assert not cache.pool[1:].any()


def test_a_gpu_that_is_too_full_is_refused_with_the_arithmetic(
    opened: Opened, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.gpu, "taken_bytes", opened.gpu.total_bytes - opened.gpu.allocated - MIB)

    with pytest.raises(ConfigError, match="the weights .* do not fit on the GPU: of 64 MiB, .* MiB more were needed"):
        open_gpu(config(), folder, DEVICE)


def test_steps_that_overlap_wait_for_their_tokens_alone(opened: Opened, cpu: Runner) -> None:
    """Prompts in chunks beside streams, streams that join and leave, in every bucket; nothing is compiled late."""
    model, gpu = opened.model, opened.gpu
    launch = Counted(GpuLaunch(model.runner, model.sampler))
    compiled = set(gpu.compiled)

    with gpu.no_waits("Event.synchronize") as waits:
        found = answers(asked(WISHES), model.runner, model.sampler, launch)

    agree(found, answers(asked(WISHES), cpu, Sampler()))
    assert launch.continued > 8
    assert len(waits) == launch.steps
    assert {wait.where.partition(":")[0] for wait in waits} == {"sampler.py"}
    assert [where for key, where in gpu.compiled.items() if key not in compiled] == []


def test_a_grammar_is_followed_beside_other_streams(opened: Opened, cpu: Runner) -> None:
    wishes = {"held": (5, {"seed": 1, "max_tokens": 4}), "free": (3, {"temperature": 0.0, "max_tokens": 5})}
    model, heard = opened.model, []
    for runner, sampler, launch in (
        (model.runner, model.sampler, GpuLaunch(model.runner, model.sampler)),
        (cpu, Sampler(), None),
    ):
        sequences = asked(wishes)
        sequences[0].constraint = GRAMMARS.start("start: /[0-9]+/", ())
        heard.append(answers(sequences, runner, sampler, launch))

    agree(*heard)


def test_a_captured_step_computes_what_lies_in_its_memory(opened: Opened, cpu: Runner) -> None:
    """Lengths, blocks and positions are other ones at each replay; rows of padding are nobody's."""
    runner, gpu = opened.model.runner, opened.gpu
    sequences = asked({name: (length, {"max_tokens": 9}) for name, length in (("a", 5), ("b", 3), ("c", 2))})
    for index, sequence in enumerate(sequences):
        sequence.blocks.extend(range(1 + 5 * index, 6 + 5 * index))
    for turn, members in enumerate(["abc", "a", "ca", "b", "bac", "ab"]):
        chunks = []
        for sequence in (one for name in members for one in sequences if one.id == name):
            if turn:
                sequence.append(17 * turn + len(sequence.tokens))
            chunks.append(Chunk(sequence, sequence.num_computed, len(sequence.tokens)))
            sequence.num_computed = len(sequence.tokens)
        if turn == 3:
            chunks[0].sequence.blocks[1] = 40  # moved before anything is in it
        batch = Batch.build(chunks, BLOCK_TOKENS)
        launched = gpu.num_replays
        with gpu.no_waits():
            logits = runner(batch)
        assert gpu.num_replays == launched + bool(turn)
        torch.testing.assert_close(logits.cpu(), cpu(batch), atol=1e-4, rtol=0)
