"""transformers' continuous batching of the same shape on the same card, where transformers is there.

Its decode alone is told apart by two runs of the same prompts: the further tokens of the longer one over the further
time it takes.
"""

import importlib.util
import os
import time
from typing import Any

import torch

from bench.gpu_parts.bench import Bench
from bench.gpu_parts.report import Row
from bench.gpu_parts.shapes import Shape

_SHORT, _LONG = 8, 72


def decode(bench: Bench, shape: Shape, num_streams: int, context: int) -> float | None:
    """Tokens a second, in one row; or a word why there is none: nothing of ours fails when it does."""
    if importlib.util.find_spec("transformers") is None:
        bench.emit(Row(bench.task, "skipped: transformers is not installed"))
        return None
    if bench.is_dry or bench.free_bytes() < 2 * shape.weight_bytes:
        bench.emit(Row(bench.task, f"skipped: needs a GPU with {2 * shape.weight_bytes / 1e9:.0f} GB free"))
        return None
    try:
        rate = _rate(shape, num_streams, context)
    except Exception as error:  # it is somebody else's program, of any version
        bench.emit(Row(bench.task, "skipped: it failed", note=f"{type(error).__name__}: {error}"[:160]))
        return None
    bench.emit(Row(bench.task, rate, "tok/s", note="its continuous batching, its own choice of attention"))
    return rate


def _rate(shape: Shape, num_streams: int, context: int) -> float:
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
        model: Any = transformers.LlamaForCausalLM(config)
        model.eval()
    finally:
        torch.set_default_dtype(torch.float32)
    prompts = torch.randint(0, shape.vocab_size, (num_streams, context)).tolist()
    _generate(transformers, model, prompts, _SHORT)
    short_s, short = _generate(transformers, model, prompts, _SHORT)
    long_s, long = _generate(transformers, model, prompts, _LONG)
    return (long - short) / (long_s - short_s)


def _generate(transformers: Any, model: Any, prompts: list[list[int]], count: int) -> tuple[float, int]:
    """Seconds, and tokens of all answers."""
    settings = transformers.GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    began = time.perf_counter()
    results = model.generate_batch(inputs=prompts, generation_config=settings)
    elapsed = time.perf_counter() - began
    made = sum(len(result.generated_tokens) for result in results.values())
    assert made == count * len(prompts), f"{made} tokens instead of {count * len(prompts)}"
    return elapsed, made
