"""A relay between clients and a broker, for tests in which connections break."""

import socket
import threading
from typing import Self


class Relay:
    """A TCP relay to ``host`` and ``port``, as a context, that can cut what goes through it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def cut(self) -> None:
        """Cut every connection; new ones are welcome."""
        for sock in list(self._socks):
            _shut(sock)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        _shut(self._listener)
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        for sock in (self._listener, *self._socks):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return  # The end.
            self._socks.append(here)
            try:
                there = socket.create_connection(self._address)
            except OSError:
                _shut(here)
                continue
            self._socks.append(there)
            for source, target in ((here, there), (there, here)):
                thread = threading.Thread(target=self._carry, args=(source, target))
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass  # Cut.
        _shut(source)
        _shut(target)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # Somebody was first.
