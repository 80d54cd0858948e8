"""What clients notice of queues that other nodes hold: nothing, as long as these are there."""

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.queues.queue import QueueStat
from amqpbroker.testing.peer import Peer
from tests.unit.cluster.nodes import Nodes, bodies, names

basic, queue, tx = commands.Basic, commands.Queue, commands.Tx


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def peer(nodes: Nodes) -> Peer:
    """A client of node b, and the queue ``a.q`` on node a."""
    peer = nodes.peer("b", 1, 2)
    nodes.ask(peer, queue.Declare(queue="a.q", durable=True))
    return peer


DOWN = (
    "NOT_FOUND - home node 'rabbit@a' of durable queue 'a.q' in vhost '/' is down or inaccessible"
)


# -- all is well ---------------------------------------------------------------------------------


def test_messages_go_from_any_node_to_any_node(nodes: Nodes, peer: Peer) -> None:
    peers = {name: nodes.peer(name) for name in "abc"}
    for name, each in peers.items():
        nodes.ask(each, basic.Consume(queue="a.q", consumer_tag=name, no_ack=True))
    for each in peers.values():
        each.publish("a.q", b"1", b"2", b"3")
        nodes.settle()

    came = [body for each in peers.values() for body in bodies(nodes, each)]
    assert sorted(came) == [b"1"] * 3 + [b"2"] * 3 + [b"3"] * 3


def test_a_queue_says_what_it_has_wherever_it_is_asked(nodes: Nodes, peer: Peer) -> None:
    peer.publish("a.q", b"1", b"2", b"3")

    [ok] = nodes.ask(peer, queue.Declare(queue="a.q", passive=True))
    assert (ok.message_count, ok.consumer_count) == (3, 0)
    [got] = nodes.ask(peer, basic.Get(queue="a.q"))
    assert (got.message_count, got.redelivered, got.routing_key) == (2, False, "a.q")
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c", no_ack=True))
    [ok] = nodes.ask(peer, queue.Declare(queue="a.q", durable=True))
    assert (ok.message_count, ok.consumer_count) == (0, 1)
    nodes.ask(peer, basic.Cancel("c"))
    nodes.ask(peer, basic.Nack(1))
    [ok] = nodes.ask(peer, queue.Purge(queue="a.q"))
    assert ok.message_count == 1
    [empty] = nodes.ask(peer, basic.Get(queue="a.q"))
    assert empty.name == "Basic.GetEmpty"


def test_of_two_who_declare_a_queue_at_once_the_later_is_told_what_is_in_it(nodes: Nodes) -> None:
    first, second = nodes.peer("a"), nodes.peer("b")
    first.send(queue.Declare(queue="a.q"))
    second.send(queue.Declare(queue="a.q"))
    assert nodes.council.decide()
    assert nodes.council.catch_up(nodes.brokers["rabbit@a"])
    first.publish("a.q", b"1", b"2")

    [declare_ok] = nodes.ask(second)

    assert (declare_ok.message_count, declare_ok.consumer_count) == (2, 0)


def test_a_queue_is_deleted_from_any_node_if_it_may_be(nodes: Nodes, peer: Peer) -> None:
    consumer = nodes.peer("c")
    nodes.ask(consumer, basic.Qos(prefetch_count=1))
    nodes.ask(consumer, basic.Consume(queue="a.q", consumer_tag="c"))
    peer.publish("a.q", b"1", b"2")
    nodes.settle()
    consumer.received()

    [close] = nodes.ask(peer, queue.Delete(queue="a.q", if_unused=True), channel=2)
    assert close.reply_text == "PRECONDITION_FAILED - queue 'a.q' in vhost '/' in use"
    nodes.ask(peer, commands.Channel.CloseOk(), commands.Channel.Open(), channel=2)
    [close] = nodes.ask(peer, queue.Delete(queue="a.q", if_empty=True), channel=2)
    assert close.reply_text == "PRECONDITION_FAILED - queue 'a.q' in vhost '/' not empty"
    [ok] = nodes.ask(peer, queue.Delete(queue="a.q"))
    assert (ok.name, ok.message_count) == ("Queue.DeleteOk", 1)
    assert names([item for _, item in consumer.received()]) == ["Basic.Cancel"]
    assert all("a.q" not in broker.vhosts["/"].queues for broker in nodes.brokers.values())
    assert names(nodes.ask(consumer, basic.Ack(1), basic.Qos())) == ["Basic.QosOk"]


