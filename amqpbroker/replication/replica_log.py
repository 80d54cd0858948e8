"""What leader and mirrors ask of the log they stand on: `DiskLog` has it all."""

from collections.abc import Callable
from typing import Protocol

from amqpbroker.message import Batch, Origin
from amqpbroker.storage.format import Image
from amqpbroker.storage.index_set import IndexSet
from amqpbroker.storage.log import Followers


class ReplicaLog(Protocol):
    """The messages of a queue on one node."""

    end: int
    """The index behind the last message."""
    committed: int
    """Below it, every member that is in sync has the messages."""
    kept_end: int
    """Below it, appended messages are as safe on this node as they get."""

    def follow(self, followers: Followers | None) -> None:
        """Tell ``followers`` from now on, and leave the marks to them."""

    def live(self) -> IndexSet:
        """The messages that are there; a set of one's own."""

    def copy(self, indexes: range) -> Batch:
        """As `Log.read`, for another node."""

    def append(self, origin: Origin, raws: list[bytes]) -> int:
        """As `Log.append`."""

    def fill(self, image: Image) -> int:
        """Put messages in their places, below the end; what is there already stays."""

    def when_kept(self, call: Callable[[], None]) -> None:
        """Call once all messages that are there now are as safe on this node as they get."""

    def settle_live(self, indexes: range) -> int:
        """Forget those of the messages that are there."""

    def advance(self, end: int) -> None:
        """Messages below ``end`` are committed, as far as they are kept here."""

    def skip_to(self, index: int) -> None:
        """The next message has this index; between the last one and it lies nothing.

        The marks stay where they are.
        """
