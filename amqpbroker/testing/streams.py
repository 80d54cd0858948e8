"""What a client may send, as octets from a seed: valid streams, and broken ones.

A stream is a list of frames behind a handshake. `Streams.racing` draws it from the grammar of all
methods and content; `Streams.mutated` breaks it: bits, sizes, types, channels, order.
`Streams.orderly` draws one whose answers do not depend on when the broker reads it.
"""

import random
import re
from itertools import pairwise
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import METHOD, PROTOCOL_HEADER, encode_method, frame
from amqpbroker.testing.grammar import ALL, CHANNELS, LIKELY, method, publish
from amqpbroker.testing.mutations import MUTATIONS, Frames

_CLIENT: dict[str, Any] = {
    "capabilities": {
        "authentication_failure_close": True,
        "connection.blocked": True,
        "consumer_cancel_notify": True,
    }
}


def _handshake(
    mechanism: str = "PLAIN",
    response: str = "\0guest\0guest",
    frame_max: int = 131072,
    heartbeat_s: int = 0,
    vhost: str = "/",
) -> tuple[bytes, ...]:
    """From the protocol header to connection.open."""
    methods = (
        commands.Connection.StartOk(_CLIENT, mechanism, response, "en_US"),
        commands.Connection.TuneOk(2047, frame_max, heartbeat_s),
        commands.Connection.Open(vhost),
    )
    return (PROTOCOL_HEADER, *(encode_method(0, each) for each in methods))


HANDSHAKE = _handshake()
"""As user guest in the virtual host ``/``."""
_HANDSHAKES = (
    *(HANDSHAKE,) * 40,
    _handshake("AMQPLAIN", "\5LOGINS\0\0\0\5guest\x08PASSWORDS\0\0\0\5guest"),
    _handshake("AMQPLAIN", "\5LOGINS\0\0\0\5guest"),
    _handshake(response="\0guest\0wrong"),
    _handshake(frame_max=4096, heartbeat_s=60),
    _handshake(heartbeat_s=65535),
    _handshake(vhost="nowhere"),
)

_POOL = 400
"""Items that are drawn in advance for each channel: drawing them each time would cost too much."""


def _properties(**properties: Any) -> bytes:
    return commands.Basic.Properties(**properties).marshal()


_ORDERLY_BLOCKS = (
    _properties(headers={"CC": ["pulled"], "BCC": ["pushed"], "a": 1}, priority=4),
    _properties(headers={"BCC": ["a.c"]}, delivery_mode=2),
    _properties(expiration="1000000", user_id="guest"),
)


