"""Who may do what: virtual hosts, permissions, topic permissions, and records that change."""

from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.access import hash_password
from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import (
    Definition,
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
    delete,
    put,
)
from amqpbroker.errors import DefinitionError
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue
Rights = tuple[str, str, str]


@pytest.fixture
def admit(broker: Broker) -> Callable[..., Peer]:
    """Connect ``ann``, who has the rights (configure, write, read) in the virtual host ``/``."""
    password_hash = hash_password("secret", broker.world.random)
    broker.apply(put(UserDefinition("ann", password_hash)))

    def admit(*rights: str) -> Peer:
        broker.apply(put(PermissionDefinition("/", "ann", *rights)))
        return Peer(broker).open(1, user="ann", password="secret")

    return admit


@pytest.fixture
def things(connect: Connect) -> None:
    """Queue ``q`` and exchange ``x``, which is a topic exchange."""
    peer = connect(1)
    peer.declare("q")
    peer.call(exchange.Declare(exchange="x", exchange_type="topic"))


def refused(right: str, what: str) -> str:
    return f"ACCESS_REFUSED - {right} access to {what} in vhost '/' refused for user 'ann'"


METHODS: list[tuple[Frame, Rights, str]] = [
    # What is asked for, the rights of one who may not, and what is missing.
    (queue.Declare(queue="new"), ("^q$", ".*", ".*"), refused("configure", "queue 'new'")),
    (queue.Declare(queue="q"), ("new", ".*", ".*"), refused("configure", "queue 'q'")),
    (queue.Delete(queue="q"), ("", ".*", ".*"), refused("configure", "queue 'q'")),
    (queue.Delete(queue="none"), ("", ".*", ".*"), refused("configure", "queue 'none'")),
    (exchange.Declare(exchange="y"), ("x", ".*", ".*"), refused("configure", "exchange 'y'")),
    (exchange.Delete(exchange="x"), ("y", ".*", ".*"), refused("configure", "exchange 'x'")),
    (queue.Bind(0, "q", "x"), (".*", "x", ".*"), refused("write", "queue 'q'")),
    (queue.Bind(0, "q", "x"), (".*", ".*", "q"), refused("read", "exchange 'x'")),
    (queue.Unbind(0, "q", "x"), (".*", "x", ".*"), refused("write", "queue 'q'")),
    (queue.Unbind(0, "q", "x"), (".*", ".*", "q"), refused("read", "exchange 'x'")),
    (exchange.Bind(0, "x", "amq.direct"), (".*", "d", ".*"), refused("write", "exchange 'x'")),
    (
        exchange.Bind(0, "x", "amq.direct"),
        (".*", ".*", "x"),
        refused("read", "exchange 'amq.direct'"),
    ),
    (exchange.Unbind(0, "x", "amq.direct"), (".*", "d", ".*"), refused("write", "exchange 'x'")),
    (queue.Purge(queue="q"), (".*", ".*", "x"), refused("read", "queue 'q'")),
    (basic.Get(queue="q"), (".*", ".*", "x"), refused("read", "queue 'q'")),
    (basic.Get(queue="none"), (".*", ".*", "x"), refused("read", "queue 'none'")),
    (basic.Consume(queue="q"), (".*", ".*", "x"), refused("read", "queue 'q'")),
    (
        queue.Declare(queue="new", arguments={"x-dead-letter-exchange": "x"}),
        (".*", "q", ".*"),
        refused("write", "exchange 'x'"),
    ),
    (
        queue.Declare(queue="new", arguments={"x-dead-letter-exchange": "x"}),
        (".*", ".*", "x"),
        refused("read", "queue 'new'"),
    ),
    (
        exchange.Declare(exchange="y", arguments={"alternate-exchange": "x"}),
        (".*", "y", ".*"),
        refused("write", "exchange 'x'"),
    ),
    (
        exchange.Declare(exchange="y", arguments={"alternate-exchange": "x"}),
        (".*", ".*", "x"),
        refused("read", "exchange 'y'"),
    ),
]


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize(("method", "rights", "text"), METHODS)
def test_a_right_that_is_missing_closes_the_channel(
    admit: Callable[..., Peer], method: Frame, rights: Rights, text: str
) -> None:
    close = admit(*rights).call(method)

    assert isinstance(close, commands.Channel.Close)
    assert (close.reply_code, close.reply_text) == (403, text)
    assert close.class_id << 16 | close.method_id == method.index


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize("method", [method for method, _, _ in METHODS])
def test_who_has_all_rights_may_do_it(admit: Callable[..., Peer], method: Frame) -> None:
    answer = admit(".*", ".*", ".*").call(method)

    assert not isinstance(answer, commands.Channel.Close) or answer.reply_code == 404


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize("method", [queue.Declare(queue="q", passive=True), basic.Qos()])
def test_some_things_need_no_right(admit: Callable[..., Peer], method: Frame) -> None:
    answer = admit("", "", "").call(method)

    assert isinstance(answer, queue.DeclareOk | basic.QosOk)


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize(
    ("name", "pattern"), [("x", "^q$"), ("", "^q$"), ("none", "^q$"), ("x", "")]
)
def test_publishing_asks_for_the_right_to_write(
    admit: Callable[..., Peer], name: str, pattern: str
) -> None:
    peer = admit(".*", pattern, ".*")

    peer.publish("q", b"body", exchange=name)

    [(_, close)] = peer.received()
    assert close.reply_text == refused("write", f"exchange '{name or 'amq.default'}'")


