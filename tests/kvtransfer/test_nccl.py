"""Groups of two, by way of gloo: made, counted, closed, given up and made again. What they carry: `test_contract`."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zmq

from engine.config import WorkerConfig
from engine.errors import ConfigError, TransferFailed
from engine.process import check_exposure
from kvtransfer.curve import Curve, KeyPair
from kvtransfer.endpoints import Senders, beside
from kvtransfer.group import SENDER, Group, GroupLimits, Passing, check_backend, own_host
from kvtransfer.mirrored_store import MAX_ENTRY_BYTES, MAX_KEYS, MirroredStore
from kvtransfer.nccl import NcclSender
from kvtransfer.nccl_receiver import NcclReceiver
from kvtransfer.pieces import PIECE_BYTES
from kvtransfer.transport import Arrived, Commit, Endpoint, KVReceiver, Ticket, Unreachable
from kvtransfer.wire import MAX_HEADER_BYTES, fence_to_proto
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from protos import kvtransfer_pb2 as pb
from tests.kvtransfer import sending_peer
from tests.kvtransfer.pools import Pool, make_ticket

ADDRESS = "tcp://127.0.0.1:0"
BLOCK_BYTES = 1 << 20


class Rig(AsyncExitStack):
    """Pools, and whatever listens and sends; all of it is closed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = Pool(8, BLOCK_BYTES, seed=1), Pool(8, BLOCK_BYTES, seed=2)
        self.arrived: list[Arrived] = []
        self._num_tickets = 0

    def receiver(self, *, max_groups: int = 8, curve: Curve | None = None) -> NcclReceiver:
        receiver = NcclReceiver("gloo", ADDRESS, self.target, self.arrived.append, curve, max_groups=max_groups)
        self.callback(receiver.close)
        return receiver

    def sender(self, *, max_groups: int = 8, stall_limit_s: float = 10.0, curve: Curve | None = None) -> NcclSender:
        sender = NcclSender("gloo", self.source, curve, stall_limit_s=stall_limit_s, max_groups=max_groups)
        self.push_async_callback(sender.aclose)
        return sender

    def ticket(self, receiver: KVReceiver) -> Ticket:
        """Open for all of the source's blocks."""
        self._num_tickets += 1
        ticket = make_ticket(receiver, self.target, 8, name=f"t{self._num_tickets}")
        receiver.open(ticket, range(8))
        return ticket

    async def transfer(self, sender: NcclSender | Senders, receiver: KVReceiver) -> None:
        """A whole ticket, that arrives as it should."""
        self.target.overwrite(range(8), 0)
        ticket = self.ticket(receiver)
        await sender.send(ticket, 0, range(8))
        await sender.commit(ticket, Commit(1))
        assert self.target.content == self.source.content
        assert self.arrived[-1].ticket_id == ticket.fence.ticket_id


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig() as rig:
        yield rig


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("what was waited for did not come")


# -- how many there are ----------------------------------------------------------------------------------------------


async def test_at_the_receivers_cap_the_idle_group_longest_unused_makes_room(rig: Rig) -> None:
    receiver, senders = rig.receiver(max_groups=2), [rig.sender() for _ in range(3)]
    for sender in (*senders, *senders):  # each comes back after it was closed for another
        await rig.transfer(sender, receiver)
        assert receiver.num_groups <= 2


async def test_at_the_senders_cap_the_idle_group_longest_unused_is_closed(rig: Rig) -> None:
    receivers, sender = [rig.receiver() for _ in range(3)], rig.sender(max_groups=2)
    for receiver in receivers:
        await rig.transfer(sender, receiver)
    await until(lambda: [receiver.num_groups for receiver in receivers] == [0, 1, 1])
    await rig.transfer(sender, receivers[0])


async def test_when_all_groups_are_in_use_another_sender_takes_another_way(rig: Rig) -> None:
    receiver, zeromq = rig.receiver(max_groups=1), ZeroMQReceiver(ADDRESS, rig.target, rig.arrived.append)
    rig.callback(zeromq.close)
    first, second, fallback = rig.sender(), rig.sender(), ZeroMQSender(rig.source)
    rig.push_async_callback(fallback.aclose)
    holding, go_on = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        holding.set()
        go_on.wait()

    busy = rig.ticket(receiver)
    rig.target.on_view = hold
    sending = asyncio.create_task(first.send(busy, 0, range(8)))
    await asyncio.to_thread(holding.wait)
    rig.target.on_view = lambda _: None

    ticket = rig.ticket(zeromq)
    both = replace(ticket, endpoints=(receiver.endpoint, zeromq.endpoint))
    with pytest.raises(Unreachable, match="all of them in use"):
        await second.send(both, 0, range(8))
    senders = Senders({"gloo": second, "zeromq": fallback})
    await senders.send(both, 0, range(8))
    await senders.commit(both, Commit(1))
    assert rig.arrived[-1].ticket_id == ticket.fence.ticket_id

    go_on.set()
    await sending