def test_a_confirm_comes_when_the_holder_has_committed(nodes: Nodes) -> None:
    peer = nodes.peer("b")
    nodes.ask(peer, queue.Declare(queue="a.q", arguments={"x-queue-type": "held"}))
    nodes.ask(peer, commands.Confirm.Select())
    log = nodes.held["rabbit@a"].logs["a.q"]

    peer.publish("a.q", b"1", b"2", b"3")
    nodes.settle()
    assert peer.received() == []
    log.advance(committed=2)
    assert [(item.name, item.delivery_tag, item.multiple) for item in nodes.ask(peer)] == [
        ("Basic.Ack", 2, True)
    ]
    log.advance(committed=3)
    assert [(item.name, item.delivery_tag, item.multiple) for item in nodes.ask(peer)] == [
        ("Basic.Ack", 3, False)
    ]


def test_a_transaction_commits_when_the_holder_has(nodes: Nodes, peer: Peer) -> None:
    nodes.ask(peer, tx.Select())
    peer.publish("a.q", b"1")

    assert names(nodes.ask(peer, tx.Commit())) == ["Tx.CommitOk"]
    assert nodes.stat("a.q").ready == 1


def test_a_transaction_is_over_when_all_nodes_have_what_they_should(nodes: Nodes) -> None:
    peer = nodes.peer("b")
    places = ("a.q", "b.q", "c.q")
    for name in places:
        nodes.ask(peer, queue.Declare(queue=name))
        peer.publish(name, b"old")
        nodes.ask(peer, basic.Get(queue=name))
    nodes.ask(peer, tx.Select())
    for name in places:
        peer.publish(name, b"1", b"2")
    peer.send(basic.Ack(3, multiple=True))
    nodes.settle()
    assert [nodes.stat(name) for name in places] == [QueueStat(0, 1, 0)] * 3

    nodes.ask(peer, tx.Rollback())
    for name in places:
        peer.publish(name, b"3", b"4")
    peer.send(basic.Ack(3, multiple=True))
    nodes.streams["rabbit@b", "rabbit@c"].serving.is_held = True
    assert nodes.ask(peer, tx.Commit()) == []
    nodes.streams["rabbit@b", "rabbit@c"].serving.is_held = False

    assert names(nodes.ask(peer)) == ["Tx.CommitOk"]
    assert [nodes.stat(name) for name in places] == [QueueStat(2, 0, 0)] * 3


def test_what_a_commit_publishes_is_there_before_what_it_acks_makes_room(nodes: Nodes) -> None:
    peer = nodes.peer("b")
    nodes.ask(peer, queue.Declare(queue="a.p", arguments={"x-max-priority": 5}))
    peer.publish("a.p", b"1", b"2")
    nodes.ask(peer, basic.Qos(prefetch_count=1), tx.Select())
    nodes.ask(peer, basic.Consume(queue="a.p", consumer_tag="c"))
    peer.publish("a.p", b"urgent", properties=basic.Properties(priority=5))
    peer.send(basic.Ack(1), tx.Commit())

    assert bodies(nodes, peer) == [b"urgent"]


def test_an_expiration_counts_from_the_moment_when_the_holder_has_the_message(
    nodes: Nodes, peer: Peer
) -> None:
    peer.publish("a.q", b"1", properties=basic.Properties(expiration="100"))
    peer.publish("a.q", b"2", properties=basic.Properties(expiration="500"))
    nodes.settle()
    assert nodes.stat("a.q").ready == 2

    nodes.clock.advance(0.1)

    assert nodes.stat("a.q").ready == 1
    [got] = nodes.ask(peer, basic.Get(queue="a.q", no_ack=True))
    assert got.message_count == 0


def test_who_declares_a_queue_from_another_node_uses_it(nodes: Nodes, peer: Peer) -> None:
    declare = queue.Declare(queue="a.x", arguments={"x-expires": 1000})
    for _ in range(3):
        nodes.ask(peer, declare)
        nodes.clock.advance(0.7)
        nodes.brokers["rabbit@a"].deadlines.run(nodes.clock.now_s)
        nodes.settle()
        assert "a.x" in nodes.brokers["rabbit@b"].vhosts["/"].queues

    nodes.clock.advance(0.4)
    nodes.brokers["rabbit@a"].deadlines.run(nodes.clock.now_s)
    nodes.settle()

    assert "a.x" not in nodes.brokers["rabbit@b"].vhosts["/"].queues


