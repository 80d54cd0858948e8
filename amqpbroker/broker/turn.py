"""What a batch has set in motion, finished together.

Bytes of one peer can wake many queues, confirm on many channels and fill many outboxes. Doing all
that message by message would cost a send each; so everything concerned is noted, once, and taken up
when the batch is through: queues hand out, windows confirm, sessions send. A turn does a bounded
amount of work; whoever runs it lets others have the processor before the next.
"""

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


class Turn:
    """Queues to dispatch, windows to advance, sessions to flush.

    Each once, in the order in which they were noted.
    """

    def __init__(self) -> None:
        self.number = 0
        """Turns that were run."""
        self._queues: dict[Queue, None] = {}
        self._windows: dict[Confirming, None] = {}
        self._speakers: dict[Speaker, None] = {}

    def wake(self, queue: Queue) -> None:
        """``queue`` may have something to hand out."""
        self._queues[queue] = None

    def confirm(self, window: Confirming) -> None:
        """``window`` may have something to confirm."""
        self._windows[window] = None

    def speak(self, speaker: Speaker) -> None:
        """``speaker`` has something to send."""
        self._speakers[speaker] = None

    def run(self) -> bool:
        """Do what is noted, within the budget.

        Whether there is more: then come again after a checkpoint.
        """
        self.number += 1
        queues = self._queues
        work = WORK_MAX
        while queues and work > 0:
            queue = next(iter(queues))
            del queues[queue]
            handed = queue.dispatch(_DISPATCH_MAX)
            if handed >= _DISPATCH_MAX:
                queues[queue] = None
            work -= handed + 1
        if self._windows:
            windows, self._windows = self._windows, {}
            for window in windows:
                window.advance()
        speakers, self._speakers = self._speakers, {}
        for speaker in speakers:
            speaker.flush()
        return bool(queues or self._windows or self._speakers)
