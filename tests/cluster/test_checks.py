"""What does harm to a cluster does it, and what is wrong is found."""

import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing
from pamqp import commands

from amqpbroker.cli.etcd_servers import EtcdServers
from amqpbroker.testing.history import What
from tests.cluster.load import HOMES, Load, Refused
from tests.cluster.relays import Relay
from tests.cluster.rig import Rig
from tests.cluster.runs import run_faults

Connect = Callable[[bytes], Awaitable[trio.SocketStream]]


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@pytest.fixture
async def relay(nursery: trio.Nursery) -> Relay:
    """In front of somebody who says everything again; who begins with ``a`` is labelled so."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, echo, [listener])
    target = "127.0.0.1", listener.socket.getsockname()[1]
    relay = Relay(("127.0.0.1", 0), target, lambda data: data[:1].decode())
    await nursery.start(relay.run)
    return relay


@pytest.fixture
async def connect(relay: Relay) -> AsyncIterator[Connect]:
    """Makes connections through the relay, which begin with what it is given."""
    async with AsyncExitStack() as streams:

        async def make(text: bytes) -> trio.SocketStream:
            stream = await streams.enter_async_context(await trio.open_tcp_stream(*relay.listen))
            await stream.send_all(text)
            return stream

        yield make


async def hear(stream: trio.SocketStream) -> bytes | None:
    """What comes; None if nothing does."""
    with trio.move_on_after(0.2):
        try:
            return await stream.receive_some()
        except trio.BrokenResourceError:
            return b""
    return None


async def test_a_way_that_is_shut_ends_and_lets_nobody_in_until_it_is_opened(
    relay: Relay, connect: Connect
) -> None:
    one, other = await connect(b"a1"), await connect(b"b1")
    assert (await hear(one), await hear(other)) == (b"a1", b"b1")
    relay.shut("a")
    assert await hear(one) == b""
    assert await hear(await connect(b"a2")) == b""
    await other.send_all(b"b2")
    assert await hear(other) == b"b2"
    relay.open("a")
    assert await hear(await connect(b"a3")) == b"a3"


async def test_a_way_that_is_held_up_loses_nothing(relay: Relay, connect: Connect) -> None:
    one = await connect(b"a1")
    assert await hear(one) == b"a1"
    relay.hold("a")
    await one.send_all(b"a2")
    late = await connect(b"a3")
    assert (await hear(one), await hear(late)) == (None, None)
    relay.open("a")
    assert (await hear(one), await hear(late)) == (b"a2", b"a3")


async def test_a_relay_that_refuses_does_so_until_it_accepts(
    relay: Relay, connect: Connect
) -> None:
    one = await connect(b"a1")
    assert await hear(one) == b"a1"
    for _ in range(2):
        relay.refuse()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts to connect"):
            await connect(b"a2")
        await one.send_all(b"a3")
        assert await hear(one) == b"a3"
        relay.accept()
        await trio.testing.wait_all_tasks_blocked()
        assert await hear(await connect(b"a4")) == b"a4"


@pytest.mark.parametrize(
    ("code", "text", "is_right"),
    [
        (
            404,
            "NOT_FOUND - home node 'rabbit@n1' of durable queue 'plain-1' in vhost '/' is down or"
            " inaccessible",
            True,
        ),
        (541, "INTERNAL_ERROR - the cluster's store (etcd) does not answer", True),
        (404, "NOT_FOUND - no queue 'plain-1' in vhost '/'", False),
        (406, "PRECONDITION_FAILED - unknown delivery tag 7", False),
        (504, "CHANNEL_ERROR", False),
    ],
)
def test_an_error_that_a_cluster_does_not_give_is_written_down(
    code: int, text: str, is_right: bool
) -> None:
    load = Load(random.Random(1), {})
    with pytest.raises(Refused):
        load._closed(commands.Channel.Close(code, text, 0, 0))
    assert bool(load.wrong) is not is_right


def test_a_confirm_without_a_message_and_a_message_that_does_not_come_are_found() -> None:
    load = Load(random.Random(1), {})
    [(number, _)] = list(load._batch("plain-1", "p"))[:1]
    load._hear("p", commands.Basic.Ack(1), {1: number})
    assert [fault.what for fault in load.history.check()][:1] == [What.LOST]
    load._hear("p", commands.Basic.Ack(1), {})
    assert What.STRAY_CONFIRM in [fault.what for fault in load.history.check()]


@pytest.mark.slow
async def test_what_a_node_with_an_old_disk_has_lost_is_found(
    three_members: EtcdServers, tmp_path: Path
) -> None:
    """The old disk has the new one's sign: else the node would not start with it."""

    async def plant(rig: Rig) -> None:
        machine = rig.machines[HOMES[0].node]
        disk, copy = tmp_path / machine.name, tmp_path / "copy"
        await machine.kill()
        shutil.copytree(disk, copy, ignore=shutil.ignore_patterns("ctl.sock"))
        await machine.start()
        await trio.sleep(5)
        await machine.kill()
        shutil.copy(disk / "node.json", copy)
        shutil.rmtree(disk)
        copy.rename(disk)
        await machine.start()

    report = await run_faults(three_members, tmp_path, 1, seed=1, plant=plant)
    assert What.LOST in {fault.what for fault in report.broken}, report
    assert not report.is_sound