def test_patterns_know_the_default_exchange_by_a_name_of_its_own(
    admit: Callable[..., Peer],
) -> None:
    peer = admit(".*", r"^amq\.default$", ".*")
    peer.declare("q")

    for _ in range(3):
        peer.publish("q", b"body")

    assert peer.declare("q", passive=True) == "q"


def test_a_pattern_may_hold_anywhere_in_a_name(admit: Callable[..., Peer]) -> None:
    peer = admit("tmp", "", "")

    assert peer.declare("my tmp queue") == "my tmp queue"


def test_the_empty_pattern_matches_no_name(admit: Callable[..., Peer]) -> None:
    close = admit("", "", "").call(queue.Declare(queue="a"))

    assert close.reply_code == 403


@pytest.mark.usefixtures("things")
def test_a_right_that_is_taken_away_is_missed_at_once(
    admit: Callable[..., Peer], broker: Broker
) -> None:
    peer = admit(".*", ".*", ".*")
    for _ in range(3):
        peer.publish("q", b"remembered")
    assert peer.received() == []

    broker.apply(put(PermissionDefinition("/", "ann", ".*", "^x$", ".*")))
    peer.publish("q", b"refused")

    [(_, close)] = peer.received()
    assert close.reply_text == refused("write", "exchange 'amq.default'")


@pytest.mark.usefixtures("things")
def test_without_any_record_nothing_is_left_to_do(
    admit: Callable[..., Peer], broker: Broker
) -> None:
    peer = admit(".*", ".*", ".*")
    broker.apply(delete(PermissionDefinition("/", "ann", ".*", ".*", ".*")))

    close = peer.call(basic.Get(queue="q"))

    assert close.reply_text == refused("read", "queue 'q'")
    again = Peer(broker).open(user="ann", password="secret")
    assert again.connection.outbox_bytes == 0
    assert not again.session.channels


def test_a_virtual_host_is_entered_with_permission_only(
    admit: Callable[..., Peer], broker: Broker
) -> None:
    admit(".*", ".*", ".*")
    broker.apply(put(VHostDefinition("other")))
    peer = Peer(broker)
    told: list[Any] = []
    peer.received, received = lambda: told.extend(received()) or told, peer.received  # type: ignore[method-assign, func-returns-value]

    peer.open(user="ann", password="secret", vhost="other")

    close = told[-1][1]
    assert (close.reply_code, close.reply_text) == (
        530,
        "NOT_ALLOWED - access to vhost 'other' refused for user 'ann'",
    )


@pytest.mark.parametrize("pattern", ["(", "[a", "*"])
@pytest.mark.parametrize("place", range(3))
def test_a_pattern_must_be_a_regular_expression(pattern: str, place: int) -> None:
    rights = [".*", ".*", ".*"]
    rights[place] = pattern

    with pytest.raises(DefinitionError, match="is no regular expression"):
        PermissionDefinition("/", "ann", *rights)


def test_what_was_granted_is_remembered_but_not_for_ever(admit: Callable[..., Peer]) -> None:
    peer = admit(".*", ".*", ".*")
    for i in range(3000):
        peer.send(queue.Delete(queue=f"queue {i}", nowait=True))

    assert len(peer.session.access._granted) <= 1024


# -- topics --------------------------------------------------------------------------------------


def restrict(broker: Broker, write: str, read: str, name: str = "x") -> None:
    broker.apply(put(TopicPermissionDefinition("/", "ann", name, write, read)))


