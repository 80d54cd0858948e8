"""pika as the programs of others use it."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from amqpbroker.testing.thread import VHostForTest

pytestmark = pytest.mark.slow

PATIENCE_S = 20

Connect = Callable[..., pika.BlockingConnection]


@pytest.fixture
def connect(amqp_vhost: VHostForTest) -> Iterator[Connect]:
    """Open a connection with options of pika's; it is closed after the test."""
    connections: list[pika.BlockingConnection] = []

    def connect(**options: Any) -> pika.BlockingConnection:
        parameters = pika.URLParameters(amqp_vhost.url)
        for name, value in options.items():
            setattr(parameters, name, value)
        connections.append(pika.BlockingConnection(parameters))
        return connections[-1]

    yield connect
    for connection in connections:
        if connection.is_open:
            connection.close()


@pytest.fixture
def channel(connect: Connect) -> BlockingChannel:
    return connect().channel()


def take(channel: BlockingChannel, queue: str, count: int) -> list[tuple[Any, Any, bytes]]:
    """The next ``count`` deliveries; the consumer stays."""
    taken = []
    for delivery in channel.consume(queue, inactivity_timeout=PATIENCE_S):
        assert delivery[0] is not None, f"no more than {len(taken)} deliveries"
        taken.append(delivery)
        if len(taken) == count:
            break
    return taken


# -- publishing --------------------------------------------------------------------------------


def test_a_confirmed_publish_is_in_the_queue(channel: BlockingChannel) -> None:
    channel.queue_declare("q")
    channel.confirm_delivery()

    for number in range(100):
        channel.basic_publish("", "q", b"%d" % number, mandatory=True)

    assert channel.queue_declare("q", passive=True).method.message_count == 100


def test_a_mandatory_message_that_nobody_wants_comes_back(channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    properties = pika.BasicProperties(message_id="7", headers={"a": 1})

    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        channel.basic_publish("amq.direct", "nowhere", b"body", properties, mandatory=True)

    (returned,) = caught.value.messages
    assert returned.method.reply_code == 312
    assert (returned.method.exchange, returned.method.routing_key) == ("amq.direct", "nowhere")
    assert returned.properties.headers == {"a": 1}
    assert returned.body == b"body"


def test_a_message_that_nobody_wants_is_confirmed_if_it_is_not_mandatory(
    channel: BlockingChannel,
) -> None:
    channel.confirm_delivery()

    channel.basic_publish("amq.direct", "nowhere", b"body")

    assert channel.is_open


def test_properties_arrive_as_they_were_sent(channel: BlockingChannel) -> None:
    channel.queue_declare("q")
    properties = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"text": "ü", "number": 1 << 40, "list": [1, "b"], "table": {"a": None}},
        delivery_mode=2,
        priority=5,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
    )

    channel.basic_publish("", "q", b"", properties)

    assert channel.basic_get("q", auto_ack=True)[1] == properties


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 10 << 20])
@pytest.mark.parametrize("frame_max", [4096, 131072])
def test_a_body_arrives_octet_for_octet(connect: Connect, size: int, frame_max: int) -> None:
    sender, receiver = connect().channel(), connect(frame_max=frame_max).channel()
    receiver.queue_declare("q")
    body = hashlib.shake_256(b"seed").digest(size)

    sender.basic_publish("", "q", body)
    ((_, _, received),) = take(receiver, "q", 1)

    assert received == body


def test_a_headers_exchange_routes_by_all_and_by_any(channel: BlockingChannel) -> None:
    for queue, match in (("all", "all"), ("any", "any")):
        channel.queue_declare(queue)
        arguments = {"x-match": match, "format": "pdf", "pages": 2}
        channel.queue_bind(queue, "amq.headers", arguments=arguments)

    for number, headers in enumerate(
        (
            {"format": "pdf", "pages": 2, "more": True},
            {"format": "pdf", "pages": 3},
            {"format": "txt"},
            None,
        )
    ):
        properties = pika.BasicProperties(headers=headers)
        channel.basic_publish("amq.headers", "", b"%d" % number, properties)

    assert [body for _, _, body in take(channel, "any", 2)] == [b"0", b"1"]
    channel.cancel()
    assert [body for _, _, body in take(channel, "all", 1)] == [b"0"]
    channel.cancel()
    for queue in ("any", "all"):
        channel.queue_purge(queue)


def test_a_message_that_comes_back_without_confirms_is_called_back(
    channel: BlockingChannel,
) -> None:
    returned: list[Any] = []
    channel.add_on_return_callback(lambda _channel, *what: returned.append(what))

    channel.basic_publish("amq.direct", "nowhere", b"body", mandatory=True)
    channel.connection.process_data_events(PATIENCE_S)

    [(method, _, body)] = returned
    assert (method.reply_code, method.reply_text, body) == (312, "NO_ROUTE", b"body")


