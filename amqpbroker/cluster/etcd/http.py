"""HTTP/1.1 to one etcd member: connections that are kept and used again.

A fault says whether the request has left: a change that was sent must not be sent again.
"""

import ssl
from urllib.parse import urlsplit

import attrs
import h11
import trio

from amqpbroker.errors import ConfigError
from amqpbroker.world import Network, Stream
from amqpbroker.world.tls import connect_tls

_RECEIVE_BYTES_MAX = 256 * 1024
_IDLE_S_MAX = 30
"""How long a connection is kept unused: whatever lies between may forget it without a word."""

Headers = list[tuple[str, str]]


class NotSent(Exception):
    """Nothing of the request has left."""


class Unanswered(Exception):
    """The request has left, all or a part of it, and no whole answer came."""


@attrs.frozen
class Response:
    """A whole answer."""

    status: int
    body: bytes


class HttpConnection:
    """One connection; requests on it follow one another."""

    def __init__(self, stream: Stream, host: str) -> None:
        self.idle_since_s = 0.0
        self._stream = stream
        self._host = host
        self._http = h11.Connection(h11.CLIENT)

    @property
    def is_reusable(self) -> bool:
        """Whether another request can be sent, as far as one can know."""
        idle = self._http.our_state is h11.IDLE and self._http.their_state is h11.IDLE
        fresh = trio.current_time() - self.idle_since_s < _IDLE_S_MAX
        return idle and fresh and self._stream.is_quiet()

    async def begin(self, target: str, body: bytes | None, headers: Headers) -> int:
        """Send a request, a POST if it has a body; the status of its answer.

        Raises `Unanswered`.
        """
        request = h11.Request(
            method="GET" if body is None else "POST",
            target=target,
            headers=[("Host", self._host), ("Content-Length", str(len(body or b""))), *headers],
        )
        data = [self._http.send(request)]
        if body:
            data.append(self._http.send(h11.Data(data=body)))
        data.append(self._http.send(h11.EndOfMessage()))
        rest = memoryview(b"".join(part for part in data if part))
        try:
            while rest := rest[self._stream.send_nowait(rest) :]:
                await self._stream.wait_writable()
        except OSError as error:
            raise Unanswered(f"the connection was lost: {error}") from error
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event.status_code

    async def receive(self) -> bytes | None:
        """More of the answer's body; None at its end. Raises `Unanswered`."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                self.idle_since_s = trio.current_time()
                return None

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
                if isinstance(event, h11.Event):
                    return event
                self._http.receive_data(await self._stream.receive_some(_RECEIVE_BYTES_MAX))
            except h11.RemoteProtocolError as error:
                raise Unanswered(f"this is no HTTP, or not all of it: {error}") from error
            except OSError as error:
                raise Unanswered(f"the connection was lost: {error}") from error

    def close(self) -> None:
        """End it at once. Twice is harmless."""
        self._stream.close()


class Endpoint:
    """One member: where it is, and the connections to it."""

    def __init__(
        self, network: Network, url: str, tls: ssl.SSLContext | None, connections_max: int
    ) -> None:
        self.url = url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            self._host, port = parts.hostname or "", parts.port or 2379
        except ValueError:
            parts, self._host, port = urlsplit(""), "", 0
        if parts.scheme not in ("http", "https") or not self._host or parts.path:
            raise ConfigError(f"an endpoint of etcd is like http://127.0.0.1:2379, not {url!r}")
        self._port = port
        self._netloc = parts.netloc
        self._network = network
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._room = trio.Semaphore(connections_max)
        self._idle: list[HttpConnection] = []

    async def connect(self, until_s: float) -> HttpConnection:
        """A new connection. Raises `NotSent`, at ``until_s`` (trio's time) at the latest."""
        network, host, port = self._network, self._host, self._port
        try:
            with trio.move_on_at(until_s):
                if self._tls is None:
                    stream = await network.connect(host, port)
                else:
                    stream = await connect_tls(network, host, port, self._tls)
                return HttpConnection(stream, self._netloc)
        except OSError as error:
            raise NotSent(f"{self.url}: {error}") from error
        raise NotSent(f"{self.url}: no connection in time")

    async def request(
        self, target: str, body: bytes | None, headers: Headers, sent_s: float, answered_s: float
    ) -> Response:
        """A request and its answer.

        It must have begun to leave at ``sent_s`` and be answered at ``answered_s`` (trio's time).
        Raises `NotSent` or `Unanswered`.
        """
        with trio.move_on_at(sent_s) as waiting:
            await self._room.acquire()
        if waiting.cancelled_caught:
            raise NotSent(f"{self.url}: all connections are in use")
        try:
            connection = self._take_idle() or await self.connect(sent_s)
            whole = False
            try:
                with trio.move_on_at(answered_s):
                    response = await _exchange(connection, target, body, headers)
                    whole = True
                    self._idle.append(connection)
                    return response
            except Unanswered as error:
                raise Unanswered(f"{self.url}: {error}") from error
            finally:
                if not whole:
                    connection.close()
            self.close()  # It may have died without a word, and the others with it.
            raise Unanswered(f"{self.url}: no answer in time")
        finally:
            self._room.release()

    def _take_idle(self) -> HttpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """End the connections that nobody uses now."""
        while self._idle:
            self._idle.pop().close()


async def _exchange(
    connection: HttpConnection, target: str, body: bytes | None, headers: Headers
) -> Response:
    status = await connection.begin(target, body, headers)
    parts = []
    while (part := await connection.receive()) is not None:
        parts.append(part)
    return Response(status, b"".join(parts))
