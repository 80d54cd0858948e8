"""How the octets of a sound stream are cut into pieces is of no consequence."""

import random
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.protocol.frames import BODY
from amqpbroker.testing.peer import Peer
from amqpbroker.testing.streams import Streams
from amqpbroker.testing.wire import whole_frames
from amqpbroker.world import real_world

ACK = struct.pack(">I", commands.Basic.Ack.index)

streams = Streams(0)


def answers(pieces: list[bytes]) -> tuple[dict[int, list[Any]], set[int]]:
    """What the broker says on each channel, in order; and which publishes it confirms.

    How many confirms it tells at once depends on the pieces, and when, and may; so does in how many
    frames a body goes out.
    """
    broker = Broker(real_world())
    broker.boot("guest", "guest")
    peer = Peer(broker)
    for piece in pieces:
        peer.send_bytes(piece)
    said: dict[int, list[Any]] = {}
    confirmed: set[int] = set()
    for kind, channel, payload in whole_frames(peer.read_bytes()):
        if payload.startswith(ACK):
            tag, multiple = struct.unpack(">QB", payload[4:])
            first = max(confirmed, default=0) + 1 if multiple else tag
            confirmed.update(range(first, tag + 1))
            continue
        before = said.setdefault(channel, [])
        if kind == BODY and before[-1][0] == BODY:
            payload = before.pop()[1] + payload
        before.append((kind, payload))
    return said, confirmed


@given(st.integers(0, 1 << 32), st.lists(st.floats(0, 1), max_size=30))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_a_sound_stream_has_the_same_answers_wherever_it_is_cut(
    seed: int, places: list[float]
) -> None:
    data = streams.orderly(random.Random(seed))
    cuts = sorted(int(place * len(data)) for place in places)
    pieces = [data[start:stop] for start, stop in pairwise((0, *cuts, len(data)))]

    assert answers(pieces) == answers([data])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_sound_stream_has_the_same_answers_octet_by_octet(seed: int) -> None:
    data = streams.orderly(random.Random(seed))

    assert answers([data[i : i + 1] for i in range(len(data))]) == answers([data])
