"""Small random models of the supported families, and what transformers computes with them."""

import itertools
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine.batch import Batch, Chunk
from engine.runner import Runner
from engine.sequence import SamplingParams, Sequence, SequenceId

_FAMILIES: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 160,
}


def make_model(family: str, folder: Path, *, dtype: str = "float32", shard_size: str = "5GB", **fields: Any) -> None:
    """Save a random model of `family`; every parameter is random, biases and norms too."""
    config_type, model_type = _FAMILIES[family]
    torch.manual_seed(0)
    model = model_type(config_type(**{**SHAPE, **fields}))
    for name, parameter in model.named_parameters():
        scale = 0.3 if "layernorm" in name or "norm" in name else 0.15
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=scale)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_size)


def load_reference(folder: Path) -> PreTrainedModel:
    """The same weights in float32, whatever they were saved in."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


@torch.inference_mode()
def reference_logits(model: PreTrainedModel, tokens: Rows[int]) -> torch.Tensor:
    """Logits of every position, `[n, V]`, computed at once and without a cache."""
    logits: torch.Tensor = model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return logits


class Blocks:
    """Hands out the blocks of a pool in a scattered order, block 0 never."""

    def __init__(self, runner: Runner) -> None:
        self._block_tokens = runner.cache.block_tokens
        order = torch.randperm(runner.cache.num_blocks - 1, generator=torch.Generator().manual_seed(1)) + 1
        self._free: list[int] = order.tolist()

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        while len(sequence.blocks) * self._block_tokens < num_tokens:
            sequence.blocks.append(self._free.pop())


def sequence_of(name: str, tokens: Rows[int], *, num_prompt: int | None = None, **params: Any) -> Sequence:
    complete = SamplingParams(**{"max_tokens": 1000, "seed": 0, **params})
    return Sequence.of(SequenceId(name), tokens, complete, num_prompt)


def step(runner: Runner, blocks: Blocks, chunks: Rows[tuple[Sequence, int]]) -> dict[SequenceId, torch.Tensor]:
    """Compute the next so many tokens of each sequence; the logits of those that sample."""
    planned = []
    for sequence, num_tokens in chunks:
        end = sequence.num_computed + num_tokens
        blocks.grow(sequence, end)
        planned.append(Chunk(sequence, sequence.num_computed, end))
        sequence.num_computed = end
    batch = Batch.build(planned, runner.cache.block_tokens)
    return {s.id: row for s, row in zip(batch.sampled, runner(batch), strict=True)}


def greedy(runner: Runner, prompts: Rows[Rows[int]], num_tokens: int, chunk_tokens: int) -> list[list[int]]:
    """Greedy answers to all prompts at once; prompts are computed in chunks, between decode steps of the others."""
    blocks = Blocks(runner)
    sequences = [sequence_of(str(i), prompt) for i, prompt in enumerate(prompts)]
    for turn in itertools.count(1):
        running = [s for s in sequences[:turn] if s.num_output < num_tokens]  # one more joins at every turn
        if not running:
            break
        logits = step(runner, blocks, [(s, min(chunk_tokens, s.num_uncomputed)) for s in running])
        for sequence in running:
            if sequence.id in logits:
                sequence.append(int(logits[sequence.id].argmax()))
    return [list(sequence.tokens[sequence.num_prompt :]) for sequence in sequences]
