"""The coordinator of a cluster: several brokers, one simulated store."""

import random
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.cluster.etcd.contract import Compare, Delete, Operation, Put, TxnResult
from amqpbroker.cluster.shared import BARRIER_S_MAX, DECIDED_S_MAX
from amqpbroker.definitions import ExchangeDefinition, VHostDefinition, delete, put
from amqpbroker.errors import Overtaken, StoreRefused
from amqpbroker.testing.sim_etcd import SimEtcd, SimEtcdClient
from amqpbroker.testing.world import SimClock
from tests.unit.cluster.members import Member, cluster, names, settle

basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


@pytest.fixture
def etcd(autojump_clock: trio.testing.MockClock) -> SimEtcd:
    return SimEtcd(SimClock(), random.Random(1))


async def test_what_one_declares_is_there_for_all(etcd: SimEtcd) -> None:
    async with cluster(etcd, 3) as members:
        peer = members[0].peer()
        peer.send(
            exchange.Declare(exchange="x", exchange_type="topic"),
            queue.Declare(queue="q", durable=True),
            queue.Bind(queue="q", exchange="x", routing_key="k"),
        )
        await settle(peer)
        assert names(peer) == ["Exchange.DeclareOk", "Queue.DeclareOk", "Queue.BindOk"]
        assert members[0].picture() == members[1].picture() == members[2].picture()
        assert members[1].broker.vhosts["/"].queues["q"].definition.leader == "rabbit@0"


async def test_a_node_that_comes_later_knows_all(etcd: SimEtcd) -> None:
    async with cluster(etcd, 1) as [member]:
        peer = member.peer()
        peer.send(queue.Declare(queue="q"), queue.Bind(queue="q", exchange="amq.direct"))
        await settle(peer)
        late = Member(etcd, "rabbit@late")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.coordinator.run)
            await late.coordinator.loaded.wait()
            nursery.cancel_scope.cancel()
        assert late.picture() == member.picture()


