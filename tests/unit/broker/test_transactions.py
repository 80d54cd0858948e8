"""The class tx: what happens at commit, and what a rollback leaves as it was."""

from collections.abc import Callable

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.testing.fakes import HeldQueues, fake_world
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, queue, tx = commands.Basic, commands.Queue, commands.Tx


@pytest.fixture
def peer(connect: Connect) -> Peer:
    """A peer whose channel 1 is transactional, with a queue ``q``; channel 2 looks on."""
    peer = connect(1, 2)
    peer.declare("q")
    assert isinstance(peer.call(tx.Select()), tx.SelectOk)
    return peer


def commit(peer: Peer) -> None:
    assert isinstance(peer.call(tx.Commit()), tx.CommitOk)


def ready(peer: Peer) -> int:
    count: int = peer.call(queue.Declare(queue="q", passive=True), channel=2).message_count
    return count


def take(peer: Peer, *tags: int) -> None:
    """Get messages on channel 1; they are not settled yet."""
    for tag in tags:
        peer.send(basic.Get(queue="q"))
        assert peer.received()[0][1].delivery_tag == tag


def test_messages_are_there_after_commit(peer: Peer) -> None:
    peer.publish("q", b"1", b"2")
    peer.publish("q", b"3")
    assert ready(peer) == 0

    commit(peer)

    assert ready(peer) == 3
    commit(peer)
    assert ready(peer) == 3


def test_messages_are_gone_after_rollback(peer: Peer) -> None:
    peer.publish("q", b"1")

    assert isinstance(peer.call(tx.Rollback()), tx.RollbackOk)

    commit(peer)
    assert ready(peer) == 0


def test_messages_keep_their_order(peer: Peer) -> None:
    for body in (b"1", b"2", b"3"):
        peer.publish("q", body)
        peer.publish("", body, exchange="amq.fanout")
    commit(peer)

    peer.consume("q", "t", channel=2)

    assert [body for _, body in peer.deliveries()] == [b"1", b"2", b"3"]


def test_acks_count_at_commit(peer: Peer, connect: Connect) -> None:
    peer.publish("q", b"1", b"2")
    commit(peer)
    take(peer, 1, 2)
    peer.send(basic.Ack(1))
    commit(peer)
    peer.send(basic.Ack(2))

    peer.call(commands.Channel.Close(200, "", 0, 0))

    assert ready(peer) == 1  # The second ack was never committed.


def test_a_rollback_makes_deliveries_unsettled_again(peer: Peer) -> None:
    peer.publish("q", b"1", b"2", b"3")
    commit(peer)
    take(peer, 1, 2, 3)
    peer.send(basic.Ack(2), basic.Nack(3, False, False), basic.Reject(1, False))
    peer.call(tx.Rollback())
    assert ready(peer) == 0

    peer.send(basic.Ack(3, multiple=True))
    commit(peer)
    peer.send(basic.Ack(1))

    [(_, close)] = peer.received()
    assert close.reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"


@pytest.mark.parametrize("requeue", [True, False])
def test_rejected_messages_come_back_at_commit_if_they_are_to(peer: Peer, requeue: bool) -> None:
    peer.publish("q", b"1")
    commit(peer)
    take(peer, 1)
    peer.send(basic.Reject(1, requeue))
    assert ready(peer) == 0

    commit(peer)

    assert ready(peer) == requeue


@pytest.mark.parametrize("method", [basic.Ack(7), basic.Reject(7), basic.Nack(7)])
def test_an_unknown_tag_is_refused_at_once(peer: Peer, method: commands.Basic.Ack) -> None:
    close = peer.call(method)

    assert close.reply_code == 406
    assert close.reply_text == "PRECONDITION_FAILED - unknown delivery tag 7"


def test_a_delivery_is_settled_once_even_before_commit(peer: Peer) -> None:
    peer.publish("q", b"1")
    commit(peer)
    take(peer, 1)
    peer.send(basic.Ack(1))

    close = peer.call(basic.Ack(1))

    assert close.reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"


@pytest.mark.parametrize("for_all", [True, False])
def test_settled_deliveries_keep_their_room_until_commit(peer: Peer, for_all: bool) -> None:
    peer.publish("q", b"1", b"2", b"3")
    commit(peer)
    peer.call(basic.Qos(prefetch_count=1, global_=for_all))
    peer.consume("q", "t")
    assert [body for _, body in peer.deliveries()] == [b"1"]

    peer.send(basic.Ack(1))
    assert peer.deliveries() == []
    peer.send(tx.Commit())

    assert [body for _, body in peer.deliveries()] == [b"2"]


