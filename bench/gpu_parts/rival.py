"""transformers on the same shape and the same card, where it is there: its continuous batching, as a server has it, and
its `generate`, whose streams begin and end together. Which attention it takes is its own choice.

Its decode alone is told apart by when each token came: what counts is between the last stream's first token and the
first one's last, in which all of them decode.
"""

import importlib.util
import os
import time
from typing import Any

import torch

from bench.gpu_parts.bench import Bench
from bench.gpu_parts.report import Row
from bench.gpu_parts.shapes import Shape

CONTINUOUS = "continuous batching"
_TOKENS = 72
"""Of each stream: a step or two for each few prompts go by before all streams decode."""
_WARM_TOKENS = 4
_KV_SHARE = 0.5
"""Of the memory that is free: more than these streams need, and the rest is for its masks and its copies of keys."""


def decode(bench: Bench, shape: Shape, num_streams: int, context: int) -> dict[str, float]:
    """Tokens a second by each of its ways, and a row for each; or a word why there is none: nothing of ours fails when
    it does."""
    if importlib.util.find_spec("transformers") is None:
        bench.emit(Row(bench.task, "skipped: transformers is not installed"))
        return {}
    if bench.is_dry or bench.free_bytes() < 2 * shape.weight_bytes:
        bench.emit(Row(bench.task, f"skipped: needs a GPU with {2 * shape.weight_bytes / 1e9:.0f} GB free"))
        return {}
    rates: dict[str, float] = {}
    try:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # it would look there for kernels
        import transformers  # where it is there

        model = _model(transformers, bench.device, shape)
        prompts = torch.randint(0, shape.vocab_size, (num_streams, context)).tolist()
        for name, way in (("generate", _together), (CONTINUOUS, _as_they_come)):
            rates[name], note = way(transformers, model, prompts)
            bench.emit(Row(f"{bench.task}, {name}", rates[name], "tok/s", note=note))
    except Exception as error:  # it is somebody else's program, of any version
        bench.emit(Row(bench.task, "skipped: it failed", note=f"{type(error).__name__}: {error}"[:160]))
    return rates


def _model(transformers: Any, device: torch.device, shape: Shape) -> Any:
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
            return transformers.LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def _together(transformers: Any, model: Any, prompts: list[list[int]]) -> tuple[float, str]:
    """`generate`: prompts of one length that begin and end together, as no server's do."""
    came_s: list[float] = []

    def note(token_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        came_s.append(time.perf_counter())  # it waits for each step, to know who is at an end
        return torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)

    for some, count in ((prompts[:2], _WARM_TOKENS), (prompts, _TOKENS)):
        came_s.clear()
        token_ids = torch.tensor(some, device=model.device)
        settings = transformers.GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, use_cache=True)
        model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            generation_config=settings,
            stopping_criteria=transformers.StoppingCriteriaList([note]),
        )
        assert len(came_s) == count, f"{len(came_s)} steps instead of {count}"
    rate = rate_of_all([came_s] * len(prompts))
    return rate, f"its generate, by {model.config._attn_implementation}; streams begin and end together"


def _as_they_come(transformers: Any, model: Any, prompts: list[list[int]]) -> tuple[float, str]:
    """Its continuous batching."""
    _generate(transformers, model, prompts[:2], _WARM_TOKENS)
    rate = rate_of_all(_generate(transformers, model, prompts, _TOKENS))
    return rate, f"its continuous batching, by {_attention(model)}"


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
