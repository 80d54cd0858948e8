"""How much a consumer, or a channel, has unsettled at most."""

from collections.abc import Callable

import pytest
from pamqp import commands

from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic = commands.Basic


def drain(peer: Peer) -> list[tuple[str, int]]:
    """What came: consumer and delivery tag."""
    return [(deliver.consumer_tag, deliver.delivery_tag) for deliver, _ in peer.deliveries()]


@pytest.fixture
def full(peer: Peer) -> Peer:
    """A peer, and a queue q of a hundred messages."""
    peer.declare("q")
    peer.publish("q", *(b"%d" % i for i in range(100)))
    return peer


def prefetch(peer: Peer, count: int, channelwide: bool = False) -> None:
    answer = peer.call(basic.Qos(prefetch_count=count, global_=channelwide))
    assert isinstance(answer, basic.QosOk)


def test_queues_have_their_turn_in_what_a_channel_may_have(peer: Peer) -> None:
    prefetch(peer, 2, channelwide=True)
    for name in ("a", "b", "c"):
        peer.declare(name)
        peer.publish(name, *[b"body"] * 20)
    for name in ("a", "b", "c"):
        peer.consume(name, name)
    came = drain(peer)

    while len(came) < 60:
        peer.send(basic.Ack(len(came), multiple=True))
        came += drain(peer)

    assert {tag for tag, _ in came[:10]} == {"a", "b", "c"}


# -- per consumer ------------------------------------------------------------------------------


def test_without_a_limit_everything_is_delivered(full: Peer) -> None:
    full.consume("q", "c")

    assert len(drain(full)) == 100


def test_a_consumer_has_its_limit_and_one_more_for_each_that_it_settles(full: Peer) -> None:
    prefetch(full, 3)
    full.consume("q", "c")
    assert drain(full) == [("c", 1), ("c", 2), ("c", 3)]

    full.send(basic.Ack(2))
    assert drain(full) == [("c", 4)]
    full.send(basic.Ack(4, multiple=True))
    assert drain(full) == [("c", 5), ("c", 6), ("c", 7)]
    full.send(basic.Reject(5, requeue=False))
    assert drain(full) == [("c", 8)]


def test_what_is_requeued_makes_room_for_itself(full: Peer) -> None:
    prefetch(full, 1)
    full.consume("q", "c")
    drain(full)

    full.send(basic.Nack(1, requeue=True))

    [(deliver, body)] = full.deliveries()
    assert (deliver.delivery_tag, deliver.redelivered, body) == (2, True, b"0")


def test_recover_makes_room_for_what_it_gives_back(full: Peer) -> None:
    prefetch(full, 2)
    full.consume("q", "c")
    drain(full)

    full.send(basic.Recover(requeue=True))

    assert drain(full) == [("c", 3), ("c", 4)]


def test_a_limit_holds_for_consumers_to_come(full: Peer) -> None:
    prefetch(full, 2)
    full.consume("q", "two")
    drain(full)

    prefetch(full, 3)
    full.consume("q", "three")

    assert [tag for tag, _ in drain(full)] == ["three"] * 3
    full.send(basic.Ack(0, multiple=True))
    assert sorted(tag for tag, _ in drain(full)) == ["three"] * 3 + ["two"] * 2


def test_nought_is_no_limit(full: Peer) -> None:
    prefetch(full, 2)
    prefetch(full, 0)
    full.consume("q", "c")

    assert len(drain(full)) == 100


def test_a_consumer_without_acks_has_no_limit(full: Peer) -> None:
    prefetch(full, 2)
    full.consume("q", "c", no_ack=True)

    assert len(drain(full)) == 100


def test_what_a_cancelled_consumer_holds_takes_no_room_from_the_next(full: Peer) -> None:
    prefetch(full, 2)
    full.consume("q", "a")
    drain(full)
    full.call(basic.Cancel(consumer_tag="a"))

    full.consume("q", "b")

    assert drain(full) == [("b", 3), ("b", 4)]


