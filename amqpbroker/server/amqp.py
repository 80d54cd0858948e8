"""AMQP over a stream: a reader and a writer per connection.

The reader takes what came and has the session do it, a turn's work at a time; in between, and
after each batch, the other connections have the processor. Sending is tried at once, without
waiting, at the end of a turn; the writer sleeps unless the peer was slow to take something.
"""

import logging
import math
from typing import Any

import trio

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.session import Ends, Session
from amqpbroker.broker.turn import WORK_MAX
from amqpbroker.protocol.connection import Connection, State
from amqpbroker.world import Stream

log = logging.getLogger(__name__)

RECEIVE_BYTES_MAX = 256 * 1024
_RECEIVE_BYTES_FIRST = 16 * 1024
HANDSHAKE_S_MAX = 10.0
_CLOSE_S_MAX = 3.0
"""How long a peer may take to read the reason for which it is closed, to answer, and to leave."""


class AmqpConnection:
    """Serves one peer on ``stream``."""

    def __init__(self, broker: Broker, stream: Stream, server_properties: dict[str, Any]) -> None:
        self._broker = broker
        self._clock = broker.world.clock
        self._stream = stream
        self._connection = Connection(
            broker.limits.wire, server_properties, self._clock.monotonic_s()
        )
        self._session = Session(
            broker,
            self._connection,
            Ends(stream.peer, stream.local),
            self._transmit,
            self._unpark_reader,
        )
        self._unsent = memoryview(b"")
        self._writer_lot = trio.lowlevel.ParkingLot()
        self._reader_lot = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()

    async def serve(self) -> None:
        """Serve until the connection ends; never raises for what the peer does."""
        deadline = self._broker.deadlines.at(
            self._clock.monotonic_s() + HANDSHAKE_S_MAX, self._check_handshake
        )
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        except* OSError as group:
            log.info("connection from %s lost: %s", self._session.host, group.exceptions[0])
        finally:
            deadline.cancel()
            self._session.close()
            self._stream.close()
            self._broker.turn.end_batch()
            self._session.let_go()

    def _check_handshake(self, now_s: float) -> None:
        if self._connection.state not in (State.RUNNING, State.CLOSING):
            log.warning("connection from %s: handshake timeout", self._session.host)
            self._scope.cancel()

    # -- reading -------------------------------------------------------------------------------

    async def _read(self) -> None:
        connection, session = self._connection, self._session
        turn = self._broker.turn
        size = _RECEIVE_BYTES_FIRST
        while data := await self._stream.receive_some(size):
            size = RECEIVE_BYTES_MAX if len(data) == size else max(len(data), _RECEIVE_BYTES_FIRST)
            connection.receive(data, self._clock.monotonic_s())
            more = True
            while more:
                more = session.take(WORK_MAX)
                turn.speak(session)
                turn.end_batch()
                while session.held:
                    await self._reader_lot.park()
                if more:
                    await trio.lowlevel.checkpoint()

    def _unpark_reader(self) -> None:
        self._reader_lot.unpark_all()

    # -- writing -------------------------------------------------------------------------------

    def _transmit(self) -> None:
        """Send what the peer takes at once; the writer sees to the rest."""
        if not self._unsent:
            try:
                self._send_outbox()
            except OSError as error:
                # Not left to the reader: it may be held, and would not look.
                log.info("connection from %s lost: %s", self._session.host, error)
                self._scope.cancel()
                return
            if self._unsent:
                self._writer_lot.unpark()
        self._mind_the_end()

    def _send_outbox(self) -> None:
        connection = self._connection
        while connection.outbox_bytes:
            data = connection.take_outbox()
            sent = self._stream.send_nowait(data)
            connection.spoke(self._clock.monotonic_s())
            if sent < len(data):
                self._unsent = memoryview(data)[sent:]
                self._session.unsent_bytes = len(self._unsent)
                break

    def _mind_the_end(self) -> None:
        """A connection that is over ends once all is said; one that closes, soon.

        A peer whose close was answered is waited for. It may have sent more behind its close, and
        octets that nobody reads turn the end into a reset, which can overtake the answer.
        """
        state = self._connection.state
        if state is State.CLOSED and not self._unsent and not self._connection.lingers:
            self._scope.cancel()
        elif state in (State.CLOSING, State.CLOSED) and self._scope.deadline == math.inf:
            self._scope.deadline = trio.current_time() + _CLOSE_S_MAX

    async def _write(self) -> None:
        while True:
            while not self._unsent:
                await self._writer_lot.park()
            await self._stream.wait_writable()
            sent = self._stream.send_nowait(self._unsent)
            self._unsent = self._unsent[sent:]
            self._session.unsent_bytes = len(self._unsent)
            if not self._unsent:
                self._broker.turn.speak(self._session)
                self._broker.turn.end_batch()
