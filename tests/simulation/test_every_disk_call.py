"""A whole node, of whose disk calls each may fail, or be the last.

A client declares, binds, publishes, gets, acks, requeues, purges and deletes; the node stops and
starts between, with files so small that all kinds of them come and go. A first run counts the disk
calls; then, for the Nth of them, the power fails in it, it fails with EIO, or the disk is full from
it on and for some seconds. After that the node starts again, and a client looks whether all is
there that was promised, and nothing that is gone.
"""

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import trio
from pamqp import commands

from amqpbroker.errors import DataError, DiskFailure
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import encode_method
from amqpbroker.server import keeping
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.storage import disk_log, segments, store, wal
from amqpbroker.storage.directory import ROOM_BYTES_MIN
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.sim_disk import SimCrash, SimDisk
from amqpbroker.testing.world import Simulation, simulate

CONFIG = Config(listen="127.0.0.1:5672", data_dir="/data", name="rabbit@here", disk_free_limit=0)
LIVES = 3
STEPS = 16
FULL_S = 3.0
PATIENCE_S = 60.0
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"durable": True},
    "other": {"durable": True},
    "priority": {"durable": True, "arguments": {"x-max-priority": 3}},
    "ttl": {"durable": True, "arguments": {"x-message-ttl": 3_600_000}},
    "transient": {"durable": False},
}
PERSISTENT, TRANSIENT = b"\x18\x00\x02", b"\x08\x00"
"""Property blocks that end with a priority: with delivery-mode 2, and without."""


@attrs.define
class Kept:
    """What a client knows of one queue: numbers of messages."""

    sent: dict[int, int] = attrs.Factory(dict)
    """The priority of each persistent one."""
    confirmed: set[int] = attrs.Factory(set)
    delivered: set[int] = attrs.Factory(set)
    gone: set[int] = attrs.Factory(set)
    """Acked, or purged: not to come back once that is kept."""
    gone_for_good: set[int] = attrs.Factory(set)


class Ledger:
    """What a client was promised, by all lives of a node."""

    def __init__(self) -> None:
        self.queues: dict[str, Kept] = {}
        self.bound: set[str] = set()
        self.exchange = False
        self.doubtful: set[str] = set()
        """Of these things a change was asked for, and never answered."""
        self.number = 0

    def end_life(self) -> None:
        """What is transient is gone."""
        self.queues.pop("transient", None)
        self.bound.discard("transient")


