"""A channel without a connection: how the broker itself publishes for somebody.

What it publishes goes the way of all messages, with the same rights, rules and errors.
"""

from pamqp import commands

from amqpbroker.broker.access import Access
from amqpbroker.broker.broker import Broker
from amqpbroker.broker.channel import Channel
from amqpbroker.broker.session import Ends, Session
from amqpbroker.broker.vhost import VHost
from amqpbroker.definitions import UserDefinition
from amqpbroker.errors import DiskFailure
from amqpbroker.protocol.connection import Connection, State
from amqpbroker.protocol.content import encode_address, encode_content
from amqpbroker.protocol.events import Publish, PublishMethod
from amqpbroker.protocol.properties import read_properties
from amqpbroker.queues.queue import Pending

_CHANNEL = 1


class _ConfirmedChannel(Channel):
    """A channel for one message, whose confirm is the answer."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, _CHANNEL)
        self.publisher.window.confirming = True
        self.taken: Pending[bool] = Pending()
        """Whether the message is safe: an ack, or a nack."""
        self.is_confirmed: bool | None = None

    def confirm(self, sequence: int, multiple: bool) -> None:
        self._settle_message(True)

    def refuse(self, sequence: int, multiple: bool) -> None:
        self._settle_message(False)

    def _settle_message(self, is_safe: bool) -> None:
        self.is_confirmed = is_safe
        self.taken.resolve(is_safe)


class _InnerSession(Session):
    """A session that nobody is told of; what goes wrong later is the answer."""

    def _answer_fault(self, channel: Channel | None, index: int, error: Exception) -> None:
        if isinstance(error, DiskFailure):
            raise error
        assert isinstance(channel, _ConfirmedChannel), channel
        channel.taken.fail(error)


class InnerPublisher:
    """Publishes one message in ``vhost`` for ``user``; to be closed."""

    def __init__(
        self, broker: Broker, vhost: VHost, user: UserDefinition, access: Access, ends: Ends
    ) -> None:
        connection = Connection(broker.limits.wire, {}, broker.world.clock.monotonic_s())
        connection.state = State.RUNNING
        self._session = _InnerSession(broker, connection, ends, _nothing, _nothing)
        self._session.user, self._session.vhost, self._session.access = user, vhost, access
        self._channel = _ConfirmedChannel(self._session)
        self._session.channels[_CHANNEL] = self._channel

    def publish(
        self, exchange: str, routing_key: str, properties: commands.Basic.Properties, body: bytes
    ) -> bool | Pending[bool]:
        """Publish; whether it is safe. Raises what AMQP has against it."""
        block = properties.marshal()
        channel = self._channel
        address = encode_address(exchange, routing_key)
        method = PublishMethod(b"", address, exchange, routing_key, True, False)
        frame_max = self._session.connection.frame_max
        raw = encode_content(_CHANNEL, block, body, frame_max)
        channel.handle(Publish(_CHANNEL, method, read_properties(block), [raw]))
        channel.publisher.window.advance()
        return channel.taken if channel.is_confirmed is None else channel.is_confirmed

    @property
    def is_routed(self) -> bool:
        """Whether some queue has it."""
        return not self._channel.publisher.counts.returned

    def close(self) -> None:
        """It is over."""
        self._session.close()


def _nothing() -> None:
    """Nobody listens."""
