"""Publishes and acks in runs: whatever is predicted or taken in one go is what was sent.

The truth is a parser that looks at one frame at a time and predicts nothing.
"""

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands

from amqpbroker.errors import (
    ChannelError,
    FrameError,
    HardError,
    MalformedSyntax,
    PreconditionFailed,
)
from amqpbroker.errors import UnexpectedFrame as Unexpected
from amqpbroker.protocol.connection import Connection, State
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.events import ChannelFault, Event, Method, Publish, Settle, Worked
from amqpbroker.protocol.frames import (
    BODY,
    CONTENT_HEADER,
    FRAME_END,
    FRAME_HEADER,
    HEADER,
    HEARTBEAT_FRAME,
    METHOD,
    decode_method,
    encode_method,
    frame,
)
from amqpbroker.protocol.intake import RUN_MAX, WireLimits
from amqpbroker.protocol.properties import PERSISTENT, PLAIN, read_properties

Running = Callable[..., Connection]
Item = tuple[Any, ...]

property_test = settings(max_examples=250, derandomize=True, deadline=None)

FRAME_MAX = 4096
LIMITS = WireLimits(frame_max=FRAME_MAX, message_bytes_max=5000)
CHANNELS = (1, 2)


# -- what came out -------------------------------------------------------------------------------


def content_of(raw: bytes) -> tuple[int, bytes, bytes]:
    """Channel, header payload and body of content frames, which must be sound."""
    kind, channel, size = FRAME_HEADER.unpack_from(raw)
    assert kind == HEADER
    header, body = raw[7 : 7 + size], b""
    position = size + 8
    assert raw[position - 1] == FRAME_END
    while position < len(raw):
        kind, number, size = FRAME_HEADER.unpack_from(raw, position)
        assert (kind, number) == (BODY, channel)
        body += raw[position + 7 : position + 7 + size]
        position += size + 8
        assert raw[position - 1] == FRAME_END
    return channel, header, body


def items_of(event: Event) -> list[Item]:
    """An event as what it stands for: every message and every ack by itself."""
    if isinstance(event, Publish):
        method = event.method
        items: list[Item] = []
        for raw in event.raws:
            channel, header, body = content_of(raw)
            assert channel == event.channel
            traits = read_properties(header[12:])
            assert repr(traits) == repr(event.traits)
            items.append(("publish", channel, method.payload, method.exchange, header, body))
        return items
    if isinstance(event, Settle):
        settled = range(event.first, event.last + 1)
        assert settled
        assert not event.multiple or len(settled) == 1
        return [(event.index, event.channel, tag, event.multiple, event.requeue) for tag in settled]
    if isinstance(event, ChannelFault):
        return [("fault", event.channel, event.error.code)]
    assert isinstance(event, Method), event
    return [("method", event.channel, event.index)]


def feed(connection: Connection, pieces: list[bytes]) -> list[Item]:
    """What ``pieces`` bring, one after another; faults are answered as the broker does.

    The first error counts, as it closes the connection.
    """
    items: list[Item] = []
    for piece in pieces:
        connection.receive(piece, 0.0)
        while True:
            try:
                event = connection.next_event()
            except HardError as error:
                if connection.state is State.RUNNING:
                    items.append(("error", error.code))
                connection.fail(error)
                continue
            if event is None:
                break
            if not isinstance(event, Worked):
                items += items_of(event)
            if isinstance(event, ChannelFault):
                connection.close_channel(event.channel, event.error, event.index)
    return items


# -- what should come out ------------------------------------------------------------------------


