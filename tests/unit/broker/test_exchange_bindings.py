"""Exchanges bound to exchanges, and alternate exchanges, as a peer sees them."""

from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands

from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
exchange, queue = commands.Exchange, commands.Queue


def declare(peer: Peer, name: str, kind: str = "fanout", **options: Any) -> None:
    answer = peer.call(exchange.Declare(exchange=name, exchange_type=kind, **options))
    assert isinstance(answer, exchange.DeclareOk), answer


def link(peer: Peer, source: str, destination: str, key: str = "") -> Any:
    return peer.call(exchange.Bind(destination=destination, source=source, routing_key=key))


def count(peer: Peer, name: str) -> int:
    answer: int = peer.call(queue.Declare(queue=name, passive=True)).message_count
    return answer


@pytest.fixture
def chain(peer: Peer) -> Peer:
    """``first`` leads to ``second`` for the key ``k``, and that to the queue ``q``."""
    declare(peer, "first", "direct")
    declare(peer, "second")
    peer.declare("q")
    assert isinstance(link(peer, "first", "second", "k"), exchange.BindOk)
    peer.call(queue.Bind(queue="q", exchange="second"))
    return peer


def test_messages_go_from_exchange_to_exchange(chain: Peer) -> None:
    chain.publish("k", b"1", b"2", exchange="first")
    chain.publish("another", b"3", exchange="first")

    assert count(chain, "q") == 2


def test_a_remembered_way_ends_when_an_exchange_far_away_loses_its_binding(chain: Peer) -> None:
    for _ in range(3):
        chain.publish("k", b"here", exchange="first")
    chain.call(queue.Unbind(queue="q", exchange="second"))

    chain.publish("k", b"nowhere", exchange="first")

    assert count(chain, "q") == 3


def test_an_unbound_exchange_gets_nothing(chain: Peer) -> None:
    unbind = exchange.Unbind(destination="second", source="first", routing_key="k")
    assert isinstance(chain.call(unbind), exchange.UnbindOk)
    assert isinstance(chain.call(unbind), exchange.UnbindOk)

    chain.publish("k", b"1", exchange="first")

    assert count(chain, "q") == 0


def test_bindings_of_exchanges_need_no_answer(peer: Peer) -> None:
    declare(peer, "x")
    peer.send(exchange.Bind(destination="x", source="amq.direct", nowait=True))
    peer.send(exchange.Unbind(destination="x", source="amq.direct", nowait=True))

    assert peer.received() == []


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        (exchange.Bind(0, "none", "amq.direct"), 404, "NOT_FOUND - no exchange 'none'"),
        (exchange.Bind(0, "amq.direct", "none"), 404, "NOT_FOUND - no exchange 'none'"),
        (exchange.Bind(0, "", "amq.direct"), 403, "ACCESS_REFUSED - operation not permitted on"),
        (exchange.Bind(0, "amq.direct", ""), 403, "ACCESS_REFUSED - operation not permitted on"),
        (exchange.Unbind(0, "", "amq.direct"), 403, "ACCESS_REFUSED - operation not permitted"),
    ],
)
def test_ends_that_are_not_there_or_not_to_be_bound(
    peer: Peer, method: Any, code: int, text: str
) -> None:
    close = peer.call(method)

    assert isinstance(close, commands.Channel.Close)
    assert close.reply_code == code
    assert close.reply_text.startswith(text)


def test_deleting_the_destination_ends_the_binding(chain: Peer) -> None:
    chain.call(exchange.Delete(exchange="second"))
    declare(chain, "second")

    chain.publish("k", b"1", exchange="first")

    assert count(chain, "q") == 0
    assert chain.session.vhost is not None
    assert chain.session.vhost.router.exchanges["first"].bindings == {}


def test_an_exchange_with_bindings_to_others_is_in_use(chain: Peer) -> None:
    close = chain.call(exchange.Delete(exchange="first", if_unused=True))

    assert close.reply_code == 406
    assert close.reply_text == "PRECONDITION_FAILED - exchange 'first' in vhost '/' in use"


def exists(connect: Connect, name: str) -> bool:
    answer = connect(1).call(exchange.Declare(exchange=name, passive=True))
    return isinstance(answer, exchange.DeclareOk)


def test_auto_delete_exchanges_go_with_their_last_binding_along_a_chain(
    peer: Peer, connect: Connect
) -> None:
    for name in ("a", "b", "c"):
        declare(peer, name, auto_delete=True)
    link(peer, "a", "b")
    link(peer, "b", "c")
    peer.declare("q")
    peer.call(queue.Bind(queue="q", exchange="c"))

    peer.call(queue.Delete(queue="q"))

    assert not any(exists(connect, name) for name in ("a", "b", "c"))


def test_auto_delete_exchanges_in_a_circle_go_together(peer: Peer, connect: Connect) -> None:
    for name in ("a", "b"):
        declare(peer, name, auto_delete=True)
    link(peer, "a", "b")
    link(peer, "b", "a")
    link(peer, "a", "a")

    peer.call(exchange.Delete(exchange="b"))

    assert not exists(connect, "b")
    assert exists(connect, "a")  # It is still bound to itself.
    peer.call(exchange.Delete(exchange="a"))
    assert not exists(connect, "a")


def test_an_exchange_deleted_with_others_that_lead_to_it_and_back(
    peer: Peer, connect: Connect
) -> None:
    for name in ("a", "b", "n"):
        declare(peer, name, auto_delete=True)
    link(peer, "a", "n")
    link(peer, "b", "n")
    link(peer, "n", "a")

    assert isinstance(peer.call(exchange.Delete(exchange="n")), exchange.DeleteOk)

    assert not any(exists(connect, name) for name in ("a", "b", "n"))


def test_a_chain_of_auto_delete_exchanges_may_be_long(peer: Peer, connect: Connect) -> None:
    for number in range(400):
        declare(peer, f"x{number}", auto_delete=True)
    for number in range(399):
        link(peer, f"x{number}", f"x{number + 1}")
    peer.declare("q")
    peer.call(queue.Bind(queue="q", exchange="x399"))

    assert isinstance(peer.call(queue.Delete(queue="q")), queue.DeleteOk)

    assert not exists(connect, "x0")


# -- alternate exchanges -------------------------------------------------------------------------


def test_what_nobody_takes_goes_to_the_alternate_exchange(peer: Peer) -> None:
    declare(peer, "rest")
    declare(peer, "main", "direct", arguments={"alternate-exchange": "rest"})
    peer.declare("q")
    peer.call(queue.Bind(queue="q", exchange="rest"))

    for _ in range(3):
        peer.publish("any", b"unwanted", exchange="main", mandatory=True)

    assert count(peer, "q") == 3


def test_a_mandatory_message_comes_back_if_the_alternate_has_no_use_for_it(peer: Peer) -> None:
    declare(peer, "rest")
    declare(peer, "main", "direct", arguments={"alternate-exchange": "rest"})

    peer.publish("any", b"unwanted", exchange="main", mandatory=True)

    assert isinstance(peer.received()[0][1], commands.Basic.Return)


def test_an_alternate_exchange_is_a_name(peer: Peer) -> None:
    arguments = {"alternate-exchange": 5}

    close = peer.call(exchange.Declare(exchange="x", arguments=arguments))

    assert close.reply_code == 406
    assert close.reply_text == (
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange'"
        " in exchange 'x' in vhost '/'"
    )
