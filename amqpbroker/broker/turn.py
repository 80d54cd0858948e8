"""What a batch has set in motion, finished together.

Bytes of one peer can wake many queues, confirm on many channels and fill many outboxes. Doing all
that message by message would cost a send each; so everything concerned is noted, once, and taken up
when the batch is through: queues hand out, windows confirm, sessions send. A turn does a bounded
amount of work; whoever runs it lets others have the processor before the next.
"""

from collections.abc import Callable
from typing import Protocol

from amqpbroker.queues.queue import Queue

WORK_MAX = 2048
"""Messages times destinations, about 2 ms: so much is done between two checkpoints."""
_DISPATCH_MAX = 1024
"""Messages that a queue hands out before the next queue has its turn."""


class Speaker(Protocol):
    """Something with bytes to send."""

    def flush(self) -> None:
        """Send what the peer takes without waiting."""


class Confirming(Protocol):
    """Something with confirms to give."""

    def advance(self) -> None:
        """Confirm what is committed."""


class Worker(Protocol):
    """Something with work that waited."""

    def work_off(self, work_max: int) -> int:
        """Do what waited, up to ``work_max``; return the work it was."""


class Turn:
    """Workers to go on, queues to dispatch, windows to advance, sessions to flush.

    Each once, in the order in which they were noted.
    """

    def __init__(self) -> None:
        self.number = 0
        """Turns that were run."""
        self.on_behind: Callable[[], None] | None = None
        self._behind = False
        self._workers: dict[Worker, None] = {}
        self._queues: dict[Queue, None] = {}
        self._windows: dict[Confirming, None] = {}
        self._speakers: dict[Speaker, None] = {}

    def resume(self, worker: Worker) -> None:
        """``worker`` may go on with what waited."""
        self._workers[worker] = None

    def wake(self, queue: Queue) -> None:
        """``queue`` may have something to hand out."""
        self._queues[queue] = None

    def confirm(self, window: Confirming) -> None:
        """``window`` may have something to confirm."""
        self._windows[window] = None

    def speak(self, speaker: Speaker) -> None:
        """``speaker`` has something to send."""
        self._speakers[speaker] = None

    def end_batch(self) -> None:
        """Do what a batch has set in motion, if that is not too much; else have it done.

        While there is more than a turn's work, one task works it off turn by turn (`on_behind`
        calls it), and nobody else takes part: a connection that has asked a small thing must not
        be kept by what others have set in motion.
        """
        if self._behind:
            self._tell()
        elif self.run() and self.on_behind is not None:
            self.on_behind()

    def run(self) -> bool:
        """Do what is noted, within the budget; whether there is more.

        Then come again after a checkpoint.
        """
        self.number += 1
        queues = self._queues
        work = WORK_MAX
        while self._workers and work > 0:
            worker = next(iter(self._workers))
            del self._workers[worker]
            work -= worker.work_off(work) + 1
        while queues and work > 0:
            queue = next(iter(queues))
            del queues[queue]
            handed = queue.dispatch(_DISPATCH_MAX)
            if handed >= _DISPATCH_MAX:
                queues[queue] = None
            work -= handed + 1
        self._tell()
        self._behind = bool(queues or self._workers or self._windows or self._speakers)
        return self._behind

    def _tell(self) -> None:
        """Confirm and send."""
        if self._windows:
            windows, self._windows = self._windows, {}
            for window in windows:
                window.advance()
        speakers, self._speakers = self._speakers, {}
        for speaker in speakers:
            speaker.flush()
