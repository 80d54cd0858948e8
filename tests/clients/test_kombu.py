"""kombu as the programs of others use it, over py-amqp."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import kombu
import pytest
from amqp.exceptions import AccessRefused
from kombu.mixins import ConsumerMixin
from kombu.pools import producers

from amqpbroker.testing.relay import Relay
from amqpbroker.testing.thread import VHostForTest

pytestmark = pytest.mark.slow

PATIENCE_S = 20

Connect = Callable[..., kombu.Connection]


@pytest.fixture
def connect(amqp_vhost: VHostForTest) -> Iterator[Connect]:
    """Open a connection with options of kombu's; it is released after the test."""
    with ExitStack() as stack:

        def connect(url: str | None = None, **options: Any) -> kombu.Connection:
            return stack.enter_context(kombu.Connection(url or amqp_vhost.url, **options))

        yield connect


@pytest.fixture
def connection(connect: Connect) -> kombu.Connection:
    return connect()


@pytest.fixture
def relay(amqp_vhost: VHostForTest) -> Iterator[Relay]:
    with Relay(amqp_vhost.host, amqp_vhost.port) as relay:
        yield relay


@pytest.fixture
def broken_url(amqp_vhost: VHostForTest, relay: Relay) -> str:
    """A way to the broker that the relay can cut."""
    return amqp_vhost.url.replace(f":{amqp_vhost.port}/", f":{relay.port}/")


def consumed(connection: kombu.Connection, queue: kombu.Queue, count: int) -> list[Any]:
    """What the next ``count`` messages hold; they are acknowledged."""
    bodies: list[Any] = []

    def take(body: Any, message: kombu.Message) -> None:
        bodies.append(body)
        message.ack()

    with connection.Consumer([queue], callbacks=[take]):
        while len(bodies) < count:
            connection.drain_events(timeout=PATIENCE_S)
    return bodies


# -- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_what_is_published_is_consumed(
    connection: kombu.Connection, serializer: str, compression: str | None
) -> None:
    queue = kombu.Queue("q", kombu.Exchange("x"), "key")
    body = {"text": "grüezi", "numbers": [1, 2.5, None]}

    connection.Producer().publish(
        body,
        exchange=queue.exchange,
        routing_key="key",
        declare=[queue],
        serializer=serializer,
        compression=compression,
        headers={"a": 1},
    )

    with connection.SimpleQueue(queue, queue_opts={}, accept=[serializer]) as simple:
        message = simple.get(timeout=PATIENCE_S)
        assert message.payload == body
        assert message.headers["a"] == 1
        assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == (
            "x",
            "key",
        )
        message.ack()


def test_a_simple_queue_is_used_like_a_queue_of_pythons(connection: kombu.Connection) -> None:
    with connection.SimpleQueue("q") as queue:
        for number in range(3):
            queue.put(number)
        queue.get(timeout=PATIENCE_S).requeue()  # The others have been fetched meanwhile.
        got = [queue.get(timeout=PATIENCE_S) for _ in range(3)]

        assert [message.payload for message in got] == [1, 2, 0]
        assert [message.delivery_info["redelivered"] for message in got] == [False, False, True]
        for message in got:
            message.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)


def test_exchanges_of_all_types_route(connection: kombu.Connection) -> None:
    bindings = {
        "direct": ("a.b", None),
        "fanout": ("", None),
        "topic": ("a.*", None),
        "headers": ("", {"x-match": "any", "format": "pdf"}),
    }
    for kind, (key, arguments) in bindings.items():
        exchange = kombu.Exchange(kind + "s", kind)
        queue = kombu.Queue(kind, exchange, key, binding_arguments=arguments)
        publish = connection.Producer(exchange=exchange).publish
        publish(kind, routing_key="a.b", headers={"format": "pdf"}, declare=[queue])

        assert consumed(connection, queue, 1) == [kind]


def test_a_message_goes_through_exchanges_that_are_bound_to_others(
    connection: kombu.Connection,
) -> None:
    channel = connection.default_channel
    source, target = kombu.Exchange("source", "topic"), kombu.Exchange("target", "fanout")
    for exchange in (source, target):
        exchange(channel).declare()
    target(channel).bind_to(source, routing_key="a.#")
    queue = kombu.Queue("q", target)
    publish = connection.Producer(exchange=source).publish

    publish("one", routing_key="a.b", declare=[queue])
    target(channel).unbind_from(source, routing_key="a.#")
    publish("two", routing_key="a.b")
    publish("three", exchange=target)

    assert consumed(connection, queue, 2) == ["one", "three"]


def test_what_an_exchange_cannot_route_goes_to_its_alternate(connection: kombu.Connection) -> None:
    rest = kombu.Exchange("rest", "fanout")
    main = kombu.Exchange("main", "direct", arguments={"alternate-exchange": "rest"})
    queue = kombu.Queue("q", rest)

    connection.Producer(exchange=main).publish("lost", routing_key="nobody", declare=[queue])

    assert consumed(connection, queue, 1) == ["lost"]


