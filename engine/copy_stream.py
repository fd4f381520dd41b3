"""A stream of one GPU for copies, beside the one that computes: neither waits for the other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class CopyStream:
    """On a CPU there is none, and everything is done at once."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.on_gpu else None  # type: ignore[no-untyped-call]

    @contextmanager
    def copying(self) -> Iterator[None]:
        """What is begun within is over behind, whatever happens. Memory that is taken within is given again only to
        this stream: other streams may still use what they have let go of."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                self._stream.synchronize()