@pytest.mark.usefixtures("things")
def test_routing_keys_can_be_restricted(admit: Callable[..., Peer], broker: Broker) -> None:
    restrict(broker, "^a", "^b")
    peer = admit(".*", ".*", ".*")
    for _ in range(3):
        peer.publish("a.b", b"body", exchange="x")
    peer.call(queue.Bind(0, "q", "x", "b.*"))
    assert peer.received() == []

    peer.publish("b.a", b"body", exchange="x")

    [(_, close)] = peer.received()
    assert close.reply_code == 403
    assert close.reply_text == (
        "ACCESS_REFUSED - write access to topic 'b.a' in exchange 'x' in vhost '/'"
        " refused for user 'ann'"
    )


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize(
    "method", [queue.Bind(0, "q", "x", "a.*"), queue.Unbind(0, "q", "x", "a.*")]
)
def test_binding_to_a_topic_needs_the_right_to_read_it(
    admit: Callable[..., Peer], broker: Broker, method: Frame
) -> None:
    restrict(broker, ".*", "^b")

    close = admit(".*", ".*", ".*").call(method)

    assert close.reply_text == (
        "ACCESS_REFUSED - read access to topic 'a.*' in exchange 'x' in vhost '/'"
        " refused for user 'ann'"
    )


@pytest.mark.usefixtures("things")
def test_other_exchanges_and_types_are_not_restricted(
    admit: Callable[..., Peer], broker: Broker
) -> None:
    restrict(broker, "", "", "amq.direct")
    restrict(broker, "", "", "another")
    peer = admit(".*", ".*", ".*")

    for name in ("x", "amq.direct", "amq.topic"):
        peer.publish("any.key", b"body", exchange=name)
        peer.call(queue.Bind(0, "q", name, "key"))

    assert peer.received() == []


@pytest.mark.usefixtures("things")
def test_a_topics_pattern_may_name_the_user_and_the_virtual_host(
    admit: Callable[..., Peer], broker: Broker
) -> None:
    restrict(broker, "^{username}.{vhost}$", "")
    peer = admit(".*", ".*", ".*")

    peer.publish("ann./", b"body", exchange="x")
    assert peer.received() == []
    peer.publish("bob./", b"body", exchange="x")

    assert peer.received()[0][1].reply_code == 403


@pytest.mark.usefixtures("things")
def test_a_name_that_spoils_a_pattern_grants_nothing(broker: Broker) -> None:
    password_hash = hash_password("secret", broker.world.random)
    records: list[Definition] = [
        UserDefinition("(", password_hash),
        PermissionDefinition("/", "(", ".*", ".*", ".*"),
        TopicPermissionDefinition("/", "(", "x", "{username}", ".*"),
    ]
    for record in records:
        broker.apply(put(record))
    peer = Peer(broker).open(1, user="(", password="secret")

    peer.publish("any", b"body", exchange="x")

    assert peer.received()[0][1].reply_code == 403


@pytest.mark.usefixtures("things")
def test_a_restriction_comes_and_goes_under_a_peer(
    admit: Callable[..., Peer], broker: Broker
) -> None:
    peer = admit(".*", ".*", ".*")
    for _ in range(3):
        peer.publish("key", b"body", exchange="x")
    restrict(broker, "^other$", "")
    broker.apply(delete(TopicPermissionDefinition("/", "ann", "x", "^other$", "")))
    peer.publish("key", b"body", exchange="x")
    assert peer.received() == []

    restrict(broker, "^other$", "")
    peer.publish("key", b"body", exchange="x")

    assert peer.received()[0][1].reply_code == 403


# -- users ---------------------------------------------------------------------------------------


def test_a_user_who_is_deleted_is_thrown_out(
    admit: Callable[..., Peer], broker: Broker, peer: Peer
) -> None:
    ann = admit(".*", ".*", ".*")

    broker.apply(delete(broker.users["ann"]))
    ann.settle_down()

    [(channel, close)] = ann.received()
    assert channel == 0
    assert close.reply_text == "CONNECTION_FORCED - user 'ann' is deleted"
    assert not broker.may_enter("ann", "/")
    assert peer.declare("q") == "q"


def test_the_rights_go_with_their_virtual_host(broker: Broker) -> None:
    broker.apply(put(VHostDefinition("v")))
    broker.apply(put(PermissionDefinition("v", "guest", ".*", ".*", ".*")))
    broker.apply(put(TopicPermissionDefinition("v", "guest", "x", "", "")))

    broker.apply(delete(VHostDefinition("v")))
    broker.apply(put(VHostDefinition("v")))

    assert not broker.may_enter("guest", "v")
    assert broker.may_enter("guest", "/")
