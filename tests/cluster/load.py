"""Clients of a cluster, each at another node than the queue's own, who come back whatever happens.

They tell a `History` what they see, and write down what they may not see: an error that a normal
cluster does not give, a call that is not answered in time, a return of what has a queue.
"""

import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import attrs
import trio
from pamqp import commands

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import encode_method
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.history import History
from amqpbroker.world.sockets import SocketNetwork
from tests.cluster.rig import Machine
from tests.crash.load import Letter, make_body, number_of

CALL_S_MAX = 20
"""How long anything may take, and a confirm: a node stands still for 8 s, and is missed after 5."""
DECLARED_S_MAX = 300
WINDOW = 200
BATCH_MAX = 20
FRAME_BYTES_MAX = 131072
FAN = "fan"
DOWN = re.compile(
    r"NOT_FOUND - home node 'rabbit@n[123]' of durable queue '[a-z0-9-]+' in vhost '/'"
    r" is down or inaccessible"
)


@attrs.frozen
class Home:
    """A queue, and the node that it is on."""

    queue: str
    node: str
    arguments: dict[str, object] = attrs.Factory(dict)
    is_consumed: bool = True
    """Else nobody consumes it until the end."""


HOMES = (
    Home("plain-1", "rabbit@n1"),
    Home("plain-2", "rabbit@n2"),
    Home("ttl-1", "rabbit@n1", {"x-message-ttl": 24 * 3600 * 1000}),
    Home("priority-2", "rabbit@n2", {"x-max-priority": 5}),
    Home("fan-1", "rabbit@n1"),
    Home("fan-2", "rabbit@n2"),
    Home("backlog-1", "rabbit@n1", is_consumed=False),
)
"""The third node has no queue, it passes on."""
FANNED = ("fan-1", "fan-2")
TARGETS = (*(home.queue for home in HOMES if home.queue not in FANNED), FAN)


class Refused(Exception):
    """The broker has ended the channel or the connection, as it may."""