def test_consumers_on_several_connections_share_in_turn(connect: Connect, full: Peer) -> None:
    peers = [connect(1) for _ in range(4)]
    for peer in peers:
        prefetch(peer, 5)
        peer.consume("q", "c")

    assert [len(drain(peer)) for peer in peers] == [5] * 4
    bodies = [b"%d" % i for i in range(100, 108)]
    full.call(commands.Queue.Purge(queue="q"))
    for peer in peers:
        peer.send(basic.Ack(0, multiple=True))
    full.publish("q", *bodies)
    assert [[body for _, body in peer.deliveries()] for peer in peers] == [
        bodies[place::4] for place in range(4)
    ]


# -- per channel -------------------------------------------------------------------------------


def test_a_channel_has_its_limit_for_all_its_consumers(full: Peer) -> None:
    prefetch(full, 4, channelwide=True)
    full.consume("q", "a")
    full.consume("q", "b")
    assert drain(full) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]

    full.send(basic.Ack(4, multiple=True))

    assert sorted(tag for tag, _ in drain(full)) == ["a", "a", "b", "b"]


def test_a_channels_limit_holds_across_queues(full: Peer) -> None:
    full.declare("r")
    full.publish("r", *[b""] * 10)
    prefetch(full, 3, channelwide=True)
    full.consume("q", "q")
    drain(full)
    full.consume("r", "r")
    assert drain(full) == []

    full.call(commands.Queue.Purge(queue="q"))
    full.send(basic.Ack(2, multiple=True))

    assert drain(full) == [("r", 4), ("r", 5)]


def test_a_channels_limit_may_be_raised(full: Peer) -> None:
    prefetch(full, 2, channelwide=True)
    full.consume("q", "c")
    drain(full)

    full.send(basic.Qos(prefetch_count=5, global_=True))

    assert drain(full) == [("c", 3), ("c", 4), ("c", 5)]


def test_a_channels_limit_may_be_lowered_below_what_it_has(full: Peer) -> None:
    prefetch(full, 5, channelwide=True)
    full.consume("q", "c")
    drain(full)
    prefetch(full, 2, channelwide=True)

    full.send(basic.Ack(3, multiple=True))
    assert drain(full) == []
    full.send(basic.Ack(4))

    assert drain(full) == [("c", 6)]


def test_a_channels_limit_may_be_lifted(full: Peer) -> None:
    prefetch(full, 2, channelwide=True)
    full.consume("q", "c")
    drain(full)

    full.send(basic.Qos(prefetch_count=0, global_=True))

    assert len(drain(full)) == 98


def test_a_limit_per_consumer_lifts_the_channels(full: Peer) -> None:
    prefetch(full, 2, channelwide=True)
    full.consume("q", "c")
    drain(full)

    full.send(basic.Qos(prefetch_count=10))

    assert len(drain(full)) == 98


def test_both_limits_hold_together(full: Peer) -> None:
    prefetch(full, 3)
    prefetch(full, 5, channelwide=True)
    full.consume("q", "a")
    full.consume("q", "b")

    assert [tag for tag, _ in drain(full)] == ["a"] * 3 + ["b"] * 2


def test_consumers_without_acks_wait_while_their_channel_is_at_its_limit(full: Peer) -> None:
    full.declare("r")
    full.publish("r", b"1", b"2")
    prefetch(full, 1, channelwide=True)
    full.consume("q", "acks")
    drain(full)
    full.consume("r", "none", no_ack=True)
    assert drain(full) == []

    full.call(commands.Queue.Purge(queue="q"))
    full.send(basic.Ack(1))

    assert [tag for tag, _ in drain(full)] == ["none"] * 2


def test_channels_with_limits_share_a_queue_in_turn(connect: Connect) -> None:
    peer = connect(1, 2)
    peer.declare("q")
    for channel in (1, 2):
        peer.call(basic.Qos(prefetch_count=10, global_=True), channel)
        peer.consume("q", "c", channel=channel)
        peer.received()

    peer.publish("q", *[b""] * 8)

    came = [channel for channel, item in peer.received() if isinstance(item, basic.Deliver)]
    assert sorted(came) == [1] * 4 + [2] * 4