class OneFrameAtATime:
    """Reads frames of open channels, each by itself, and says what they mean."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.half: dict[int, list[Any]] = {}
        self.closing: set[int] = set()

    def read(self, data: bytes) -> list[Item]:
        try:
            while len(data) >= 7:
                kind, channel, size = FRAME_HEADER.unpack_from(data)
                if size > FRAME_MAX:
                    raise FrameError("too large")
                if len(data) < size + 8:
                    break
                if data[size + 7] != FRAME_END:
                    raise FrameError("no end")
                self.frame(kind, channel, data[7 : size + 7])
                data = data[size + 8 :]
        except HardError as error:
            self.items.append(("error", error.code))
        return self.items

    def frame(self, kind: int, channel: int, payload: bytes) -> None:
        if kind == 8 and channel == 0 and not payload:
            return
        if kind not in (METHOD, HEADER, BODY, 8) or (kind == 8 and payload):
            raise FrameError("type")
        if len(payload) < {METHOD: 4, HEADER: 12}.get(kind, 0):
            raise FrameError("too short")
        if kind == 8 or (channel == 0 and kind != METHOD):
            raise Unexpected("type")
        if kind == METHOD and channel not in self.closing and channel not in self.half:
            self.method(channel, payload)
        elif channel in self.closing:
            if payload[:4] == b"\0\x14\0\x0a" and kind == METHOD:
                raise ChannelError("open already")
        elif kind == METHOD or channel not in self.half:
            raise Unexpected("no method")
        else:
            self.content(kind, channel, payload)

    def method(self, channel: int, payload: bytes) -> None:
        method = decode_method(payload)
        if channel not in CHANNELS or isinstance(method, commands.Channel.Open):
            raise ChannelError("not open, or open already")
        if isinstance(method, commands.Basic.Publish):
            self.half[channel] = [payload, method.exchange]
        elif isinstance(method, commands.Basic.Ack | commands.Basic.Nack | commands.Basic.Reject):
            multiple, requeue = (
                getattr(method, "multiple", False),
                getattr(method, "requeue", False),
            )
            self.items.append((method.index, channel, method.delivery_tag, multiple, requeue))
        else:
            self.items.append(("method", channel, method.index))

    def content(self, kind: int, channel: int, payload: bytes) -> None:
        half = self.half[channel]
        if len(half) == 2:
            if kind != HEADER:
                raise Unexpected("no header")
            class_id, weight, size = CONTENT_HEADER.unpack_from(payload)
            if class_id != 60 or weight:
                raise Unexpected("class")
            if size > LIMITS.message_bytes_max:
                self.items.append(("fault", channel, PreconditionFailed.code))
                self.closing.add(channel)
                del self.half[channel]
                return
            read_properties(payload[12:])
            half += [size, payload, b""]
        else:
            if kind != BODY:
                raise Unexpected("no body")
            half[4] += payload
            if len(half[4]) > half[2]:
                raise FrameError("long body")
        if len(half[4]) == half[2]:
            publish, exchange, _, header, body = self.half.pop(channel)
            self.items.append(("publish", channel, publish, exchange, header, body))


# -- streams -------------------------------------------------------------------------------------


def message(channel: int, key: str, block: bytes, body: bytes, frame_max: int) -> list[bytes]:
    method = encode_method(channel, commands.Basic.Publish(0, "", key))
    content = encode_content(channel, block, body, frame_max)
    frames = [method]
    while content:
        size = FRAME_HEADER.unpack_from(content)[2] + 8
        frames.append(content[:size])
        content = content[size:]
    return frames


def ack(channel: int, tag: int, multiple: bool = False) -> bytes:
    return encode_method(channel, commands.Basic.Ack(tag, multiple))


def block_with(**properties: Any) -> bytes:
    return commands.Basic.Properties(**properties).marshal()


BLOCKS = (
    block_with(),
    block_with(delivery_mode=2),
    block_with(message_id="m1"),
    block_with(message_id="m2"),
    block_with(message_id="m2", delivery_mode=2),
    block_with(headers={"a": 1}),
    block_with(headers={"a": 2}, correlation_id="1"),
    b"\x80\0\xff",
)
BODIES = (b"", b"aaaa", b"bbbb", b"\xce\xce\xce\xce", b"longer body", b"x" * 5001)
# Most messages are like others, so that what is predicted comes true, and nearly so.
MESSAGES = st.builds(
    message,
    st.sampled_from(CHANNELS),
    st.sampled_from(["q", "q", "r"]),
    st.sampled_from((*BLOCKS[:1] * 8, *BLOCKS[:7] * 3, BLOCKS[7])),
    st.sampled_from((*BODIES[:5] * 6, BODIES[5])),
    st.sampled_from([FRAME_MAX, 12]),
)
OTHERS = st.sampled_from(
    [
        [HEARTBEAT_FRAME],
        [encode_method(1, commands.Tx.Select())],
        [encode_method(2, commands.Basic.Nack(3, True, False))],
        [frame(METHOD, 1, struct.pack(">HHQB", 60, 80, 3, 0) + b"\0")],
    ]
)
ACKS = st.builds(
    lambda channel, first, count, multiple: [
        *(ack(channel, first + i) for i in range(count)),
        *([ack(channel, first + count, True)] if multiple else []),
    ],
    st.sampled_from(CHANNELS),
    st.integers(0, 4),
    st.integers(1, 4),
    st.booleans(),
)
RUNS = st.tuples(MESSAGES, st.integers(1, 5)).map(lambda pair: pair[0] * pair[1])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames of two channels, interleaved as they please, at times with one octet changed."""
    parts = draw(st.lists(st.one_of(RUNS, RUNS, RUNS, ACKS, OTHERS), max_size=8))
    if draw(st.booleans()):
        parts = interleaved(parts, draw(st.randoms(use_true_random=False)))
    data = b"".join(octets for part in parts for octets in part)
    if data and draw(st.integers(0, 2)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        changed = draw(st.sampled_from([0, 1, 2, 3, 40, 80, 0xCE, 255, data[at] ^ 1]))
        data = data[:at] + bytes((changed,)) + data[at + 1 :]
    return data


def interleaved(parts: list[list[bytes]], random: Any) -> list[list[bytes]]:
    """The frames of each channel in their order, those of different channels mixed."""
    queues = [
        [octets for part in parts for octets in part if octets[2] == channel]
        for channel in (0, *CHANNELS)
    ]
    mixed = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(random.choice(queues).pop(0))
    return [mixed]


@st.composite
def chopped_streams(draw: st.DrawFn) -> list[bytes]:
    data = draw(streams())
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=8))
    return [data[start:stop] for start, stop in pairwise((0, *sorted(cuts), len(data)))]


