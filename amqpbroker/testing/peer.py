"""A client in the same process as the broker: no sockets, no tasks, no waiting.

What it sends is handled before the call returns, turns included; what the broker says lies ready to
be read. Made for tests that say what goes in and what comes out.
"""

import itertools
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.session import Ends, Session
from amqpbroker.broker.turn import WORK_MAX
from amqpbroker.protocol.connection import Connection
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import PROTOCOL_HEADER, encode_method
from amqpbroker.testing.wire import Received, read_frames

_PORTS = itertools.count(50000)

CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


class Peer:
    """One connection to ``broker``.

    ``takes_bytes`` bounds what the peer's socket would take at once: None, everything.
    """

    def __init__(self, broker: Broker, host: str = "127.0.0.1") -> None:
        self.broker = broker
        self.takes_bytes: int | None = None
        self.connection = Connection(
            broker.limits.wire, broker.server_properties(), broker.world.clock.monotonic_s()
        )
        ends = Ends((host, next(_PORTS)), ("127.0.0.1", 5672))
        self.session = Session(broker, self.connection, ends, self._transmit, self._on_release)
        self._released = False
        self._unsent = b""
        self._unread = b""

    # -- bytes ---------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """Send octets, and have the broker do all that follows from them."""
        self.connection.receive(data, self.broker.world.clock.monotonic_s())
        self.settle_down()

    def settle_down(self) -> None:
        """Have the broker do everything it can."""
        self._released = True
        while self._released:
            self._released = False
            while self.session.take(WORK_MAX) and not self.session.held:
                self._run_turns()
            self.broker.turn.speak(self.session)
            self._run_turns()

    def _on_release(self) -> None:
        self._released = True

    def _run_turns(self) -> None:
        while self.broker.turn.run():
            pass

    def _transmit(self) -> None:
        self._unsent += self.connection.take_outbox()
        taken = len(self._unsent) if self.takes_bytes is None else self.takes_bytes
        self._unread += self._unsent[:taken]
        self._unsent = self._unsent[taken:]
        self.session.unsent_bytes = len(self._unsent)

    def read_bytes(self) -> bytes:
        """What has come, as octets."""
        data, self._unread = self._unread, b""
        return data

    # -- frames --------------------------------------------------------------------------------

    def received(self) -> list[Received]:
        """What has come, as frames; a protocol header counts as one.

        A frame that is not whole yet stays.
        """
        data = self._unread
        header: list[Received] = []
        if data.startswith(b"AMQP"):
            header, data = [(0, data[:8])], data[8:]
        frames, self._unread = read_frames(data)
        return header + frames

    def send(self, *methods: Frame, channel: int = 1) -> None:
        """Send methods on a channel."""
        self.send_bytes(b"".join(encode_method(channel, method) for method in methods))

    def call(self, method: Frame, channel: int = 1) -> Any:
        """Send a method; the one frame that comes back."""
        self.send(method, channel=channel)
        received = self.received()
        assert len(received) == 1, received
        assert received[0][0] == channel, received
        return received[0][1]

    # -- the usual -----------------------------------------------------------------------------

    def open(
        self,
        *channels: int,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        frame_max: int | None = None,
        heartbeat_s: int = 0,
        capabilities: dict[str, Any] | None = None,
    ) -> "Peer":
        """Shake hands and open ``channels``."""
        properties: dict[str, Any] = {
            "capabilities": CAPABILITIES if capabilities is None else capabilities
        }
        self.send_bytes(PROTOCOL_HEADER)
        response = f"\0{user}\0{password}"
        self.send(commands.Connection.StartOk(properties, "PLAIN", response, "en_US"), channel=0)
        tune = self.received()[-1][1]
        assert isinstance(tune, commands.Connection.Tune), tune
        self.send(
            commands.Connection.TuneOk(tune.channel_max, frame_max or tune.frame_max, heartbeat_s),
            commands.Connection.Open(vhost),
            channel=0,
        )
        for channel in channels:
            self.send(commands.Channel.Open(), channel=channel)
        self.received()
        return self

    def publish(
        self,
        routing_key: str,
        *bodies: bytes,
        exchange: str = "",
        channel: int = 1,
        mandatory: bool = False,
        properties: commands.Basic.Properties | None = None,
    ) -> None:
        """Publish messages, all in one piece of bytes."""
        block = (properties or commands.Basic.Properties()).marshal()
        method = encode_method(
            channel,
            commands.Basic.Publish(0, exchange, routing_key, mandatory),
        )
        frame_max = self.connection.frame_max
        self.send_bytes(
            b"".join(method + encode_content(channel, block, body, frame_max) for body in bodies)
        )

    def declare(self, queue: str, channel: int = 1, **options: Any) -> str:
        """Declare a queue; its name."""
        answer = self.call(commands.Queue.Declare(queue=queue, **options), channel)
        assert isinstance(answer, commands.Queue.DeclareOk), answer
        return answer.queue or ""

    def consume(self, queue: str, tag: str, channel: int = 1, **options: Any) -> None:
        """Start a consumer; consume-ok stays to be read with what follows it."""
        self.send(commands.Basic.Consume(queue=queue, consumer_tag=tag, **options), channel=channel)

    def deliveries(self) -> list[tuple[commands.Basic.Deliver, bytes]]:
        """The deliveries among what has come: method and body. Everything else is dropped."""
        out: list[tuple[commands.Basic.Deliver, bytes]] = []
        for _, item in self.received():
            if isinstance(item, commands.Basic.Deliver):
                out.append((item, b""))
            elif isinstance(item, bytes) and out:
                out[-1] = out[-1][0], out[-1][1] + item
        return out