def test_a_message_goes_through_a_chain_of_exchanges_once(channel: BlockingChannel) -> None:
    for name in ("a", "b", "c"):
        channel.exchange_declare(name, "fanout")
    for source, destination in (("a", "b"), ("b", "c"), ("a", "c"), ("c", "a")):
        channel.exchange_bind(destination, source)
    channel.queue_declare("q")
    channel.queue_bind("q", "c")

    channel.basic_publish("a", "", b"through")
    channel.exchange_unbind("b", "a")
    channel.exchange_unbind("c", "a")
    channel.basic_publish("a", "", b"nowhere")

    got = [channel.basic_get("q", auto_ack=True) for _ in range(2)]
    assert [body for _, _, body in got] == [b"through", None]


def test_a_transaction_is_all_or_nothing(connect: Connect) -> None:
    channel, other = connect().channel(), connect().channel()
    channel.queue_declare("q")
    channel.tx_select()

    channel.basic_publish("", "q", b"1")
    channel.tx_rollback()
    for body in (b"2", b"3"):
        channel.basic_publish("", "q", body)
    assert other.basic_get("q") == (None, None, None)
    channel.tx_commit()
    method, _, body = channel.basic_get("q")
    assert body == b"2"
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()
    channel.close()

    got = [other.basic_get("q", auto_ack=True) for _ in range(3)]
    assert [body for _, _, body in got] == [b"2", b"3", None]