@pytest.mark.parametrize("how", ["cancel", "close", "break"])
def test_an_auto_delete_queue_goes_with_its_last_consumer(
    nodes: Nodes, peer: Peer, how: str
) -> None:
    nodes.ask(peer, queue.Declare(queue="a.auto", auto_delete=True))
    nodes.ask(peer, basic.Consume(queue="a.auto", consumer_tag="c"))
    assert "a.auto" in nodes.brokers["rabbit@c"].vhosts["/"].queues

    if how == "cancel":
        assert names(nodes.ask(peer, basic.Cancel("c"))) == ["Basic.CancelOk"]
    elif how == "close":
        nodes.ask(peer, commands.Channel.Close(200, "", 0, 0))
    else:
        nodes.down("b")

    assert "a.auto" not in nodes.brokers["rabbit@c"].vhosts["/"].queues


def test_messages_are_framed_anew_for_another_channel_and_a_smaller_frame(nodes: Nodes) -> None:
    peer, other = nodes.peer("b", 1), Peer(nodes.brokers["rabbit@c"]).open(7, frame_max=4096)
    nodes.peers.append(other)
    nodes.ask(peer, queue.Declare(queue="a.q"))
    nodes.ask(other, basic.Consume(queue="a.q", consumer_tag="c", no_ack=True), channel=7)

    peer.publish("a.q", bytes(10_000), properties=basic.Properties(message_id="m"))

    assert bodies(nodes, other) == [bytes(10_000)]


# -- credit --------------------------------------------------------------------------------------


def test_a_prefetch_of_one_means_one(nodes: Nodes, peer: Peer) -> None:
    nodes.ask(peer, basic.Qos(prefetch_count=1))
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    peer.publish("a.q", b"1", b"2", b"3")

    for tag, body in enumerate((b"1", b"2", b"3"), 1):
        assert bodies(nodes, peer) == [body]
        assert nodes.stat("a.q").ready == 3 - tag
        peer.send(basic.Ack(tag))


def test_a_prefetch_of_the_channel_is_shared_by_queues_of_several_nodes(nodes: Nodes) -> None:
    peer = nodes.peer("b")
    places = ("a.1", "a.2", "b.3", "c.4")
    for place in places:
        nodes.ask(peer, queue.Declare(queue=place))
        peer.publish(place, *[place.encode()] * 50)
    nodes.ask(peer, basic.Qos(prefetch_count=3, global_=True))
    came: list[bytes] = []
    for place in places:
        peer.consume(place, place)

    for first in range(1, 200, 2):
        nodes.settle()
        new = peer.deliveries()
        assert not any(deliver.redelivered for deliver, _ in new)
        came += [body for _, body in new]
        assert len(came) == min(first + 2, 200)
        peer.send(basic.Ack(first), basic.Ack(first + 1))
    nodes.settle()
    came += [body for _, body in peer.deliveries()]

    assert sorted(came) == sorted(place.encode() for place in places for _ in range(50))
    assert [nodes.stat(place).unsettled for place in places] == [0] * 4
    of_one_node = [body for body in came if body.startswith(b"a.")]
    assert 40 < of_one_node[:100].count(b"a.1") < 60
    assert 10 < of_one_node[:40].count(b"a.1") < 30, "neither has to wait until the other is empty"


def test_an_exclusive_consumer_keeps_those_of_other_nodes_out(nodes: Nodes, peer: Peer) -> None:
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c", exclusive=True))
    other = nodes.peer("c")

    [close] = nodes.ask(other, basic.Consume(queue="a.q"))

    assert close.reply_text == "ACCESS_REFUSED - queue 'a.q' in vhost '/' in exclusive use"


def test_consumers_of_a_higher_priority_are_served_first_wherever_they_are(
    nodes: Nodes, peer: Peer
) -> None:
    others = [nodes.peer("a"), nodes.peer("c")]
    for priority, each in enumerate((*others, peer)):
        nodes.ask(each, basic.Qos(prefetch_count=2))
        arguments = {"x-priority": priority}
        nodes.ask(each, basic.Consume(queue="a.q", consumer_tag="c", arguments=arguments))

    others[0].publish("a.q", *[b"%d" % i for i in range(5)])

    assert bodies(nodes, peer) == [b"0", b"1"]
    assert [bodies(nodes, other) for other in others] == [[b"4"], [b"2", b"3"]]


def test_what_is_on_its_way_comes_before_cancel_ok(nodes: Nodes, peer: Peer) -> None:
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    stream = nodes.streams["rabbit@b", "rabbit@a"]
    stream.serving.is_held = True
    nodes.peer("a").publish("a.q", b"1", b"2")
    nodes.settle()

    assert nodes.ask(peer, basic.Cancel("c")) == []
    stream.serving.is_held = False

    assert names(nodes.ask(peer)) == ["Basic.Deliver", "Basic.Deliver", "Basic.CancelOk"]
    assert nodes.stat("a.q") == QueueStat(ready=0, unsettled=2, consumers=0)