async def test_a_group_that_nobody_uses_is_closed_and_made_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, sender = rig.receiver(), rig.sender()
    await rig.transfer(sender, receiver)
    monkeypatch.setattr(receiver, "_idle_s", 0.0)
    await until(lambda: receiver.num_groups == 0)
    monkeypatch.undo()
    await until(lambda: not any("kv-group" in thread.name for thread in threading.enumerate()))
    await rig.transfer(sender, receiver)


async def test_nothing_is_left_of_groups(rig: Rig) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("kv-")]

    async def once() -> None:
        async with Rig() as inner:
            await inner.transfer(inner.sender(), inner.receiver())

    await once()  # what stays for good, stays from now on
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await once()
    assert threads() == []
    assert len(os.listdir("/proc/self/fd")) == files


# -- when one side fails ---------------------------------------------------------------------------------------------


async def test_a_sender_killed_on_the_way_disturbs_nobody_else(rig: Rig) -> None:
    target = Pool(sending_peer.NUM_BLOCKS, BLOCK_BYTES)
    receiver = NcclReceiver("gloo", ADDRESS, target, rig.arrived.append)
    rig.callback(receiver.close)
    ticket = make_ticket(receiver, target, sending_peer.NUM_BLOCKS)
    receiver.open(ticket, range(sending_peer.NUM_BLOCKS))
    writing, killed = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        writing.set()
        killed.wait()

    target.on_view = hold
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.kvtransfer.sending_peer", receiver.endpoint.address, cwd=Path(__file__).parents[2]
    )
    await asyncio.to_thread(writing.wait)
    process.kill()
    await process.wait()
    killed.set()

    await until(lambda: receiver.num_groups == 0)
    receiver.revoke(ticket.fence.ticket_id)
    target.on_view = lambda _: None
    after = make_ticket(receiver, target, 8, name="after")
    receiver.open(after, range(8))
    sender = rig.sender()
    await sender.send(after, 0, range(8))
    await sender.commit(after, Commit(1))
    assert target.blocks(range(8)) == rig.source.blocks(range(8))


async def test_a_sender_killed_between_two_frames_leaves_no_group(rig: Rig) -> None:
    target = Pool(sending_peer.NUM_BLOCKS, BLOCK_BYTES)
    receiver = NcclReceiver("gloo", ADDRESS, target, rig.arrived.append)
    rig.callback(receiver.close)
    receiver.open(make_ticket(receiver, target, sending_peer.NUM_BLOCKS), range(sending_peer.NUM_BLOCKS))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.kvtransfer.sending_peer", receiver.endpoint.address, "stay"),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"sent\n"
    assert receiver.num_groups == 1
    process.kill()
    await process.wait()

    await until(lambda: receiver.num_groups == 0)
    await until(lambda: not any(thread.name == "kv-group-receiver" for thread in threading.enumerate()))


async def test_a_group_that_was_given_up_is_made_anew(rig: Rig) -> None:
    receiver, sender = rig.receiver(), rig.sender(stall_limit_s=4.0)
    go_on = threading.Event()
    rig.target.on_view = lambda _: (go_on.wait(), None)[1]  # takes a frame, and does not answer
    with pytest.raises(TransferFailed) as failed:
        await sender.send(rig.ticket(receiver), 0, range(8))
    assert not isinstance(failed.value, Unreachable)
    go_on.set()

    await rig.transfer(sender, receiver)


