"""A relay before the link of a node, for tests in which some of the others cannot reach it."""

import select
import socket
import threading
from collections.abc import Callable

_CHUNK_BYTES = 65536
_HELLO_BYTES_MAX = 4096
_LOOK_S = 0.05


class LinkRelay:
    """Carries streams to ``address``, as a context.

    Who dials is known by the name in its hello. The octets of those in `severed` are held back, in
    both directions, until `heal`, which breaks their streams. While no process listens at
    ``address``, the relay should `refuse`, as that address does.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.severed: set[str] = set()
        self._address = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_over = False
        self._heals = 0
        self._threads: list[threading.Thread] = []
        self._wants = threading.Condition()
        self._listens = self._should_listen = True

    def refuse(self) -> None:
        """Refuse connections, until `listen`."""
        self._want(False)

    def listen(self) -> None:
        """Accept connections, as at first."""
        self._want(True)

    def _want(self, listens: bool) -> None:
        with self._wants:
            self._should_listen = listens
            self._wants.wait_for(lambda: self._listens == listens)

    def heal(self) -> None:
        """Let all through again, on new streams."""
        self.severed.clear()
        self._heals += 1

    def __enter__(self) -> "LinkRelay":
        self._run(self._accept)
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _run(self, act: Callable[[], None]) -> None:
        thread = threading.Thread(target=act)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_over:
            with self._wants:
                if self._should_listen != self._listens:
                    self._listener.close()
                    if self._should_listen:
                        self._listener = socket.create_server(("127.0.0.1", self.port))
                    self._listens = self._should_listen
                    self._wants.notify_all()
            listeners = [self._listener] if self._listens else []
            if select.select(listeners, [], [], _LOOK_S)[0]:
                here, _ = self._listener.accept()
                self._run(lambda here=here: self._carry(here))  # type: ignore[misc]

    def _carry(self, here: socket.socket) -> None:
        """Carry one stream until it ends, or was severed and is healed."""
        hello = b""
        heals = self._heals
        was_severed = False
        with here:
            try:
                there = socket.create_connection(self._address, timeout=5)
            except OSError:
                return
            with there:
                while not self._is_over:
                    is_severed = any(name.encode() in hello for name in set(self.severed))
                    was_severed = was_severed or is_severed
                    if was_severed and self._heals > heals:
                        return
                    ready = [] if is_severed else select.select([here, there], [], [], _LOOK_S)[0]
                    if is_severed:
                        select.select([], [], [], _LOOK_S)
                    for source in ready:
                        try:
                            data = source.recv(_CHUNK_BYTES)
                            if source is here and len(hello) < _HELLO_BYTES_MAX:
                                hello += data[:_HELLO_BYTES_MAX]
                            if any(name.encode() in hello for name in set(self.severed)):
                                break  # It is lost: the stream is broken when it is healed.
                            (there if source is here else here).sendall(data)
                        except OSError:
                            return
                        if not data:
                            return