@property_test
@given(streams())
def test_what_is_taken_in_one_go_is_what_the_frames_say(running: Running, data: bytes) -> None:
    connection = running(*CHANNELS, limits=LIMITS)

    assert feed(connection, [data]) == OneFrameAtATime().read(data)


@property_test
@given(chopped_streams())
def test_bytes_mean_the_same_however_they_are_chopped(
    running: Running, pieces: list[bytes]
) -> None:
    in_pieces = feed(running(*CHANNELS, limits=LIMITS), pieces)
    whole = feed(running(*CHANNELS, limits=LIMITS), [b"".join(pieces)])

    assert in_pieces == whole


@settings(property_test, max_examples=40)
@given(streams())
def test_bytes_mean_the_same_one_by_one(running: Running, data: bytes) -> None:
    data = data[:1500]
    one_by_one = [data[i : i + 1] for i in range(len(data))]

    items = feed(running(*CHANNELS, limits=LIMITS), one_by_one)

    assert items == feed(running(*CHANNELS, limits=LIMITS), [data])


@property_test
@given(st.integers(0, 200), st.integers(0, 255))
def test_no_octet_of_a_predicted_message_goes_unseen(running: Running, at: int, octet: int) -> None:
    one = b"".join(message(1, "q", block_with(message_id="m1"), b"body", FRAME_MAX))
    at = len(one) + at % len(one)
    data = bytearray(one * 3)
    data[at] = octet

    items = feed(running(*CHANNELS, limits=LIMITS), [bytes(data)])

    assert items == OneFrameAtATime().read(bytes(data))


# -- runs of messages ----------------------------------------------------------------------------


def take(connection: Connection, data: bytes) -> list[Event]:
    connection.receive(data, 0.0)
    events = iter(connection.next_event, None)
    return [event for event in events if not isinstance(event, Worked)]


def joined(*messages: list[bytes]) -> bytes:
    return b"".join(octets for each in messages for octets in each)


def plain(body: bytes, key: str = "q", block: bytes = b"\0\0", channel: int = 1) -> list[bytes]:
    return message(channel, key, block, body, FRAME_MAX)


def bodies(event: Event) -> list[bytes]:
    assert isinstance(event, Publish)
    return [content_of(raw)[2] for raw in event.raws]


def test_messages_that_differ_in_their_bodies_alone_are_one_run(running: Running) -> None:
    (run,) = take(running(1), joined(*(plain(b"%04d" % i) for i in range(100))))

    assert bodies(run) == [b"%04d" % i for i in range(100)]
    assert isinstance(run, Publish)
    assert run.traits is PLAIN
    assert (run.channel, run.index) == (1, commands.Basic.Publish.index)


@pytest.mark.parametrize("mandatory", [True, False])
@pytest.mark.parametrize("immediate", [True, False])
def test_the_run_says_what_the_method_said(
    running: Running, mandatory: bool, immediate: bool
) -> None:
    publish = commands.Basic.Publish(0, "amq.topic", "a.b", mandatory, immediate)
    octets = encode_method(1, publish)

    (run,) = take(running(1), octets + encode_content(1, b"\0\0", b"body", FRAME_MAX))

    assert isinstance(run, Publish)
    assert run.method.payload == octets[7:-1]
    assert run.method.address == b"\x09amq.topic\3a.b"
    assert (run.method.exchange, run.method.routing_key) == ("amq.topic", "a.b")
    assert (run.method.mandatory, run.method.immediate) == (mandatory, immediate)


