"""What nodes tell each other of beside queues: connections, sums, whatever their users agree on.

A node asks another one for a report by a word (`Inquiry`), and is told row by row; a row is octets
here. The other one makes the rows a slice at a time (`Telling`), for there may be many of them, and
sends no more than the stream takes.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.attachment import ServedStream
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH
from amqpbroker.errors import AmqpError, InternalError
from amqpbroker.queues.queue import Pending

log = logging.getLogger(__name__)

Reporter = Callable[[str, Mapping[str, str]], Iterator[bytes]]
"""Makes the rows of a report, by its word and what it is narrowed down to.

An empty row is none: so a maker that has to look at much lets others in between. Raises `AmqpError`
for what it knows nothing of.
"""

_ROW_WORK = 32
_FRAME_BYTES = 64 * 1024


class Inquiry:
    """What was asked of ``node``, and what it has told by now."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.rows: list[bytes] = []
        self.is_over = False
        """Whether nothing more is told."""
        self.has_failed = False
        """Whether not all was told."""
        self.on_news: Callable[[], None] = _nothing
        """Called when something has come."""

    def take(self, rows: list[bytes], is_last: bool) -> None:
        """Rows have come."""
        self.rows += rows
        self.is_over = is_last
        self.on_news()

    def fail(self) -> None:
        """Nothing more will come."""
        self.is_over = self.has_failed = True
        self.on_news()


class Tally(Pending[int]):
    """The sum of ``counts``, none of which fails; `end` has it that there are no more of them."""

    def __init__(self, counts: Sequence[Pending[int]]) -> None:
        super().__init__()
        self._sum = 0
        self._left = len(counts)
        for count in counts:
            count.then = self._add

    def _add(self, count: int) -> None:
        self._sum += count
        self._left -= 1
        if not self._left:
            self.resolve(self._sum)

    def end(self) -> None:
        """Who has not answered counts for nothing."""
        if self._left > 0:
            self._left = 0
            self.resolve(self._sum)


def _nothing() -> None:
    """Nobody waits for news."""


class Turns(Protocol):
    """What is asked of the turns of the node."""

    def resume(self, worker: "Telling") -> None:
        """Call ``worker.work_off(work_max)`` when there is time."""


class Telling:
    """A report to the other end of ``stream``, as the answer to the question ``number``."""

    def __init__(
        self, stream: ServedStream, turns: Turns, number: int, rows: Iterator[bytes]
    ) -> None:
        self._stream = stream
        self._turns = turns
        self._number = number
        self._rows = rows

    def work_off(self, work_max: int) -> int:
        """Tell some rows; the work it was."""
        stream = self._stream
        if stream.is_over:
            return 0
        if stream.link.outbox_bytes > OUTBOX_BYTES_HIGH:
            stream.congested[self] = None
            return 0
        part: list[bytes] = []
        work = size = 0
        answer: frames.Answer
        try:
            for row in self._rows:
                work += _ROW_WORK
                size += len(row)
                if row:
                    part.append(row)
                if work >= work_max or size > _FRAME_BYTES:
                    answer = frames.Rows(self._number, part, False)
                    self._turns.resume(self)
                    break
            else:
                answer = frames.Rows(self._number, part, True)
        except AmqpError as error:
            answer = frames.Failed(self._number, type(error).__name__, error.text)
        except Exception:
            log.exception("a bug: node %s has no report", stream.link.node)
            answer = frames.Failed(self._number, InternalError.__name__, "the log says more")
        stream.send(frames.ANSWER, frames.encode_control(answer))
        return work

    def resume(self) -> None:
        """There is room on the stream again."""
        self._turns.resume(self)