def test_what_is_on_its_way_to_a_channel_that_closes_goes_back_flagged(
    nodes: Nodes, peer: Peer
) -> None:
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    stream = nodes.streams["rabbit@b", "rabbit@a"]
    stream.serving.is_held = True
    nodes.peer("a").publish("a.q", b"1", b"2")
    nodes.settle()

    closed = nodes.ask(peer, commands.Channel.Close(200, "", 0, 0))
    stream.serving.is_held = False
    nodes.settle()

    assert names(closed) == ["Channel.CloseOk"]
    assert nodes.stat("a.q") == QueueStat(ready=2, unsettled=0, consumers=0)
    [got] = nodes.ask(peer, basic.Get(queue="a.q"), channel=2)
    assert got.redelivered


# -- room ----------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_keeps_the_messages_with_their_holder(
    nodes: Nodes, peer: Peer
) -> None:
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c", no_ack=True))
    peer.takes_bytes = 0
    publisher = nodes.peer("a")
    for _ in range(80):
        publisher.publish("a.q", *[bytes(10_000)] * 10)
    nodes.settle()

    assert peer.session.backlog_bytes < 2_000_000
    assert nodes.stat("a.q").ready > 500
    peer.takes_bytes = None
    for _ in range(30):
        peer.session.flush()
        nodes.settle()

    assert len(peer.deliveries()) == 800


def test_a_node_that_does_not_read_keeps_the_messages_with_their_holder(
    nodes: Nodes, peer: Peer
) -> None:
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    stream = nodes.streams["rabbit@b", "rabbit@a"]
    stream.serving.is_stuck = True
    publisher = nodes.peer("a")
    for _ in range(80):
        publisher.publish("a.q", *[bytes(10_000)] * 10)
    nodes.settle()

    assert stream.serving.outbox_bytes < 2_000_000
    stream.serving.is_stuck = False
    assert len(bodies(nodes, peer)) == 800


def test_a_publisher_is_held_back_while_the_holder_does_not_read(nodes: Nodes, peer: Peer) -> None:
    stream = nodes.streams["rabbit@b", "rabbit@a"]
    stream.asking.is_stuck = True
    for _ in range(300):
        peer.publish("a.q", bytes(100_000))
        if peer.session.held:
            break

    assert peer.session.held
    assert stream.asking.outbox_bytes < 2_000_000
    count = 1 + peer.session.uncommitted_bytes // 100_000
    stream.asking.is_stuck = False
    nodes.settle()

    assert not peer.session.held
    assert count - 2 <= nodes.stat("a.q").ready <= count


def test_large_messages_go_through(nodes: Nodes, peer: Peer) -> None:
    nodes.ask(peer, basic.Qos(prefetch_count=1))
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    body = bytes(5_000_000)

    peer.publish("a.q", body)
    peer.publish("a.q", body)

    assert bodies(nodes, peer) == [body]
    peer.send(basic.Ack(1))
    assert bodies(nodes, peer) == [body]


# -- a node is down ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        queue.Declare(queue="a.q", durable=True),
        queue.Declare(queue="a.q", passive=True),
        queue.Purge(queue="a.q"),
        basic.Get(queue="a.q"),
        basic.Consume(queue="a.q"),
    ],
    ids=lambda method: method.name,
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_queue_whose_node_is_down_cannot_be_asked(
    nodes: Nodes, peer: Peer, method: Frame, when: str
) -> None:
    if when == "before":
        nodes.down("a")
    else:
        nodes.streams["rabbit@b", "rabbit@a"].asking.is_held = True
        assert nodes.ask(peer, method) == []
        nodes.down("a")
        [close] = nodes.ask(peer)
        assert close.reply_text == DOWN
        return

    [close] = nodes.ask(peer, method)

    assert close.reply_text == DOWN
    assert close.class_id << 16 | close.method_id == method.index


def test_what_needs_no_queue_goes_on_while_its_node_is_down(nodes: Nodes, peer: Peer) -> None:
    nodes.down("a")

    assert nodes.ask(peer, queue.Declare(queue="a.q", passive=True, nowait=True)) == []
    assert names(nodes.ask(peer, queue.Bind(queue="a.q", exchange="amq.fanout"))) == [
        "Queue.BindOk"
    ]
    [close] = nodes.ask(peer, queue.Declare(queue="a.q"))
    assert close.reply_text.startswith("PRECONDITION_FAILED - inequivalent arg 'durable'")


