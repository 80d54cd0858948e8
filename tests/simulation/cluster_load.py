"""A cluster under a load, while nodes die, ways are severed, and etcd stalls and loses answers.

What clients see is judged by a `History`: nothing that was confirmed is lost, nothing comes twice
without saying so, what nobody has had comes in order. And in the end everything works again, and
all nodes know the same.

Three nodes hold six durable queues. Four publishers, each with confirms, four consumers and one who
polls, which ack soon or late, requeue or keep what they get, and one who declares, binds and
deletes connect to any node, again and again. For 40 s one to nine kinds of faults, as the seed
chooses, befall them every one to 15 s: nodes are killed, also in the midst of a call of their disk,
or stopped, for up to 20 s; one reaches neither the others nor etcd for up to 20 s; ways between
nodes are severed, in one direction or both, for up to 15 s; connections between nodes are cut; etcd
stalls for up to 30 s; a node cannot reach etcd for up to 30 s; events of etcd come up to 3 s late,
or are forgotten before they were seen. In one of three seeds a tenth of etcd's answers is lost, in
one of three etcd is a hundred times as slow, octets travel for up to 5, 50 or 300 ms, and a sync
takes up to 10 or 300.
"""

import itertools
import random
from collections.abc import Awaitable, Callable

import attrs
import trio
from pamqp import commands

from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.history import History, Verdict
from amqpbroker.testing.sim_cluster import SimCluster
from amqpbroker.testing.world import Simulation

basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue
NODES = 3
QUEUES = [f"q{number}" for number in range(6)]
"""Two on each node."""
FAULTS_S = 40.0
HEAL_S = 15.0
PATIENCE_S = 8.0


