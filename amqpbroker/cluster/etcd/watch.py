"""A watch on etcd, over one stream after another."""

from collections import deque

import msgspec
import trio

from amqpbroker.cluster.etcd.contract import Event, EventBatch, Watch
from amqpbroker.cluster.etcd.gateway import (
    PERMISSION_DENIED,
    Fault,
    RangeAnswer,
    WatchAnswer,
    WatchLine,
    end_of_watch,
    fault_of,
    json_watch,
    span,
)
from amqpbroker.cluster.etcd.http import Endpoint, Headers, HttpConnection, NotSent, Unanswered
from amqpbroker.cluster.etcd.members import READ, Members
from amqpbroker.errors import Compacted, StoreError, StoreUnavailable

_line_decoder = msgspec.json.Decoder(WatchLine, strict=False)


class _Stream:
    """One answer of etcd to the wish to watch; it has no end of its own."""

    def __init__(self, endpoint: Endpoint, connection: HttpConnection) -> None:
        self.endpoint = endpoint
        self._connection = connection
        self._lines: deque[bytes] = deque()
        self._torn: list[bytes] = []

    async def next_answer(self) -> WatchAnswer:
        """Wait for the next message. Raises `Unanswered`, `Compacted` or `Fault` at the end."""
        while not self._lines:
            data = await self._connection.receive()
            if data is None:
                raise Unanswered("the watch has ended")
            self._torn.append(data)
            if b"\n" in data:
                *lines, rest = b"".join(self._torn).split(b"\n")
                self._lines.extend(line for line in lines if line)
                self._torn = [rest]
        try:
            line = _line_decoder.decode(self._lines.popleft())
        except msgspec.MsgspecError as error:
            raise Unanswered(f"the watch makes no sense: {error}") from error
        end = end_of_watch(line)
        if end is not None:
            raise end
        return line.result or WatchAnswer()

    def close(self) -> None:
        self._connection.close()


class EtcdWatch(Watch):
    """A watch that opens a stream when it has none, from where it was.

    A stream that says nothing for ``silence_s`` may be dead, and is replaced.
    """

    def __init__(
        self, members: Members, prefix: bytes, from_revision: int, silence_s: float
    ) -> None:
        assert from_revision > 0, from_revision
        self._members = members
        self._prefix = prefix
        self._told = from_revision - 1
        self._silence_s = silence_s
        self._stream: _Stream | None = None
        self._headers: Headers = []
        self._denied = False
        self._closed = False

    async def __anext__(self) -> EventBatch:
        await trio.lowlevel.checkpoint()
        while not self._closed:
            endpoint = self._members.endpoint
            try:
                if self._stream is None:
                    await self._open(endpoint)
                    continue
                endpoint = self._stream.endpoint
                batch = await self._next_batch(self._stream)
            except (NotSent, Unanswered, StoreUnavailable):
                self._drop()
                await self._members.give_up(endpoint)
            except Fault as fault:
                self._mend(fault)
                await self._members.give_up(endpoint)
            except StoreError:
                self.close()
                raise
            else:
                if batch is not None:
                    return batch
        raise StopAsyncIteration

    async def _open(self, endpoint: Endpoint) -> None:
        """Begin a stream, and see that it is what it should be."""
        members = self._members
        self._headers = await members.headers(READ)
        until_s = trio.current_time() + members.attempt_s(members.timeout_s)
        connection = await endpoint.connect(until_s)
        stream = _Stream(endpoint, connection)
        revision = None
        try:
            with trio.move_on_at(until_s):
                revision = await self._begin(connection, stream)
        finally:
            if revision is None:
                stream.close()
        if revision is None:
            raise Unanswered(f"{endpoint.url}: no answer to a watch in time")
        self._stream = stream
        self._denied = False
        if revision < self._told:
            await self._see_that_nothing_is_lost()

    async def _begin(self, connection: HttpConnection, stream: _Stream) -> int:
        """Ask for the stream; the revision of the member that gives it."""
        body = msgspec.json.encode(json_watch(self._prefix, self._told + 1))
        status = await connection.begin("/v3/watch", body, self._headers)
        if status != 200:
            parts = []
            while (part := await connection.receive()) is not None:
                parts.append(part)
            raise fault_of(b"".join(parts))
        answer = await stream.next_answer()
        if not answer.created:
            raise Unanswered(f"{stream.endpoint.url}: the watch began in the middle")
        return answer.header.revision

    async def _see_that_nothing_is_lost(self) -> None:
        """See whether only this member is behind, or the store has lost what was told already.

        A store that is restored from a backup begins again at an older revision.
        """
        answer = await self._members.ask("kv/range", span(self._prefix, True), RangeAnswer, READ)
        if answer.header.revision < self._told:
            raise Compacted(answer.header.revision)

    async def _next_batch(self, stream: _Stream) -> EventBatch | None:
        """What the next message tells, if it is anything new."""
        with trio.move_on_after(self._silence_s) as waiting:
            answer = await stream.next_answer()
        if waiting.cancelled_caught:
            self._drop()
            return None
        told = self._told
        events: list[Event] = []
        for each in answer.events:
            event = each.event()
            # A member that was given a snapshot may tell old things again (etcd before 3.5.8).
            if event.revision > told and event.revision >= self._told:
                events.append(event)
                self._told = event.revision
        if not events:
            return None
        return EventBatch(self._told, tuple(events))

    def _mend(self, fault: Fault) -> None:
        """Prepare to try again after a fault that is worth it. Raises `StoreRefused`."""
        self._drop()
        if fault.code == PERMISSION_DENIED and not self._denied:
            # What members say of a token that is too old, too.
            self._denied = True
            worth_it = self._members.forget_token(self._headers)
        elif fault.is_bad_token:
            worth_it = self._members.forget_token(self._headers)
        else:
            worth_it = fault.is_trouble
        if not worth_it:
            self.close()
            raise fault.refusal()

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        self._closed = True
        self._drop()
