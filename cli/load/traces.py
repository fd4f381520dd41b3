"""Recorded loads: Azure's CSV and Mooncake's JSONL as one kind of row, and scaling rows to a smaller server."""

import csv
import datetime
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.load.config import MOONCAKE_BLOCK_TOKENS, TraceConfig
from cli.load.prompts import read_lines
from engine.errors import ConfigError

AZURE_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
Lines = Iterable[tuple[int, str]]
"""With their numbers in the file."""


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded request. Lengths in tokens."""

    due_s: float
    """After the first row."""
    input_len: int
    output_len: int
    hash_ids: tuple[int, ...] = ()
    """One per block of the prompt; equal leading ids are a shared prefix. Empty: nothing is known to be shared."""


@dataclass(frozen=True, slots=True)
class Scaled:
    rows: list[Row]
    clipped: int
    """Prompts that were cut to fit max_context."""
    dropped: int
    """Requests whose output alone leaves no room for a prompt."""


def read_trace(path: Path) -> list[Row]:
    """The rows of a .csv (Azure) or .jsonl (Mooncake) file, plain or .gz, by time. Raises ConfigError."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        rows = azure_rows(read_lines(path, "--trace"))
    elif name.endswith(".jsonl"):
        rows = mooncake_rows(read_lines(path, "--trace"))
    else:
        raise ConfigError(f"{path.name} is neither .csv (Azure) nor .jsonl (Mooncake), plain or .gz", field="--trace")
    if not rows:
        raise ConfigError(f"{path} has no requests", field="--trace")
    rows.sort(key=lambda row: row.due_s)
    start_s = rows[0].due_s
    return [Row(row.due_s - start_s, row.input_len, row.output_len, row.hash_ids) for row in rows]


def azure_rows(lines: Lines) -> list[Row]:
    """Rows of `TIMESTAMP,ContextTokens,GeneratedTokens`; times are seconds since 1970."""
    numbered = iter(lines)
    _, header = next(numbered, (0, ""))
    if next(csv.reader([header]), None) != AZURE_COLUMNS:
        raise ConfigError(f"an Azure trace begins with {','.join(AZURE_COLUMNS)}", field="--trace")
    rows = []
    for number, line in numbered:
        try:
            time, context, generated = next(csv.reader([line]))
            rows.append(Row(_azure_seconds(time), _length(int(context)), _length(int(generated))))
        except ValueError as error:
            raise ConfigError(f"line {number} of the trace: {error}", field="--trace") from error
    return rows


def _azure_seconds(text: str) -> float:
    """`2023-11-16 18:15:46.6805900`: seven digits, one more than datetime takes."""
    whole, _, fraction = text.partition(".")
    moment = datetime.datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.UTC)
    return moment.timestamp() + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)


def mooncake_rows(lines: Lines) -> list[Row]:
    """Rows of `{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}`."""
    rows = []
    for number, line in lines:
        try:
            row = json.loads(line)
            hash_ids = tuple(int(block) for block in row["hash_ids"])
            lengths = _length(int(row["input_length"])), _length(int(row["output_length"]))
            rows.append(Row(float(row["timestamp"]) / 1e3, *lengths, hash_ids))
            if len(hash_ids) < math.ceil(lengths[0] / MOONCAKE_BLOCK_TOKENS) or min(hash_ids) < 0:
                raise ValueError("hash_ids do not cover input_length in blocks of 512")
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"line {number} of the trace: {error!r}", field="--trace") from error
    return rows


def _length(tokens: int) -> int:
    if tokens < 0:
        raise ValueError(f"{tokens} tokens")
    return max(tokens, 1)


def block_tokens(config: TraceConfig) -> int:
    """Tokens of one Mooncake block when replayed."""
    return config.block_tokens or max(1, round(MOONCAKE_BLOCK_TOKENS * config.length_scale))


def scale(rows: Sequence[Row], config: TraceConfig) -> Scaled:
    """Multiply lengths and times; then clip prompts, and drop what still does not fit. Raises ConfigError."""
    for option, factor in (("--length-scale", config.length_scale), ("--time-scale", config.time_scale)):
        if not 0 < factor < math.inf:
            raise ConfigError(f"{option} must be greater than 0 and finite", field=option)
    room = config.max_context or math.inf
    kept = []
    clipped = dropped = 0
    for row in rows:
        wanted = max(1, round(row.input_len * config.length_scale))
        output_len = max(1, round(row.output_len * config.length_scale))
        if output_len >= room:
            dropped += 1
            continue
        input_len = int(min(wanted, room - output_len))
        clipped += input_len < wanted
        kept.append(Row(row.due_s * config.time_scale, input_len, output_len, row.hash_ids))
    return Scaled(kept, clipped, dropped)
