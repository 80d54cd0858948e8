"""What logs on a disk share: the node's journal, and the memory for chunks that wait."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from amqpbroker.message import Origin
from amqpbroker.storage.faults import Damage

if TYPE_CHECKING:
    from amqpbroker.storage.disk_log import DiskLog


class Journal(ABC):
    """What a log tells of its persistent messages, to have it kept."""

    @abstractmethod
    def messages(self, log: "DiskLog", first: int, origin: Origin, raws: list[bytes]) -> None:
        """A run was appended from index ``first`` on; `DiskLog.synced` tells when it is kept."""

    @abstractmethod
    def filled(
        self,
        log: "DiskLog",
        first: int,
        origins: list[Origin],
        raws: list[bytes],
    ) -> None:
        """A run from index ``first`` on was put into its places, below the end of the log.

        Messages may have been there before, and been settled.
        """

    @abstractmethod
    def when_kept(self, log: "DiskLog", call: Callable[[], None]) -> None:
        """Call once all messages are kept of which the log has told so far."""

    @abstractmethod
    def settled(self, log: "DiskLog", indexes: range) -> None:
        """Messages are gone."""

    @abstractmethod
    def forget(self, log: "DiskLog") -> None:
        """The log is deleted: nothing that it has told matters any more.

        `DiskLog.erase` is called when that is kept.
        """


@attrs.define
class Waiting:
    """What chunks that wait in memory occupy, over all logs of a node."""

    bytes_max: int
    damages: list[Damage] = attrs.Factory(list)
    """What logs have found to be damaged."""
    bytes: int = 0
    is_full: bool = False
    """Whether the disk had no room for a chunk."""
    short: dict["DiskLog", None] = attrs.Factory(dict)
    """Logs with chunks in memory that ought to lie in segments: `DiskLog.relieve` tries again."""
    on_short: Callable[[], None] = attrs.field(default=lambda: None)
    """Called when a log comes to be short of room."""
