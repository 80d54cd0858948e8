"""How many connections and channels there may be, here and on other nodes."""

import attrs
import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.reports import Tally
from amqpbroker.definitions import ParameterDefinition, put
from amqpbroker.protocol.frames import PROTOCOL_HEADER
from amqpbroker.queues.queue import Pending
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer


@pytest.fixture
def broker() -> Broker:
    broker = Broker(fake_world())
    broker.boot("guest", "guest")
    return broker


def limit_vhost(broker: Broker, **limits: int) -> None:
    value = {name.replace("_", "-"): limit for name, limit in limits.items()}
    broker.submit(put(ParameterDefinition("/", "vhost-limits", "limits", value)))


def limit_user(broker: Broker, **limits: int) -> None:
    value = {name.replace("_", "-"): limit for name, limit in limits.items()}
    broker.submit(put(attrs.evolve(broker.users["guest"], limits=value)))


def knock(broker: Broker) -> Peer:
    """A peer that has asked for the virtual host."""
    peer = Peer(broker)
    peer.send_bytes(PROTOCOL_HEADER)
    start = commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US")
    peer.send(start, commands.Connection.TuneOk(2047, 131072, 0), channel=0)
    peer.received()
    peer.send(commands.Connection.Open("/"), channel=0)
    return peer


def answer(peer: Peer) -> str:
    """What the peer was told last: nothing, the reason of a close, or the name of the method."""
    received = peer.received()
    if not received:
        return ""
    method = received[-1][1]
    return getattr(method, "reply_text", None) or method.name  # type: ignore[union-attr]


VHOST_FULL = (
    "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (1) is reached"
)
USER_FULL = (
    "NOT_ALLOWED - connection refused for user 'guest': user connection limit (1) is reached"
)
CHANNELS_FULL = (
    "NOT_ALLOWED - number of channels opened for user 'rabbit@localhost' has reached"
    " the maximum allowed user limit of (2)"
)


def test_a_full_virtual_host_takes_no_more_connections(broker: Broker) -> None:
    limit_vhost(broker, max_connections=1)
    first = Peer(broker).open(1)

    assert answer(knock(broker)) == VHOST_FULL
    first.send(commands.Connection.Close(200, "", 0, 0), channel=0)
    assert answer(knock(broker)) == "Connection.OpenOk"


def test_no_connections_are_taken_where_the_limit_is_none(broker: Broker) -> None:
    limit_vhost(broker, max_connections=0)
    assert answer(knock(broker)) == VHOST_FULL.replace("(1)", "(0)")
    limit_vhost(broker, max_connections=-1)
    assert answer(knock(broker)) == "Connection.OpenOk"


def test_a_user_has_so_many_connections_and_no_more(broker: Broker) -> None:
    limit_user(broker, max_connections=1)
    Peer(broker).open(1)

    assert answer(knock(broker)) == USER_FULL


def test_a_user_has_so_many_channels_and_no_more(broker: Broker) -> None:
    limit_user(broker, max_channels=2)
    one, two = Peer(broker).open(1), Peer(broker).open(1)
    one.send(commands.Channel.Open(), channel=2)

    close = one.received()[-1][1]
    assert (close.reply_code, close.reply_text) == (530, CHANNELS_FULL)  # type: ignore[union-attr]
    limit_user(broker)
    two.send(commands.Channel.Open(), channel=2)
    assert answer(two) == "Channel.OpenOk"


class Elsewhere:
    """Other nodes, which answer when the test says so."""

    def __init__(self, broker: Broker) -> None:
        self.asked: list[tuple[str, str, Pending[int]]] = []
        broker.quotas.elsewhere = self.count

    def count(self, what: str, name: str) -> Pending[int]:
        pending: Pending[int] = Pending()
        self.asked.append((what, name, pending))
        return pending

    def answer(self, count: int) -> None:
        self.asked.pop(0)[2].resolve(count)


def test_other_nodes_are_asked_only_where_there_is_a_limit(broker: Broker) -> None:
    elsewhere = Elsewhere(broker)
    Peer(broker).open(1)

    assert elsewhere.asked == []


def test_who_comes_waits_until_other_nodes_have_counted(broker: Broker) -> None:
    elsewhere = Elsewhere(broker)
    limit_vhost(broker, max_connections=2)
    limit_user(broker, max_connections=5)
    peer = knock(broker)
    peer.send(commands.Channel.Open())
    assert answer(peer) == ""
    assert elsewhere.asked[0][:2] == ("vhost-connections", "/")
    elsewhere.answer(1)
    assert elsewhere.asked[0][:2] == ("user-connections", "guest")
    elsewhere.answer(4)
    peer.settle_down()
    assert answer(peer) == "Channel.OpenOk"

    peer = knock(broker)
    elsewhere.answer(1)
    peer.settle_down()
    assert answer(peer) == VHOST_FULL.replace("(1)", "(2)")


def test_who_has_gone_meanwhile_is_not_let_in(broker: Broker) -> None:
    elsewhere = Elsewhere(broker)
    limit_vhost(broker, max_connections=2)
    peer = knock(broker)
    peer.session.abandon()
    elsewhere.answer(0)
    assert not peer.session.is_open

    peer = knock(broker)
    broker.submit(attrs.evolve(put(broker.vhosts["/"].definition), act="delete"))
    elsewhere.answer(0)
    peer.settle_down()
    assert answer(peer) == "NOT_ALLOWED - vhost / not found"


def test_channels_elsewhere_count_too(broker: Broker) -> None:
    elsewhere = Elsewhere(broker)
    limit_user(broker, max_channels=2)
    peer = Peer(broker).open(1)
    elsewhere.answer(1)
    assert answer(peer) == ""
    peer.send(commands.Channel.Open(), channel=2)
    elsewhere.answer(1)
    peer.settle_down()

    assert answer(peer) == CHANNELS_FULL


def test_a_sum_has_a_deadline() -> None:
    counts: list[Pending[int]] = [Pending(), Pending()]
    sums: list[int] = []
    tally = Tally(counts)
    tally.then = sums.append
    counts[1].resolve(3)
    assert sums == []
    tally.end()
    tally.end()
    counts[0].resolve(4)
    assert sums == [3]


def test_what_is_gone_is_not_counted(broker: Broker) -> None:
    for _ in range(3):
        peer = Peer(broker).open(1, 2)
        assert broker.quotas.count("user-channels", "guest") == 2
        peer.send(commands.Channel.Close(200, "", 0, 0), channel=1)
        assert broker.quotas.count("user-channels", "guest") == 1
        peer.session.abandon()
        peer.session.close()
    assert broker.quotas.count("user-channels", "guest") == 0
    assert broker.quotas.count("vhost-connections", "/") == 0
    assert broker.quotas.count("user-connections", "guest") == 0
