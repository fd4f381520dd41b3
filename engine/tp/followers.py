"""The processes of ranks 1 to N - 1, as rank 0 has them: started, told, heard, watched and ended."""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from engine.errors import ConfigError
from engine.leash import leashed
from engine.tp.channel import Channel
from engine.tp.ranks import RankFailed

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
END_S = 5.0
"""That a process which closed its socket may take to be gone."""

Lost = Callable[[str], None]
"""Hears, on a thread of its own, which rank has ended and how."""


class Followers:
    """Each a child of this process, with a channel to it. Linux ends them with the very thread that made this."""

    def __init__(self, size: int) -> None:
        """Start them; they wait for their first message."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Channel] = []
        self.copies: list[Channel] = []
        """Over which each hears what to copy, and answers"""
        self._watcher: threading.Thread | None = None
        self._closing = False
        try:
            for _ in range(1, size):
                self._start()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def limit(self, seconds: float) -> None:
        """One may take so long from now on to take a message, or to copy what it is told to."""
        for channel in (*self._channels, *self.copies):
            channel.limit(seconds)

    def tell(self, messages: Sequence[bytes], descriptors: Sequence[int] = ()) -> None:
        """Send each its own. Raises RankFailed."""
        for index, (channel, message) in enumerate(zip(self._channels, messages, strict=True)):
            try:
                channel.send(message, descriptors)
            except OSError as error:
                raise RankFailed(f"{self._name(index)} takes nothing: {error}") from error

    def tell_all(self, message: bytes) -> None:
        self.tell([message] * len(self._channels))

    def hear(self) -> None:
        """Wait until each has answered that all is fine. Raises ConfigError with what one says else, RankFailed if one
        ends."""
        for index, channel in enumerate(self._channels):
            answer = channel.receive()
            if answer is None:
                raise RankFailed(self._how_it_ended(index))
            if answer:
                raise ConfigError(answer.decode())

    def watch(self, lost: Lost) -> None:
        """From now on, tell `lost` when one ends that was not ended here."""
        self._watcher = threading.Thread(target=self._watch, args=(lost,), name="tp-followers", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End them; they hold nothing that would have to be kept."""
        self._closing = True
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        if self._watcher and self._watcher is not threading.current_thread():
            self._watcher.join()
        for channel in (*self._channels, *self.copies):
            channel.close()

    def _start(self) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        for channels, (ours, _) in zip((self._channels, self.copies), pairs, strict=True):
            channels.append(Channel(ours))
        numbers = [theirs.fileno() for _, theirs in pairs]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with pairs[0][1], pairs[1][1]:
            process = subprocess.Popen(
                # -P: a file named engine.py where the user happens to be is not what is meant.
                leashed(sys.executable, "-P", "-m", "engine.tp.follower", *map(str, numbers)),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                pass_fds=numbers,
            )
        self._processes.append(process)

    def _watch(self, lost: Lost) -> None:
        poll = select.poll()
        for channel in self._channels:
            poll.register(channel, select.POLLRDHUP)
        ended = {descriptor for descriptor, _ in poll.poll()}
        if not self._closing:
            indices = [index for index, channel in enumerate(self._channels) if channel.fileno() in ended]
            lost(self._how_it_ended(indices[0]))

    def _name(self, index: int) -> str:
        return f"rank {index + 1} of {len(self._channels) + 1}"

    def _how_it_ended(self, index: int) -> str:
        process = self._processes[index]
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        match process.returncode:
            case None:
                return f"{self._name(index)} hung up"
            case status if status < 0:
                return f"{self._name(index)} was ended by {signal.Signals(-status).name}"
            case status:
                return f"{self._name(index)} exited with status {status}"
