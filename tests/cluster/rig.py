"""Three brokers and three members of etcd as processes, with relays on every way between them."""

import os
import random
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from amqpbroker.cli.etcd_servers import EtcdServers
from tests.cluster.relays import Relay
from tests.crash.broker import Broker

CLUSTER = "trial"
NODES = ("rabbit@n1", "rabbit@n2", "rabbit@n3")
PORTS = 10_000, 32_000
LINKS = "127.0.0.2"
"""Relays of links are at this host, at the port that the node itself has at 127.0.0.1."""


def free_port() -> int:
    """A port that nobody has now, at any of the addresses.

    It is none that the system gives to those who connect: whoever lets go of it finds it again.
    """
    while True:
        with suppress(OSError), socket.create_server(("0.0.0.0", random.randrange(*PORTS))) as sock:
            return sock.getsockname()[1]


def dialler(data: bytes) -> str:
    """Which node has dialled: its name is in its hello, as it is."""
    return next((node for node in NODES if node.encode() in data), "")


@attrs.define(eq=False)
class Machine:
    """One node, and its ways to etcd and from the other nodes."""

    name: str
    broker: Broker
    links: Relay
    """What the other nodes dial, by their names."""
    etcd: list[Relay]
    """What it takes for the members of etcd."""
    is_up: bool = False
    is_paused: bool = False
    lives: int = 0
    """How often it was started."""

    def pause(self) -> None:
        """Let it stand still, with all its connections, until `resume`."""
        assert self.broker.process is not None
        self.is_paused = True
        os.killpg(self.broker.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.broker.process is not None
        os.killpg(self.broker.process.pid, signal.SIGCONT)
        self.is_paused = False

    async def start(self) -> None:
        """Start it; it serves clients when this returns."""
        self.links.accept()
        await trio.to_thread.run_sync(self.broker.start, abandon_on_cancel=True)
        self.is_up = True
        self.lives += 1

    async def kill(self) -> None:
        """End it without giving it time for anything."""
        self.is_up = False
        self.broker.kill(with_helpers=True)
        await trio.to_thread.run_sync(self.broker.end)
        self.links.refuse()

    async def stop(self) -> int:
        """End it as an operator would; its exit status."""
        self.is_up = False
        self.broker.terminate()
        status = await trio.to_thread.run_sync(self.broker.end)
        self.links.refuse()
        return status


@attrs.define(eq=False)
class Rig:
    """All there is."""

    etcd: EtcdServers
    machines: dict[str, Machine]

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Cut both links between two nodes: they end, or (``silent``) nothing comes through."""
        for node, peer in ((one, other), (other, one)):
            relay = self.machines[node].links
            relay.hold(peer) if silent else relay.shut(peer)

    def mend(self, one: str, other: str) -> None:
        """Let links be as they were."""
        self.machines[one].links.open(other)
        self.machines[other].links.open(one)


@asynccontextmanager
async def open_rig(
    etcd: EtcdServers, folder: Path, names: tuple[str, ...] = NODES
) -> AsyncIterator[Rig]:
    """A rig over members of etcd that run; its nodes are not started yet."""
    rig = Rig(etcd, {})
    async with trio.open_nursery() as nursery:
        try:
            for name in names:
                machine = await nursery.start(_build, rig, folder, name)
                rig.machines[name] = machine
            yield rig
        finally:
            for machine in rig.machines.values():
                if machine.broker.process is not None:
                    machine.broker.kill(with_helpers=True)
                    machine.broker.end()
            nursery.cancel_scope.cancel()


async def _build(rig: Rig, folder: Path, name: str, task_status: trio.TaskStatus[Machine]) -> None:
    port = free_port()
    links = Relay((LINKS, port), ("127.0.0.1", port), dialler)
    ways = [Relay(("127.0.0.1", 0), ("127.0.0.1", ports.client)) for ports in rig.etcd.ports]
    async with trio.open_nursery() as nursery:
        for relay in (links, *ways):
            await nursery.start(relay.run)
        urls = ",".join(f"http://127.0.0.1:{relay.listen[1]}" for relay in ways)
        broker = Broker(
            folder / f"{name}.log",
            (
                *("--name", name, "--data-dir", str(folder / name)),
                *("--cluster", urls, "--cluster-name", CLUSTER),
                *("--link", f"127.0.0.1:{port}", "--advertise", LINKS),
            ),
            port=free_port(),
        )
        task_status.started(Machine(name, broker, links, ways))
