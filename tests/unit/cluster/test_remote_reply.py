"""Direct replies from one node to another."""

import pytest
from pamqp import commands

from amqpbroker.cluster import remote_node
from amqpbroker.cluster.remote_reply import REPLY_TO, address_prefix
from amqpbroker.testing.peer import Peer
from tests.unit.cluster.nodes import Nodes, names

basic, queue, tx = commands.Basic, commands.Queue, commands.Tx


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def client(nodes: Nodes) -> Peer:
    """A client of node b that waits for replies; it asks by the queue ``a.rpc``."""
    peer = nodes.peer("b")
    nodes.ask(peer, queue.Declare(queue="a.rpc"))
    nodes.ask(peer, basic.Consume(queue=REPLY_TO, consumer_tag="replies", no_ack=True))
    return peer


@pytest.fixture
def server(nodes: Nodes) -> Peer:
    """A client of node a that is asked."""
    return nodes.peer("a")


def asked(nodes: Nodes, client: Peer, server: Peer) -> str:
    """Where the answer to a question is to go."""
    client.publish("a.rpc", b"?", properties=basic.Properties(reply_to=REPLY_TO))
    nodes.settle()
    server.send(basic.Get(queue="a.rpc", no_ack=True))
    [_, (_, header), _] = server.received()
    reply_to: str = header.properties.reply_to
    return reply_to


def replies(nodes: Nodes, client: Peer) -> list[bytes]:
    nodes.settle()
    return [body for _, body in client.deliveries()]


def test_a_reply_goes_to_the_node_of_the_channel_that_asked(
    nodes: Nodes, client: Peer, server: Peer
) -> None:
    reply_to = asked(nodes, client, server)

    for body in (b"1", b"2", b"3"):
        server.publish(reply_to, body)

    nodes.settle()
    deliveries = client.deliveries()
    assert [body for _, body in deliveries] == [b"1", b"2", b"3"]
    assert {deliver.consumer_tag for deliver, _ in deliveries} == {"replies"}
    assert {deliver.routing_key for deliver, _ in deliveries} == {reply_to}
    assert [deliver.delivery_tag for deliver, _ in deliveries] == [1, 1, 1]


def test_a_reply_may_come_from_a_third_node(nodes: Nodes, client: Peer, server: Peer) -> None:
    nodes.peer("c").publish(asked(nodes, client, server), b"reply", bytes(300_000))

    assert replies(nodes, client) == [b"reply", bytes(300_000)]


def test_it_is_confirmed_at_once_and_comes_back_if_it_is_mandatory(
    nodes: Nodes, client: Peer, server: Peer
) -> None:
    reply_to = asked(nodes, client, server)
    nodes.ask(server, commands.Confirm.Select())

    server.publish(reply_to, b"1", mandatory=True)

    assert names(nodes.ask(server)) == ["Basic.Return", "Basic.Ack"]
    assert replies(nodes, client) == [b"1"]


def test_it_does_not_wait_for_commit(nodes: Nodes, client: Peer, server: Peer) -> None:
    reply_to = asked(nodes, client, server)
    nodes.ask(server, tx.Select())

    server.publish(reply_to, b"1")

    assert replies(nodes, client) == [b"1"]
    assert names(nodes.ask(server, tx.Commit())) == ["Tx.CommitOk"]
    assert replies(nodes, client) == []


def test_an_address_can_be_declared_anywhere_as_long_as_somebody_waits_there(
    nodes: Nodes, client: Peer, server: Peer
) -> None:
    reply_to = asked(nodes, client, server)

    [declare_ok] = nodes.ask(server, queue.Declare(queue=reply_to, passive=True))
    assert (declare_ok.queue, declare_ok.message_count, declare_ok.consumer_count) == (
        reply_to,
        0,
        1,
    )

    nodes.ask(client, basic.Cancel("replies"))
    [close] = nodes.ask(server, queue.Declare(queue=reply_to, passive=True))
    assert close.reply_text == f"NOT_FOUND - no queue '{reply_to}' in vhost '/'"


def test_a_reply_that_is_too_late_goes_nowhere(nodes: Nodes, client: Peer, server: Peer) -> None:
    reply_to = asked(nodes, client, server)
    nodes.ask(client, basic.Cancel("replies"))

    server.publish(reply_to, b"1")

    assert replies(nodes, client) == []
    assert nodes.ask(server) == []


def test_while_the_node_is_down_replies_are_lost_and_its_addresses_are_not_there(
    nodes: Nodes, client: Peer, server: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    reply_to = asked(nodes, client, server)
    nodes.ask(server, commands.Confirm.Select())
    nodes.down("b")

    server.publish(reply_to, b"lost")
    assert names(nodes.ask(server)) == ["Basic.Ack"]
    assert "1 replies to node rabbit@b are lost" in caplog.text
    assert names(nodes.ask(server, queue.Declare(queue=reply_to))) == ["Channel.Close"]

    nodes.up("b")
    nodes.peer("a").publish(reply_to, b"later")
    assert replies(nodes, client) == [b"later"]


def test_an_address_is_not_there_when_its_node_goes_down_while_it_is_asked_for(
    nodes: Nodes, client: Peer, server: Peer
) -> None:
    reply_to = asked(nodes, client, server)
    nodes.streams["rabbit@a", "rabbit@b"].serving.is_held = True
    assert nodes.ask(server, queue.Declare(queue=reply_to)) == []

    nodes.down("b")

    [close] = nodes.ask(server)
    assert close.reply_text == f"NOT_FOUND - no queue '{reply_to}' in vhost '/'"


def test_replies_are_lost_when_too_much_waits_on_the_way(
    nodes: Nodes,
    client: Peer,
    server: Peer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_node, "BACKLOG_BYTES_MAX", 10_000)
    reply_to = asked(nodes, client, server)
    nodes.streams["rabbit@a", "rabbit@b"].asking.is_stuck = True

    for number in range(20):
        server.publish(reply_to, b"%2d" % number + bytes(998))
    nodes.settle()
    nodes.streams["rabbit@a", "rabbit@b"].asking.is_stuck = False

    came = replies(nodes, client)
    assert 9 <= len(came) < 13
    assert "are lost" in caplog.text


@pytest.mark.parametrize(
    "address",
    [
        address_prefix("rabbit@b") + "forged",
        address_prefix("rabbit@nobody") + "forged",
        address_prefix("rabbit@a") + "forged",
        address_prefix("rabbit@b"),
    ],
)
def test_forged_addresses_lead_nowhere(
    nodes: Nodes, client: Peer, server: Peer, address: str
) -> None:
    server.publish(address, b"1")

    assert replies(nodes, client) == []
    [close] = nodes.ask(server, queue.Declare(queue=address))
    assert close.reply_text == f"NOT_FOUND - no queue '{address}' in vhost '/'"


def test_what_is_too_long_for_an_address_is_none(nodes: Nodes, client: Peer, server: Peer) -> None:
    forged = address_prefix("rabbit@b") + 70_000 * "x"

    server.publish("nobody", b"1", properties=basic.Properties(headers={"CC": [forged]}))

    assert replies(nodes, client) == []
    assert nodes.ask(server) == []


def test_the_addresses_of_a_node_with_a_long_name_have_room_in_a_routing_key() -> None:
    assert len(address_prefix("rabbit@" + 300 * "x")) < 50
