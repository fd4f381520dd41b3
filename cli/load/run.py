"""One run from its config to its result. `run_load` is all that another program needs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvloop

from cli.load.client import Client, ServedModel
from cli.load.config import LoadConfig, TargetConfig
from cli.load.measure import Record, Summary, summarize
from cli.load.session import Session, send_closed, send_open, warm_up
from cli.load.workload import build
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run, over."""

    config: LoadConfig
    model: ServedModel
    vocab: int | None
    """Random ids were below this; None: prompts were texts."""
    notes: tuple[str, ...]
    """What was assumed, scaled, clipped or dropped, in words."""
    records: tuple[Record, ...]
    duration_s: float
    """From the first request to the end of the last one, failed ones included."""
    summary: Summary
    failures: dict[str, int]
    """How many by kind."""
    client_cpu_s: float
    """Of this process, for the whole run, reading the answers included."""


def open_client(target: TargetConfig) -> Client:
    """Needs a running event loop. Raises ConfigError for an address of another kind."""
    match target.url.partition("://")[0]:
        case "http" | "https":
            from cli.load.openai_client import OpenAIClient

            return OpenAIClient(target)
        case "grpc" | "grpcs":
            from cli.load.grpc_client import GrpcClient

            return GrpcClient(target)
        case _:
            raise ConfigError(f"{target.url} is neither http://, https://, grpc:// nor grpcs://", field="url")


def run_load(config: LoadConfig, on_progress: Callable[[int, int], None] | None = None) -> Result:
    """One whole run, blocking; `on_progress(done, total)` after every request.

    Raises ConfigError for what cannot be run, Unavailable when the first request fails.
    """
    return uvloop.run(run(config, on_progress))


async def run(config: LoadConfig, on_progress: Callable[[int, int], None] | None = None) -> Result:
    """As run_load, in a loop that runs already."""
    client = open_client(config.target)
    try:
        model = await client.served_model()
        work = build(config, model)
        session = Session(client, config.target.timeout_s)
        await warm_up(session, work.warmups)
        records: list[Record] = []

        def keep(record: Record) -> None:
            records.append(record)
            if on_progress is not None:
                on_progress(len(records), len(work.jobs))

        cpu_s = time.process_time()
        session.start()
        if config.is_closed_loop:
            await send_closed(session, work.jobs, config.concurrency or 1, keep)
        else:
            await send_open(session, work.jobs, config.concurrency, keep)
        duration_s, cpu_s = session.now(), time.process_time() - cpu_s
    finally:
        await client.aclose()
    records.sort(key=lambda record: record.index)
    return Result(
        config=config,
        model=model,
        vocab=work.vocab,
        notes=(*work.notes, *oddities(records, config)),
        records=tuple(records),
        duration_s=duration_s,
        summary=summarize(records, duration_s, config.goodput),
        failures=count_failures(records),
        client_cpu_s=cpu_s,
    )


def count_failures(records: Sequence[Record]) -> dict[str, int]:
    """By kind, the most frequent first."""
    kinds = [record.failure for record in records if record.failure is not None]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds), key=kinds.count, reverse=True)}


def oddities(records: Sequence[Record], config: LoadConfig) -> list[str]:
    """What a reader of the numbers should know of answers that did not fail."""
    good = [record for record in records if record.error is None]
    uncounted = sum(record.reply.output_tokens is None for record in good)
    short = sum(record.output_tokens != record.asked_output for record in good)
    longer = sum(record.asked_input is not None and record.input_tokens != record.asked_input for record in good)
    notes = []
    if uncounted:
        notes.append(f"{uncounted} answers came without usage: each of their chunks is counted as a token")
    if short and config.target.ignore_eos:
        notes.append(f"{short} answers have another length than was asked for")
    if longer:
        notes.append(f"of {longer} prompts the server counts another length than was sent")
    return notes