@attrs.define
class Load:
    """Clients that publish and consume until they are told to end, and what they have seen."""

    sim: Simulation
    cluster: SimCluster
    history: History = attrs.Factory(History)
    is_over: bool = False
    numbers: "itertools.count[int]" = attrs.Factory(itertools.count)

    async def forever(self, act: Callable[[random.Random], Awaitable[None]], name: str) -> None:
        """Do it again and again: connections and channels end, whenever a node does."""
        rng = random.Random(f"{name} {self.sim.seed}")
        while not self.is_over:
            try:
                await act(rng)
            except OSError:
                await trio.sleep(rng.random())

    async def connect(self, rng: random.Random) -> Client:
        with trio.move_on_after(PATIENCE_S):
            return await self.cluster.client(rng.randrange(NODES))
        raise ConnectionError("no connection in time")

    async def publish(self, rng: random.Random) -> None:
        """One connection of a publisher: some batches, each confirmed before the next."""
        client = await self.connect(rng)
        publisher = next(self.numbers)
        name = rng.choice(QUEUES)
        tag = 0
        waiting: dict[int, int] = {}
        try:
            await self.call(client, commands.Confirm.Select(), commands.Confirm.SelectOk)
            for _ in range(rng.randint(1, 20)):
                batch = [next(self.numbers) for _ in range(rng.randint(1, 5))]
                for message in batch:
                    tag += 1
                    waiting[tag] = message
                    self.history.published(message, publisher, [name], b"%d" % message)
                together = rng.random() < 0.5
                for some in [batch] if together else [[message] for message in batch]:
                    await client.publish(name, *(b"%d" % each for each in some), persistent=True)
                await self.hear(client, waiting)
                await trio.sleep(rng.random())
        finally:
            client.stream.close()

    async def hear(self, client: Client, waiting: dict[int, int]) -> None:
        """Wait until all that was published is confirmed or refused."""
        with trio.fail_after(PATIENCE_S * 4):
            while waiting:
                item = await client.wait_for((basic.Ack, basic.Nack))  # type: ignore[arg-type]
                last = item.delivery_tag
                for tag in [
                    each for each in waiting if each == last or (item.multiple and each < last)
                ]:
                    message = waiting.pop(tag)
                    if isinstance(item, basic.Ack):
                        self.history.confirmed(message)
                    else:
                        self.history.nacked(message)

    async def consume(self, rng: random.Random) -> None:
        """One connection with one or two consumers: it takes some messages, and leaves some."""
        client = await self.connect(rng)
        names = rng.sample(QUEUES, rng.choice((1, 1, 2)))
        taker = Taker(self, client, next(self.numbers), rng)
        prefetch = rng.choice((1, 5))
        at_once = rng.choice((1, prefetch))
        try:
            qos = basic.Qos(prefetch_count=prefetch, global_=len(names) > 1)
            await self.call(client, qos, basic.QosOk)
            for name in names:
                consume = basic.Consume(queue=name, consumer_tag=name)
                await self.call(client, consume, basic.ConsumeOk)
            for _ in range(rng.randint(1, 40)):
                with trio.move_on_after(PATIENCE_S / 4) as waiting:
                    content = await client.wait_for(Content)
                if waiting.cancelled_caught:
                    break
                await taker.take(content, content.method.consumer_tag)
                if len(taker.held) >= at_once:
                    await taker.ack()
            if rng.random() < 0.3:
                await self.call(client, basic.Cancel(names[0]), basic.CancelOk)
                await taker.ack()
        finally:
            client.stream.close()

    async def poll(self, rng: random.Random) -> None:
        """One connection of somebody who asks for messages one by one."""
        client = await self.connect(rng)
        name = rng.choice(QUEUES)
        taker = Taker(self, client, next(self.numbers), rng)
        try:
            for _ in range(rng.randint(1, 20)):
                answers = (Content, basic.GetEmpty)
                answer = await self.call(client, basic.Get(queue=name), *answers)
                if isinstance(answer, Content):
                    await taker.take(answer, name)
                    await taker.ack()
                await trio.sleep(rng.random())
        finally:
            client.stream.close()

    async def churn(self, rng: random.Random) -> None:
        """Declare and bind what ends with its connection or its node, and delete some of it."""
        client = await self.connect(rng)
        try:
            for _ in range(rng.randint(1, 6)):
                name = f"t{next(self.numbers)}"
                is_exclusive = rng.random() < 0.5
                declare = queue.Declare(
                    queue=name, exclusive=is_exclusive, durable=not is_exclusive
                )
                await self.call(client, declare, queue.DeclareOk)
                bind = queue.Bind(queue=name, exchange="amq.fanout", routing_key="k")
                await self.call(client, bind, queue.BindOk)
                if not is_exclusive:
                    await self.call(client, queue.Delete(queue=name), queue.DeleteOk)
                await trio.sleep(rng.random())
        finally:
            client.stream.close()

    async def call(self, client: Client, method: object, *answers: type) -> object:
        """Ask, and be answered in time, or have the channel closed."""
        with trio.move_on_after(PATIENCE_S):
            await client.send(method)  # type: ignore[arg-type]
            closes = (commands.Channel.Close, commands.Connection.Close)
            found = await client.wait_for((*answers, *closes))  # type: ignore[arg-type]
            if isinstance(found, closes):
                raise ConnectionError(found.reply_text)
            return found
        raise ConnectionError("no answer in time")


@attrs.define
class Taker:
    """One channel that is given messages, and settles them, or not."""

    load: Load
    client: Client
    name: int
    rng: random.Random
    held: dict[int, tuple[int, str]] = attrs.Factory(dict)
    """What is to be acked, by delivery tag: messages and their queues."""
    left: dict[int, tuple[int, str]] = attrs.Factory(dict)
    """What is not acked, unless an ack of later ones does it too."""

    async def take(self, content: Content, name: str) -> None:
        """Take a delivery of a queue; mostly keep it."""
        load, method, message = self.load, content.method, int(content.body)
        # What comes again may come in any order: several had it, and ended one after the other.
        who = next(load.numbers) if method.redelivered else self.name
        load.history.received(message, name, who, content.body, redelivered=method.redelivered)
        if self.rng.random() < 0.1:
            await self.client.send(basic.Nack(method.delivery_tag, requeue=True))
        else:
            self.held[method.delivery_tag] = message, name

    async def ack(self) -> None:
        """Ack what is held: all together, or one by one, and some of it never."""
        held, self.held = self.held, {}
        if held and self.rng.random() < 0.5:
            acks = [basic.Ack(max(held), multiple=True)]
            held, self.left = held | self.left, {}
        else:
            self.left |= {tag: held.pop(tag) for tag in list(held) if self.rng.random() < 0.05}
            acks = [basic.Ack(tag) for tag in held]
        for message, name in held.values():
            self.load.history.settled(message, name)
        for ack in acks:
            await self.client.send(ack)


