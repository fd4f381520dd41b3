"""What the doctor says: one finding for each thing it has looked at. Values alone."""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and less well than it could."""
    FAILURE = "failure"
    """It will not work."""


class Finding(msgspec.Struct, frozen=True):
    area: str
    level: Level
    says: str
    change: str = ""
    """What to do about it; empty where all is well."""


def ok(area: str, says: str) -> Finding:
    return Finding(area, Level.OK, says)


def warning(area: str, says: str, change: str) -> Finding:
    return Finding(area, Level.WARNING, says, change)


def failure(area: str, says: str, change: str) -> Finding:
    return Finding(area, Level.FAILURE, says, change)