@attrs.define(eq=False)
class Load:
    """All clients of ``machines``; what they see goes to ``history``."""

    rng: random.Random
    machines: dict[str, Machine]
    history: History = attrs.Factory(History)
    publishing: bool = True
    consuming: bool = True
    draining: bool = False
    """Consumers take everything, at once."""
    published: int = 0
    counts: Counter[str] = attrs.Factory(Counter)
    """What has happened, by its name."""
    wrong: list[str] = attrs.Factory(list)
    """What must not happen."""
    attached: set[str] = attrs.Factory(set)
    """The queues that have their consumer."""
    exclusive: dict[str, tuple[str, int]] = attrs.Factory(dict)
    """Exclusive queues that are there: the node, and its life, in which they came to be."""
    made: set[str] = attrs.Factory(set)
    """Queues that were declared and bound, both answered, and not deleted."""
    gone: set[str] = attrs.Factory(set)
    """Queues whose deletion was answered."""
    _sessions: int = 0

    # -- coming and going ----------------------------------------------------------------------

    async def run(self, publishers: int) -> None:
        """Be there until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(publishers):
                nursery.start_soon(self._again, self._publish, None)
            for home in HOMES:
                nursery.start_soon(self._again, self._consume, home)
            for name in self.machines:
                nursery.start_soon(self._again, self._have_exclusive, name)
            nursery.start_soon(self._again, self._come_and_go, None)

    async def _again(self, use: Callable, what: object) -> None:
        while True:
            try:
                await use(what)
            except* (OSError, Refused, trio.BrokenResourceError):
                self.counts["sessions ended"] += 1
            except* trio.TooSlowError:
                self.wrong.append(f"{use.__name__} {what or ''} was not answered in time")
            await trio.sleep(0.1 + self.rng.random() * 0.2)

    @asynccontextmanager
    async def connect(self, name: str) -> AsyncIterator[Client]:
        """A client of that node."""
        address = self.machines[name].broker.address
        with trio.fail_after(CALL_S_MAX):
            client = await Client.connect(SocketNetwork(), address, 1)
        try:
            yield client
        finally:
            client.stream.close()

    def elsewhere(self, *homes: str) -> str:
        """Another node than those; one that runs, if there is any."""
        others = [name for name in self.machines if name not in homes] or list(self.machines)
        up = [name for name in others if self.machines[name].is_up]
        return self.rng.choice(up or others)

    async def _call(self, client: Client, method: object, answer: type) -> object:
        """What is answered. Raises `Refused` when the broker refuses, as it may."""
        with trio.fail_after(CALL_S_MAX):
            await client.send(method)
            closes = (commands.Channel.Close, commands.Connection.Close)
            answered = await client.wait_for((answer, *closes))
        if isinstance(answered, closes):
            self._closed(answered)
        return answered

    def _closed(self, item: commands.Channel.Close | commands.Connection.Close) -> None:
        """A channel or connection was closed: for a reason that there may be?"""
        code, text = item.reply_code, item.reply_text
        if code == 320:
            raise ConnectionError(text)
        if code == 404 and DOWN.fullmatch(text):
            self.counts["404, home node down"] += 1
        elif code == 541:
            self.counts["541, etcd away"] += 1
        else:
            self.wrong.append(f"{item.name}: {code} {text}")
        raise Refused(text)

    async def declare(self) -> None:
        """Declare all queues, each at its node; where the machine is busy, again and again."""
        with trio.fail_after(DECLARED_S_MAX):
            while True:
                try:
                    return await self._declare_all()
                except (OSError, Refused):
                    await trio.sleep(1)

    async def _declare_all(self) -> None:
        for home in HOMES:
            async with self.connect(home.node) as client:
                method = commands.Queue.Declare(
                    queue=home.queue, durable=True, arguments=home.arguments
                )
                await self._call(client, method, commands.Queue.DeclareOk)
        async with self.connect(HOMES[0].node) as client:
            method = commands.Exchange.Declare(exchange=FAN, exchange_type="fanout", durable=True)
            await self._call(client, method, commands.Exchange.DeclareOk)
            for queue in FANNED:
                await self._call(
                    client, commands.Queue.Bind(0, queue, FAN, ""), commands.Queue.BindOk
                )

    # -- publishing ----------------------------------------------------------------------------

    async def _publish(self, _: None) -> None:
        """Publish to one place, for a while; who comes back is another publisher."""
        while not self.publishing:  # noqa: ASYNC110
            await trio.sleep(0.1)
        target = self.rng.choice(TARGETS)
        homes = [home.node for home in HOMES if home.queue == target]
        node = self.elsewhere(*homes)
        self._sessions += 1
        publisher = f"publisher {self._sessions} at {node}"
        outstanding: dict[int, int] = {}
        async with self.connect(node) as client:
            await self._call(client, commands.Confirm.Select(), commands.Confirm.SelectOk)
            with trio.move_on_after(5 + self.rng.random() * 25) as lifetime:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, client, target, publisher, outstanding)
                    await self._hear_confirms(client, publisher, outstanding)
            if lifetime.cancelled_caught:
                await self._hear_confirms(client, publisher, outstanding, until_none=True)

    async def _send(
        self, client: Client, target: str, publisher: str, outstanding: dict[int, int]
    ) -> None:
        tag = 0
        while True:
            await trio.sleep(self.rng.random() * 0.08)
            if len(outstanding) >= WINDOW or not self.publishing:
                continue
            batch = []
            for number, data in self._batch(target, publisher):
                tag += 1
                outstanding[tag] = number
                batch.append(data)
            with trio.fail_after(CALL_S_MAX), trio.CancelScope(shield=True):
                await client.send_bytes(b"".join(batch))

    async def _hear_confirms(
        self,
        client: Client,
        publisher: str,
        outstanding: dict[int, int],
        *,
        until_none: bool = False,
    ) -> None:
        while outstanding or not until_none:
            for _, item in client.inbox:
                self._hear(publisher, item, outstanding)
            client.inbox.clear()
            if until_none and not outstanding:
                return
            oldest = next(iter(outstanding), None)
            with trio.move_on_after(CALL_S_MAX) as patience:
                await client.receive()
            if patience.cancelled_caught and oldest is not None and oldest in outstanding:
                self.wrong.append(f"{publisher} has waited {CALL_S_MAX} s for a confirm")
                raise Refused("no confirm")

    def _hear(self, publisher: str, item: object, outstanding: dict[int, int]) -> None:
        match item:
            case commands.Basic.Ack(delivery_tag=tag, multiple=multiple):
                tell, what = self.history.confirmed, "confirmed"
            case commands.Basic.Nack(delivery_tag=tag, multiple=multiple):
                tell, what = self.history.nacked, "nacked"
            case commands.Channel.Close() | commands.Connection.Close():
                self._closed(item)
            case commands.Connection.Blocked() | commands.Connection.Unblocked():
                return
            case Content(method=method):
                self.wrong.append(f"{publisher}: {method.name} {method.reply_text}")
                return
            case _:
                raise AssertionError(item)
        tags = [each for each in outstanding if each <= tag] if multiple else [tag]
        for each in tags:
            if each in outstanding:
                self.counts[what] += 1
                tell(outstanding.pop(each))
            else:
                self.history.stray_confirm(publisher, f"tag {each}")

    def _batch(self, target: str, publisher: str) -> Iterator[tuple[int, bytes]]:
        """Some messages to one place: their numbers, and their octets."""
        rng = self.rng
        exchange, key = (FAN, "") if target == FAN else ("", target)
        queues = FANNED if target == FAN else (target,)
        method = encode_method(1, commands.Basic.Publish(0, exchange, key, mandatory=True))
        for _ in range(rng.randint(1, BATCH_MAX)):
            self.published += 1
            persistent = rng.random() > 0.05
            priority = rng.randint(0, 5) if target == "priority-2" else None
            properties = commands.Basic.Properties(
                delivery_mode=2 if persistent else 1, priority=priority
            )
            octets = rng.choice((0, 16, 100, 100, 1000))
            if rng.random() < 0.003:
                octets = rng.choice((20_000, 200_000))
            body = make_body(self.published, octets)
            self.history.published(
                self.published,
                publisher,
                queues,
                Letter.of(properties, body),
                must_stay=persistent,
                priority=priority or 0,
            )
            content = encode_content(1, properties.marshal(), body, FRAME_BYTES_MAX)
            yield self.published, method + content

    # -- consuming -----------------------------------------------------------------------------

    async def _consume(self, home: Home) -> None:
        while not (self.draining or (self.consuming and home.is_consumed)):  # noqa: ASYNC110
            await trio.sleep(0.1)
        node = self.elsewhere(home.node)
        async with self.connect(node) as client:
            prefetch = 1000 if self.draining else self.rng.choice((1, 10, 100, 1000))
            await self._call(client, commands.Basic.Qos(0, prefetch), commands.Basic.QosOk)
            method = commands.Basic.Consume(0, home.queue, "c")
            await self._call(client, method, commands.Basic.ConsumeOk)
            self.attached.add(home.queue)
            try:
                with trio.move_on_after(10 + self.rng.random() * 30):
                    await self._take_all(client, home.queue)
            finally:
                self.attached.discard(home.queue)

    async def _take_all(self, client: Client, queue: str) -> None:
        unacked: dict[int, int] = {}
        while self.consuming or self.draining:
            for _, item in client.inbox:
                match item:
                    case Content():
                        self._take(queue, item, unacked)
                    case commands.Basic.Cancel():
                        self.counts["consumers cancelled"] += 1
                        raise Refused("cancelled")
                    case commands.Channel.Close() | commands.Connection.Close():
                        self._closed(item)
                    case commands.Connection.Blocked() | commands.Connection.Unblocked():
                        pass
                    case _:
                        raise AssertionError(item)
            client.inbox.clear()
            if unacked:
                with trio.fail_after(CALL_S_MAX), trio.CancelScope(shield=True):
                    await self._settle(client, queue, unacked)
            if not self.draining:
                await trio.sleep(self.rng.random() * 0.03)
            if not client.inbox:
                with trio.move_on_after(0.5):
                    await client.receive()

    def _take(self, queue: str, item: Content, unacked: dict[int, int]) -> None:
        number = number_of(item.body)
        redelivered = item.method.redelivered
        self.counts["redelivered" if redelivered else "delivered"] += 1
        letter = Letter.of(item.properties, item.body)
        consumer = f"consumer of {queue}"
        self.history.received(number, queue, consumer, letter, redelivered=redelivered)
        unacked[item.method.delivery_tag] = number

    async def _settle(self, client: Client, queue: str, unacked: dict[int, int]) -> None:
        """Ack some: up to one of them, or a few of them."""
        rng, tags = self.rng, list(unacked)
        if self.draining or rng.random() < 0.7:
            last = tags[-1] if self.draining else rng.choice(tags)
            settled = [tag for tag in tags if tag <= last]
            acks = [commands.Basic.Ack(last, True)]
        else:
            settled = rng.sample(tags, min(len(tags), 5))
            acks = [commands.Basic.Ack(tag, False) for tag in settled]
        for tag in settled:
            self.history.settled(unacked.pop(tag), queue)
        await client.send_bytes(b"".join(encode_method(1, ack) for ack in acks))

    # -- topology ------------------------------------------------------------------------------

    async def _have_exclusive(self, name: str) -> None:
        """Have an exclusive queue at a node, as long as the connection lasts."""
        async with self.connect(name) as client:
            life = self.machines[name].lives
            self._sessions += 1
            queue = f"exclusive-{self._sessions}"
            method = commands.Queue.Declare(queue=queue, exclusive=True)
            await self._call(client, method, commands.Queue.DeclareOk)
            self.exclusive[queue] = name, life
            self.counts["exclusive queues"] += 1
            while True:
                await client.receive()
                for _, item in client.inbox:
                    if isinstance(item, commands.Channel.Close | commands.Connection.Close):
                        self._closed(item)
                client.inbox.clear()

    async def _come_and_go(self, _: None) -> None:
        """Declare queues and bind them, look from another node, delete most of them."""
        while not self.publishing:  # noqa: ASYNC110
            await trio.sleep(0.1)
        node = self.elsewhere()
        async with self.connect(node) as client:
            with trio.move_on_after(5 + self.rng.random() * 10):
                while self.publishing:
                    with trio.CancelScope(shield=True):
                        await self._make(client, node)
                        if len(self.made) > 5 or (self.made and self.rng.random() < 0.5):
                            await self._drop(client)
                    await trio.sleep(self.rng.random() * 0.2)

    async def _make(self, client: Client, node: str) -> None:
        self._sessions += 1
        queue = f"temporary-{self._sessions}"
        method = commands.Queue.Declare(queue=queue, durable=True)
        await self._call(client, method, commands.Queue.DeclareOk)
        bind = commands.Queue.Bind(0, queue, "amq.direct", queue)
        await self._call(client, bind, commands.Queue.BindOk)
        self.made.add(queue)
        self.counts["queues declared and bound"] += 1
        await self._look(queue, self.elsewhere(node))

    async def _look(self, queue: str, node: str) -> None:
        """See at another node what was answered at one. What is down now is asked for later."""
        try:
            async with self.connect(node) as other:
                found = await self.finds(other, queue)
        except (OSError, Refused):
            return
        self.counts["looks from another node"] += 1
        if not found:
            self.wrong.append(f"{queue} was declared, and {node} does not know it")

    async def finds(self, client: Client, queue: str) -> bool:
        """Whether a node knows a queue, and routes to it. Raises `Refused` if it cannot say."""
        await client.send(commands.Queue.Declare(queue=queue, passive=True))
        with trio.fail_after(CALL_S_MAX):
            answer = await client.wait_for(
                (commands.Queue.DeclareOk, commands.Channel.Close, commands.Connection.Close)
            )
        if isinstance(answer, commands.Channel.Close):
            with trio.fail_after(CALL_S_MAX):
                await client.send(commands.Channel.CloseOk())
                await client.call(commands.Channel.Open(), commands.Channel.OpenOk)
            if answer.reply_code == 404 and "no queue" in answer.reply_text:
                return False
        if isinstance(answer, commands.Connection.Close):
            self._closed(answer)
        return True

    async def ready(self, client: Client, queue: str) -> int:
        """How many messages a queue has for consumers."""
        method = commands.Queue.Declare(queue=queue, passive=True)
        answer = await self._call(client, method, commands.Queue.DeclareOk)
        assert isinstance(answer, commands.Queue.DeclareOk)
        return answer.message_count

    async def _drop(self, client: Client) -> None:
        queue = self.rng.choice(sorted(self.made))
        self.made.discard(queue)  # From now on, nobody knows for a while.
        method = commands.Queue.Delete(queue=queue)
        await self._call(client, method, commands.Queue.DeleteOk)
        self.gone.add(queue)
