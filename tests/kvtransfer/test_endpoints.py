from pathlib import Path

import pytest

from engine.errors import ProtocolError
from kvtransfer.endpoints import Senders, check_layout, choose
from kvtransfer.inproc import Hub, InprocReceiver, InprocSender
from kvtransfer.transport import Arrived, Commit, Endpoint, KVReceiver
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from tests.kvtransfer.pools import Pool, make_ticket

INPROC = Endpoint("inproc", "pool-0")
TCP = Endpoint("zeromq", "tcp://127.0.0.1:1")


def test_the_first_endpoint_that_both_speak_is_chosen() -> None:
    assert choose([INPROC, TCP], ("zeromq", "inproc")) == INPROC
    assert choose([INPROC, TCP], ("zeromq",)) == TCP


def test_an_ipc_path_of_another_host_comes_last(tmp_path: Path) -> None:
    elsewhere, here = Endpoint("zeromq", "ipc:///no/such/path"), Endpoint("zeromq", f"ipc://{tmp_path}")

    assert choose([elsewhere, TCP], ("zeromq",)) == TCP
    assert choose([here, TCP], ("zeromq",)) == here
    assert choose([elsewhere], ("zeromq",)) == elsewhere


def test_no_common_transport_is_said_in_words() -> None:
    with pytest.raises(ProtocolError, match="offers zeromq at tcp://127.0.0.1:1; this side speaks inproc"):
        choose([TCP], ("inproc",))


def test_layouts_must_be_equal() -> None:
    ticket = make_ticket(TCP, Pool(1, 64), 1)

    check_layout(ticket, "layout", 64)
    with pytest.raises(ProtocolError, match="'layout', this pool's 'other'"):
        check_layout(ticket, "other", 64)
    with pytest.raises(ProtocolError, match="64 bytes, this pool's 128"):
        check_layout(ticket, "layout", 128)


async def test_senders_take_the_way_that_each_ticket_names() -> None:
    hub, source, target = Hub(), Pool(2, 1000, seed=1), Pool(2, 1000, seed=2)
    arrived: list[Arrived] = []
    near, far = InprocReceiver(hub, target, arrived.append), ZeroMQReceiver("tcp://127.0.0.1:0", target, arrived.append)
    senders = Senders({"inproc": InprocSender(hub, source), "zeromq": ZeroMQSender(source)})

    receivers: list[KVReceiver] = [near, far]
    for slot, receiver in enumerate(receivers):
        ticket = make_ticket(receiver, target, 1, name=receiver.endpoint.transport)
        receiver.open(ticket, [slot])
        await senders.send(ticket, 0, [slot])
        await senders.commit(ticket, Commit(1))
    assert senders.bytes_per_s > 0
    await senders.aclose()
    far.close()
    near.close()

    assert target.content == source.content
    assert [one.ticket_id for one in arrived] == ["inproc", "zeromq"]
