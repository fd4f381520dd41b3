"""A result for the terminal, and as JSON. Knows nothing of how it was measured."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.load.config import InterferenceConfig, LoadConfig
from cli.load.interference import InterferenceResult
from cli.load.measure import Record
from cli.load.overview import Overview
from cli.load.run import Result
from engine.version import VERSION


def render(view: Overview) -> Group:
    """Rates, then latencies in milliseconds, then everything a reader must know besides."""
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    for name, value in view.facts:
        facts.add_row(name, Text(value))
    numbers = Table(view.table.corner, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in view.table.columns:
        numbers.add_column(column, justify="right", no_wrap=True)
    for name, words, values in view.table.rows:
        numbers.add_row(Text.assemble((name, "cyan"), f"  {words}"), *values)
    notes = [Text(note, "dim") for note in view.notes]
    failures = [Text(line, "red") for line in view.failures]
    return Group(Text(view.title, "bold"), facts, Text(), numbers, Text(), *notes, *failures)


def to_json(result: Result | InterferenceResult) -> str:
    """config, summary, failures by kind, and a row per request with every chunk's time in seconds since the start."""
    common = {
        "tandem": VERSION,
        "config": _config(result.config),
        "model": asdict(result.model),
        "notes": result.notes,
        "summary": result.summary,
        "failures": result.failures,
        "client_cpu_s": result.client_cpu_s,
    }
    if isinstance(result, InterferenceResult):
        rows = {"streams": _rows(result.streams), "longs": _rows(result.longs)}
        return _dump({"kind": "interference", **common, "phases": asdict(result.phases), **rows})
    return _dump({"kind": "load", **common, "vocab": result.vocab, "requests": _rows(result.records)})


def _dump(value: dict[str, object]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def _config(config: LoadConfig | InterferenceConfig) -> dict[str, object]:
    """Without keys; paths and what JSON has no number for are words."""
    values = asdict(config)
    del values["target"]["api_key"], values["target"]["trust"]
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, Path) or value == float("inf"):
        return str(value)
    return value


def _rows(records: Sequence[Record]) -> list[dict[str, object]]:
    return [
        {
            "index": r.index,
            "due_s": round(r.due_s, 6),
            "sent_s": round(r.sent_s, 6),
            "end_s": round(r.end_s, 6),
            "input_tokens": r.input_tokens,
            "output_tokens": r.output_tokens,
            "ttft_ms": r.ttft_ms if r.error is None else None,
            "tpot_ms": r.tpot_ms if r.error is None else None,
            "e2el_ms": r.e2el_ms if r.error is None else None,
            "chunks_s": [round(at, 6) for at in r.reply.chunks_s],
            "error": r.error,
        }
        for r in records
    ]