async def test_revoking_does_not_wait_for_bytes_on_their_way(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, sender = rig.receiver(), rig.sender()
    await rig.transfer(sender, receiver)
    ticket, before = rig.ticket(receiver), bytes(rig.target.content)
    coming, go_on = threading.Event(), threading.Event()
    send = sender_group(sender).begin_send

    def late(payload: torch.Tensor) -> Passing:
        coming.set()
        go_on.wait()
        return send(payload)

    monkeypatch.setattr(sender_group(sender), "begin_send", late)
    rig.source.overwrite(range(8), 0xEE)
    sending = asyncio.create_task(sender.send(ticket, 0, range(8)))
    await asyncio.to_thread(coming.wait)
    receiver.revoke(ticket.fence.ticket_id)  # its header has gone; the receiver waits for the bytes
    assert not sending.done()
    go_on.set()
    with pytest.raises(TransferFailed, match="no such ticket"):
        await sending
    assert bytes(rig.target.content) == before
    assert receiver.fenced_writes > 0


def sender_group(sender: NcclSender) -> Group:
    (link,) = sender._links._by_address.values()
    return link._channel._group  # type: ignore[attr-defined]


# -- frames that no honest sender makes -----------------------------------------------------------------------------


class Stranger:
    """Says whatever it likes."""

    def __init__(self, receiver: NcclReceiver) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.rcvtimeo = 5000
        self._socket.connect(receiver.endpoint.address)

    def say(self, frame: pb.SenderFrame | bytes, *parts: bytes) -> None:
        header = frame if isinstance(frame, bytes) else frame.SerializeToString()
        self._socket.send_multipart([header, *parts])

    def hear(self) -> pb.ReceiverFrame:
        while not (data := self._socket.recv()):
            pass  # it only wants to know whether this side is there
        return pb.ReceiverFrame.FromString(data)

    def join(self) -> Group:
        """Make a group by the book."""
        self.say(pb.SenderFrame(join=pb.Join(backend="gloo")))
        told: list[tuple[str, bytes]] = []
        store = MirroredStore(lambda key, value: told.append((key, value)), 5.0)
        made: list[Group] = []
        limits = GroupLimits(5.0, 5.0)
        thread = threading.Thread(target=lambda: made.append(Group("gloo", store, SENDER, "127.0.0.1", limits)))
        thread.start()
        stored = self.hear().stored
        while not told:
            time.sleep(0.001)
        self.say(pb.SenderFrame(stored=pb.Stored(key=told[0][0], value=told[0][1])))
        store.take(stored.key, stored.value)
        thread.join()
        return made[0]

    def close(self) -> None:
        self._context.destroy(linger=0)


async def test_nonsense_is_counted_and_disturbs_nobody(rig: Rig) -> None:
    receiver, sender = rig.receiver(), rig.sender()
    stranger = Stranger(receiver)
    fence = fence_to_proto(rig.ticket(receiver).fence)
    nonsense = [
        b"",
        b"\xff" * 100,
        b"\0" * (MAX_HEADER_BYTES + 1),
        pb.SenderFrame(),
        pb.SenderFrame(blocks=pb.Blocks()),
    ]
    for frame in nonsense:
        stranger.say(frame)
    stranger.say(pb.SenderFrame(fence=fence, commit=pb.Commit()), b"a second part")
    await until(lambda: receiver.malformed_frames == len(nonsense) + 1)
    stranger.say(pb.SenderFrame(fence=fence, commit=pb.Commit()))
    assert "no such group" in stranger.hear().nack.message  # it did not join
    stranger.say(pb.SenderFrame(stored=pb.Stored(key="key", value=b"value")))
    stranger.say(pb.SenderFrame(leave=pb.Leave()))
    await rig.transfer(sender, receiver)
    stranger.close()


@pytest.mark.parametrize("changes", [{"offset": 1}, {"checksums": []}, {"checksums": [0] * 257}, {"offset": 1 << 40}])
async def test_a_frame_whose_bytes_cannot_be_counted_ends_its_group(rig: Rig, changes: dict[str, object]) -> None:
    receiver = rig.receiver()
    stranger, ticket = Stranger(receiver), rig.ticket(receiver)
    group = stranger.join()
    blocks = pb.Blocks(**{"block": 0, "offset": 0, "checksums": [0], **changes})  # type: ignore[arg-type]
    stranger.say(pb.SenderFrame(fence=fence_to_proto(ticket.fence), blocks=blocks))
    assert "nobody could count" in stranger.hear().nack.message
    await until(lambda: receiver.num_groups == 0)
    with pytest.raises(TransferFailed):
        group.begin_send(torch.zeros(100, dtype=torch.uint8)).finish()
    await rig.transfer(rig.sender(), receiver)
    stranger.close()


async def test_bytes_that_are_not_those_of_their_checksum_are_corrupt(rig: Rig) -> None:
    receiver = rig.receiver()
    stranger, ticket = Stranger(receiver), rig.ticket(receiver)
    group = stranger.join()
    blocks = pb.Blocks(block=0, offset=0, checksums=[1])
    stranger.say(pb.SenderFrame(fence=fence_to_proto(ticket.fence), blocks=blocks))
    group.begin_send(torch.zeros(PIECE_BYTES, dtype=torch.uint8)).finish()
    assert stranger.hear().nack.reason == pb.NACK_REASON_CORRUPT
    assert not rig.arrived
    stranger.close()


# -- other ways ------------------------------------------------------------------------------------------------------


async def test_without_a_group_a_ticket_goes_another_way_to_its_end(rig: Rig) -> None:
    zeromq, fallback = ZeroMQReceiver(ADDRESS, rig.target, rig.arrived.append), ZeroMQSender(rig.source)
    rig.callback(zeromq.close)
    closed = NcclReceiver("gloo", ADDRESS, rig.target, rig.arrived.append)
    closed.close()
    gloo = rig.sender(stall_limit_s=0.4)
    senders = Senders({"gloo": gloo, "zeromq": fallback})
    rig.push_async_callback(fallback.aclose)
    ticket = rig.ticket(zeromq)
    offered = replace(ticket, endpoints=(closed.endpoint, zeromq.endpoint))

    await senders.send(offered, 0, range(4))
    gloo._refused.clear()  # a group would be tried again
    with pytest.raises(Unreachable, match="went another way"):
        await gloo.send(offered, 4, range(4, 8))
    await senders.send(offered, 4, range(4, 8))
    await senders.commit(offered, Commit(1))

    assert rig.target.content == rig.source.content


async def test_what_is_not_encrypted_does_not_leave_the_host(rig: Rig) -> None:
    ticket = make_ticket(Endpoint("gloo", "tcp://192.0.2.1:5000"), rig.source, 8)
    with pytest.raises(Unreachable, match="another host"):
        await rig.sender().send(ticket, 0, range(8))


async def test_sides_of_different_backends_refuse_each_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, sender = rig.receiver(), rig.sender()
    monkeypatch.setattr(receiver, "_backend", "nccl")
    with pytest.raises(Unreachable, match="groups here are of nccl"):
        await sender.send(rig.ticket(receiver), 0, range(8))


async def test_two_on_one_gpu_have_no_group(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, sender = rig.receiver(), rig.sender()
    monkeypatch.setattr(receiver, "_device_id", "GPU-1")
    monkeypatch.setattr("kvtransfer.group_channel.device_id", lambda _: "GPU-1")
    with pytest.raises(Unreachable, match="the same GPU"):
        await sender.send(rig.ticket(receiver), 0, range(8))


async def test_headers_are_encrypted_where_keys_are_given(rig: Rig, tmp_path: Path) -> None:
    keys = {name: KeyPair.make() for name in ("prefill", "decode")}
    for name, pair in keys.items():
        pair.write(tmp_path / f"{name}.key")
        others = [other.public.decode() for other in keys.values() if other is not pair]
        (tmp_path / f"{name}.peers").write_text("\n".join(others))
    curves = {name: Curve.of(f"{tmp_path}/{name}.key", f"{tmp_path}/{name}.peers") for name in keys}
    receiver = rig.receiver(curve=curves["decode"])

    await rig.transfer(rig.sender(curve=curves["prefill"]), receiver)
    with pytest.raises(Unreachable, match="encrypts"):
        await rig.sender().send(rig.ticket(receiver), 0, range(8))


# -- parts -----------------------------------------------------------------------------------------------------------


def test_a_store_shows_what_the_other_side_has_set() -> None:
    near: MirroredStore
    far = MirroredStore(lambda key, value: None, 5.0)
    near = MirroredStore(lambda key, value: far.take(key, value) and None, 5.0)

    near.set("key", b"value")
    assert far.check(["key"])
    assert far.get("key") == b"value"
    assert [near.add("count", 2), near.add("count", 3)] == [2, 5]
    assert far.get("count") == b"5"
    assert far.delete_key("key")
    assert not far.check(["key"])


def test_a_store_does_not_wait_for_ever() -> None:
    with pytest.raises(RuntimeError, match="said nothing for 0.01 s"):
        MirroredStore(lambda key, value: None, 0.01).get("key")
    store = MirroredStore(lambda key, value: None, 100.0)
    threading.Timer(0.01, lambda: store.close("it left")).start()
    with pytest.raises(RuntimeError, match="it left"):
        store.get("key")


def test_a_store_takes_no_more_than_anybody_needs() -> None:
    store = MirroredStore(lambda key, value: None, 1.0)
    assert not store.take("key", bytes(MAX_ENTRY_BYTES))
    assert [store.take(str(i), b"") for i in range(MAX_KEYS + 1)] == [True] * MAX_KEYS + [False]


def test_what_cannot_be_had_is_refused_in_words() -> None:
    check_backend("off")
    check_backend("gloo")
    with pytest.raises(ConfigError, match="needs a GPU"):
        check_backend("nccl")
    elsewhere = WorkerConfig(kv_groups="gloo", kv_listen="tcp://10.0.0.1:5000", kv_key="k", kv_peers="p")
    with pytest.raises(ConfigError, match="nothing encrypts"):
        check_exposure(elsewhere)
    check_exposure(elsewhere.model_copy(update={"insecure": True}))


def test_addresses() -> None:
    assert beside("ipc:///run/decode-0.kv") == "ipc:///run/decode-0.kv.group"
    assert beside("tcp://10.0.0.1:5000") == "tcp://10.0.0.1:0"
    assert [own_host(address) for address in ("ipc:///x", "tcp://127.0.0.1:1#ab")] == ["127.0.0.1"] * 2
