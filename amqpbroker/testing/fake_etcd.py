"""A member of etcd that says what a test wants it to, octet by octet; it knows HTTP only."""

import json
from collections.abc import Sequence
from typing import Any

import attrs
import h11
import trio

from amqpbroker.testing.world import SimStream, Simulation
from amqpbroker.world import Stream

END = "end"
"""A step: close the connection."""
CUT = "cut"
"""A step: lose the connection, with what is under way."""

Step = bytes | float | str
"""Octets to send, or seconds to wait, or `END` or `CUT`."""


@attrs.frozen
class Request:
    """What the member was asked."""

    connection: int
    """Which of its connections, from 0."""
    target: str
    headers: dict[str, str]
    body: Any


@attrs.define(eq=False)
class FakeMember:
    """A member at ``http://NAME:2379``; it gives its ``answers`` to requests as they come.

    When it has none left, it says nothing more.
    """

    simulation: Simulation
    name: str = "m1"
    answers: list[Sequence[Step]] = attrs.Factory(list)
    requests: list[Request] = attrs.field(factory=list[Request], init=False)
    connections: int = attrs.field(default=0, init=False)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.name}:2379"

    @property
    def targets(self) -> list[str]:
        """What it was asked for, without the words that all have."""
        return [request.target.removeprefix("/v3/") for request in self.requests]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and answer, until cancelled."""
        listener = await self.simulation.network.listen(self.name, 2379)
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    stream = await listener.accept()
                    nursery.start_soon(self._serve, stream, self.connections)
                    self.connections += 1
        finally:
            listener.close()

    async def _serve(self, stream: Stream, number: int) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            while True:
                request = await self._next_request(http, stream, number)
                if request is None:
                    break
                self.requests.append(request)
                for step in self.answers.pop(0) if self.answers else [float("inf")]:
                    match step:
                        case bytes():
                            while step := step[stream.send_nowait(step) :]:
                                await stream.wait_writable()
                        case "end":
                            return
                        case "cut":
                            assert isinstance(stream, SimStream)
                            stream.cut()
                            return
                        case float():
                            await trio.sleep(step)
                http = h11.Connection(h11.SERVER)
        except OSError:
            pass  # The client has lost its patience.
        finally:
            stream.close()

    async def _next_request(
        self, http: h11.Connection, stream: Stream, number: int
    ) -> Request | None:
        head: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await stream.receive_some(65536)
                if not data:
                    return None
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                headers = {name.decode(): value.decode() for name, value in head.headers}
                asked = json.loads(body) if body else None
                return Request(number, head.target.decode(), headers, asked)


def answer(body: object, status: int = 200) -> bytes:
    """An answer with a length."""
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(octets), octets)


def chunked(*parts: object, status: int = 200, trailer: bytes = b"", ends: bool = True) -> bytes:
    """An answer in chunks; each part is a line."""
    octets = b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status
    octets += b"".join(map(chunk, parts))
    return octets + (b"0\r\n%s\r\n" % trailer if ends else b"")


def chunk(part: object) -> bytes:
    """One chunk, a line."""
    line = part if isinstance(part, bytes) else json.dumps(part).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(line), line)


def fault(code: int, text: str) -> dict[str, object]:
    """What etcd says when it refuses."""
    return {"error": text, "code": code, "message": text}