@pytest.mark.parametrize("missing", range(1, 10))
def test_a_publish_that_is_cut_off_is_a_frame_error(running: Running, missing: int) -> None:
    payload = encode_method(1, commands.Basic.Publish(0, "x", "key"))[7:-1]

    with pytest.raises(FrameError, match="cannot decode"):
        take(running(1), frame(METHOD, 1, payload[:-missing]))


def test_octets_behind_a_publish_are_a_frame_error(running: Running) -> None:
    payload = encode_method(1, commands.Basic.Publish(0, "x", "key"))[7:-1]

    with pytest.raises(FrameError, match="cannot decode <<0,0"):
        take(running(1), frame(METHOD, 1, payload + b"\0"))


def test_messages_of_other_sizes_and_ids_go_on_with_the_run(running: Running) -> None:
    data = joined(
        plain(b"1"),
        plain(b"22"),
        plain(b""),
        plain(b""),
        plain(b"333", block=block_with(message_id="a")),
        plain(b"333", block=block_with(message_id="bb")),
    )

    (run,) = take(running(1), data)

    assert bodies(run) == [b"1", b"22", b"", b"", b"333", b"333"]


def test_messages_of_many_frames_go_on_with_the_run(running: Running) -> None:
    large = bytes(range(256)) * 40
    data = joined(plain(large), plain(large[::-1]), plain(b"small"), plain(large))

    (run,) = take(running(1, limits=WireLimits(frame_max=FRAME_MAX)), data)

    assert bodies(run) == [large, large[::-1], b"small", large]


def test_other_traits_end_a_run(running: Running) -> None:
    persistent = block_with(delivery_mode=2)
    data = joined(plain(b"1"), plain(b"2", block=persistent), plain(b"3", block=persistent))

    first, second = take(running(1), data)

    assert [bodies(first), bodies(second)] == [[b"1"], [b"2", b"3"]]
    assert isinstance(second, Publish)
    assert second.traits is PERSISTENT


def test_another_address_or_channel_ends_a_run(running: Running) -> None:
    data = joined(plain(b"1"), plain(b"2", key="r"), plain(b"3", channel=2))

    events = take(running(1, 2), data)

    assert [bodies(event) for event in events] == [[b"1"], [b"2"], [b"3"]]