async def test_of_two_who_declare_different_things_one_is_refused(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        peers = [member.peer() for member in members]
        peers[0].send(queue.Declare(queue="q", durable=True))
        peers[1].send(queue.Declare(queue="q"))
        await settle(*peers)
        assert sorted(names(peers[0]) + names(peers[1])) == ["Channel.Close", "Queue.DeclareOk"]


async def test_many_changes_go_in_few_txns(etcd: SimEtcd) -> None:
    async with cluster(etcd, 1) as [member]:
        peer = member.peer(*range(1, 101))
        before = etcd.requests
        for number in range(1, 101):
            peer.send(queue.Declare(queue=f"q{number}"), channel=number)
        await settle(peer)
        assert names(peer) == ["Queue.DeclareOk"] * 100
        assert etcd.requests - before <= 5


async def test_one_refusal_among_many_refuses_nothing_else(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        peers = [member.peer(*range(1, 31)) for member in members]
        for number in range(1, 31):
            for durable, peer in enumerate(peers):
                peer.send(
                    queue.Declare(queue=f"q{number}", durable=bool(durable) and number == 17),
                    channel=number,
                )
        await settle(*peers)
        answers = names(peers[0]) + names(peers[1])
        assert answers.count("Queue.DeclareOk") == 59
        assert answers.count("Channel.Close") == 1


@pytest.mark.parametrize("fate", ["done", "not done", "done later"])
@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_lost_answer_is_found_out(etcd: SimEtcd, fate: str, exclusive: bool) -> None:
    async with cluster(etcd) as members:
        peer = members[0].peer()
        etcd.lose_answer(fate)  # type: ignore[arg-type]
        peer.send(queue.Declare(queue="q", exclusive=exclusive))
        await settle(peer, s=20)
        answers = names(peer)
        # The store's own deadline may have been longer than that of the change.
        assert answers in (["Queue.DeclareOk"], ["Connection.Close"])
        assert members[0].picture() == members[1].picture()


async def test_a_change_that_comes_long_after_it_was_given_up_changes_nothing(
    etcd: SimEtcd,
) -> None:
    """A member of etcd that stood still has kept it: meanwhile it was made, and unmade again."""
    async with cluster(etcd) as members:
        peer, other = [member.peer() for member in members]
        etcd.lose_answer("held")
        peer.send(queue.Declare(queue="q", durable=True))
        await settle(peer)
        assert names(peer) == ["Queue.DeclareOk"]
        other.send(queue.Delete(queue="q"))
        await settle(other)
        assert names(other) == ["Queue.DeleteOk"]
        etcd.release()
        await settle(peer, other)
        assert not any(member.broker.vhosts["/"].queues for member in members)

        peer.received()
        peer.send(queue.Declare(queue="q", durable=True))
        await settle(peer)
        assert names(peer) == ["Queue.DeclareOk"]
        assert members[0].picture() == members[1].picture()


async def test_without_the_store_changes_end_with_an_error_and_the_rest_goes_on(
    etcd: SimEtcd,
) -> None:
    async with cluster(etcd, 1) as [member]:
        peer, other = member.peer(1, 2), member.peer()
        peer.send(queue.Declare(queue="q"))
        await settle(peer)
        peer.received()
        etcd.stall()
        began_s = trio.current_time()
        other.send(queue.Declare(queue="new"))
        peer.send(queue.Declare(queue="q"))
        assert names(peer) == ["Queue.DeclareOk"]
        peer.publish("q", b"1")
        peer.send(basic.Get(queue="q"))
        assert names(peer)[0] == "Basic.GetOk"
        while not (answers := other.received()):
            await settle(other, s=0.1)
        assert trio.current_time() - began_s < DECIDED_S_MAX + 1
        [(_, close)] = answers
        assert close.reply_code == 541
        assert "etcd" in close.reply_text
        etcd.resume()
        await settle(peer, s=5)
        peer.send(queue.Declare(queue="newer"))
        await settle(peer)
        assert names(peer) == ["Queue.DeclareOk"]


async def delete_alone(etcd: SimEtcd, member: Member) -> None:
    """Delete the queue, as when its bindings came to be at another node in the same moment."""
    schema, definition = member.feed.schema, member.broker.vhosts["/"].queues["q"].definition
    keys = schema.key(definition), schema.leadership_key(definition)
    await etcd.client().txn((), [Delete(key) for key in keys])


async def test_a_binding_that_has_outlived_its_queue_can_be_made_again(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        declare = queue.Declare(queue="q", durable=True)
        bind = queue.Bind(queue="q", exchange="amq.topic", routing_key="k")
        peer.send(declare, bind)
        await settle(peer)
        await delete_alone(etcd, members[0])
        await trio.sleep(1)
        other.send(declare, bind)
        await settle(other)

        assert names(other) == ["Queue.DeclareOk", "Queue.BindOk"]
        for member in members:
            assert len(member.broker.vhosts["/"].router.exchanges["amq.topic"].bindings) == 1


async def test_what_has_outlived_its_queue_goes_when_a_node_comes(etcd: SimEtcd) -> None:
    async with cluster(etcd, 1) as [member]:
        peer = member.peer()
        peer.send(
            queue.Declare(queue="q", durable=True),
            *[queue.Bind(queue="q", exchange="amq.topic", routing_key=f"k{n}") for n in range(200)],
        )
        await settle(peer)
        await delete_alone(etcd, member)
        await trio.sleep(1)
        bound = member.feed.schema.path("b")
        assert len((await etcd.client().get_prefix(bound)).items) == 200
        late = Member(etcd, "rabbit@late")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.coordinator.run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert not (await etcd.client().get_prefix(bound)).items


@pytest.mark.parametrize("waits_s", [0, 0.001, 0.003, 0.01, 1])
async def test_many_bindings_that_go_with_their_queue_can_be_made_again_at_once(
    etcd: SimEtcd, waits_s: float
) -> None:
    async with cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        made = [
            queue.Declare(queue="q", durable=True),
            *[queue.Bind(queue="q", exchange="amq.topic", routing_key=f"k{n}") for n in range(200)],
        ]
        peer.send(*made)
        await settle(peer, other)
        peer.send(queue.Delete(queue="q"))
        await trio.sleep(waits_s)
        other.send(*made)
        await settle(peer, other, s=5)

        assert names(other) == ["Queue.DeclareOk"] + ["Queue.BindOk"] * 200
        bound = [len(m.broker.vhosts["/"].router.exchanges["amq.topic"].bindings) for m in members]
        keys = len((await etcd.client().get_prefix(members[0].feed.schema.path("b"))).items)
        assert (bound, keys) in (([200, 200], 200), ([0, 0], 0))


async def test_what_is_to_be_deleted_is_no_other_that_has_its_name_by_then(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        peers = [member.peer() for member in members]
        peers[0].send(queue.Declare(queue="q", durable=True))
        await settle(*peers)
        old = members[0].broker.vhosts["/"].queues["q"].definition
        peers[1].send(queue.Delete(queue="q"), queue.Declare(queue="q", durable=True))
        await settle(*peers)

        members[0].broker.see_to(delete(old))
        await settle(*peers)

        for member in members:
            assert member.broker.vhosts["/"].queues["q"].definition.log_id != old.log_id


async def test_a_deletion_that_is_late_spares_what_was_made_meanwhile(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        first, second = (member.coordinator for member in members)
        made = ExchangeDefinition("/", "x", "direct")
        first.submit(put(made))
        await trio.sleep(1)
        failures: list[Exception] = []
        pending = first.submit(delete(made))
        pending.otherwise = failures.append
        held = first._waiting.pop()
        second.submit(delete(made))
        await trio.sleep(1)
        second.submit(put(made))
        await trio.sleep(1)
        first._waiting.append(held)
        first._send_lot.unpark_all()
        await trio.sleep(1)

        assert [type(each) for each in failures] == [Overtaken]
        assert all("x" in member.broker.vhosts["/"].router.exchanges for member in members)


async def test_asking_for_what_is_not_there_writes_nothing(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        before = etcd.revision
        peer = members[0].peer(*range(1, 11))
        for number in range(1, 11):
            peer.send(queue.Declare(queue="none", passive=True), channel=number)
            await settle(peer)
        assert names(peer) == ["Channel.Close"] * 10
        assert etcd.revision == before


async def test_what_others_write_to_the_store_keeps_nobody_waiting(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        await etcd.client().put(b"/elsewhere", b"")
        peer = members[0].peer()
        peer.send(queue.Declare(queue="none", passive=True))
        await settle(peer)
        assert names(peer) == ["Channel.Close"]


async def test_a_change_that_the_store_refuses_takes_no_others_along(
    etcd: SimEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = SimEtcdClient.txn

    async def refuse_big(
        client: SimEtcdClient,
        compare: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> TxnResult:
        if any(each.key.endswith(b"big") for each in then) or len(then) > 10:
            raise StoreRefused(3, "etcdserver: request is too large")
        return await decide(client, compare, then, otherwise)

    monkeypatch.setattr(SimEtcdClient, "txn", refuse_big)
    async with cluster(etcd, 1) as [member]:
        peers = [member.peer() for _ in range(21)]
        for number, peer in enumerate(peers):
            peer.send(queue.Declare(queue="big" if number == 7 else f"q{number}"))
        await settle(*peers)
        answers = [names(peer) for peer in peers]
        assert answers.pop(7) == ["Connection.Close"]
        assert answers == [["Queue.DeclareOk"]] * 20


async def test_a_store_that_has_lost_the_cluster_is_away_until_it_has_it_again(
    etcd: SimEtcd,
) -> None:
    async with cluster(etcd, 2) as members:
        store, prefix = etcd.client(), members[0].feed.schema.prefix
        await store.put(prefix + b"meta", b'{"cluster_id": "mine"}')
        peer = members[0].peer()
        peer.send(queue.Declare(queue="q"))
        await settle(peer)
        before = [member.picture() for member in members]
        for member in members:
            member.feed.cluster_id = "mine"
        backup = (await store.get_prefix(prefix)).items

        await store.delete_prefix(prefix)
        await trio.sleep(2)
        assert [member.picture() for member in members] == before
        assert all(member.coordinator.is_away for member in members)
        peer.send(queue.Declare(queue="new"))
        await settle(peer, s=DECIDED_S_MAX + 1)
        assert names(peer)[-1] == "Connection.Close"
        assert not (await store.get_prefix(prefix + b"q/")).items

        await store.txn((), [Put(each.key, each.value) for each in backup])
        await trio.sleep(2)
        assert [member.picture() for member in members] == before
        assert not any(member.coordinator.is_away for member in members)
        other = members[1].peer()
        other.send(queue.Declare(queue="newer"))
        await settle(other)
        assert names(other) == ["Queue.DeclareOk"]


async def test_what_a_node_does_not_know_yet_it_asks_for(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        etcd.watch_lag_s_max = 2
        for number in range(10):
            name = f"q{number}"
            peer.send(
                queue.Declare(queue=name),
                exchange.Declare(exchange=name),
            )
            while names(peer)[-1:] != ["Exchange.DeclareOk"]:
                await settle(peer, s=0.1)
            other.send(
                exchange.Declare(exchange=name, passive=True),
                queue.Declare(queue=name, passive=True),
                queue.Bind(queue=name, exchange=name),
            )
            await settle(peer, other, s=10)
            assert names(other) == ["Exchange.DeclareOk", "Queue.DeclareOk", "Queue.BindOk"]
        peer.send(queue.Declare(queue="q"), queue.Bind(queue="q", exchange="q1"))
        peer.send(exchange.Declare(exchange="x"))
        while names(peer)[-1:] != ["Exchange.DeclareOk"]:
            await settle(peer, s=0.1)
        other.send(
            queue.Unbind(queue="q", exchange="q1"),
            queue.Delete(queue="q"),
            exchange.Delete(exchange="x"),
        )
        await settle(other, s=20)
        assert names(other) == ["Queue.UnbindOk", "Queue.DeleteOk", "Exchange.DeleteOk"]
        there = members[1].broker.vhosts["/"]
        assert "q" not in there.queues
        assert "x" not in there.router.exchanges
        other.send(queue.Declare(queue="none", passive=True))
        assert names(other) == []
        await settle(other, s=5)
        [(_, close)] = other.received()
        assert close.reply_text == "NOT_FOUND - no queue 'none' in vhost '/'"
        assert close.method_id == 10


async def test_what_a_node_cannot_know_without_the_store_is_not_said_to_be_missing(
    etcd: SimEtcd,
) -> None:
    async with cluster(etcd, 1) as [member]:
        peer = member.peer()
        etcd.stall()
        peer.send(queue.Declare(queue="q", passive=True))
        await settle(peer, s=DECIDED_S_MAX + 1)
        [(_, close)] = peer.received()
        assert close.reply_code == 541
        assert "etcd" in close.reply_text


async def test_an_answer_waits_for_the_others_but_not_for_ever(etcd: SimEtcd) -> None:
    async with cluster(etcd, 1) as [member]:
        peer = member.peer()
        seen = 0
        member.coordinator.others_revision = lambda: seen
        peer.send(queue.Declare(queue="q"))
        await settle(peer, s=BARRIER_S_MAX / 2)
        assert names(peer) == []
        seen = member.feed.revision
        member.coordinator.look()
        peer.settle_down()
        assert names(peer) == ["Queue.DeclareOk"]
        peer.send(queue.Declare(queue="r"))
        await settle(peer, s=BARRIER_S_MAX * 2)
        assert names(peer) == ["Queue.DeclareOk"]


async def test_a_transient_queue_ends_with_the_life_in_which_its_leader_is(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        peer = members[1].peer()
        coordinator, feed = members[1].coordinator, members[1].feed
        lives = {"rabbit@0": 1}

        def see(names: list[str], value: bytes | None) -> None:
            lives[names[0]] = int(value or b"")

        feed.listeners["inc"] = see
        coordinator.place = lambda queue: "rabbit@0"
        coordinator.incarnation_of = lambda node: lives[node]
        etcd.watch_lag_s_max = 2
        life = feed.schema.path("inc", "rabbit@0")
        for number in range(2, 10):
            await etcd.client().put(life, b"%d" % number)
            peer.send(queue.Declare(queue=f"q{number}"), queue.Declare(queue="d", durable=True))
            await settle(peer, s=10)
            assert names(peer) == ["Queue.DeclareOk"] * 2
            definition = members[0].broker.vhosts["/"].queues[f"q{number}"].definition
            assert (definition.leader, definition.owner) == ("rabbit@0", f"rabbit@0@{number}")
        assert members[0].broker.vhosts["/"].queues["d"].definition.owner == ""


async def test_a_virtual_host_takes_all_that_is_in_it_along(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        members[1].broker.submit(put(VHostDefinition("v")))
        await trio.sleep(1)
        members[1].broker.submit(delete(VHostDefinition("/")))
        await trio.sleep(1)
        assert members[0].picture() == members[1].picture()
        assert list(members[0].broker.vhosts) == ["v"]
        left = (await etcd.client().get_prefix(members[0].feed.schema.prefix)).items
        kinds = {members[0].feed.schema.parts(item.key)[0] for item in left}
        assert kinds <= {"vh", "user", "fence"}


async def test_a_queue_that_is_made_anew_inherits_no_bindings(etcd: SimEtcd) -> None:
    async with cluster(etcd) as members:
        peer = members[0].peer()
        peer.send(queue.Declare(queue="q"))
        await settle(peer)
        for number in range(200):
            peer.send(queue.Bind(queue="q", exchange="amq.direct", routing_key=f"{number}"))
        await settle(peer, s=5)
        peer.send(queue.Delete(queue="q"), queue.Declare(queue="q"))
        await settle(peer, s=5)
        assert members[0].picture() == members[1].picture()
        assert not members[1].broker.vhosts["/"].router.exchanges["amq.direct"].bindings
        left = (await etcd.client().get_prefix(members[0].feed.schema.inside("b", "/"))).items
        assert not left


@pytest.mark.parametrize("seed", range(30))
async def test_all_believe_the_same_in_the_end(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    luck = random.Random(seed)
    etcd = SimEtcd(SimClock(), luck)
    async with cluster(etcd, 3) as members:
        etcd.unknown_outcomes = 0.1
        etcd.watch_lag_s_max = luck.choice([0.001, 0.2])
        peers = [member.peer(1, 2) for member in members]
        for step in range(60):
            number = luck.randrange(len(peers))
            if not peers[number].session.channels:
                peers[number] = members[number].peer(1, 2)
            name, other = luck.choice("abc"), luck.choice("xy")
            method: Frame = luck.choice(
                [
                    queue.Declare(queue=name, auto_delete=luck.random() < 0.3),
                    queue.Declare(queue=name, exclusive=True),
                    queue.Delete(queue=name),
                    exchange.Declare(exchange=other, auto_delete=luck.random() < 0.5),
                    exchange.Delete(exchange=other),
                    queue.Bind(queue=name, exchange=other, routing_key="k"),
                    queue.Unbind(queue=name, exchange=other, routing_key="k"),
                    exchange.Bind(source=other, destination="amq.fanout"),
                ]
            )
            channel = luck.choice([1, 2])
            if channel in peers[number].session.channels:
                peers[number].send(method, channel=channel)
            if step == 30:
                etcd.compact()
            if luck.random() < 0.05:
                etcd.stall()
                await trio.sleep(luck.random() * 8)
                etcd.resume()
            await settle(*peers, s=luck.random() * 0.05)
        etcd.unknown_outcomes = 0
        await settle(*peers, s=60)
        waiting = [c for p in peers for c in p.session.channels.values() if c.waiting]
        assert not waiting, seed
        assert members[0].picture() == members[1].picture() == members[2].picture(), seed
