"""What a peer can do, as records: the whole contract between the protocol and who acts on it."""

from typing import Any, ClassVar

import attrs
from pamqp.base import Frame

from amqpbroker.errors import SoftError
from amqpbroker.message import Traits
from amqpbroker.protocol.frames import CHANNEL_OPEN_INDEX, PUBLISH_INDEX


@attrs.define(eq=False)
class Login:
    """The peer says who it is. Answer with ``accept_login`` or ``refuse_login``."""

    mechanism: str
    user: str
    password: str
    client_properties: dict[str, Any]


@attrs.define(eq=False)
class Open:
    """The peer wants to work in ``vhost``. Answer with ``open_ok``, or close."""

    vhost: str


@attrs.define(eq=False)
class SecretUpdated:
    """The peer's credentials were renewed (RabbitMQ's extension). Answer with update-secret-ok."""

    secret: bytes
    reason: str


@attrs.define(eq=False)
class Closed:
    """The connection is over; ``by_peer`` wants close-ok once everything is put away."""

    by_peer: bool
    code: int = 0
    text: str = ""


@attrs.define(eq=False)
class ChannelOpened:
    """A channel was opened; open-ok is on its way."""

    index: ClassVar[int] = CHANNEL_OPEN_INDEX

    channel: int


@attrs.define(eq=False)
class ChannelFault:
    """The peer's content broke a rule of channel rank: close the channel with ``error``."""

    channel: int
    error: SoftError
    index: int


@attrs.define(eq=False)
class Method:
    """Any method of a channel that has no record of its own."""

    channel: int
    method: Frame

    @property
    def index(self) -> int:
        """Class and method number."""
        return self.method.index


@attrs.define(eq=False)
class PublishMethod:
    """A basic.publish method; equal ones on a connection are mostly the same object.

    ``payload`` is what stood on the wire, good as a key; ``address`` the part of it that is
    exchange and routing key.
    """

    payload: bytes
    address: bytes
    exchange: str
    routing_key: str
    mandatory: bool
    immediate: bool


@attrs.define(eq=False)
class Publish:
    """A run: messages with one method and the same traits. ``raws`` are their content frames."""

    index: ClassVar[int] = PUBLISH_INDEX

    channel: int
    method: PublishMethod
    traits: Traits
    raws: list[bytes]


@attrs.define(eq=False)
class Settle:
    """Deliveries ``first`` … ``last`` are settled by the method ``index``.

    With ``multiple`` it is all deliveries up to ``last``; if that is 0, all there are.
    """

    channel: int
    index: int
    first: int
    last: int
    multiple: bool
    requeue: bool


@attrs.define(eq=False)
class Worked:
    """Work was done that no other event tells of, as much as ``work`` messages take.

    So frames without a meaning of their own, and large tables, count in a turn.
    """

    work: int


ChannelEvent = ChannelOpened | ChannelFault | Method | Publish | Settle
Event = Login | Open | SecretUpdated | Closed | Worked | ChannelEvent
