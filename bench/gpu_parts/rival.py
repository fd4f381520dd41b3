"""transformers' continuous batching of the same shape on the same card, where transformers is there.

Its decode alone is told apart by when each token came: what counts is between the last stream's first token and the
first one's last, in which all of them decode.
"""

import importlib.util
import os
from typing import Any

import torch

from bench.gpu_parts.bench import Bench
from bench.gpu_parts.report import Row
from bench.gpu_parts.shapes import Shape

_TOKENS = 72
"""Of each stream: a step or two for each few prompts go by before all streams decode."""
_WARM_TOKENS = 4
_KV_SHARE = 0.5
"""Of the memory that is free: more than these streams need, and the rest is for its masks and its copies of keys."""


def decode(bench: Bench, shape: Shape, num_streams: int, context: int) -> float | None:
    """Tokens a second, in one row; or a word why there is none: nothing of ours fails when it does."""
    if importlib.util.find_spec("transformers") is None:
        bench.emit(Row(bench.task, "skipped: transformers is not installed"))
        return None
    if bench.is_dry or bench.free_bytes() < 2 * shape.weight_bytes:
        bench.emit(Row(bench.task, f"skipped: needs a GPU with {2 * shape.weight_bytes / 1e9:.0f} GB free"))
        return None
    try:
        rate, attention = _rate(bench.device, shape, num_streams, context)
    except Exception as error:  # it is somebody else's program, of any version
        bench.emit(Row(bench.task, "skipped: it failed", note=f"{type(error).__name__}: {error}"[:160]))
        return None
    bench.emit(Row(bench.task, rate, "tok/s", note=f"its continuous batching, which chose {attention} here"))
    return rate


def _rate(device: torch.device, shape: Shape, num_streams: int, context: int) -> tuple[float, str]:
    """Tokens a second, and what attends."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # it would look there for kernels
    import transformers  # where it is there

    config = transformers.LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied_embeddings,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):  # in seconds, where a host would take minutes
            model: Any = transformers.LlamaForCausalLM(config)
        model.eval()
    finally:
        torch.set_default_dtype(torch.float32)
    prompts = torch.randint(0, shape.vocab_size, (num_streams, context)).tolist()
    _generate(transformers, model, prompts[:2], _WARM_TOKENS)
    return rate_of_all(_generate(transformers, model, prompts, _TOKENS)), _attention(model)


def _generate(transformers: Any, model: Any, prompts: list[list[int]], count: int) -> list[list[float]]:
    """When the tokens of each answer came, in seconds."""
    settings = transformers.GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    room = transformers.ContinuousBatchingConfig(max_memory_percent=_KV_SHARE)
    results = model.generate_batch(prompts, settings, continuous_batching_config=room, record_timestamps=True)
    made = sum(len(result.generated_tokens) for result in results.values())  # its thread's errors are only logged
    assert made == count * len(prompts), f"{made} tokens instead of {count * len(prompts)}"
    return [result.timestamps for result in results.values()]


def rate_of_all(came_s: list[list[float]]) -> float:
    """Tokens a second while all streams decode."""
    began = max(stream[0] for stream in came_s)
    ended = min(stream[-1] for stream in came_s)
    made = sum(began < moment <= ended for stream in came_s for moment in stream)
    return made / (ended - began)


def _attention(model: Any) -> str:
    """Which it takes for this: it puts the model's own one back behind every call."""
    manager = model.init_continuous_batching()
    return str(manager.model.config._attn_implementation)