def test_a_queue_whose_node_is_down_is_deleted_unless_it_should_be_empty(
    nodes: Nodes, peer: Peer
) -> None:
    nodes.down("a")

    [close] = nodes.ask(peer, queue.Delete(queue="a.q", if_empty=True), channel=2)
    [ok] = nodes.ask(peer, queue.Delete(queue="a.q", if_unused=True))

    assert close.reply_text == "PRECONDITION_FAILED - queue 'a.q' in vhost '/' not empty"
    assert (ok.name, ok.message_count) == ("Queue.DeleteOk", 0)


def test_what_was_not_confirmed_when_the_node_goes_down_is_refused(
    nodes: Nodes, peer: Peer
) -> None:
    nodes.ask(peer, commands.Confirm.Select())
    peer.publish("a.q", b"1")
    assert names(nodes.ask(peer)) == ["Basic.Ack"]
    nodes.streams["rabbit@b", "rabbit@a"].serving.is_held = True
    peer.publish("a.q", b"2", b"3")
    nodes.settle()

    nodes.down("a")
    peer.publish("a.q", b"4", mandatory=True)

    assert [(item.name, item.delivery_tag, item.multiple) for item in nodes.ask(peer)] == [
        ("Basic.Nack", 3, True),
        ("Basic.Nack", 4, True),
    ]
    nodes.streams["rabbit@b", "rabbit@a"].serving.is_held = False
    nodes.up("a")
    peer.publish("a.q", b"5")
    assert [(item.name, item.delivery_tag) for item in nodes.ask(peer)] == [("Basic.Ack", 5)]


def test_without_confirms_what_a_node_that_is_down_should_have_is_lost_without_a_word(
    nodes: Nodes, peer: Peer
) -> None:
    nodes.down("a")

    peer.publish("a.q", b"1", mandatory=True)

    assert nodes.ask(peer) == []
    assert peer.session.uncommitted_bytes == 0


def test_a_commit_fails_when_the_node_goes_down(nodes: Nodes, peer: Peer) -> None:
    nodes.ask(peer, tx.Select())
    nodes.streams["rabbit@b", "rabbit@a"].serving.is_held = True
    peer.publish("a.q", b"1")
    assert nodes.ask(peer, tx.Commit()) == []

    nodes.down("a")

    [close] = nodes.ask(peer)
    assert close.reply_text == "PRECONDITION_FAILED - partial tx completion"


def test_consumers_are_cancelled_when_the_node_goes_down_and_their_acks_are_void(
    nodes: Nodes, peer: Peer
) -> None:
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    peer.publish("a.q", b"1", b"2")
    assert bodies(nodes, peer) == [b"1", b"2"]

    nodes.down("a")
    assert names(nodes.ask(peer)) == ["Basic.Cancel"]
    nodes.up("a")
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    assert names(nodes.ask(peer, basic.Ack(2, multiple=True), basic.Qos())) == ["Basic.QosOk"]

    assert nodes.stat("a.q") == QueueStat(ready=0, unsettled=2, consumers=1)


def test_a_cancel_is_answered_when_the_node_goes_down_meanwhile(nodes: Nodes, peer: Peer) -> None:
    nodes.ask(peer, basic.Consume(queue="a.q", consumer_tag="c"))
    nodes.streams["rabbit@b", "rabbit@a"].asking.is_held = True
    assert nodes.ask(peer, basic.Cancel("c")) == []

    nodes.down("a")

    assert names(nodes.ask(peer)) == ["Basic.CancelOk"]


# -- numbers -------------------------------------------------------------------------------------


def test_the_numbers_of_all_queues_of_other_nodes_are_asked_for_at_once(nodes: Nodes) -> None:
    peer = nodes.peer("b")
    for name in ("a.1", "a.2", "c.3"):
        nodes.ask(peer, queue.Declare(queue=name))
        peer.publish(name, b"1", b"2")
    nodes.ask(peer, basic.Get(queue="a.2"), basic.Consume(queue="c.3", no_ack=True))
    queues = nodes.brokers["rabbit@b"].vhosts["/"].queues
    assert queues["a.1"].glance() == QueueStat(0, 0, 0)

    nodes.remote["rabbit@b"].refresh()
    nodes.settle()

    assert queues["a.1"].glance() == QueueStat(2, 0, 0)
    assert queues["a.2"].glance() == QueueStat(1, 1, 0)
    assert queues["c.3"].glance() == QueueStat(0, 0, 1)
