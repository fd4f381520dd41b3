"""How the bench tells a worker where to die, and hears that it did: files in a folder. Standard library only.

1. The bench arms a worker: `NAME.armed` has an id, the moment, and the how many-th time.
2. When the worker comes there it renames the file to `ID.died` and kills itself with SIGKILL.
3. The bench may take the arm back by removing the file: either it or the worker is first, and both know who was.
"""

import os
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

FOLDER = "KILLS_FOLDER"
"""Environment variable: where the files are."""


class Arms:
    """The bench's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last_id = 0

    def arm(self, worker: str, moment: str, number: int) -> int:
        """Have the worker die there; returns the id of this arm."""
        self._last_id += 1
        text = f"{self._last_id}\n{number}\n{moment}"
        part = self._folder / f"{worker}.part"
        part.write_text(text)
        part.rename(self._folder / f"{worker}.armed")
        return self._last_id

    def died(self, arm_id: int) -> bool:
        return (self._folder / f"{arm_id}.died").exists()

    def take_back(self, worker: str) -> bool:
        """False: too late, it dies of it."""
        try:
            (self._folder / f"{worker}.armed").unlink()
        except FileNotFoundError:
            return False
        return True


class Trap:
    """The worker's side: asked at every moment, by any thread."""

    def __init__(self, folder: str, worker: str) -> None:
        self._folder = folder
        self._armed = os.path.join(folder, f"{worker}.armed")
        self._passages: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def armed_for(self, moment: str) -> bool:
        return (arm := self._arm()) is not None and arm[2] == moment

    def passed(self, moment: str, number: int | None = None, linger_s: float = 0.0) -> None:
        """Die here if that is what the bench wants: at this `number`, or else when it is the n-th time since it was
        armed. Lingers before, that what was handed over may leave."""
        if (arm := self._arm()) is None or arm[2] != moment:
            return
        arm_id, wanted, _ = arm
        if number is None:
            with self._lock:
                self._passages[arm_id, moment] += 1
                number = self._passages[arm_id, moment]
        if number != int(wanted):
            return
        with suppress(FileNotFoundError):  # it was taken back, or another thread was first
            os.rename(self._armed, os.path.join(self._folder, f"{arm_id}.died"))
            time.sleep(linger_s)
            os.kill(os.getpid(), signal.SIGKILL)

    def _arm(self) -> tuple[str, str, str] | None:
        """Id, number and moment."""
        if not os.access(self._armed, os.F_OK):
            return None
        with suppress(FileNotFoundError), open(self._armed) as file:
            arm_id, number, moment = file.read().split("\n")
            return arm_id, number, moment
        return None
