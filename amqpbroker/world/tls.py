"""TLS over any `Stream`, by trio's own hand."""

import ssl
from typing import NoReturn

import trio

from amqpbroker.world.contracts import Stream

_RECEIVE_BYTES_MAX = 64 * 1024


class TrioStream(trio.abc.Stream):
    """A `Stream` as trio has them; what breaks it is a `trio.BrokenResourceError`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        try:
            while True:
                rest = rest[self._stream.send_nowait(rest) :]
                if not rest:
                    break
                await self._stream.wait_writable()
        except OSError as error:
            _broken(error)
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        try:
            await self._stream.wait_writable()
        except OSError as error:
            _broken(error)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await self._stream.receive_some(max_bytes or _RECEIVE_BYTES_MAX)
        except OSError as error:
            _broken(error)

    async def aclose(self) -> None:
        self._stream.close()
        await trio.lowlevel.checkpoint()


def _broken(error: OSError) -> NoReturn:
    raise trio.BrokenResourceError(str(error)) from error


async def tls_client(stream: Stream, context: ssl.SSLContext, host: str) -> trio.abc.Stream:
    """Begin TLS with the server at the other end, which must prove that it is ``host``.

    Raises `trio.BrokenResourceError` when it does not, or the stream is lost.
    """
    secured = trio.SSLStream(
        TrioStream(stream), context, server_hostname=host, https_compatible=True
    )
    await secured.do_handshake()
    return secured


def client_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """What a client needs, from PEM files: whom to trust (None: as the system does), who it is.

    Raises `OSError` when a file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context
