"""Which options of `tandem bench` go together, and what is said of those that do not: nothing is ignored."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from engine.errors import ConfigError, TandemError

TRACE_ONLY = ("length_scale", "block_tokens", "time_scale", "max_context")
INTERFERENCE_ONLY = ("streams", "quiet", "long_input_len", "long_output_len", "long_every", "duration")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")
FINITE = ("temperature", "timeout", "quiet", "long_every", "duration")
LOAD_ONLY = (
    "num_prompts",
    "request_rate",
    "burstiness",
    "concurrency",
    "range_ratio",
    "prefix_len",
    "prompts",
    "trace",
    *TRACE_ONLY,
    "num_warmups",
    "goodput",
)


def refuse_idle_options(ctx: typer.Context) -> None:
    """Raises ConfigError for an option that was given and would mean nothing beside the others."""

    def refuse(names: tuple[str, ...], why: str) -> None:
        for name in names:
            if is_given(ctx, name):
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} {why}", field=option)

    if ctx.params["interference"]:
        refuse(LOAD_ONLY, "does not go with --interference")
        return
    refuse(INTERFERENCE_ONLY, "needs --interference")
    if ctx.params["trace"] is None:
        refuse(TRACE_ONLY, "needs --trace")
    else:
        refuse(("input_len", "output_len", "range_ratio"), "does not go with --trace, which gives the lengths")
        if ctx.params["request_rate"] is not None or ctx.params["concurrency"] is not None:
            refuse(("time_scale",), "means nothing where the times of the trace are not used")
    if ctx.params["prompts"] is not None:
        refuse(("input_len", "vocab"), "does not go with --prompts")


def check_finite(ctx: typer.Context) -> None:
    """Raises ConfigError for an endless time and the like: where inf has a meaning, it is not asked here."""
    for name in FINITE:
        if not math.isfinite(ctx.params[name]):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} must be a finite number", field=option)


def is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def check_suffix(path: Path | None, suffix: str, option: str) -> None:
    if path is not None and path.suffix != suffix:
        raise ConfigError(f"{option} writes {suffix}, not {path.suffix or 'a file without suffix'}", field=option)
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigError(f"{option}: there is no folder {path.parent}", field=option)


def json_object(text: str) -> dict[str, object]:
    try:
        value: object = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise ConfigError(f"--extra-body: {error}", field="--extra-body") from error
    if not isinstance(value, dict):
        raise ConfigError("--extra-body is not a JSON object", field="--extra-body")
    return value


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def parse_goodput(words: Sequence[str]) -> dict[str, float]:
    """`ttft:200 tpot:50` as limits in milliseconds. Raises ConfigError."""
    limits: dict[str, float] = {}
    for word in (part for text in words for part in text.split()):
        metric, _, limit = word.partition(":")
        try:
            limits[metric] = float(limit)
        except ValueError:
            limits[metric] = -1.0
        if metric not in GOODPUT_METRICS or not limits[metric] > 0:
            raise ConfigError(f"{word!r} is not ttft:MS, tpot:MS or e2el:MS", field="--goodput")
    return limits


@contextmanager
def refusals(console: Console) -> Iterator[None]:
    """Turn what cannot be run into a message and exit status 2; 1 is for requests that failed."""
    try:
        yield
    except TandemError as error:
        console.print(f"tandem: {error.message}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