def test_a_call_is_answered_directly(channel: BlockingChannel) -> None:
    """pika's example of direct reply-to: no queue for the answers."""
    answers: list[bytes] = []

    def serve(channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
        channel.basic_publish("", properties.reply_to, body.upper())
        channel.basic_ack(method.delivery_tag)

    def take(channel: BlockingChannel, _method: Any, _properties: Any, body: bytes) -> None:
        answers.append(body)
        channel.stop_consuming()

    channel.queue_declare("server", exclusive=True, auto_delete=True)
    channel.basic_consume("server", serve)
    channel.basic_consume("amq.rabbitmq.reply-to", take, auto_ack=True)
    properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    channel.basic_publish("", "server", b"marco", properties)
    channel.start_consuming()

    assert answers == [b"MARCO"]


# -- consuming ---------------------------------------------------------------------------------


def test_the_consume_generator_gives_messages_in_order(channel: BlockingChannel) -> None:
    channel.queue_declare("q")
    for number in range(50):
        channel.basic_publish("", "q", b"%d" % number)

    taken = take(channel, "q", 50)

    assert [body for _, _, body in taken] == [b"%d" % number for number in range(50)]
    assert [method.delivery_tag for method, _, _ in taken] == list(range(1, 51))


def test_cancelling_the_generator_puts_back_what_was_not_acknowledged(
    channel: BlockingChannel,
) -> None:
    channel.queue_declare("q")
    for number in range(10):
        channel.basic_publish("", "q", b"%d" % number)
    taken = take(channel, "q", 4)
    channel.basic_ack(taken[-1][0].delivery_tag, multiple=True)

    channel.cancel()

    assert channel.queue_declare("q", passive=True).method.message_count == 6


def test_basic_get_says_what_is_left(channel: BlockingChannel) -> None:
    channel.queue_declare("q")
    assert channel.basic_get("q") == (None, None, None)
    for body in (b"a", b"b", b"c"):
        channel.basic_publish("", "q", body)

    got = [channel.basic_get("q", auto_ack=True) for _ in range(3)]

    assert [body for _, _, body in got] == [b"a", b"b", b"c"]
    assert [method.message_count for method, _, _ in got] == [2, 1, 0]


def test_a_rejected_message_comes_again_marked_or_not_at_all(channel: BlockingChannel) -> None:
    channel.queue_declare("q")
    channel.basic_publish("", "q", b"body")
    method, _, _ = channel.basic_get("q")
    assert not method.redelivered

    channel.basic_nack(method.delivery_tag, requeue=True)
    method, _, body = channel.basic_get("q")
    assert (method.redelivered, body) == (True, b"body")
    channel.basic_nack(method.delivery_tag, requeue=False)

    assert channel.basic_get("q") == (None, None, None)


def test_messages_that_are_requeued_keep_their_order(channel: BlockingChannel) -> None:
    channel.queue_declare("q")
    for number in range(10):
        channel.basic_publish("", "q", b"%d" % number)
    got = [channel.basic_get("q") for _ in range(5)]

    channel.basic_nack(got[-1][0].delivery_tag, multiple=True, requeue=True)

    again = [channel.basic_get("q", auto_ack=True) for _ in range(10)]
    assert [body for _, _, body in again] == [b"%d" % number for number in range(10)]
    assert [method.redelivered for method, _, _ in again] == [True] * 5 + [False] * 5


def test_a_consumer_has_no_more_unsettled_than_its_prefetch(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    channel.queue_declare("q")
    channel.basic_qos(prefetch_count=3)
    for number in range(10):
        channel.basic_publish("", "q", b"%d" % number)
    tags: list[int] = []
    channel.basic_consume("q", lambda _channel, method, *_: tags.append(method.delivery_tag))

    def after(count: int) -> int:
        """The deliveries, once there are ``count`` and the broker has had time for one more."""
        while len(tags) < count:
            connection.process_data_events(PATIENCE_S)
        channel.queue_declare("q", passive=True)
        connection.process_data_events(0)
        return len(tags)

    assert after(3) == 3
    channel.basic_ack(2, multiple=True)
    assert after(5) == 5
    channel.basic_ack(5)
    assert after(6) == 6


def test_a_consumer_is_told_when_its_queue_is_deleted(connect: Connect) -> None:
    channel, other = connect().channel(), connect().channel()
    channel.queue_declare("q")
    channel.basic_publish("", "q", b"body")
    consumer = channel.consume("q", inactivity_timeout=PATIENCE_S)
    next(consumer)

    other.queue_delete("q")

    assert list(consumer) == []


def test_a_consumer_that_is_called_back_is_told_when_its_queue_is_deleted(connect: Connect) -> None:
    channel, other = connect().channel(), connect().channel()
    channel.queue_declare("q")
    told: list[str] = []
    channel.add_on_cancel_callback(lambda frame: told.append(frame.method.consumer_tag))
    tag = channel.basic_consume("q", lambda *_: None)

    other.queue_delete("q")
    channel.start_consuming()  # Until there is no consumer left.

    assert told == [tag]


@pytest.mark.parametrize(("queue", "exchange"), [("gone", "amq.direct"), ("q", "gone")])
def test_unbinding_what_is_gone_is_no_fault(
    channel: BlockingChannel, queue: str, exchange: str
) -> None:
    channel.queue_declare("q")

    channel.queue_unbind(queue, exchange, "key")

    assert channel.is_open


# -- connections and channels ------------------------------------------------------------------


def test_an_error_closes_its_channel_and_no_other(connect: Connect) -> None:
    connection = connect()
    broken, sound = connection.channel(), connection.channel()

    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        broken.queue_declare("missing", passive=True)

    assert caught.value.reply_code == 404
    assert caught.value.reply_text.startswith("NOT_FOUND - no queue 'missing' in vhost '")
    assert sound.queue_declare("q").method.queue == "q"
    assert connection.channel(broken.channel_number).queue_declare("q").method.queue == "q"


def test_an_exclusive_queue_is_locked_to_others_and_gone_with_its_owner(connect: Connect) -> None:
    owner = connect()
    owner.channel().queue_declare("mine", exclusive=True)

    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        connect().channel().queue_declare("mine", passive=True)
    owner.close()

    assert caught.value.reply_code == 405
    assert connect().channel().queue_declare("mine").method.message_count == 0


@pytest.mark.parametrize(("asked_s", "agreed_s"), [(None, 60), (600, 600), (5, 5), (0, 0)], ids=str)
def test_the_client_has_the_last_word_about_heartbeats(
    connect: Connect, asked_s: int | None, agreed_s: int
) -> None:
    connection = connect(heartbeat=asked_s)

    assert connection._impl.params.heartbeat == agreed_s


def test_a_wrong_password_is_refused_with_a_reason(connect: Connect) -> None:
    with pytest.raises(pika.exceptions.ProbableAuthenticationError) as caught:
        connect(credentials=pika.PlainCredentials("guest", "wrong"))

    assert "403" in str(caught.value)
    assert "ACCESS_REFUSED" in str(caught.value)


def test_a_virtual_host_that_is_not_there_is_refused(connect: Connect) -> None:
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError) as caught:
        connect(virtual_host="nowhere")

    assert "(530) 'NOT_ALLOWED - vhost nowhere not found'" in str(caught.value)


def test_a_secret_can_be_renewed(connect: Connect) -> None:
    connection = connect()

    connection.update_secret("guest", "it was time")

    assert connection.channel().queue_declare("q").method.queue == "q"


def test_a_connection_is_not_blocked_as_long_as_there_is_memory(connect: Connect) -> None:
    connection = connect()
    told: list[Any] = []
    connection.add_on_connection_blocked_callback(lambda *frame: told.append(frame))
    connection.add_on_connection_unblocked_callback(lambda *frame: told.append(frame))
    channel = connection.channel()
    channel.queue_declare("q")
    channel.confirm_delivery()

    for _ in range(20):
        channel.basic_publish("", "q", bytes(1 << 20))
    connection.process_data_events(0)

    assert told == []


def test_many_threads_have_connections_of_their_own(connect: Connect) -> None:
    setup = connect().channel()
    setup.exchange_declare("x", "direct")
    received: dict[int, list[bytes]] = {}

    def talk(number: int) -> None:
        connection = connect()
        channel = connection.channel()
        channel.confirm_delivery()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "x", str(number))
        for i in range(50):
            channel.basic_publish("x", str(number), b"%d:%d" % (number, i), mandatory=True)
        received[number] = [body for _, _, body in take(channel, queue, 50)]
        connection.close()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert received == {number: [b"%d:%d" % (number, i) for i in range(50)] for number in range(30)}


