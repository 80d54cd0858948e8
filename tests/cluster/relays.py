"""What lies between processes on loopback: relays that a test can close or hold up."""

import errno
from collections.abc import Callable
from itertools import chain, repeat

import attrs
import trio

CHUNK_BYTES = 65536
PATIENCE_S = 30


@attrs.define(eq=False)
class Way:
    """The way of those who have one label through a relay."""

    is_shut: bool = False
    """Connections end, and new ones end at once."""
    passes: trio.Event = attrs.Factory(trio.Event)
    """Until it is set, nothing is carried, as if packets were lost."""
    scopes: set[trio.CancelScope] = attrs.Factory(set)


class Relay:
    """Accepts at ``listen``, and carries everything to ``target`` and back.

    ``label`` says who has connected, by the octets that come first.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        target: tuple[str, int],
        label: Callable[[bytes], str] = lambda data: "",
    ) -> None:
        self.listen = listen
        self._target = target
        self._label = label
        self._ways: dict[str, Way] = {}
        self._accepting = trio.CancelScope()
        self._may_accept = trio.Event()
        self._may_accept.set()

    def refuse(self) -> None:
        """Refuse connections, as where no process listens, until `accept`."""
        self._may_accept = trio.Event()
        self._accepting.cancel()

    def accept(self) -> None:
        """Accept connections again, in a moment."""
        self._may_accept.set()

    def shut(self, label: str = "") -> None:
        """End the connections of those, and let no new one in, until `open`."""
        way = self._way(label)
        way.is_shut = True
        for scope in list(way.scopes):
            scope.cancel()

    def hold(self, label: str = "") -> None:
        """Carry nothing for those, in no direction, until `open`; their connections stay."""
        self._way(label).passes = trio.Event()

    def open(self, label: str = "") -> None:
        """Be as at first."""
        way = self._way(label)
        way.is_shut = False
        way.passes.set()

    def _way(self, label: str) -> Way:
        if label not in self._ways:
            self._ways[label] = Way()
            self._ways[label].passes.set()
        return self._ways[label]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled."""
        async with trio.open_nursery() as nursery:
            for is_first in chain([True], repeat(False)):
                await self._may_accept.wait()
                listeners = await self._listeners()
                if is_first:
                    task_status.started()
                with trio.CancelScope() as self._accepting:
                    await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)

    async def _listeners(self) -> list[trio.SocketListener]:
        """Listen where one should: a process that is just being made may still hold the place."""
        host, port = self.listen
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    listeners = await trio.open_tcp_listeners(port, host=host)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    await trio.sleep(0.01)
                else:
                    self.listen = host, listeners[0].socket.getsockname()[1]
                    return listeners

    async def _serve(self, here: trio.SocketStream) -> None:
        try:
            first = await here.receive_some(CHUNK_BYTES)
            way = self._way(self._label(first))
            if way.is_shut or not first:
                return
            with trio.CancelScope() as scope:
                way.scopes.add(scope)
                try:
                    await way.passes.wait()
                    there = await trio.open_tcp_stream(*self._target)
                    async with there, trio.open_nursery() as nursery:
                        nursery.start_soon(self._carry, here, there, way, first, nursery)
                        nursery.start_soon(self._carry, there, here, way, b"", nursery)
                finally:
                    way.scopes.discard(scope)
        except* (OSError, trio.BrokenResourceError):
            pass  # One end has gone, and so does the other.
        finally:
            await trio.aclose_forcefully(here)

    @staticmethod
    async def _carry(
        source: trio.SocketStream,
        target: trio.SocketStream,
        way: Way,
        data: bytes,
        nursery: trio.Nursery,
    ) -> None:
        while True:
            if data:
                await way.passes.wait()
                await target.send_all(data)
            data = await source.receive_some(CHUNK_BYTES)
            if not data:
                nursery.cancel_scope.cancel()
                return