class Walk:
    """What a client does with a node in one life."""

    def __init__(self, client: Client, ledger: Ledger, rng: random.Random) -> None:
        self._client = client
        self._ledger = ledger
        self._rng = rng
        self._unconfirmed: dict[int, tuple[str, int, int]] = {}
        self._sequence = 0
        self._gone: list[tuple[str, int]] = []
        self.blocked = False

    async def go(self) -> None:
        """Take all steps."""
        await self._client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        steps = [self._publish] * 6 + [self._get] * 4 + [self._consume] * 3
        steps += [self._declare, self._bind, self._purge, self._delete]
        for name in KINDS:
            await self._declare(name)
        for _ in range(STEPS):
            await self._rng.choice(steps)()
            if self._rng.random() < 0.4:
                await self._confirmed()
        await self._confirmed()

    def _any(self) -> str | None:
        names = sorted(self._ledger.queues)
        return self._rng.choice(names) if names else None

    async def _ask(self, thing: str, method: Any, answer: Any) -> None:
        self._ledger.doubtful.add(thing)
        await self._client.call(method, answer)
        self._ledger.doubtful.discard(thing)

    async def _declare(self, name: str | None = None) -> None:
        name = name or self._rng.choice(list(KINDS))
        ledger = self._ledger
        if not ledger.exchange:
            method = exchange.Declare(exchange="x", exchange_type="fanout", durable=True)
            await self._ask("x", method, exchange.DeclareOk)
            ledger.exchange = True
        if name not in ledger.queues:
            method = queue.Declare(queue=name, **KINDS[name])
            await self._ask(name, method, queue.DeclareOk)
            ledger.queues[name] = Kept()

    async def _bind(self) -> None:
        name = self._any()
        if name is not None:
            method = queue.Bind(queue=name, exchange="x")
            await self._ask(f"x to {name}", method, queue.BindOk)
            self._ledger.bound.add(name)

    async def _publish(self) -> None:
        """Publish some messages to one queue, or to all that are bound."""
        rng, ledger = self._rng, self._ledger
        name = self._any()
        if name is None:
            return
        count = rng.choice((1, 3, 20, 1200))
        persistent, size = rng.random() < 0.8, rng.choice((0, 10, 40))
        to_all = bool(ledger.bound) and not ledger.doubtful and rng.random() < 0.2 and count < 100
        method = basic.Publish(0, "x" if to_all else "", name)
        names = sorted(ledger.bound) if to_all else [name]
        data = []
        for _ in range(count):
            ledger.number += 1
            self._sequence += 1
            priority = rng.randrange(4)
            block = (PERSISTENT if persistent else TRANSIENT) + bytes([priority])
            body = b"%d " % ledger.number + bytes(size)
            data.append(encode_method(1, method) + encode_content(1, block, body, 131072))
            if persistent:
                for each in names:
                    ledger.queues[each].sent[ledger.number] = priority
                self._unconfirmed[self._sequence] = names[0], ledger.number, len(self._gone)
                self._note(names)
        await self._client.send_bytes(b"".join(data))

    def _note(self, names: list[str]) -> None:
        self._targets = getattr(self, "_targets", {})
        self._targets[self._sequence] = names

    async def _confirmed(self) -> None:
        """Wait until all that was published is confirmed."""
        while self._unconfirmed:
            self.take_confirms()
            if self._unconfirmed:
                await self._client.receive()
        self.take_confirms()

    def take_confirms(self) -> None:
        """Note what has been confirmed so far."""
        rest = []
        for channel, item in self._client.inbox:
            if isinstance(item, basic.Ack):
                first = min(self._unconfirmed, default=0) if item.multiple else item.delivery_tag
                for sequence in range(first, item.delivery_tag + 1):
                    self._confirm(sequence)
            elif isinstance(item, commands.Connection.Blocked):
                self.blocked = True
            else:
                rest.append((channel, item))
        self._client.inbox[:] = rest

    def _confirm(self, sequence: int) -> None:
        if sequence not in self._unconfirmed:
            return
        _, number, gone = self._unconfirmed.pop(sequence)
        durable = False
        for name in self._targets[sequence]:
            if name in self._ledger.queues:
                self._ledger.queues[name].confirmed.add(number)
                durable = durable or name != "transient"
        if durable:
            for name, settled in self._gone[:gone]:
                if name in self._ledger.queues:
                    self._ledger.queues[name].gone_for_good.add(settled)

    def _settle(self, name: str, numbers: list[int]) -> None:
        self._ledger.queues[name].gone.update(numbers)
        self._gone += [(name, number) for number in numbers]

    async def _get(self) -> None:
        """Get some, and ack them, give them back, or leave them be."""
        name = self._any()
        for _ in range(self._rng.randint(1, 4)):
            if name is None:
                return
            await self._client.send(basic.Get(queue=name))
            content = await self._client.wait_for((Content, basic.GetEmpty))
            if not isinstance(content, Content):
                return
            await self._answer(name, [content])

    async def _consume(self) -> None:
        """Have a consumer for a while."""
        name = self._any()
        if name is None:
            return
        client = self._client
        await client.call(basic.Qos(prefetch_count=self._rng.choice((5, 700))), basic.QosOk)
        await client.call(basic.Consume(queue=name, consumer_tag="c"), basic.ConsumeOk)
        contents = []
        with trio.move_on_after(0.2):
            for _ in range(self._rng.choice((3, 600))):
                contents.append(await client.wait_for(Content))
        with trio.move_on_after(PATIENCE_S):
            await client.call(basic.Cancel(consumer_tag="c"), basic.CancelOk)
        contents += [item for _, item in client.inbox if isinstance(item, Content)]
        client.inbox[:] = [at for at in client.inbox if not isinstance(at[1], Content)]
        if contents:
            await self._answer(name, contents)

    async def _answer(self, name: str, contents: list[Content]) -> None:
        """Ack what came from a queue, give it back, or leave it be until the connection ends."""
        numbers = [int(content.body.split()[0]) for content in contents]
        self._ledger.queues[name].delivered.update(numbers)
        choice = self._rng.random()
        if choice < 0.7:
            self._settle(name, numbers)
        answer = basic.Ack if choice < 0.7 else basic.Nack
        if choice < 0.9:
            methods = [answer(content.method.delivery_tag) for content in contents]
            await self._client.send_bytes(b"".join(encode_method(1, each) for each in methods))

    async def _purge(self) -> None:
        name = self._any()
        if name is not None:
            there = self._ledger.queues[name]
            there.gone.update(there.sent)  # Perhaps it is not answered.
            await self._client.call(queue.Purge(queue=name), queue.PurgeOk)

    async def _delete(self) -> None:
        name = self._any()
        if name is not None and self._rng.random() < 0.5:
            self._ledger.doubtful |= {name, f"x to {name}"}
            self._ledger.bound.discard(name)
            await self._client.call(queue.Delete(queue=name), queue.DeleteOk)
            del self._ledger.queues[name]
            self._ledger.doubtful -= {name, f"x to {name}"}


