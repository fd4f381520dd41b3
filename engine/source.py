"""Which models are to be served, as options say it: where each comes from, and what requests call it.

Import-light. Does not know whether they are there (`engine.hub`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

DEMO_NAME = "tandem-demo"
"""What requests call the built-in demonstration model."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model that is to be served."""

    name: str
    place: str
    """A folder, or its name on the hub; empty: the demonstration model."""


def sources(given: Sequence[str], served_name: str = "") -> list[Source]:
    """What options PLACE or NAME=PLACE say, of none the demonstration model; `served_name` is the first one's. Raises
    ConfigError where a model would have no name, or two, or two would have one."""
    found = [_source(each, "" if number else served_name) for number, each in enumerate(given or ("",))]
    for number, source in enumerate(found):
        if any(source.name == other.name for other in found[:number]):
            message = f"two models are called {source.name!r}: name one with --model NAME=FOLDER"
            raise ConfigError(message, field="model")
    return found


def _source(given: str, served_name: str) -> Source:
    name, is_named, place = given.partition("=")
    if not is_named or Path(given).expanduser().is_dir():
        return Source(model_name(given, served_name), given)
    if not name:
        raise ConfigError(f"--model {given} has no name before =", field="model")
    if served_name not in ("", name):
        raise ConfigError(f"the model of --model {given} cannot be called {served_name!r}, too", field="model")
    return Source(name, place)


def model_name(name_or_dir: str, served_name: str) -> str:
    """What requests call the model: as configured, else the last part of where it came from."""
    return served_name or (Path(name_or_dir).expanduser().resolve().name if name_or_dir else DEMO_NAME)
