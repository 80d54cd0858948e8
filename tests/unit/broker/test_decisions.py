"""What is declared, bound and deleted where a decision takes time, and others decide too."""

import random

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.broker import Broker
from amqpbroker.errors import ConnectionForced, InternalError
from amqpbroker.protocol.connection import State
from amqpbroker.queues.queue import Pending
from amqpbroker.testing.council import Council
from amqpbroker.testing.fakes import FakeClock, fake_world
from amqpbroker.testing.peer import Peer

basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


@pytest.fixture
def council() -> Council:
    return Council()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def brokers(council: Council, clock: FakeClock) -> list[Broker]:
    """Two of them, which believe the same."""
    brokers = [Broker(fake_world(clock=clock)) for _ in range(2)]
    for broker in brokers:
        council.join(broker)
    brokers[0].boot("guest", "guest")
    council.settle_down()
    return brokers


@pytest.fixture
def here(brokers: list[Broker]) -> Peer:
    return Peer(brokers[0]).open(1, 2)


@pytest.fixture
def there(brokers: list[Broker]) -> Peer:
    return Peer(brokers[1]).open(1)


def names(peer: Peer) -> list[str]:
    return [item.name for _, item in peer.received() if isinstance(item, Frame)]


def settle(council: Council, *peers: Peer) -> None:
    for _ in range(20):
        council.settle_down()
        for peer in peers:
            peer.settle_down()


def test_the_answer_comes_when_it_is_decided_and_carried_out(council: Council, here: Peer) -> None:
    here.send(queue.Declare(queue="q"))
    assert names(here) == []
    council.decide()
    here.settle_down()
    assert names(here) == []
    settle(council, here)
    assert names(here) == ["Queue.DeclareOk"]


def test_of_two_who_declare_the_same_both_are_answered(
    council: Council, here: Peer, there: Peer
) -> None:
    here.send(queue.Declare(queue="q"))
    there.send(queue.Declare(queue="q"))
    settle(council, here, there)
    assert names(here) == names(there) == ["Queue.DeclareOk"]


def test_of_two_who_declare_different_things_the_second_is_refused(
    council: Council, here: Peer, there: Peer
) -> None:
    there.send(queue.Declare(queue="q", durable=True))
    here.send(queue.Declare(queue="q"))
    settle(council, here, there)
    assert names(there) == ["Queue.DeclareOk"]
    [(_, close)] = here.received()
    assert close.reply_code == 406
    assert "inequivalent arg 'durable'" in close.reply_text


def test_an_exclusive_queue_is_nobody_elses_from_the_first_moment(
    council: Council, brokers: list[Broker], here: Peer, there: Peer
) -> None:
    here.send(queue.Declare(queue="q", exclusive=True))
    council.decide()
    council.catch_up(brokers[1])
    close = there.call(queue.Declare(queue="q", passive=True))
    assert close.reply_code == 405
    settle(council, here)
    assert names(here) == ["Queue.DeclareOk"]
    assert isinstance(here.call(queue.Declare(queue="q", passive=True)), queue.DeclareOk)


def test_an_exclusive_queue_of_a_connection_that_has_gone_meanwhile_goes_too(
    council: Council, brokers: list[Broker], here: Peer
) -> None:
    here.send(queue.Declare(queue="q", exclusive=True))
    here.session.abandon()
    settle(council)
    assert all(not broker.vhosts["/"].queues for broker in brokers)


def test_a_connection_is_closed_when_its_own_queues_are_gone(
    council: Council, brokers: list[Broker], here: Peer
) -> None:
    for name in ("q", "r"):
        here.send(queue.Declare(queue=name, exclusive=True))
    settle(council, here)
    here.received()
    here.send(commands.Connection.Close(200, "bye", 0, 0), channel=0)
    here.send_bytes(b"what nobody reads any more")
    assert names(here) == []
    settle(council, here)
    assert names(here) == ["Connection.CloseOk"]
    assert not brokers[0].vhosts["/"].queues
    assert not brokers[0].held_sessions


def test_a_close_is_answered_even_if_nobody_decides(
    council: Council, brokers: list[Broker], here: Peer, clock: FakeClock
) -> None:
    here.send(queue.Declare(queue="q", exclusive=True))
    settle(council, here)
    here.received()
    here.send(commands.Connection.Close(200, "bye", 0, 0), channel=0)
    clock.advance(brokers[0].limits.closing_s_max)
    brokers[0].deadlines.run(clock.now_s)
    here.settle_down()
    assert names(here) == ["Connection.CloseOk"]
    settle(council)
    assert not brokers[0].vhosts["/"].queues


