"""What nodes tell each other of beside queues: connections, sums, whatever their users agree on.

A node asks another one for a report by a word (`Inquiry`), and is told row by row; a row is octets
here. The other one makes the rows a slice at a time (`Telling`), for there may be many of them, and
sends no more than the stream takes.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.attachment import ServedStream, Turns
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
ROWS_AT_ONCE = 64
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


class Telling:
    """A long answer to the other end of ``stream``, in the parts that ``answers`` makes.

    None of them is no part yet, but a row's work.
    """

    def __init__(
        self, stream: ServedStream, turns: Turns, answers: Iterator[frames.Answer | None]
    ) -> None:
        self._stream = stream
        self._turns = turns
        self._answers = answers

    def work_off(self, work_max: int) -> int:
        """Tell some of it; the work it was."""
        stream = self._stream
        if stream.is_over:
            return 0
        if stream.link.outbox_bytes > OUTBOX_BYTES_HIGH:
            stream.congested[self] = None
            return 0
        work = 0
        for answer in self._answers:
            work += _ROW_WORK
            if answer is not None:
                stream.send(frames.ANSWER, frames.encode_control(answer))
            if work >= work_max:
                self._turns.resume(self)
                break
        return work

    def resume(self) -> None:
        """There is room on the stream again."""
        self._turns.resume(self)


def answers_of(
    number: frames.Number, rows: Iterator[bytes], node: str
) -> Iterator[frames.Answer | None]:
    """The parts of a report to a node: so many rows in each as are one turn's work."""
    part: list[bytes] = []
    size = 0
    try:
        for row in rows:
            if row:
                part.append(row)
                size += len(row)
            if len(part) < ROWS_AT_ONCE and size < _FRAME_BYTES:
                yield None
            else:
                yield frames.Rows(number, part, False)
                part, size = [], 0
        yield frames.Rows(number, part, True)
    except AmqpError as error:
        yield frames.Failed(number, type(error).__name__, error.text)
    except Exception:
        log.exception("a bug: node %s has no report", node)
        yield frames.Failed(number, InternalError.__name__, "the log says more")
