"""TLS over any `Stream`, as a `Stream` again."""

import ssl

import trio

from amqpbroker.world.contracts import Listener, Network, Stream

_RECORD_BYTES = 16 * 1024
"""What TLS puts into one record, at most."""


def client_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """What a client needs, from PEM files: whom to trust (None: as the system does), who it is.

    Raises `OSError` when a file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


def node_contexts(ca: str, cert: str, key: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a node needs among its like, from PEM files: as a client, and as a server.

    Both sides must have a certificate of ``ca``; that of the node that is dialled must name the
    host. Raises `OSError` when a file cannot be used.
    """
    client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (client, server):
        context.load_cert_chain(cert, key)
    return client, server


async def connect_tls(network: Network, host: str, port: int, context: ssl.SSLContext) -> Stream:
    """Connect to a listener that must prove that it is ``host``. Raises `OSError`."""
    under = await network.connect(host, port)
    stream = _TlsStream(under, context, host)
    try:
        await stream.agree()
    except BaseException:
        under.close()
        raise
    return stream


class TlsNetwork(Network):
    """A network whose every stream is under TLS.

    `connect` returns when both have agreed. On the other side that is done by the first
    `Stream.receive_some`, which must come before anything is sent.
    """

    def __init__(self, network: Network, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        self._network = network
        self._client = client
        self._server = server

    async def listen(self, host: str, port: int) -> Listener:
        return _TlsListener(await self._network.listen(host, port), self._server)

    async def connect(self, host: str, port: int) -> Stream:
        return await connect_tls(self._network, host, port, self._client)


class _TlsListener(Listener):
    """Accepts streams that begin with TLS."""

    def __init__(self, listener: Listener, context: ssl.SSLContext) -> None:
        self.address = listener.address
        self._listener = listener
        self._context = context

    async def accept(self) -> Stream:
        return _TlsStream(await self._listener.accept(), self._context, None)

    def close(self) -> None:
        self._listener.close()


class _TlsStream(Stream):
    """TLS over the stream ``under``, as its client, who wants ``host``, or as its server (None).

    A record that ``under`` takes only in part counts as not taken. Its octets must be offered
    again, as whoever has octets to send does anyhow, and are not sent twice.
    """

    def __init__(self, under: Stream, context: ssl.SSLContext, host: str | None) -> None:
        self.peer, self.local = under.peer, under.local
        self._under = under
        self._arrived, self._departing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._arrived, self._departing, server_side=host is None, server_hostname=host
        )
        self._unsent = memoryview(b"")
        self._half_taken_bytes = 0

    async def agree(self) -> None:
        """Agree on keys. Raises `OSError` when the other side is not believed, or lost."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._push_all()
                await self._pull(_RECORD_BYTES)
            except ssl.SSLError:
                self._push()  # Why it is not believed.
                raise
            else:
                return await self._push_all()

    async def receive_some(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._tls.read(bytes_max)
            except ssl.SSLWantReadError:
                self._push()  # Still of the agreement, if anything.
                await self._pull(bytes_max)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError:
                self._push()
                raise

    def is_quiet(self) -> bool:
        waiting = self._tls.pending() or self._arrived.pending
        return not waiting and self._under.is_quiet()

    async def _pull(self, bytes_max: int) -> None:
        data = await self._under.receive_some(max(bytes_max, _RECORD_BYTES))
        if data:
            self._arrived.write(data)
        else:
            self._arrived.write_eof()

    def send_nowait(self, data: bytes | memoryview) -> int:
        taken = 0
        rest = memoryview(data)
        while self._push():
            taken += self._half_taken_bytes
            rest = rest[self._half_taken_bytes :]
            self._half_taken_bytes = 0
            if not rest:
                break
            try:
                self._half_taken_bytes = self._tls.write(rest[:_RECORD_BYTES])
            except ssl.SSLWantReadError:
                break  # Both have not agreed yet.
        return taken

    def _push(self) -> bool:
        """Send what is encrypted; whether it was taken."""
        while self._unsent or self._departing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._departing.read())
            sent = self._under.send_nowait(self._unsent)
            self._unsent = self._unsent[sent:]
            if self._unsent:
                return False
        return True

    async def _push_all(self) -> None:
        while not self._push():
            await self._under.wait_writable()

    async def wait_writable(self) -> None:
        await self._under.wait_writable()

    def close(self) -> None:
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # It says farewell, and does not wait for an answer; or it has never begun.
        try:
            self._push()
        except OSError:
            pass  # There is nobody any more to say it to.
        self._under.close()
