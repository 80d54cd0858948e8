"""Publishers with confirms and consumers with acks, who come back when the broker does.

They tell a `History` what they see. Everything is durable and persistent but for some messages,
which are mixed in: queues of several kinds, bodies of several sizes, a fan-out, a backlog that
nobody consumes until the end.
"""

import random
import zlib
from collections.abc import Callable, Iterator

import attrs
import trio
from pamqp import commands

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import encode_method
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.confirm_order import mark
from amqpbroker.testing.history import History
from amqpbroker.world.sockets import SocketNetwork

DAY_MS = 24 * 3600 * 1000
WINDOW = 300
"""Messages of a publisher that are not confirmed."""
FRAME_BYTES_MAX = 131072
FILLER = random.Random(0).randbytes(300_000)

QUEUES: dict[str, dict[str, object]] = {
    "plain": {},
    "other": {},
    "priority": {"x-max-priority": 5},
    "ttl": {"x-message-ttl": DAY_MS},
    "fan-1": {},
    "fan-2": {},
    "backlog": {},
}
FAN = "fan"
BLOCKING = commands.Connection.Blocked | commands.Connection.Unblocked
CONSUMED = ("plain", "other", "priority", "ttl", "fan-1", "fan-2")


@attrs.frozen
class Letter:
    """A message as it is sent, or as it came."""

    checksum: int
    delivery_mode: int | None
    priority: int | None
    expiration: str | None

    @classmethod
    def of(cls, properties: commands.Basic.Properties, body: bytes) -> "Letter":
        return cls(
            zlib.crc32(body),
            properties.delivery_mode,
            properties.priority,
            properties.expiration,
        )


def make_body(number: int, octets: int) -> bytes:
    """A body that begins and ends with the mark of message ``number``."""
    start = number * 7919 % (len(FILLER) - octets)
    return mark(number) + FILLER[start : start + octets] + mark(number)


def number_of(body: bytes) -> int:
    """Which message it is; -1 if the body does not say so."""
    try:
        return int(body[2:10], 16) if len(body) >= 24 else -1
    except ValueError:
        return -1


def check_not_closed(item: object) -> None:
    """A broker may close a connection because it stops, and for nothing else."""
    if isinstance(item, commands.Connection.Close) and item.reply_code == 320:
        raise ConnectionError(item.reply_text)
    assert not isinstance(item, commands.Connection.Close | commands.Channel.Close), dict(item)