class Streams:
    """Streams from a ``seed``; each of them comes from a random of its own."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"streams {seed}")
        self._burst = [b"".join(publish(rng, 1, ("", "q0"))) for _ in range(6)]
        self._pools = {channel: self._pool(rng, channel) for channel in CHANNELS}

    def _pool(self, rng: random.Random, channel: int) -> list[Frames]:
        pool = [publish(rng, channel) for _ in range(_POOL // 3)]
        while len(pool) < _POOL:
            kind = rng.choice(LIKELY if rng.random() < 0.98 else ALL)
            pool.append([frame(METHOD, channel, method(rng, kind))])
        return pool

    def racing(self, rng: random.Random) -> Frames:
        """Sound frames, without the handshake; what they ask for may be against the rules."""
        frames: Frames = []
        channels = rng.sample(CHANNELS, rng.choice((1, 1, 2, 3)))
        for channel in channels:
            frames.append(encode_method(channel, commands.Channel.Open()))
            for queue in ("q0", "q1"):
                if rng.random() < 0.7:
                    frames.append(encode_method(channel, commands.Queue.Declare(queue=queue)))
                if rng.random() < 0.3:
                    consume = commands.Basic.Consume(queue=queue, no_ack=rng.random() < 0.3)
                    frames.append(encode_method(channel, consume))
        if 1 in channels and rng.random() < 0.7:
            frames += self._burst[: rng.randrange(6)]
        for _ in range(rng.randrange(2, 40)):
            channel = rng.choice(channels)
            frames += rng.choice(self._pools[channel])
            if rng.random() < 0.01:
                secret = commands.Connection.UpdateSecret("new", "the old one expires")
                frames.append(encode_method(0, secret))
            if rng.random() < 0.06:
                # The channel may have been closed by now: this gives its number a new life.
                frames.append(encode_method(channel, commands.Channel.CloseOk()))
                frames.append(encode_method(channel, commands.Channel.Open()))
        if rng.random() < 0.2:
            frames.append(encode_method(0, commands.Connection.Close(200, "bye", 0, 0)))
        return frames

    def mutated(self, rng: random.Random) -> bytes:
        """A stream, handshake included, with up to four faults; the handshake is seldom hit."""
        frames = [*rng.choice(_HANDSHAKES), *self.racing(rng)]
        first = 0 if rng.random() < 0.1 else len(HANDSHAKE)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4))):
            at = rng.randrange(min(first, len(frames) - 1), len(frames))
            if frames[at]:
                rng.choice(MUTATIONS)(rng, frames, at)
            if not frames:
                break
        data = b"".join(frames)
        return data[: rng.randrange(len(data))] if data and rng.random() < 0.1 else data

    def orderly(self, rng: random.Random) -> bytes:
        """A stream, handshake included, whose answers are the same however it is read.

        One channel publishes, one consumes without acks from queues of its own, one gets and
        settles. Where a rule is broken, the channel is closed and opened again.
        """
        frames = list(HANDSHAKE)
        publishing, consuming, getting = CHANNELS

        def say(channel: int, *methods: Frame) -> None:
            frames.extend(encode_method(channel, each) for each in methods)

        for channel in CHANNELS:
            say(channel, commands.Channel.Open())
        for queue in ("pushed", "pulled"):
            say(getting, commands.Queue.Declare(queue=queue))
            say(getting, commands.Queue.Bind(queue=queue, exchange="amq.topic", routing_key="a.#"))
        say(consuming, commands.Basic.Consume(queue="pushed", consumer_tag="c", no_ack=True))
        if rng.random() < 0.5:
            say(publishing, commands.Confirm.Select())
        for _ in range(rng.randrange(1, 25)):
            act = rng.randrange(8)
            if act < 4:
                exchange, key = rng.choice(
                    (("", "pushed"), ("", "pulled"), ("amq.topic", "a.b"), ("", "nowhere"))
                )
                publish = commands.Basic.Publish(0, exchange, key, mandatory=rng.random() < 0.5)
                body = rng.randbytes(rng.choice((0, 3, 3, 5000)))
                block = rng.choice((b"\0\0", b"\0\0", *_ORDERLY_BLOCKS))
                content = encode_content(publishing, block, body, rng.choice((4096, 131072)))
                frames += [encode_method(publishing, publish) + content] * rng.choice((1, 1, 3))
            elif act < 6:
                say(getting, commands.Basic.Get(queue="pulled", no_ack=True))
            elif act == 6:
                name = f"other{rng.randrange(3)}"
                say(getting, commands.Queue.Declare(queue=name), commands.Queue.Purge(queue=name))
            else:
                say(getting, commands.Basic.Ack(1 << 40))
                say(getting, commands.Channel.CloseOk(), commands.Channel.Open())
        return b"".join(frames)


_METHOD_START = re.compile(rb"(?<=\xce)(?=\x01\x00)")


def chop(rng: random.Random, data: bytes) -> list[bytes]:
    """``data`` in pieces: one, or one a frame, or cut somewhere; seldom single octets."""
    choice = rng.random()
    if choice < 0.3:
        return [data]
    if choice < 0.6:
        return _METHOD_START.split(data)
    if len(data) < 1500 and rng.random() < 0.05:
        return [data[i : i + 1] for i in range(len(data))]
    count = rng.choice((1, 1, 2, 5))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
    return [data[start:stop] for start, stop in pairwise((0, *cuts, len(data)))]
