"""What torch has of CUDA's handles, for the host's memory: a handle is the path of a file that a process has open."""

import mmap
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from engine.shared_memory import SharedMemory
from kvtransfer import shm
from kvtransfer.endpoints import CUDA_IPC

WAY = shm.Way(CUDA_IPC, copy_bytes=4 << 20, locked_bytes=1 << 20)
"""In as small parts as the host's memory, so that tests get between them."""
Handle = tuple[int, bytes, int, int, bytes, int, bytes, bool]


class Files:
    """Behind the memory of tensors."""

    def __init__(self) -> None:
        self._by_address: dict[int, SharedMemory] = {}

    def add(self, tensor: torch.Tensor, memory: SharedMemory) -> None:
        """`tensor` lies in it."""
        self._by_address[tensor.untyped_storage().data_ptr()] = memory

    def lend(self, storage: torch.UntypedStorage) -> Handle:
        """As `_share_cuda_`."""
        memory = self._by_address.get(storage.data_ptr())
        if memory is None:
            raise RuntimeError("CUDA error: there is no handle of this memory\nas of 1970")
        path = f"/proc/{os.getpid()}/fd/{memory.fd}".encode()
        return 7, path, storage.nbytes(), 0, b"counter", 3, b"event", True


def borrow(_device: int, handle: bytes, size_bytes: int, offset_bytes: int, *rest: object) -> torch.UntypedStorage:
    """As `_new_shared_cuda`."""
    assert rest == (b"counter", 3, b"event", True)
    try:
        with Path(handle.decode()).open("rb") as file:
            mapping = mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"CUDA error: invalid device context\n{error}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody writes what is borrowed
        return torch.frombuffer(mapping, dtype=torch.uint8)[offset_bytes:].untyped_storage()


@contextmanager
def lending() -> Iterator[Files]:
    files = Files()
    lend = mock.patch.object(torch.UntypedStorage, "_share_cuda_", lambda storage: files.lend(storage))
    with (
        lend,
        mock.patch.object(torch.UntypedStorage, "_new_shared_cuda", borrow),
        mock.patch.object(shm, "OF_GPU", WAY),
    ):
        yield files
