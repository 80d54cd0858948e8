"""What may be wrong with a stream: one function for each fault."""

import random
import struct
from collections.abc import Callable

from amqpbroker.protocol.fields import write_longstr
from amqpbroker.protocol.frames import METHOD, frame
from amqpbroker.testing.grammar import ALL, CHANNELS, method

Frames = list[bytes]
Mutation = Callable[[random.Random, Frames, int], None]
"""Breaks the frame at a place, or what is around it."""


def _again(octets: bytes, payload: bytes) -> bytes:
    """The frame ``octets`` with another payload, sound by itself."""
    return octets[:3] + write_longstr(payload) + octets[-1:]


def _flip(rng: random.Random, frames: Frames, at: int) -> None:
    octets = bytearray(frames[at])
    for _ in range(rng.choice((1, 1, 2, 8))):
        octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
    frames[at] = bytes(octets)


def _flip_payload(rng: random.Random, frames: Frames, at: int) -> None:
    payload = bytearray(frames[at][7:-1])
    if payload:
        payload[rng.randrange(len(payload))] = rng.choice((0, 1, 2, 60, 127, 128, 255))
        frames[at] = _again(frames[at], bytes(payload))


def _cut_payload(rng: random.Random, frames: Frames, at: int) -> None:
    payload = frames[at][7:-1]
    frames[at] = _again(frames[at], payload[: rng.randrange(len(payload) + 1)])


def _cut_frame(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = frames[at][: rng.randrange(len(frames[at]) + 1)]


def _extend_payload(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = _again(frames[at], frames[at][7:-1] + rng.randbytes(rng.choice((1, 4, 50, 5000))))


def _graft(rng: random.Random, frames: Frames, at: int) -> None:
    """The head of one payload on the tail of another."""
    head, tail = frames[at][7:-1], rng.choice(frames)[7:-1]
    cut = rng.randrange(len(head) + 1)
    frames[at] = _again(frames[at], head[:cut] + tail[rng.randrange(len(tail) + 1) :])


def _extreme(rng: random.Random, frames: Frames, at: int) -> None:
    """A number somewhere in the payload, a length perhaps, becomes huge."""
    payload = frames[at][7:-1]
    number = struct.pack(">" + rng.choice("BHIQ"), 0)
    number = rng.choice((b"\xff", b"\x7f", b"\x80", b"\0")) * len(number)
    place = rng.randrange(max(1, len(payload) - len(number) + 1))
    payload = payload[:place] + number + payload[place + len(number) :]
    frames[at] = _again(frames[at], payload)


def _wrong_size(rng: random.Random, frames: Frames, at: int) -> None:
    octets = frames[at]
    size = rng.choice((0, 1, len(octets), 4096, 131064, 131065, 0x7FFFFFFF, 0xFFFFFFFF))
    frames[at] = octets[:3] + struct.pack(">I", size) + octets[7:]


def _wrong_end(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = frames[at][:-1] + rng.randbytes(1)


def _wrong_channel(rng: random.Random, frames: Frames, at: int) -> None:
    channel = rng.choice((0, 1, 2, 3, 4, 2047, 2048, 65535))
    frames[at] = frames[at][:1] + struct.pack(">H", channel) + frames[at][3:]


def _wrong_type(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = bytes((rng.choice((0, 1, 2, 3, 4, 8, 255)),)) + frames[at][1:]


def _duplicate(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at:at] = [frames[at]] * rng.choice((1, 1, 2, 20))


def _drop(rng: random.Random, frames: Frames, at: int) -> None:
    del frames[at]


def _swap(rng: random.Random, frames: Frames, at: int) -> None:
    other = rng.randrange(len(frames))
    frames[at], frames[other] = frames[other], frames[at]


def _garbage(rng: random.Random, frames: Frames, at: int) -> None:
    frames.insert(at, rng.randbytes(rng.choice((1, 7, 8, 100))))


def _heartbeat(rng: random.Random, frames: Frames, at: int) -> None:
    frames.insert(at, frame(8, rng.choice((0, 0, 1)), rng.choice((b"", b"", b"beat"))))


def _any_method(rng: random.Random, frames: Frames, at: int) -> None:
    """A method that may belong to the server, to the handshake, or to nobody."""
    channel = rng.choice((0, *CHANNELS))
    payload = method(rng, rng.choice(ALL))
    if rng.random() < 0.2:
        payload = struct.pack(">HH", rng.randrange(100), rng.randrange(130)) + payload[4:]
    frames.insert(at, frame(METHOD, channel, payload))


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _flip_payload, _flip_payload, _cut_payload, _cut_frame, _extend_payload),
    *(_graft, _extreme, _extreme, _wrong_size, _wrong_end, _wrong_channel, _wrong_type),
    *(_duplicate, _drop, _swap, _garbage, _heartbeat, _any_method, _any_method),
)