def test_a_connection_that_fails_is_told_so_when_its_own_queues_are_gone(
    council: Council, brokers: list[Broker], here: Peer
) -> None:
    here.send(queue.Declare(queue="q", exclusive=True))
    settle(council, here)
    here.received()
    here.send(queue.Declare(queue="q"), channel=9)
    here.send(queue.Declare(queue="r"))
    here.session.fail(ConnectionForced("too late"))
    assert names(here) == []
    settle(council, here)
    [(_, close)] = here.received()
    assert close.reply_text == "CHANNEL_ERROR - expected 'channel.open'"
    assert not brokers[0].vhosts["/"].queues
    here.send(commands.Connection.CloseOk(), channel=0)
    assert not brokers[0].held_sessions
    assert here.connection.state is State.CLOSED


def test_a_connection_that_fails_and_is_lost_meanwhile_is_told_nothing(
    council: Council, brokers: list[Broker], here: Peer
) -> None:
    here.send(queue.Declare(queue="q", exclusive=True))
    settle(council, here)
    here.received()
    brokers[0].close_all(ConnectionForced("why not"))
    here.session.abandon()
    settle(council, here)
    assert names(here) == []
    assert not brokers[0].vhosts["/"].queues
    assert not brokers[0].held_sessions


def test_wishes_about_the_same_name_are_decided_in_order(council: Council, here: Peer) -> None:
    here.send(queue.Declare(queue="q"))
    here.send(queue.Delete(queue="q"), channel=2)
    here.send(queue.Declare(queue="q", passive=True))
    settle(council, here)
    assert names(here) == ["Queue.DeclareOk", "Queue.DeleteOk", "Channel.Close"]


def test_a_binding_to_a_queue_that_is_deleted_elsewhere_is_refused(
    council: Council, brokers: list[Broker], here: Peer, there: Peer
) -> None:
    here.send(queue.Declare(queue="q"))
    settle(council, here)
    there.send(queue.Delete(queue="q"))
    here.received()
    here.send(queue.Bind(queue="q", exchange="amq.direct"))
    settle(council, here, there)
    assert names(there) == ["Queue.DeleteOk"]
    [(_, close)] = here.received()
    assert close.reply_code == 404


def test_an_auto_delete_exchange_goes_before_the_unbind_is_answered(
    council: Council, brokers: list[Broker], here: Peer
) -> None:
    here.send(
        exchange.Declare(exchange="x", auto_delete=True),
        queue.Declare(queue="q"),
        queue.Bind(queue="q", exchange="x"),
    )
    settle(council, here)
    here.received()
    here.send(queue.Unbind(queue="q", exchange="x"))
    while not names(here):
        assert council.work()
        here.settle_down()
    assert all("x" not in broker.vhosts["/"].router.exchanges for broker in brokers)


def test_an_auto_delete_queue_goes_with_its_last_consumer(
    council: Council, brokers: list[Broker], here: Peer
) -> None:
    here.send(queue.Declare(queue="q", auto_delete=True))
    settle(council, here)
    here.consume("q", "a")
    here.send(basic.Cancel("a"))
    settle(council, here)
    assert all(not broker.vhosts["/"].queues for broker in brokers)


def test_what_has_to_be_decided_is_tried_again_until_it_is(
    council: Council,
    brokers: list[Broker],
    here: Peer,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here.send(queue.Declare(queue="q", exclusive=True))
    settle(council, here)
    submit = brokers[0].coordinator.submit
    refusals: list[Pending[None]] = []

    def refuse(change: object) -> Pending[None]:
        refusals.append(Pending())
        return refusals[-1]

    monkeypatch.setattr(brokers[0].coordinator, "submit", refuse)
    here.session.abandon()
    refusals.pop().fail(InternalError("nobody can decide for now"))
    assert not refusals
    clock.advance(1)
    monkeypatch.setattr(brokers[0].coordinator, "submit", submit)
    brokers[0].deadlines.run(clock.now_s)
    settle(council)
    assert not brokers[0].vhosts["/"].queues


@pytest.mark.parametrize("seed", range(40))
def test_all_believe_the_same_in_the_end_and_everybody_is_answered(
    council: Council, brokers: list[Broker], seed: int
) -> None:
    luck = random.Random(seed)
    peers = [Peer(broker).open(1, 2) for broker in brokers for _ in range(2)]
    for _ in range(120):
        number = luck.randrange(len(peers))
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
        else:
            peers[number].send(commands.Channel.CloseOk(), commands.Channel.Open(), channel=channel)
        for _ in range(luck.randrange(4)):
            council.decide()
        for broker in brokers:
            for _ in range(luck.randrange(3)):
                council.catch_up(broker)
    settle(council, *peers)
    assert not any(
        channel.waiting for peer in peers for channel in peer.session.channels.values()
    ), seed
    first, second = (
        (
            {name: each.definition for name, each in broker.vhosts["/"].queues.items()},
            {
                name: (each.definition, set(each.bindings))
                for name, each in broker.vhosts["/"].router.exchanges.items()
            },
        )
        for broker in brokers
    )
    assert first == second, seed