@pytest.mark.parametrize("sizes", [[0], [4], [4, 4, 5]])
def test_a_run_is_bounded(running: Running, sizes: list[int]) -> None:
    one = joined(*(plain(b"x" * size) for size in sizes))

    events = take(running(1), one * (2 * RUN_MAX // len(sizes) + 1))

    assert len(events) == 3
    assert max(len(bodies(event)) for event in events) == RUN_MAX


def test_a_run_ends_where_the_bytes_end(running: Running) -> None:
    connection = running(1)
    data = joined(plain(b"1"), plain(b"2"), plain(b"3"))

    (run,) = take(connection, data[:-1])
    (rest,) = take(connection, data[-1:])

    assert [bodies(run), bodies(rest)] == [[b"1", b"2"], [b"3"]]


def test_contents_of_two_channels_may_be_mixed(running: Running) -> None:
    one, two = plain(b"one" * 2000), plain(b"two" * 2000, channel=2)
    mixed = b"".join(octets for pair in zip(one, two, strict=True) for octets in pair)

    first, second = take(running(1, 2, frame_max=FRAME_MAX), mixed)

    assert [bodies(first), bodies(second)] == [[b"one" * 2000], [b"two" * 2000]]


def test_heartbeats_may_stand_between_the_frames_of_a_message(running: Running) -> None:
    (event,) = take(running(1), HEARTBEAT_FRAME.join(plain(b"body")))

    assert bodies(event) == [b"body"]


def test_empty_body_frames_add_nothing(running: Running) -> None:
    method, header, body = plain(b"body")
    empty = frame(BODY, 1, b"")

    (whole,) = take(running(1), method + header + empty + body)
    connection = running(1)
    take(connection, method + header + empty)
    (in_pieces,) = take(connection, body)

    assert bodies(whole) == bodies(in_pieces) == [b"body"]


def test_a_body_in_tiny_frames_is_framed_anew(running: Running) -> None:
    connection = running(1)
    body = bytes(range(256)) * 64
    method, header, *_ = plain(body)
    octets = [frame(BODY, 1, body[at : at + 1]) for at in range(len(body))]

    assert take(connection, method + header) == []
    (event,) = take(connection, b"".join(octets))

    assert isinstance(event, Publish)
    assert event.raws == [header + frame(BODY, 1, body)]


def test_what_precedes_a_broken_message_counts(running: Running) -> None:
    connection = running(1)
    connection.receive(joined(plain(b"1"), plain(b"2"), plain(b"3", block=b"\x80\0\xff")), 0.0)

    first = connection.next_event()

    assert first is not None
    assert bodies(first) == [b"1", b"2"]
    with pytest.raises(MalformedSyntax):
        connection.next_event()


def test_equal_methods_are_one_object_as_long_as_they_are_few(running: Running) -> None:
    connection = running(1)
    (first,) = take(connection, joined(plain(b"1")))
    (second,) = take(connection, joined(plain(b"2")))
    take(connection, joined(*(plain(b"", key=f"other {i}") for i in range(2000))))

    (third,) = take(connection, joined(plain(b"3")))

    assert isinstance(first, Publish)
    assert isinstance(second, Publish)
    assert isinstance(third, Publish)
    assert first.method is second.method
    assert third.method is not first.method
    assert third.method.payload == first.method.payload


# -- runs of acks --------------------------------------------------------------------------------


def settled(events: list[Event]) -> list[tuple[int, int, bool]]:
    """First and last tag of each settlement, and whether it is multiple."""
    return [
        (event.first, event.last, event.multiple) for event in events if isinstance(event, Settle)
    ]


def acks(*tags: int, channel: int = 1) -> bytes:
    return b"".join(ack(channel, tag) for tag in tags)


def test_acks_that_count_on_are_one_run(running: Running) -> None:
    events = take(running(1), acks(*range(5, 100)))

    assert settled(events) == [(5, 99, False)]
    assert [event.index for event in events if isinstance(event, Settle)] == [0x003C0050]


def test_a_gap_ends_a_run_of_acks(running: Running) -> None:
    assert settled(take(running(1), acks(1, 2, 4, 5, 5, 4))) == [
        (1, 2, False),
        (4, 5, False),
        (5, 5, False),
        (4, 4, False),
    ]


def test_a_multiple_ack_stands_by_itself(running: Running) -> None:
    data = acks(1, 2) + ack(1, 3, True) + ack(1, 4, True) + acks(5)

    assert settled(take(running(1), data)) == [
        (1, 2, False),
        (3, 3, True),
        (4, 4, True),
        (5, 5, False),
    ]


def test_another_channel_or_method_ends_a_run_of_acks(running: Running) -> None:
    data = acks(1) + acks(2, channel=2) + acks(2) + encode_method(1, commands.Basic.Reject(3))

    runs = settled(take(running(1, 2), data))

    assert runs == [(1, 1, False), (2, 2, False), (2, 2, False), (3, 3, False)]


@pytest.mark.parametrize("bits", [2, 0xFE])
def test_only_the_lowest_bit_of_an_ack_counts(running: Running, bits: int) -> None:
    odd = frame(METHOD, 1, struct.pack(">HHQB", 60, 80, 1, bits))

    assert settled(take(running(1), odd + acks(2))) == [(1, 2, False)]


def test_a_run_of_acks_ends_where_the_bytes_end(running: Running) -> None:
    connection = running(1)
    data = acks(1, 2, 3)

    assert settled(take(connection, data[:-1])) == [(1, 2, False)]
    assert settled(take(connection, data[-1:])) == [(3, 3, False)]


def test_a_run_of_acks_ends_before_a_broken_frame(running: Running) -> None:
    connection = running(1)
    connection.receive(acks(1, 2, 3)[:-1] + b"\0", 0.0)

    first = connection.next_event()

    assert first is not None
    assert settled([first]) == [(1, 2, False)]
    with pytest.raises(FrameError, match="invalid_frame_end_marker,0"):
        connection.next_event()


@pytest.mark.parametrize("payload", [acks(1)[7:-2], acks(1)[7:-1] + b"\0"])
def test_an_ack_of_another_size_is_a_frame_error(running: Running, payload: bytes) -> None:
    with pytest.raises(FrameError, match="cannot decode <<0,0,0,0"):
        take(running(1), frame(METHOD, 1, payload))
