"""What holds a peer back: alarms, a full outbox, answers that nobody takes, heartbeats."""

from collections.abc import Callable

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.protocol.connection import State
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import HEARTBEAT_FRAME, encode_method
from amqpbroker.testing.fakes import FakeClock, fake_world
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic = commands.Basic

MIB = 1024 * 1024


def alarm(broker: Broker, on: bool = True) -> None:
    broker.check_memory(2 if on else 1, 1)


def ready(broker: Broker, name: str = "q") -> int:
    return broker.vhosts["/"].queues[name].stat().ready


# -- alarms ------------------------------------------------------------------------------------


def test_a_peer_is_told_of_an_alarm_once_it_publishes(broker: Broker, peer: Peer) -> None:
    peer.declare("q")
    alarm(broker)
    assert peer.received() == []

    peer.publish("q", b"1")

    [(channel, blocked)] = peer.received()
    assert channel == 0
    assert isinstance(blocked, commands.Connection.Blocked)
    assert blocked.reason == "low on memory"
    assert peer.session.held


def test_a_peer_that_was_not_able_to_hear_is_held_without_a_word(
    broker: Broker, connect: Connect
) -> None:
    peer = connect(1, capabilities={})
    peer.declare("q")
    alarm(broker)

    peer.publish("q", b"1")

    assert peer.received() == []
    assert peer.session.held


def test_a_peer_goes_on_when_the_alarm_is_over(broker: Broker, peer: Peer) -> None:
    peer.declare("q")
    alarm(broker)
    peer.publish("q", b"1")
    peer.publish("q", b"2")
    assert ready(broker) == 1, "what follows the first publish is not read"
    peer.received()

    alarm(broker, on=False)
    peer.settle_down()

    assert [type(item) for _, item in peer.received()] == [commands.Connection.Unblocked]
    assert ready(broker) == 2


def test_a_peer_that_did_not_publish_is_told_nothing(broker: Broker, peer: Peer) -> None:
    alarm(broker)
    peer.declare("q")

    alarm(broker, on=False)

    assert peer.received() == []


def test_a_peer_in_the_midst_of_a_message_is_held_when_the_alarm_comes(
    broker: Broker, peer: Peer
) -> None:
    peer.declare("q")
    content = encode_content(1, b"\0\0", b"body", 4096)
    peer.send_bytes(encode_method(1, basic.Publish(routing_key="q")) + content[:-3])

    alarm(broker)
    peer.settle_down()

    assert [type(item) for _, item in peer.received()] == [commands.Connection.Blocked]
    assert peer.session.held


def test_consumers_go_on_under_an_alarm(broker: Broker, connect: Connect) -> None:
    publisher, consumer = connect(1), connect(1)
    publisher.declare("q")
    publisher.publish("q", *(b"%d" % i for i in range(10)))
    consumer.call(basic.Qos(prefetch_count=5))
    alarm(broker)
    publisher.publish("q", b"held")

    consumer.consume("q", "c")
    first = consumer.deliveries()
    consumer.send(basic.Ack(0, multiple=True))
    second = consumer.deliveries()

    assert len(first) == len(second) == 5
    assert not consumer.session.held


def test_a_peer_under_an_alarm_is_let_go_when_it_hangs_up(broker: Broker, peer: Peer) -> None:
    peer.declare("q")
    alarm(broker)
    peer.publish("q", b"1")

    peer.session.abandon()

    assert not broker.sessions
    alarm(broker, on=False)


# -- the outbox --------------------------------------------------------------------------------


def test_deliveries_stop_while_the_peer_takes_nothing_and_go_on_when_it_does(
    broker: Broker, connect: Connect
) -> None:
    publisher, consumer = connect(1), connect(1)
    publisher.declare("q")
    consumer.consume("q", "c", no_ack=True)
    consumer.received()
    consumer.takes_bytes = 0
    bodies = [b"%d" % i + bytes(100_000) for i in range(40)]

    for body in bodies:
        publisher.publish("q", body)

    assert ready(broker) > 20
    assert consumer.session.backlog_bytes < 2 * MIB
    consumer.takes_bytes = None
    consumer.settle_down()
    assert [body for _, body in consumer.deliveries()] == bodies