def test_urgent_messages_come_first(connection: kombu.Connection) -> None:
    queue = kombu.Queue("q", max_priority=10)
    publish = connection.Producer().publish
    for priority in (1, 7, 3, 7):
        publish(priority, routing_key="q", priority=priority, declare=[queue])

    assert consumed(connection, queue, 4) == [7, 7, 3, 1]


def test_messages_expire_where_they_lie(connection: kombu.Connection) -> None:
    dead = kombu.Queue("dead", message_ttl=0.0)
    alive = kombu.Queue("alive", expires=60)
    publish = connection.Producer().publish
    publish("by queue", routing_key="dead", declare=[dead])
    publish("by message", routing_key="alive", declare=[alive], expiration=0)
    publish("lives", routing_key="alive")

    assert consumed(connection, alive, 1) == ["lives"]
    assert dead(connection.default_channel).get() is None


# -- errors, returns and confirms --------------------------------------------------------------


def test_a_message_that_nobody_wants_comes_back(connection: kombu.Connection) -> None:
    returned: list[tuple[int, str]] = []

    def take(error: Any, exchange: str, routing_key: str, message: Any) -> None:
        returned.append((error.reply_code, routing_key))

    producer = connection.Producer(on_return=take)
    producer.publish("body", exchange="amq.direct", routing_key="nowhere", mandatory=True)
    connection.drain_events(timeout=PATIENCE_S)

    assert returned == [(312, "nowhere")]


def test_a_publish_can_wait_for_its_confirm(connect: Connect) -> None:
    connection = connect(transport_options={"confirm_publish": True})
    queue = kombu.Queue("q")
    with connection.Producer() as producer:
        for number in range(20):
            producer.publish(number, routing_key="q", declare=[queue])

    [_, ready, _] = connect().default_channel.queue_declare("q", passive=True)
    assert ready == 20


def test_a_queue_that_is_declared_otherwise_is_an_error_of_the_channel(
    connection: kombu.Connection,
) -> None:
    kombu.Queue("q", channel=connection.channel()).declare()

    with pytest.raises(connection.channel_errors) as caught:
        kombu.Queue("q", durable=False, channel=connection.channel()).declare()

    assert caught.value.reply_code == 406
    assert consumed(connection, kombu.Queue("q"), 0) == []


def test_a_wrong_password_is_a_connection_error(connect: Connect, amqp_vhost: VHostForTest) -> None:
    wrong = connect(amqp_vhost.url.replace("guest:guest", "guest:wrong"))

    with pytest.raises(AccessRefused, match="ACCESS_REFUSED"):
        wrong.connect()


def test_heartbeats_keep_a_connection(connect: Connect) -> None:
    connection = connect(heartbeat=60)
    connection.connect()

    for _ in range(10):
        connection.heartbeat_check()

    assert connection.get_heartbeat_interval() == 60
    assert connection.connected


# -- connections that break --------------------------------------------------------------------


def test_a_publish_is_repeated_on_a_new_connection(
    connect: Connect, broken_url: str, relay: Relay
) -> None:
    queue = kombu.Queue("q")
    connection = connect(broken_url, transport_options={"confirm_publish": True})
    with producers[connection].acquire(block=True) as producer:
        producer.publish("before", routing_key="q", declare=[queue])
        relay.cut()
        policy = {"interval_start": 0, "max_retries": 5}
        producer.publish("after", routing_key="q", retry=True, retry_policy=policy)

    assert consumed(connect(), queue, 2) == ["before", "after"]


def test_a_connection_fails_over_to_the_next_url(
    connect: Connect, broken_url: str, amqp_vhost: VHostForTest
) -> None:
    nobody = socket.create_server(("127.0.0.1", 0))
    dead_url = f"amqp://guest:guest@127.0.0.1:{nobody.getsockname()[1]}/"
    nobody.close()

    connection = connect(f"{dead_url};{amqp_vhost.url}")
    connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0)

    assert consumed(connection, kombu.Queue("q"), 0) == []


class Listener(ConsumerMixin):
    """Takes what comes until it has heard the last word."""

    def __init__(self, connection: kombu.Connection, on_ready: Callable[[], None]) -> None:
        self.connection = connection
        self.heard: list[str] = []
        self._on_ready = on_ready

    def get_consumers(self, consumer: Any, channel: Any) -> list[kombu.Consumer]:
        queue = kombu.Queue("q", kombu.Exchange("x", "fanout"), auto_delete=True)
        return [consumer([queue], callbacks=[self._take])]

    def on_consume_ready(self, *args: Any, **options: Any) -> None:
        self._on_ready()

    def _take(self, body: str, message: kombu.Message) -> None:
        message.ack()
        self.heard.append(body)
        self.should_stop = body == "last"


def test_a_consumer_comes_back_after_its_connection_broke(
    connect: Connect, broken_url: str, relay: Relay
) -> None:
    words = ["first", "last"]
    publish = connect().Producer(exchange=kombu.Exchange("x", "fanout")).publish

    def on_ready() -> None:
        publish(words.pop(0))
        if words:
            relay.cut()

    listener = Listener(connect(broken_url), on_ready)
    listener.run()

    assert listener.heard[-1] == "last"
    assert words == []
