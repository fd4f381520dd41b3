"""Groups of torch.distributed over gloo: made one by one, beside whatever others there are in the process."""

from datetime import timedelta
from typing import Any, Protocol

import torch.distributed as dist

LOOPBACK = "127.0.0.1"


class Work(Protocol):
    """What a group was asked for, and does."""

    def wait(self, timedelta: timedelta = ..., /) -> bool:
        """Raises RuntimeError when it fails, or takes longer than that."""


def gloo_group(store: dist.Store, rank: int, size: int, *, host: str, limit: timedelta) -> Any:  # type: ignore[name-defined]
    """Returns when all ranks have done the same with the same store; others reach this one at `host`. `limit` is for
    whoever waits without saying how long. Raises RuntimeError."""
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = limit
    options._threads = 1
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=host, lazy_init=False)]
    return dist.ProcessGroupGloo(store, rank, size, options)


def first_line(error: RuntimeError) -> str:
    """What torch says, without where in its source."""
    return str(error).partition("\n")[0]