def test_a_rolled_back_ack_gives_no_room(peer: Peer) -> None:
    peer.publish("q", b"1", b"2")
    commit(peer)
    peer.call(basic.Qos(prefetch_count=1))
    peer.consume("q", "t")
    peer.received()
    peer.send(basic.Ack(1), tx.Rollback())
    assert [type(item) for _, item in peer.received()] == [tx.RollbackOk]

    peer.send(basic.Ack(1), tx.Commit())

    assert [body for _, body in peer.deliveries()] == [b"2"]


def test_mandatory_messages_come_back_at_commit(peer: Peer) -> None:
    peer.publish("none", b"1", mandatory=True)
    assert peer.received() == []

    peer.send(tx.Commit())

    kinds = [type(item) for _, item in peer.received()]
    assert kinds[0] is basic.Return
    assert kinds[-1] is tx.CommitOk


def test_what_cannot_be_published_is_refused_at_once(peer: Peer) -> None:
    peer.publish("k", b"1", exchange="none")

    [(_, close)] = peer.received()
    assert close.reply_code == 404


def test_a_queue_that_is_deleted_before_commit_is_passed_over(peer: Peer) -> None:
    peer.publish("q", b"1")
    peer.call(queue.Delete(queue="q"), channel=2)
    peer.publish("q", b"2")

    commit(peer)


@pytest.mark.parametrize("method", [tx.Commit(), tx.Rollback()])
def test_a_channel_must_be_transactional(connect: Connect, method: tx.Commit) -> None:
    close = connect(1).call(method)

    assert close.reply_code == 406
    assert close.reply_text == "PRECONDITION_FAILED - channel is not transactional"


def test_confirms_and_transactions_exclude_each_other(connect: Connect) -> None:
    peer = connect(1, 2)
    peer.call(commands.Confirm.Select(), channel=1)
    peer.call(tx.Select(), channel=2)

    switched = peer.call(tx.Select(), channel=1), peer.call(commands.Confirm.Select(), channel=2)

    assert [close.reply_text for close in switched] == [
        "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
        "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
    ]


def test_selecting_twice_changes_nothing(peer: Peer) -> None:
    peer.publish("q", b"1")

    assert isinstance(peer.call(tx.Select()), tx.SelectOk)

    commit(peer)
    assert ready(peer) == 1


def test_commit_is_answered_when_all_is_committed() -> None:
    held = HeldQueues()
    broker = Broker(fake_world(), queue_types={"classic": held})
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.declare("a")
    peer.declare("b")
    peer.call(tx.Select())
    peer.publish("a", b"1")
    peer.publish("b", b"2")
    peer.send(tx.Commit(), basic.Qos())
    assert peer.received() == []

    for name in ("a", "b"):
        held.logs[name].advance(committed=1)
        assert peer.received() == []
        peer.settle_down()

    assert [type(item) for _, item in peer.received()] == [tx.CommitOk, basic.QosOk]


def test_a_large_commit_lets_others_in_between() -> None:
    broker = Broker(fake_world(), queue_types={"classic": ClassicQueues()})
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.declare("q")
    peer.call(tx.Select())
    for _ in range(20):
        peer.publish("q", *[b"body"] * 1000)
    before = broker.turn.number

    commit(peer)

    assert broker.turn.number - before > 5
    stat = peer.call(queue.Declare(queue="q", passive=True))
    assert stat.message_count == 20_000


def test_a_transaction_has_a_limit() -> None:
    broker = Broker(fake_world(), BrokerLimits(transaction_bytes_max=10_000))
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.call(tx.Select())
    peer.publish("q", bytes(9_000))
    commit(peer)
    peer.publish("q", bytes(9_000))

    peer.publish("q", bytes(9_000))

    [(_, close)] = peer.received()
    assert close.reply_code == 406
    assert close.reply_text.endswith("10000: commit earlier")


def test_a_channel_that_closes_in_a_commit_ends_it(peer: Peer, connect: Connect) -> None:
    for _ in range(5):
        peer.publish("q", *[b"body"] * 1000)

    peer.send(tx.Commit(), commands.Channel.Close(200, "", 0, 0))

    assert isinstance(peer.received()[-1][1], commands.Channel.CloseOk)
    assert connect(1).declare("q") == "q"


def test_a_commit_fails_if_a_queue_refuses_a_message() -> None:
    held = HeldQueues()
    broker = Broker(fake_world(), queue_types={"classic": held})
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.declare("q")
    peer.call(tx.Select())
    peer.publish("q", b"1", b"2")
    peer.send(tx.Commit())

    broker.vhosts["/"].queues["q"].refused = [range(1, 2)]
    held.logs["q"].advance(committed=2)
    peer.settle_down()

    [(_, close)] = peer.received()
    assert close.reply_text == "PRECONDITION_FAILED - partial tx completion"
    assert close.class_id << 16 | close.method_id == tx.Commit.index