@attrs.define
class Story:
    """A node's lives on one disk: how the last one ended, and what was promised."""

    sim: Simulation
    rng: random.Random
    ledger: Ledger = attrs.Factory(Ledger)
    end: BaseException | None = None
    blocked: bool = False

    async def live(self) -> None:
        """One life; its end is noted if it is a crash, or a disk that failed."""
        up, done = trio.Event(), trio.Event()
        address: list[tuple[str, int]] = []

        async def host() -> None:
            try:
                async with Node(CONFIG, self.sim.world) as node:
                    address.append(node.address)
                    up.set()
                    await done.wait()
            except* (SimCrash, DiskFailure, DataError) as group:
                self.end = group
            finally:
                up.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(host)
            await up.wait()
            if self.end is None:
                with trio.move_on_after(PATIENCE_S) as patience:
                    await self._use(address[0])
                assert self.end is not None or not patience.cancelled_caught
            done.set()

    async def _use(self, address: tuple[str, int]) -> None:
        client = walk = None
        try:
            client = await Client.connect(self.sim.network, address, 1)
            walk = Walk(client, self.ledger, self.rng)
            await walk.go()
            await client.call(
                commands.Connection.Close(200, "", 0, 0), commands.Connection.CloseOk, 0
            )
        except (ConnectionError, OSError):
            pass  # The node's end tells whether that is as it should be.
        finally:
            if walk is not None:
                walk.take_confirms()
                self.blocked = self.blocked or walk.blocked

    async def tell(self) -> None:
        """Live until something happens, or all is told."""
        for _ in range(LIVES):
            await self.live()
            if self.end is not None:
                return
            self.ledger.end_life()
            self.sim.disk.restart()

    async def check(self) -> None:
        """Start the node once more, and see that all promises are kept."""
        self.ledger.end_life()
        async with Node(CONFIG, self.sim.world) as node:
            client = await Client.connect(self.sim.network, node.address, 1)
            for name, kept in self.ledger.queues.items():
                if name not in self.ledger.doubtful:
                    await self._check_queue(client, name, kept)
            for name in sorted(self.ledger.bound):
                if not self.ledger.doubtful & {name, "x", f"x to {name}"}:
                    await client.publish("", b"1", exchange="x")
                    await client.call(queue.Purge(queue=name), queue.PurgeOk)
                    await client.publish("", b"1", exchange="x")
                    purged = await client.call(queue.Purge(queue=name), queue.PurgeOk)
                    assert purged.message_count == 1, name
        self.sim.disk.restart()
        async with Node(CONFIG, self.sim.world) as node:
            client = await Client.connect(self.sim.network, node.address, 1)
            for name in self.ledger.queues:
                if name not in self.ledger.doubtful:
                    method = queue.Declare(queue=name, passive=True)
                    declared = await client.call(method, queue.DeclareOk)
                    assert declared.message_count == 0, name

    async def _check_queue(self, client: Client, name: str, kept: Kept) -> None:
        method = queue.Declare(queue=name, passive=True)
        declared = await client.call(method, queue.DeclareOk)
        method = basic.Consume(queue=name, consumer_tag=name, no_ack=True)
        await client.call(method, basic.ConsumeOk)
        found = {}
        for _ in range(declared.message_count):
            content = await client.wait_for(Content)
            number = int(content.body.split()[0])
            assert number not in found, (name, number)
            found[number] = content.method.redelivered
        await client.call(basic.Cancel(consumer_tag=name), basic.CancelOk)
        assert not any(isinstance(item, Content) for _, item in client.inbox)
        assert found.keys() <= kept.sent.keys(), (name, sorted(found.keys() - kept.sent.keys()))
        lost = kept.confirmed - kept.gone - found.keys()
        assert not lost, (name, "lost", sorted(lost))
        back = found.keys() & kept.gone_for_good
        assert not back, (name, "came back", sorted(back))
        unflagged = {number for number in kept.delivered & found.keys() if not found[number]}
        assert not unflagged, (name, "not flagged", sorted(unflagged))
        order = list(found)
        if name == "priority":
            assert order == sorted(order, key=lambda number: (-kept.sent[number], number))
        else:
            assert order == sorted(order), name


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files so small that all kinds of them come and go."""
    monkeypatch.setattr(wal, "WAL_FILE_BYTES_MAX", 60_000)
    monkeypatch.setattr(disk_log, "RESIDUE_BYTES_MAX", 12_000)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 30_000)
    monkeypatch.setattr(store, "WASTE_BYTES_MAX", 30_000)
    monkeypatch.setattr(store, "IDLE_WASTE_BYTES_MAX", 3_000)
    monkeypatch.setattr(keeping, "WAITING_BYTES_MAX", 20_000)
    monkeypatch.setattr(keeping, "_IDLE_S", 0.05)


@contextmanager
def calls(disk: SimDisk) -> Iterator[list[str]]:
    """What each call is, from the first on."""
    seen: list[str] = []
    call = disk.call

    def noted(what: str, *details: Any) -> Any:
        seen.append(what)
        return call(what, *details)

    disk.call = noted  # type: ignore[method-assign]
    yield seen
    disk.call = call  # type: ignore[method-assign]


def undisturbed(seed: int) -> list[str]:
    """The disk calls of a run in which nothing happens."""

    async def scenario(sim: Simulation) -> list[str]:
        story = Story(sim, random.Random(seed))
        with calls(sim.disk) as seen:
            await story.tell()
        assert story.end is None
        await story.check()
        return seen

    return simulate(seed, scenario)


def crash(seed: int, number: int) -> None:
    """Let the power fail in a call."""

    async def scenario(sim: Simulation) -> None:
        story = Story(sim, random.Random(seed))
        sim.disk.crash_at(number)
        await story.tell()
        assert story.end is not None
        sim.disk.crash()
        sim.disk.restart()
        await story.check()

    simulate(seed, scenario)


def fail(seed: int, number: int) -> None:
    """Let a call fail; as nothing is sure then, the power fails too when the node has stopped."""

    async def scenario(sim: Simulation) -> None:
        story = Story(sim, random.Random(seed))
        sim.disk.fail_at(number, errno.EIO)
        await story.tell()
        assert isinstance(story.end, BaseExceptionGroup), "the node went on"
        assert story.end.subgroup((DiskFailure, DataError))
        sim.disk.crash()
        sim.disk.restart()
        await story.check()

    simulate(seed, scenario)


def fill(seed: int, number: int) -> None:
    """Let the disk be full from an append on, for some seconds."""

    async def scenario(sim: Simulation) -> None:
        story = Story(sim, random.Random(seed))
        disk = sim.disk
        filled = trio.Event()
        call, appends = disk.call, 0

        def counted(what: str, *details: Any) -> Any:
            nonlocal appends
            if what == "append":
                appends += 1
                if appends == number:
                    used = (1 << 40) - disk._free_bytes()
                    disk.capacity_bytes = used + sim.random.randint(0, 50)
                    filled.set()
            return call(what, *details)

        async def make_room() -> None:
            await filled.wait()
            await trio.sleep(FULL_S)
            disk.capacity_bytes = 1 << 40

        disk.call = counted  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            await story.tell()
            while story.end is not None:  # No node starts on a full disk.
                assert isinstance(story.end, BaseExceptionGroup)
                assert story.end.subgroup(DataError)
                assert disk._free_bytes() < ROOM_BYTES_MIN
                await trio.sleep(FULL_S)
                disk.restart()
                story.end = None
                await story.tell()
            filled.set()  # The tasks' order is another one here: there may be fewer appends.
        sim.disk.crash()
        sim.disk.restart()
        await story.check()

    simulate(seed, scenario)


ACTS = {"crash": crash, "fail": fail, "fill": fill}


def numbers(act: str, seed: int) -> range:
    """What N may be."""
    seen = undisturbed(seed)
    return range(1, (seen.count("append") if act == "fill" else len(seen)) + 1)


@pytest.mark.parametrize("act", ACTS)
def test_what_was_promised_is_there_after_some_call(act: str) -> None:
    seed = 1
    rng = random.Random(act)
    for number in rng.sample(numbers(act, seed), 8):
        ACTS[act](seed, number)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("act", ACTS)
def test_what_was_promised_is_there_after_any_call(act: str, seed: int) -> None:
    for number in numbers(act, seed):
        ACTS[act](seed, number)
