"""A file that is read again when it changes: keys and certificates are replaced without a restart."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from engine.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""The file is looked at so often, at most."""

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What `read` makes of the file at `path`; it raises ConfigError for one that cannot be used.

    `beside` are files that `read` looks at, too: when one of them changes, all are read again.
    """

    def __init__(self, path: Path, read: Callable[[Path], T], *beside: Path) -> None:
        """Raises what `read` raises."""
        self._path = path
        self._beside = beside
        self._wrong: list[State | None] | None = None
        """What the files were when they could not be used, and that was said."""
        self._read = read
        self._state = self._file_state()
        self._content = read(path)
        self._looked_s = time.monotonic()

    @property
    def content(self) -> T:
        """As of now, or of a moment ago; a file that has become useless changes nothing."""
        now = time.monotonic()
        if now - self._looked_s >= LOOK_S:
            self._looked_s = now
            self._read_if_changed()
        return self._content

    def _read_if_changed(self) -> None:
        if (state := self._file_state()) == self._state:
            return
        try:
            self._content = self._read(self._path)
        except ConfigError as error:
            # Tried again at every look: what was in the way (permissions, say) may end without a change of the file.
            if state != self._wrong:
                self._wrong = state
                log.warning("%s; what was read before holds", error.message)
        else:
            self._state, self._wrong = state, None
            log.info("%s has changed and was read again", self._path)

    def _file_state(self) -> "list[State | None]":
        return [_state_of(path) for path in (self._path, *self._beside)]


State = tuple[int, int, int]
"""By which a change shows: time, size and inode."""


def _state_of(path: Path) -> State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
