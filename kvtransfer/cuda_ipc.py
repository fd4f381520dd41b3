"""A pool on a GPU that another process of this host reads where it lies: lent by CUDA's handles, as torch makes them.

The two may use the same GPU, or two of which one reads the other's memory. What tells them of each other is the
connection of `shm`, and so are the frames, the fences and what happens when one of them ends: here is only how such
memory is lent, mapped and copied.

Copies are the driver's, from memory to memory on the receiver's device, on a stream of their own that is waited for.
What has to be true of blocks is as in `device_store`. On a CPU's tensors the same code runs, if torch can lend them.

Knows memory. Does not know tickets, fences or sockets.
"""

import torch

from engine.errors import TransferFailed
from kvtransfer.device_store import DeviceStore
from kvtransfer.pieces import Numbers
from protos import kvtransfer_pb2 as pb


class DeviceMemory:
    """What a pool on a GPU lies in, to be lent to other processes of this host."""

    def __init__(self, pool: torch.Tensor) -> None:
        assert pool.storage_offset() == 0, "the pool begins its memory"
        self.size_bytes = pool.nbytes
        self._storage = pool.untyped_storage()

    def lend(self) -> pb.CudaMemory:
        """To one process; torch counts them. Raises TransferFailed where CUDA, or its driver, does not lend it."""
        try:
            _, handle, size_bytes, offset_bytes, counter, counter_offset, event, has_event = (
                self._storage._share_cuda_()  # type: ignore[no-untyped-call]
            )
        except RuntimeError as error:
            raise TransferFailed(f"the GPU's memory is not lent: {str(error).splitlines()[0]}") from error
        return pb.CudaMemory(
            handle=handle,
            size_bytes=size_bytes,
            offset_bytes=offset_bytes,
            counter=counter,
            counter_offset=counter_offset,
            event=event,
            has_event=has_event,
        )


class BorrowedPool:
    """Another process's pool, of which blocks are copied into `store`; unmapped when nobody has it any more."""

    def __init__(self, memory: pb.CudaMemory, size_bytes: int, store: DeviceStore) -> None:
        """`size_bytes` of the memory are blocks like those of `store`. Raises TransferFailed where it cannot be
        mapped."""
        self._store = store
        self.num_blocks = size_bytes // store.block_bytes
        device = store.pool.device
        try:
            with store.copying_in():  # also waits for what the lender's event stands for
                storage = torch.UntypedStorage._new_shared_cuda(
                    device.index or 0,
                    memory.handle,
                    memory.size_bytes,
                    memory.offset_bytes,
                    memory.counter,
                    memory.counter_offset,
                    memory.event,
                    memory.has_event,
                )
        except RuntimeError as error:
            raise TransferFailed(f"cannot map the GPU's memory: {str(error).splitlines()[0]}") from error
        if storage.nbytes() < size_bytes:
            raise TransferFailed(f"{storage.nbytes()} bytes are lent, {size_bytes} were announced")
        whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        self._blocks = whole[: self.num_blocks * store.block_bytes].view(self.num_blocks, store.block_bytes)

    def copy(self, sources: Numbers, slots: Numbers) -> None:
        """Returned, they are copied."""
        own = self._store.blocks
        with self._store.copying_in():
            for source, slot in zip(sources.tolist(), slots.tolist(), strict=True):
                own[slot].copy_(self._blocks[source], non_blocking=True)
