"""A config and a served model → the jobs of one run, and in words what was assumed, scaled, clipped or dropped."""

from dataclasses import dataclass

import numpy as np

from cli.load.arrivals import arrival_times
from cli.load.client import ServedModel, vocabulary
from cli.load.config import LoadConfig, TraceConfig
from cli.load.prompts import Blocks, Job, TokenIds, random_ids, random_length, read_texts
from cli.load.traces import Row, Scaled, block_tokens, read_trace, scale
from engine.errors import ConfigError

DEFAULT_NUM_PROMPTS = 100


@dataclass(frozen=True, slots=True)
class Workload:
    jobs: list[Job]
    """By due time."""
    warmups: list[Job]
    """Like the first jobs in length, but of other tokens, so that no prefix cache knows the jobs."""
    notes: list[str]
    vocab: int | None


def build(config: LoadConfig, model: ServedModel) -> Workload:
    """Raises ConfigError for options that contradict each other or the model."""
    _check(config)
    rng = np.random.default_rng(config.seed)
    if config.prompts is not None:
        return _texts(config, rng)
    vocab, why = vocabulary(config.vocab, model)
    if config.trace is not None:
        return _replay(config, config.trace, vocab, why, rng)
    return _random(config, vocab, why, rng)


def _check(config: LoadConfig) -> None:
    for option, value in (("--num-prompts", config.num_prompts), ("--concurrency", config.concurrency)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} must be at least 1", field=option)
    if config.target.endpoint == "chat" and config.prompts is None:
        raise ConfigError("chat takes texts, not token ids: give --prompts FILE", field="--prompts")
    if config.trace is not None and config.prompts is not None:
        raise ConfigError("--trace and --prompts exclude each other", field="--prompts")
    if config.prefix_len and (config.trace is not None or config.prompts is not None):
        raise ConfigError("--prefix-len is for random prompts", field="--prefix-len")
    if config.burstiness != 1.0 and config.request_rate is None:
        raise ConfigError("--burstiness needs --request-rate", field="--burstiness")


def _random(config: LoadConfig, vocab: int, why: str, rng: np.random.Generator) -> Workload:
    count = config.num_prompts or DEFAULT_NUM_PROMPTS
    due = arrival_times(count, config.rate, config.burstiness, rng)
    prefix = random_ids(rng, vocab, config.prefix_len)

    def job(rng: np.random.Generator, due_s: float) -> Job:
        length = random_length(rng, config.input_len, config.range_ratio)
        output = random_length(rng, config.output_len, config.range_ratio)
        return Job(prefix + random_ids(rng, vocab, length), output, due_s)

    jobs = [job(rng, at) for at in due]
    others = _other(config)
    prefix = random_ids(others, vocab, config.prefix_len)
    return Workload(jobs, [job(others, 0.0) for _ in range(config.num_warmups)], [f"random prompts, {why}"], vocab)


def _texts(config: LoadConfig, rng: np.random.Generator) -> Workload:
    assert config.prompts is not None
    texts = read_texts(config.prompts)
    count = config.num_prompts or len(texts)
    due = arrival_times(count, config.rate, config.burstiness, rng)
    lengths = [random_length(rng, config.output_len, config.range_ratio) for _ in due]
    jobs = [Job(texts[i % len(texts)], lengths[i], due[i]) for i in range(count)]
    notes = [f"{len(texts)} texts of {config.prompts.name}"]
    if count > len(texts):
        notes.append(f"{count - len(texts)} requests repeat a text: a prefix cache knows them")
    # A warm-up must not teach a prefix cache the first text.
    warmups = [Job(f"{number}: warm up.", config.output_len) for number in range(config.num_warmups)]
    return Workload(jobs, warmups, notes, None)


def _replay(config: LoadConfig, trace: TraceConfig, vocab: int, why: str, rng: np.random.Generator) -> Workload:
    recorded = read_trace(trace.path)
    scaled = scale(recorded[: config.num_prompts], trace)
    if not scaled.rows:
        raise ConfigError("nothing of the trace fits --max-context", field="--max-context")
    rows = scaled.rows
    times = [row.due_s for row in rows]
    if config.request_rate is not None:
        times = arrival_times(len(rows), config.request_rate, config.burstiness, rng)
    elif config.is_closed_loop:
        times = [0.0] * len(rows)
    if trace.block_tokens is not None and not rows[0].hash_ids:
        raise ConfigError("--block-tokens is for traces with hash_ids", field="--block-tokens")
    blocks = Blocks(vocab, block_tokens(trace))
    jobs = [Job(_prompt(row, blocks, vocab, rng), row.output_len, at) for row, at in zip(rows, times, strict=True)]
    others = _other(config)
    warmups = [Job(random_ids(others, vocab, row.input_len), row.output_len) for row in rows[: config.num_warmups]]
    return Workload(jobs, warmups, [_scaling_note(config, trace, recorded, scaled), why], vocab)


def _prompt(row: Row, blocks: Blocks, vocab: int, rng: np.random.Generator) -> TokenIds:
    return blocks.prompt(row.hash_ids, row.input_len) if row.hash_ids else random_ids(rng, vocab, row.input_len)


def _scaling_note(config: LoadConfig, trace: TraceConfig, recorded: list[Row], scaled: Scaled) -> str:
    used = len(scaled.rows) + scaled.dropped
    parts = [
        f"trace {trace.path.name}: {used} of {len(recorded)} requests, lengths x {trace.length_scale:g}"
        f" (mean in {np.mean([row.input_len for row in scaled.rows]):.0f}"
        f", out {np.mean([row.output_len for row in scaled.rows]):.0f} tokens)"
    ]
    if config.request_rate is None and not config.is_closed_loop:
        parts.append(f"times x {trace.time_scale:g}")
    else:
        parts.append("times of the trace not used")
    if scaled.rows[0].hash_ids:
        parts.append(f"blocks of {block_tokens(trace)} tokens for 512")
    if trace.max_context is not None:
        parts.append(
            f"context {trace.max_context}: {scaled.clipped} prompts clipped, {scaled.dropped} requests dropped"
        )
    return ", ".join(parts)


def _other(config: LoadConfig) -> np.random.Generator:
    return np.random.default_rng([config.seed, 1])
