"""A plain AMQP client on a `Network`: for simulations, where no client library can go."""

from typing import Any, Self

import attrs
from pamqp import commands, header, heartbeat
from pamqp.base import Frame

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import PROTOCOL_HEADER, encode_method
from amqpbroker.testing.wire import read_frames
from amqpbroker.world import Network, Stream

_READ_BYTES_MAX = 64 * 1024
_WITH_CONTENT = (commands.Basic.Deliver, commands.Basic.GetOk, commands.Basic.Return)
_PERSISTENT_BLOCK = b"\x10\x00\x02"
"""Properties with nothing but delivery-mode 2."""


@attrs.define
class Content:
    """A message that came, with the method that brought it: deliver, get-ok or return."""

    method: Any
    properties: Any
    body: bytes


class Client:
    """One connection, used by one task at a time.

    Methods of a channel that nobody waits for at the moment (deliveries, acks, returns) gather in
    `inbox`.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.inbox: list[tuple[int, Any]] = []
        self._data = b""
        self._content: dict[int, Content] = {}
        self._left: dict[int, int] = {}

    @classmethod
    async def connect(
        cls,
        network: Network,
        address: tuple[str, int],
        *channels: int,
        vhost: str = "/",
        heartbeat_s: int = 0,
    ) -> Self:
        """Connect, log in as guest, open ``vhost`` and ``channels``. Raises `OSError`."""
        client = cls(await network.connect(*address))
        try:
            await client._begin(channels, vhost, heartbeat_s)
        except BaseException:
            client.stream.close()
            raise
        return client

    async def _begin(self, channels: tuple[int, ...], vhost: str, heartbeat_s: int) -> None:
        await self.send_bytes(PROTOCOL_HEADER)
        await self.wait_for(commands.Connection.Start)
        capabilities: dict[str, Any] = {
            "capabilities": {"consumer_cancel_notify": True, "connection.blocked": True}
        }
        await self.send(
            commands.Connection.StartOk(capabilities, "PLAIN", "\0guest\0guest", "en_US"), 0
        )
        tune = await self.wait_for(commands.Connection.Tune)
        agreed = commands.Connection.TuneOk(tune.channel_max, tune.frame_max, heartbeat_s)
        await self.send(agreed, 0)
        await self.call(commands.Connection.Open(vhost), commands.Connection.OpenOk, 0)
        for channel in channels:
            await self.call(commands.Channel.Open(), commands.Channel.OpenOk, channel)

    async def send_bytes(self, data: bytes) -> None:
        """Send octets, waiting for the peer to take them."""
        while data:
            data = data[self.stream.send_nowait(data) :]
            if data:
                await self.stream.wait_writable()

    async def send(self, method: Frame, channel: int = 1) -> None:
        """Send a method."""
        await self.send_bytes(encode_method(channel, method))

    async def call(self, method: Frame, answer: type[Frame], channel: int = 1) -> Any:
        """Send a method and wait for its answer."""
        await self.send(method, channel)
        return await self.wait_for(answer)

    async def publish(
        self,
        routing_key: str,
        *bodies: bytes,
        exchange: str = "",
        channel: int = 1,
        persistent: bool = False,
        mandatory: bool = False,
        properties: commands.Basic.Properties | None = None,
    ) -> None:
        """Publish messages in one go; with ``properties``, these are all they have."""
        publish = commands.Basic.Publish(0, exchange, routing_key, mandatory)
        method = encode_method(channel, publish)
        block = _PERSISTENT_BLOCK if persistent else b"\0\0"
        if properties is not None:
            block = properties.marshal()
        contents = [encode_content(channel, block, body, 131072) for body in bodies]
        await self.send_bytes(b"".join(method + content for content in contents))

    async def wait_for(self, kind: type) -> Any:
        """Wait for a method of ``kind``, or for a `Content`.

        Others gather in `inbox`. Raises `ConnectionError` at the end.
        """
        while True:
            for place, (_, item) in enumerate(self.inbox):
                if isinstance(item, kind):
                    del self.inbox[place]
                    return item
            await self.receive()

    async def receive(self) -> None:
        """Wait until something has come into `inbox`. Raises `ConnectionError` at the end."""
        before = len(self.inbox)
        while len(self.inbox) == before:
            data = await self.stream.receive_some(_READ_BYTES_MAX)
            if not data:
                raise ConnectionError("the broker has closed the connection")
            frames, self._data = read_frames(self._data + data)
            for channel, item in frames:
                self._take(channel, item)

    def _take(self, channel: int, item: Any) -> None:
        if isinstance(item, bytes):
            self._take_body(channel, item)
        elif isinstance(item, _WITH_CONTENT):
            self._content[channel] = Content(item, None, b"")
        elif isinstance(item, header.ContentHeader):
            self._content[channel].properties = item.properties
            self._left[channel] = item.body_size
            self._take_body(channel, b"")
        elif not isinstance(item, heartbeat.Heartbeat):
            self.inbox.append((channel, item))

    def _take_body(self, channel: int, data: bytes) -> None:
        content = self._content[channel]
        content.body += data
        self._left[channel] -= len(data)
        if not self._left[channel]:
            self.inbox.append((channel, self._content.pop(channel)))