def test_a_peer_that_takes_little_by_little_has_everything_in_order(
    broker: Broker, connect: Connect
) -> None:
    publisher, consumer = connect(1), connect(1)
    publisher.declare("q")
    bodies = [b"%d" % i + bytes(50_000) for i in range(60)]
    publisher.publish("q", *bodies)
    consumer.takes_bytes = 70_000
    consumer.consume("q", "c", no_ack=True)

    got: list[bytes] = []
    for _ in range(100):
        consumer.settle_down()
        got += [item for _, item in consumer.received() if isinstance(item, bytes)]
        assert consumer.session.backlog_bytes < 2 * MIB

    assert got == bodies
    assert ready(broker) == 0


def test_others_go_on_while_one_peer_takes_nothing(connect: Connect) -> None:
    publisher, deaf, quick = connect(1), connect(1), connect(1)
    publisher.declare("q")
    for consumer in (deaf, quick):
        consumer.consume("q", "c", no_ack=True)
        consumer.received()
    deaf.takes_bytes = 0

    publisher.publish("q", *[bytes(100_000)] * 60)

    assert len(quick.deliveries()) >= 30


def test_a_consumer_out_of_credit_goes_on_though_its_acks_came_while_the_outbox_was_full(
    broker: Broker, connect: Connect
) -> None:
    publisher = connect(1)
    publisher.declare("q")
    publisher.declare("flood")
    peer = connect(1)
    peer.call(basic.Qos(prefetch_count=1))
    peer.consume("q", "c")
    publisher.publish("q", b"1", b"2")
    assert len(peer.deliveries()) == 1
    peer.takes_bytes = 0
    publisher.publish("flood", *[bytes(100_000)] * 20)
    peer.send(*[basic.Get(queue="flood", no_ack=True)] * 15)
    assert peer.session.channels[1].congested
    peer.send(basic.Ack(1))

    peer.takes_bytes = None
    peer.settle_down()

    assert peer.deliveries()[-1][1].endswith(b"2")
    assert ready(broker) == 0


def test_a_peer_that_asks_without_listening_is_not_read_any_more() -> None:
    broker = Broker(fake_world(), BrokerLimits(replies_bytes_max=MIB))
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.declare("q")
    peer.publish("q", bytes(100_000))
    peer.takes_bytes = 0

    for _ in range(40):
        peer.send(basic.Get(queue="q"), basic.Nack(0, multiple=True))

    assert peer.session.held
    assert peer.session.backlog_bytes < 2 * MIB
    peer.takes_bytes = None
    while peer.session.held:
        peer.settle_down()
    peer.settle_down()
    got = [item for _, item in peer.received() if isinstance(item, basic.GetOk)]
    assert len(got) == 40


# -- heartbeats --------------------------------------------------------------------------------


@pytest.fixture
def beating(connect: Connect) -> Peer:
    """A peer that agreed on a heartbeat every ten seconds."""
    return connect(1, heartbeat_s=10)


def wait(peer: Peer, clock: FakeClock, seconds: float) -> None:
    """Let time pass, and what is due in it be done."""
    deadlines = peer.broker.deadlines
    end_s = clock.now_s + seconds
    while (next_s := deadlines.next_s()) is not None and next_s <= end_s:
        clock.now_s = next_s
        deadlines.run(next_s)
        peer._run_turns()
    clock.now_s = end_s


def test_the_broker_beats_while_it_has_nothing_else_to_say(beating: Peer, clock: FakeClock) -> None:
    for _ in range(3):
        wait(beating, clock, 5)
        beating.send_bytes(HEARTBEAT_FRAME)

    assert beating.read_bytes() == HEARTBEAT_FRAME * 3


def test_a_peer_that_misses_two_heartbeats_is_gone(
    broker: Broker, beating: Peer, clock: FakeClock
) -> None:
    beating.declare("q", exclusive=True)
    wait(beating, clock, 20)
    assert broker.sessions

    wait(beating, clock, 5)

    assert not broker.sessions
    assert beating.connection.state is State.CLOSED
    assert "q" not in broker.vhosts["/"].queues


def test_a_peer_that_is_held_cannot_be_heard_and_stays(
    broker: Broker, beating: Peer, clock: FakeClock
) -> None:
    beating.declare("q")
    alarm(broker)
    beating.publish("q", b"1")

    wait(beating, clock, 100)

    assert broker.sessions


def test_nobody_beats_for_a_connection_that_is_over(
    broker: Broker, beating: Peer, clock: FakeClock
) -> None:
    beating.call(commands.Connection.Close(200, "", 0, 0), channel=0)

    wait(beating, clock, 100)

    assert beating.read_bytes() == b""
    assert broker.deadlines.next_s() is None
