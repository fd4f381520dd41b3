"""Dialects by themselves: which there are to be had, and where each is, at a port or below a prefix of its own.

Written NAME=:PORT or NAME=/PREFIX. Does not know what a dialect has there (`frontend.rest.mounted`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.errors import ConfigError

NAMES = ("openai", "vllm", "tgi", "ollama", "anthropic", "llamacpp")
FORM = "NAME=:PORT or NAME=/PREFIX"

_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[\w.~-]+)+", re.ASCII)
_PORT = re.compile(r":(\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mount:
    """One dialect at one place."""

    dialect: str
    port: int | None = None
    """0 takes a free one; None where it has none of its own."""
    prefix: str = ""
    """Of paths at the server's own port; empty where it has a port."""

    def __str__(self) -> str:
        return f"{self.dialect}={self.prefix if self.port is None else f':{self.port}'}"


def parse_mounts(texts: Sequence[str], taken: Mapping[int, str]) -> tuple[Mount, ...]:
    """`taken` are the ports of other options. Raises ConfigError for what is no mount, and for two at one place."""
    mounts = tuple(map(_parsed, texts))
    for number, mount in enumerate(mounts):
        if mount.port and mount.port in taken:
            raise _wrong(mount, f"port {mount.port} is that of {taken[mount.port]}")
        for other in mounts[:number]:
            if mount == other:
                raise _wrong(mount, "it is given twice")
            if mount.port and mount.port == other.port:
                raise _wrong(mount, f"port {mount.port} is that of {other.dialect} already")
            if mount.prefix and other.prefix and _overlap(mount.prefix, other.prefix):
                why = f"{other.prefix} is {other.dialect}'s already, and one may not begin with the other"
                raise _wrong(mount, why)
    return mounts


def _parsed(text: str) -> Mount:
    name, _, place = text.partition("=")
    if name not in NAMES:
        raise _wrong(text, f"there is no dialect {name[:80]!r}, but {', '.join(NAMES)}")
    if (port := _PORT.fullmatch(place)) and int(port[1]) < 1 << 16:
        return Mount(name, port=int(port[1]))
    if _PREFIX.fullmatch(place):
        return Mount(name, prefix=place)
    raise _wrong(text, f"it must be {FORM}")


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _wrong(mount: Mount | str, why: str) -> ConfigError:
    return ConfigError(f"--mount {str(mount)[:200]}: {why}", field="mount")