class Gate:
    """Lets clients through while the broker is up, and knows when none of them is inside."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self._inside = 0
        self._left = trio.Event()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open = trio.Event()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def enter(self) -> None:
        await self._open.wait()
        self._inside += 1

    def leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._left.set()
            self._left = trio.Event()

    async def all_left(self) -> None:
        while self._inside:
            await self._left.wait()


@attrs.define(eq=False)
class Load:
    """All clients of a broker at ``address``; what they see goes to ``history``."""

    rng: random.Random
    history: History = attrs.Factory(History)
    address: tuple[str, int] = ("127.0.0.1", 0)
    gate: Gate = attrs.Factory(Gate)
    large: float = 0.01
    """The share of large bodies."""
    in_flight: int = 0
    """Persistent messages that were sent and not confirmed, on connections that are up."""
    confirmed: int = 0
    """Persistent messages, over all lives; a fan-out counts once."""
    nacked: int = 0
    redelivered: int = 0
    received: int = 0
    published: int = 0
    blocked: int = 0
    by_port: dict[tuple[int, int], int] = attrs.Factory(dict)
    """Message by own port and publish sequence number; transient ones are not in it."""
    publishing: bool = True
    slow: bool = True
    """Consumers take their time, so that there is something left when the broker dies."""
    consuming: tuple[str, ...] = CONSUMED
    queues_made: int = 0
    queues_there: set[str] = attrs.Factory(set)
    queues_gone: set[str] = attrs.Factory(set)
    broken: list[str] = attrs.Factory(list)
    """Queues that were declared and are not there, or deleted and are."""

    # -- coming and going ----------------------------------------------------------------------

    async def run(self, publishers: int) -> None:
        """Be there until cancelled."""
        async with trio.open_nursery() as nursery:
            for place in range(publishers):
                nursery.start_soon(self._again, self._publish, f"publisher-{place}")
            for queue in QUEUES:
                nursery.start_soon(self._again, self._consume, queue)
            nursery.start_soon(self._again, self._come_and_go, "")

    async def _again(self, use: Callable, name: str) -> None:
        while True:
            await self.gate.enter()
            try:
                with trio.CancelScope():
                    await use(name)
            except* OSError:
                pass  # The broker is gone; those that it has told something know it.
            finally:
                self.gate.leave()
            await trio.sleep(0.01)

    async def connect(self, **settings: object) -> Client:
        return await Client.connect(SocketNetwork(), self.address, 1, **settings)

    async def declare(self) -> dict[str, int]:
        """Declare all queues, or find them as they were; how many messages are ready in each."""
        client = await self.connect()
        ready = {}
        for queue, arguments in QUEUES.items():
            method = commands.Queue.Declare(queue=queue, durable=True, arguments=arguments)
            answer = await client.call(method, commands.Queue.DeclareOk)
            ready[queue] = answer.message_count
        exchange = commands.Exchange.Declare(exchange=FAN, exchange_type="fanout", durable=True)
        await client.call(exchange, commands.Exchange.DeclareOk)
        for queue in ("fan-1", "fan-2"):
            await client.call(commands.Queue.Bind(0, queue, FAN, ""), commands.Queue.BindOk)
        client.stream.close()
        return ready

    # -- queues that come and go ---------------------------------------------------------------

    async def _come_and_go(self, _: str) -> None:
        """Declare queues, put something in that is never consumed, delete most of them."""
        client = await self.connect()
        try:
            while self.publishing:
                self.queues_made += 1
                queue = f"temporary-{self.queues_made}"
                method = commands.Queue.Declare(queue=queue, durable=True)
                await client.call(method, commands.Queue.DeclareOk)
                self.queues_there.add(queue)
                publish = encode_method(1, commands.Basic.Publish(0, "", queue))
                block = commands.Basic.Properties(delivery_mode=2).marshal()
                message = publish + encode_content(1, block, b"of no account", FRAME_BYTES_MAX)
                await client.send_bytes(message * self.rng.randint(0, 20))
                await trio.sleep(self.rng.random() * 0.1)
                if self.rng.random() < 0.8 or len(self.queues_there) > 10:
                    queue = self.rng.choice(sorted(self.queues_there))
                    self.queues_there.discard(queue)  # From now on, nobody knows for a while.
                    await client.call(commands.Queue.Delete(queue=queue), commands.Queue.DeleteOk)
                    self.queues_gone.add(queue)
            while True:
                await client.receive()
                for _, item in client.inbox:
                    check_not_closed(item)
        finally:
            client.stream.close()

    async def check_queues(self) -> None:
        """See that the queues are there that were declared, and those not that were deleted."""
        client = await self.connect()
        for queue in sorted(self.queues_there | self.queues_gone):
            await client.send(commands.Queue.Declare(queue=queue, passive=True))
            answer = await client.wait_for((commands.Queue.DeclareOk, commands.Channel.Close))
            is_there = isinstance(answer, commands.Queue.DeclareOk)
            if is_there != (queue in self.queues_there):
                self.broken.append(f"{queue} is {'still' if is_there else 'not'} there")
            if not is_there:
                await client.send(commands.Channel.CloseOk())
                await client.call(commands.Channel.Open(), commands.Channel.OpenOk)
        self.queues_gone.clear()
        client.stream.close()

    # -- publishing ----------------------------------------------------------------------------

    async def _publish(self, name: str) -> None:
        client = await self.connect()
        outstanding: dict[int, tuple[int, bool]] = {}
        try:
            await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            port = client.stream.local[1]
            room = trio.Event()
            async with trio.open_nursery() as nursery:

                async def hear() -> None:
                    nonlocal room
                    while True:
                        await client.receive()
                        for _, item in client.inbox:
                            self._hear(name, item, outstanding)
                        client.inbox.clear()
                        room.set()
                        room = trio.Event()

                nursery.start_soon(hear)
                tag = 0
                while True:
                    while len(outstanding) >= WINDOW or not self.publishing:
                        await room.wait() if self.publishing else await trio.sleep(0.05)
                    batch = []
                    for number, persistent, data in self._batch(name):
                        tag += 1
                        outstanding[tag] = number, persistent
                        self.in_flight += persistent
                        if persistent:
                            self.by_port[port, tag] = number
                        batch.append(data)
                    await client.send_bytes(b"".join(batch))
                    await trio.sleep(self.rng.random() * 0.003)
        finally:
            self.in_flight -= sum(persistent for _, persistent in outstanding.values())
            client.stream.close()

    def _hear(self, name: str, item: object, outstanding: dict[int, tuple[int, bool]]) -> None:
        check_not_closed(item)
        match item:
            case commands.Basic.Ack(delivery_tag=tag, multiple=multiple):
                tell = self.history.confirmed
            case commands.Basic.Nack(delivery_tag=tag, multiple=multiple):
                tell = self.history.nacked
            case commands.Connection.Blocked() | commands.Connection.Unblocked():
                self.blocked += isinstance(item, commands.Connection.Blocked)
                return
            case _:
                raise AssertionError(item)
        tags = [each for each in outstanding if each <= tag] if multiple else [tag]
        for each in tags:
            if each not in outstanding:
                self.history.stray_confirm(name, f"tag {each}")
                continue
            number, persistent = outstanding.pop(each)
            self.in_flight -= persistent
            tell(number)
            if isinstance(item, commands.Basic.Nack):
                self.nacked += 1
            else:
                self.confirmed += persistent

    def _batch(self, name: str) -> Iterator[tuple[int, bool, bytes]]:
        """Some messages to one place: their numbers, whether they are to stay, their octets."""
        rng = self.rng
        place = rng.choice((*CONSUMED[:4], FAN, "backlog"))
        exchange, key = (FAN, "") if place == FAN else ("", place)
        queues = ("fan-1", "fan-2") if place == FAN else (place,)
        method = encode_method(1, commands.Basic.Publish(0, exchange, key))
        for _ in range(rng.randint(1, 40)):
            self.published += 1
            number = self.published
            persistent = rng.random() > 0.1
            priority = rng.randint(0, 5) if place == "priority" else None
            properties = commands.Basic.Properties(
                delivery_mode=2 if persistent else 1,
                priority=priority,
                expiration=str(DAY_MS) if rng.random() < 0.1 else None,
            )
            octets = rng.choice((0, 16, 100, 100, 100, 1000))
            if rng.random() < self.large:
                octets = rng.choice((5_000, 50_000, 200_000))
            body = make_body(number, octets)
            self.history.published(
                number,
                name,
                queues,
                Letter.of(properties, body),
                must_stay=persistent,
                priority=priority or 0,
            )
            content = encode_content(1, properties.marshal(), body, FRAME_BYTES_MAX)
            yield number, persistent, method + content

    # -- consuming -----------------------------------------------------------------------------

    async def _consume(self, queue: str) -> None:
        while queue not in self.consuming:
            await trio.sleep(0.05)
            if not self.gate.is_open:
                return
        client = await self.connect()
        try:
            prefetch = self.rng.choice((10, 100, 1000))
            await client.call(commands.Basic.Qos(0, prefetch), commands.Basic.QosOk)
            await client.call(commands.Basic.Consume(0, queue, "c"), commands.Basic.ConsumeOk)
            unacked: dict[int, int] = {}
            while True:
                for _, item in client.inbox:
                    check_not_closed(item)
                    if isinstance(item, Content):
                        self._take(queue, item, unacked)
                    else:
                        assert isinstance(item, BLOCKING), item
                client.inbox.clear()
                if unacked:
                    await self._settle(client, queue, unacked)
                if self.slow:
                    await trio.sleep(self.rng.random() * 0.02)
                if not client.inbox:
                    await client.receive()
        finally:
            client.stream.close()

    def _take(self, queue: str, item: Content, unacked: dict[int, int]) -> None:
        number = number_of(item.body)
        letter = Letter.of(item.properties, item.body)
        self.received += 1
        self.redelivered += item.method.redelivered
        self.history.received(
            number, queue, f"consumer of {queue}", letter, redelivered=item.method.redelivered
        )
        unacked[item.method.delivery_tag] = number

    async def _settle(self, client: Client, queue: str, unacked: dict[int, int]) -> None:
        """Ack some: up to one of them, or a few of them; now and then one is requeued."""
        rng, tags = self.rng, list(unacked)
        if rng.random() < 0.02 and self.slow:
            tag = rng.choice(tags)
            del unacked[tag]
            await client.send(commands.Basic.Nack(tag, False, True))
        elif rng.random() < 0.7 or not self.slow:
            last = tags[-1] if not self.slow else rng.choice(tags)
            for tag in tags:
                if tag <= last:
                    self.history.settled(unacked.pop(tag), queue)
            await client.send(commands.Basic.Ack(last, True))
        else:
            some = rng.sample(tags, min(len(tags), 5))
            for tag in some:
                self.history.settled(unacked.pop(tag), queue)
            acks = [encode_method(1, commands.Basic.Ack(tag, False)) for tag in some]
            await client.send_bytes(b"".join(acks))
