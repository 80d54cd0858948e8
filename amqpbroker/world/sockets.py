"""The network as it is: TCP."""

import errno
import socket
from collections.abc import Awaitable, Callable

import trio

from amqpbroker.world.contracts import Listener, Network, Stream


class _SocketStream(Stream):
    """A TCP connection; non-blocking, without Nagle's delay."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self.peer = sock.getpeername()[:2]
        self.local = sock.getsockname()[:2]
        self._has_more = False

    async def receive_some(self, bytes_max: int) -> bytes:
        """As the contract says.

        Who was not read to the end is tried at once. Others have mostly nothing to say yet: a try
        in vain and another round of the event loop cost more than to ask the system to wait.
        """
        if self._has_more:
            await trio.lowlevel.checkpoint()
        else:
            await self._wait(trio.lowlevel.wait_readable)
        while True:
            try:
                data = self._socket.recv(bytes_max)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_readable)
            else:
                self._has_more = len(data) == bytes_max
                return data

    def is_quiet(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        """Wait on the socket; closing it meanwhile is a lost connection like any other."""
        if self._socket.fileno() == -1:
            raise OSError(errno.EBADF, "the connection is closed")
        try:
            await wait(self._socket)
        except trio.ClosedResourceError as error:
            raise OSError(errno.ECONNRESET, "the connection was closed") from error

    def close(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class _SocketListener(Listener):
    """A listening TCP socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.address = sock.getsockname()[:2]

    async def accept(self) -> Stream:
        while True:
            if self._socket.fileno() == -1:
                raise trio.ClosedResourceError("the listener is closed")
            await trio.lowlevel.wait_readable(self._socket)
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue  # Another process took it meanwhile, or the peer thought better of it.
            try:
                return _SocketStream(sock)
            except OSError:
                sock.close()  # The peer has gone again.

    def close(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class SocketNetwork(Network):
    """TCP."""

    async def listen(self, host: str, port: int) -> Listener:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
        return _SocketListener(sock)

    async def connect(self, host: str, port: int) -> Stream:
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            if isinstance(error.__cause__, BaseExceptionGroup):
                # One for each address that the host has, and each tells more than their sum.
                raise error.__cause__.exceptions[0] from error
            raise
        sock = socket.socket(fileno=stream.socket.detach())
        try:
            return _SocketStream(sock)
        except OSError:  # The peer has cut it already.
            sock.close()
            raise
