"""What travels: messages in runs.

A *run* is a list of messages that came one after another on one channel with the same address.
Everything such messages share is said once, by an `Origin`; what is left of each is the bytes of
its content frames, as they came off the wire. A message is therefore the pair (origin, raw), and
nowhere an object.
"""

from typing import Any

import attrs


@attrs.define(eq=False)
class Traits:
    """What the broker acts on in a message's properties.

    ``persistent``: delivery-mode 2; any other, or none, is transient (RabbitMQ). ``headers``,
    ``expiration`` and ``user_id`` are None if the message has none. ``direct_reply``: replies are
    wanted without a queue (reply-to is amq.rabbitmq.reply-to). ``special``: the message cannot go
    the short way, because of an expiration, a user-id, a direct reply, or more routing keys in its
    headers (CC, BCC).

    ``kept`` is what a message that waits in a queue keeps of them: `persistent` and `priority`, and
    one object for all messages that agree in these. Headers are for routing; in a backlog they
    would weigh more than the messages.
    """

    persistent: bool
    headers: dict[str, Any] | None = None
    priority: int = 0
    expiration: str | None = None
    user_id: str | None = None
    direct_reply: bool = False
    special: bool = False
    kept: "Traits" = attrs.field(
        default=attrs.Factory(lambda self: self, takes_self=True), repr=False
    )


@attrs.define(eq=False)
class Origin:
    """What the messages of one publisher to one address share.

    ``address`` is exchange and routing key as two AMQP short strings, ready to be sent.
    ``traits`` are those that are kept.
    ``channel`` and ``frame_max`` (octets) tell how the raw content frames were made: a consumer on
    the same channel number whose frames may be as large gets the very bytes.

    ``ttl_ms`` is how long the messages may wait by their own wish (their property expiration).
    ``expires_ms`` is the wall-clock time at which they expire: a queue where they do keeps them
    under an origin of its own that says so.
    """

    exchange: str
    routing_key: str
    address: bytes
    channel: int
    frame_max: int
    traits: Traits
    ttl_ms: int | None = None
    expires_ms: int | None = None


@attrs.define
class Batch:
    """Messages read from a log: ``origins[i]`` belongs to ``raws[i]``."""

    origins: list[Origin]
    raws: list[bytes]