# -- faults ------------------------------------------------------------------------------------


async def befall(sim: Simulation, cluster: SimCluster) -> None:
    """Have things go wrong, some of all kinds, for a while; then let all be well."""
    rng = random.Random(f"faults {sim.seed}")
    kinds = [kill, lose_power, stop, isolate, sever, cut, stall, forget_store, lag]
    chosen = rng.sample(kinds, rng.randint(1, len(kinds)))
    cluster.etcd.unknown_outcomes = rng.choice((0.0, 0.0, 0.1))
    cluster.etcd.delay_s_max = rng.choice((0.002, 0.002, 0.2))
    sim.network.delay_s_max = rng.choice((0.005, 0.05, 0.3))
    for machine in cluster.machines:
        machine.disk.sync_s_max = rng.choice((0.01, 0.01, 0.3))
    with trio.move_on_after(FAULTS_S):
        async with trio.open_nursery() as nursery:
            for kind in chosen:
                nursery.start_soon(again, kind, cluster, random.Random(rng.random()))
    cluster.etcd.unknown_outcomes = 0.0
    cluster.etcd.delay_s_max = 0.002
    sim.network.delay_s_max = 0.005
    for machine in cluster.machines:
        machine.disk.sync_s_max = 0.01
    cluster.heal()
    async with trio.open_nursery() as nursery:
        for number in range(NODES):
            nursery.start_soon(revive, cluster, number)


Fault = Callable[[SimCluster, random.Random], Awaitable[None]]


async def again(kind: Fault, cluster: SimCluster, rng: random.Random) -> None:
    while True:
        await trio.sleep(rng.uniform(1, 15))
        await kind(cluster, rng)


async def revive(cluster: SimCluster, number: int) -> None:
    """Start a node that is down; one that others are starting is waited for."""
    machine = cluster.machines[number]
    while not machine.is_up():
        if machine.is_ended:
            await cluster.start(number)
        else:
            await trio.sleep(0.1)


async def kill(cluster: SimCluster, rng: random.Random) -> None:
    number = rng.randrange(NODES)
    if cluster.machines[number].is_up():
        cluster.kill(number)
        await cluster.machines[number].ended()
        await trio.sleep(rng.choice((0, 1, 20)))
        await revive(cluster, number)


async def lose_power(cluster: SimCluster, rng: random.Random) -> None:
    """Have a node die in the midst of a call of its disk."""
    number = rng.randrange(NODES)
    machine = cluster.machines[number]
    if machine.is_up():
        machine.disk.crash_at(machine.disk.calls + rng.randint(1, 100))
        try:
            await machine.ended()
        finally:
            machine.disk.crash_at(None)
        await trio.sleep(rng.choice((0, 1, 20)))
        await revive(cluster, number)


async def stop(cluster: SimCluster, rng: random.Random) -> None:
    number = rng.randrange(NODES)
    if cluster.machines[number].is_up():
        await cluster.stop(number)
        await trio.sleep(rng.choice((0, 1, 20)))
        await revive(cluster, number)


async def isolate(cluster: SimCluster, rng: random.Random) -> None:
    number = rng.randrange(NODES)
    cluster.isolate(number)
    store = cluster.machines[number].store
    await trio.sleep(rng.uniform(0.1, 20))
    cluster.sim.network.heal()
    if store is not None:
        store.heal()


async def sever(cluster: SimCluster, rng: random.Random) -> None:
    one, other = rng.sample(range(NODES), 2)
    cluster.sever(one, other)
    if rng.random() < 0.5:
        cluster.sever(other, one)
    await trio.sleep(rng.uniform(0.1, 15))
    cluster.sim.network.heal()


async def cut(cluster: SimCluster, rng: random.Random) -> None:
    one, other = rng.sample(cluster.machines, 2)
    cluster.sim.network.cut(one.host, other.host)


