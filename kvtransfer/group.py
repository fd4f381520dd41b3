"""Two ranks of torch.distributed, a sender and a receiver, that bytes go through: gloo between CPUs, NCCL between GPUs.

A group has no tags and no third rank: bytes come in the order in which they were sent. It fails as a whole, and is then
thrown away; whoever wants another makes it anew. All but `abort` blocks, for at most the limits that the group was made
with, and is meant for a thread of its own.

Bytes are received into memory of the group's, never straight into a pool: a receive that was begun cannot be taken
back, and whoever revokes a ticket must not have to wait for a peer.
"""

import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol, cast

import torch
import torch.distributed as dist

from engine.errors import ConfigError, TransferFailed
from engine.exposure import is_loopback
from engine.gloo import LOOPBACK, Work, first_line, gloo_group
from kvtransfer.mirrored_store import MirroredStore
from kvtransfer.pieces import FRAME_BYTES

Backend = Literal["gloo", "nccl"]
SENDER, RECEIVER = 0, 1
"""Ranks."""
CPU = torch.device("cpu")
UNDER_WAY = 2
"""Of what one side sends or receives: while one is copied, the next one travels."""
POLL_S = 50e-6
"""Between two looks at what a GPU has not finished yet."""


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Seconds that the sides of a group wait for each other."""

    make_s: float
    """Until there is a group."""
    payload_s: float
    """For one payload to go through it."""


class _ProcessGroup(Protocol):
    def send(self, tensors: list[torch.Tensor], rank: int, tag: int) -> Work: ...
    def recv(self, tensors: list[torch.Tensor], rank: int, tag: int) -> Work: ...
    def abort(self) -> None: ...


class Group:
    """One side of a group. Every method raises TransferFailed, once and for all."""

    _stream: torch.cuda.Stream | None
    """Of a GPU's group, which has one of its own."""

    def __init__(
        self,
        backend: Backend,
        store: MirroredStore,
        rank: int,
        host: str,
        limits: GroupLimits,
        device: torch.device = CPU,
    ) -> None:
        """Returns when the other side has done the same. `host` is the address of this side that the other reaches;
        bytes are sent from `device`, and received there."""
        self._peer = RECEIVER if rank == SENDER else SENDER
        self._limit_s = limits.payload_s
        self._device = device
        self._aborted = False
        try:
            if backend == "gloo":
                self._stream = None
                self._process_group: _ProcessGroup = gloo_group(
                    store, rank, 2, host=host, limit=timedelta(seconds=limits.make_s)
                )
            else:
                torch.cuda.set_device(device)  # of this thread
                self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
                self._process_group = _nccl(store, rank, limits.make_s, device)
        except RuntimeError as error:
            raise TransferFailed(f"no group of {backend}: {first_line(error)}") from None
        with torch.cuda.stream(self._stream):  # whose memory it then is
            count = UNDER_WAY if rank == RECEIVER else 0
            self._staging = [torch.empty(FRAME_BYTES, dtype=torch.uint8, device=device) for _ in range(count)]
        self._num_begun = 0

    def begin_send(self, data: torch.Tensor) -> "Passing":
        """`data`, on the group's device, stays as it is until that has finished."""
        with torch.cuda.stream(self._stream):
            if self._stream is not None:
                data.record_stream(self._stream)  # or a group that is given up might send what others write there
            return self._begin(lambda: self._process_group.send([data], self._peer, 0), data)

    def begin_receive(self, size_bytes: int) -> "Passing":
        """What the peer sends next, of exactly this size: not more, or gloo ends the process."""
        self._num_begun += 1
        staged = self._staging[self._num_begun % UNDER_WAY][:size_bytes]
        with torch.cuda.stream(self._stream):
            return self._begin(lambda: self._process_group.recv([staged], self._peer, 0), staged)

    def abort(self) -> None:
        """From any thread: whoever waits fails. Gloo has nothing for it: there the wait ends when the peer closes its
        end, or at the limit."""
        self._aborted = True
        if self._device.type != "cpu":
            self._process_group.abort()

    def _begin(self, start: Callable[[], Work], tensor: torch.Tensor) -> "Passing":
        try:
            work = start()
            if self._stream is None:
                return Passing(lambda: work.wait(timedelta(seconds=self._limit_s)), tensor)
            work.wait()  # makes the stream wait, not this thread
            done = self._stream.record_event()
            return Passing(lambda: self._wait_for(done), tensor)
        except RuntimeError as error:
            raise TransferFailed(first_line(error)) from None

    def _wait_for(self, done: torch.cuda.Event) -> None:
        """NCCL waits for a peer for ever, inside a kernel: this is who gives up."""
        deadline_s = time.monotonic() + self._limit_s
        while not done.query():  # type: ignore[no-untyped-call]
            if self._aborted or time.monotonic() > deadline_s:
                self._process_group.abort()
                raise TransferFailed(f"the peer took nothing for {self._limit_s:g} s", why="stalled")
            time.sleep(POLL_S)


class Passing:
    """Bytes on their way through a group."""

    def __init__(self, wait: Callable[[], object], tensor: torch.Tensor) -> None:
        self._wait = wait
        self.received = tensor
        """They themselves; of a group's own memory, which the second one begun after this one uses again."""

    def finish(self) -> None:
        """Wait until they have passed. Raises TransferFailed."""
        try:
            self._wait()
        except RuntimeError as error:
            raise TransferFailed(first_line(error)) from None


def check_backend(backend: Backend | Literal["off"]) -> None:
    """Raise ConfigError where there is no such thing."""
    if backend == "gloo" and not dist.is_gloo_available():
        raise ConfigError("this torch has no gloo", field="kv_groups")
    if backend == "nccl" and not (dist.is_nccl_available() and torch.cuda.is_available()):
        raise ConfigError("nccl needs a GPU, and a torch that was built for it", field="kv_groups")


def device_id(device: torch.device) -> str:
    """Names a GPU for a peer that may have the same; empty for a CPU."""
    return "" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)


def own_host(address: str) -> str:
    """The address of this host that whoever listens at `address` reaches. Raises TransferFailed."""
    host = peer_host(address)
    if host is None or is_loopback(host):
        return LOOPBACK
    try:
        with socket.socket(_family(host), socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing: it asks the routing table
            return str(probe.getsockname()[0])
    except OSError as error:
        raise TransferFailed(f"no way to {host}: {error.strerror}") from error


def peer_host(address: str) -> str | None:
    """The host in tcp://host:port; None for a path, which is on this host."""
    if not address.startswith("tcp://"):
        return None
    return address.removeprefix("tcp://").partition("#")[0].rpartition(":")[0].strip("[]")


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        return socket.AF_INET


def _nccl(store: MirroredStore, rank: int, limit_s: float, device: torch.device) -> _ProcessGroup:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=limit_s)
    options.config.blocking = 0  # so that `abort` ends the making of a group, too
    group = dist.ProcessGroupNCCL(store, rank, 2, options)
    group.eager_connect_single_device(device)
    return cast("_ProcessGroup", group)