# -- asynchronous pika -------------------------------------------------------------------------


class Confirmed:
    """A SelectConnection that publishes without waiting, and counts what is confirmed."""

    def __init__(self, url: str, messages: int) -> None:
        self.messages = messages
        self.confirmed: set[int] = set()
        self.delivered: list[bytes] = []
        self._next = 1
        self._channel: Any = None
        self.connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(
                on_open_callback=self._channel_opened
            ),
            on_close_callback=lambda connection, _: connection.ioloop.stop(),
        )

    def _channel_opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._answered)
        channel.queue_declare("q", callback=self._declared)

    def _declared(self, _frame: Any) -> None:
        self._channel.basic_consume("q", self._took, auto_ack=True)
        for number in range(self.messages):
            self._channel.basic_publish("", "q", b"%d" % number)

    def _answered(self, frame: Any) -> None:
        assert isinstance(frame.method, pika.spec.Basic.Ack), frame
        tag = frame.method.delivery_tag
        first = self._next if frame.method.multiple else tag
        answered = set(range(first, tag + 1)) - (self.confirmed if frame.method.multiple else set())
        assert not answered & self.confirmed, "confirmed twice"
        self.confirmed |= answered
        while self._next in self.confirmed:
            self._next += 1
        self._end_if_done()

    def _took(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.delivered.append(body)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if len(self.confirmed) == len(self.delivered) == self.messages:
            self.connection.close()


def test_thousands_of_publishes_are_confirmed_without_waiting_for_each(
    amqp_vhost: VHostForTest,
) -> None:
    client = Confirmed(amqp_vhost.url, 5000)

    client.connection.ioloop.start()
    client.connection.ioloop.close()

    assert client.confirmed == set(range(1, 5001))
    assert client.delivered == [b"%d" % number for number in range(5000)]


class Asked:
    """A SelectConnection that does one thing after the other, each when the last was answered."""

    def __init__(self, url: str) -> None:
        self.answers: list[str] = []
        self._channel: Any = None
        self.connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(
                on_open_callback=self._channel_opened
            ),
            on_close_callback=lambda connection, _: connection.ioloop.stop(),
        )

    def _channel_opened(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda *_: self.connection.close())
        self._steps = iter(
            (
                lambda then: channel.exchange_declare("a", "topic", callback=then),
                lambda then: channel.exchange_declare("b", "fanout", callback=then),
                lambda then: channel.exchange_bind("b", "a", "key.*", callback=then),
                lambda then: channel.queue_declare("q", callback=then),
                lambda then: channel.queue_bind("q", "b", callback=then),
                lambda then: channel.basic_qos(prefetch_count=1, callback=then),
                lambda then: channel.tx_select(callback=then),
                self._publish,
                lambda then: channel.tx_rollback(callback=then),
                self._publish,
                lambda then: channel.tx_commit(callback=then),
                lambda then: channel.basic_consume("q", self._took, callback=then),
            )
        )
        self._next()

    def _publish(self, then: Callable[[Any], None]) -> None:
        self._channel.basic_publish("a", "key.1", b"body")
        then(None)

    def _next(self, answer: Any = None) -> None:
        if answer is not None:
            self.answers.append(answer.method.NAME)
        for step in self._steps:
            step(self._next)
            break

    def _took(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        self.answers.append(f"{method.delivery_tag} {body.decode()}")
        channel.basic_ack(method.delivery_tag)
        channel.tx_commit(callback=lambda _: channel.close())


def test_everything_can_be_asked_without_waiting(amqp_vhost: VHostForTest) -> None:
    client = Asked(amqp_vhost.url)

    client.connection.ioloop.start()
    client.connection.ioloop.close()

    assert client.answers == [
        *("Exchange.DeclareOk", "Exchange.DeclareOk", "Exchange.BindOk"),
        *("Queue.DeclareOk", "Queue.BindOk", "Basic.QosOk"),
        *("Tx.SelectOk", "Tx.RollbackOk", "Tx.CommitOk"),
        *("Basic.ConsumeOk", "1 body"),
    ]