async def stall(cluster: SimCluster, rng: random.Random) -> None:
    cluster.etcd.stall()
    await trio.sleep(rng.uniform(0.1, 30))
    cluster.etcd.resume()


async def forget_store(cluster: SimCluster, rng: random.Random) -> None:
    """Keep one node from etcd for a while."""
    store = rng.choice(cluster.machines).store
    if store is not None and store.reachable:
        store.cut()
        await trio.sleep(rng.uniform(0.1, 30))
        store.heal()


async def lag(cluster: SimCluster, rng: random.Random) -> None:
    cluster.etcd.watch_lag_s_max = rng.choice((0.002, 0.5, 3))
    if rng.random() < 0.3:
        cluster.etcd.compact()


# -- the scenario ------------------------------------------------------------------------------


async def scenario(sim: Simulation) -> tuple[int, int]:
    async with SimCluster(sim, NODES) as cluster:
        for number, name in enumerate(QUEUES):
            client = await cluster.client(number % NODES)
            await client.call(queue.Declare(queue=name, durable=True), queue.DeclareOk)
            client.stream.close()
        load = Load(sim, cluster)
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(load.forever, load.publish, f"publish {number}")
                nursery.start_soon(load.forever, load.consume, f"consume {number}")
            nursery.start_soon(load.forever, load.poll, "poll")
            nursery.start_soon(load.forever, load.churn, "churn")
            await befall(sim, cluster)
            await trio.sleep(HEAL_S)
            load.is_over = True
            nursery.cancel_scope.deadline = trio.current_time() + 4 * PATIENCE_S
        load.history.ended(in_order=False)
        await use_all(load)
        await drain(load)
        await trio.sleep(HEAL_S)
        faults = load.history.check()
        assert not faults, "; ".join(map(str, faults[:10]))
        check_that_all_know_the_same(cluster)
        return load.history.count(Verdict.CONFIRMED), load.history.deliveries


async def use_all(load: Load) -> None:
    """Every node takes messages for every queue."""
    nacked = load.history.count(Verdict.NACKED)
    for number in range(NODES):
        client = await load.cluster.client(number)
        await load.call(client, commands.Confirm.Select(), commands.Confirm.SelectOk)
        publisher = next(load.numbers)
        waiting = {tag: next(load.numbers) for tag in range(1, len(QUEUES) + 1)}
        for message, name in zip(waiting.values(), QUEUES, strict=True):
            load.history.published(message, publisher, [name], b"%d" % message)
            await client.publish(name, b"%d" % message, persistent=True)
        await load.hear(client, waiting)
        client.stream.close()
    assert load.history.count(Verdict.NACKED) == nacked, "a message is refused in peace"


async def drain(load: Load) -> None:
    """Take everything that is left, from whichever node; each is as good as another by now."""
    for place, name in enumerate(QUEUES):
        client = await load.cluster.client(place % NODES)
        while True:
            await client.send(basic.Get(queue=name))
            with trio.fail_after(PATIENCE_S):
                got = await client.wait_for((Content, basic.GetEmpty))  # type: ignore[arg-type]
            if isinstance(got, basic.GetEmpty):
                break
            message, redelivered = int(got.body), got.method.redelivered
            who = next(load.numbers) if redelivered else "drain"
            load.history.received(message, name, who, got.body, redelivered=redelivered)
            load.history.settled(message, name)
            await client.send(basic.Ack(got.method.delivery_tag))
        client.stream.close()


def check_that_all_know_the_same(cluster: SimCluster) -> None:
    known = []
    for machine in cluster.machines:
        assert machine.node is not None
        assert machine.node.clustering is not None
        status = machine.node.clustering.status()
        assert len(status.running) == NODES
        assert len(status.linked) == NODES - 1
        assert not status.is_store_away
        vhost = machine.node.broker.vhosts["/"]
        exclusive = [name for name, each in vhost.queues.items() if each.definition.exclusive]
        assert not exclusive, f"exclusive queues are left: {exclusive}"
        bindings = sorted(map(repr, vhost.router.exchanges["amq.fanout"].bindings))
        known.append((sorted(vhost.queues), bindings))
    assert known[0] == known[1] == known[2], f"nodes know different things: {known}"
