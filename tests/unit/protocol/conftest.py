"""What the tests of the protocol share: a connection that has shaken hands."""

from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands

from amqpbroker.protocol.connection import Connection
from amqpbroker.protocol.frames import PROTOCOL_HEADER, encode_method
from amqpbroker.protocol.intake import WireLimits

START_OK = encode_method(0, commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"))
OPEN = encode_method(0, commands.Connection.Open("/"))


def _running(
    *channels: int, limits: WireLimits | None = None, heartbeat_s: int = 0, **agreed: Any
) -> Connection:
    """A connection at work, with ``channels`` open, an empty outbox, and nothing to be read."""
    limits = limits or WireLimits()
    connection = Connection(limits, {}, 0.0)

    def take(data: bytes) -> None:
        connection.receive(data, 0.0)
        while connection.next_event() is not None:
            pass

    take(PROTOCOL_HEADER + START_OK)
    connection.accept_login()
    frame_max = agreed.get("frame_max", limits.frame_max)
    channel_max = agreed.get("channel_max", limits.channel_max)
    take(encode_method(0, commands.Connection.TuneOk(channel_max, frame_max, heartbeat_s)) + OPEN)
    connection.open_ok()
    for channel in channels:
        take(encode_method(channel, commands.Channel.Open()))
    connection.take_outbox()
    return connection


@pytest.fixture(scope="session")
def running() -> Callable[..., Connection]:
    return _running
