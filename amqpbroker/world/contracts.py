"""What a node may ask of the world, and `World`, which holds it all."""

import random
from abc import ABC, abstractmethod

import attrs


class Stream(ABC):
    """An ordered stream of bytes to a peer."""

    peer: tuple[str, int]
    local: tuple[str, int]

    @abstractmethod
    async def receive_some(self, bytes_max: int) -> bytes:
        """Wait for bytes, at most ``bytes_max``.

        Empty when the peer has ended. Raises `OSError` when the connection is lost.
        """

    @abstractmethod
    def is_quiet(self) -> bool:
        """Whether nothing waits to be received: no bytes, not the peer's end, no loss."""

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Give the peer as much as it takes without waiting.

        The count of bytes taken, perhaps 0. Raises `OSError` when the connection is lost.
        """

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until `send_nowait` may take something."""

    @abstractmethod
    def close(self) -> None:
        """End the stream; waiting calls raise `OSError`. Closing twice is harmless."""


class Listener(ABC):
    """A bound address that accepts streams."""

    address: tuple[str, int]

    @abstractmethod
    async def accept(self) -> Stream:
        """Wait for the next peer.

        Raises `OSError` when a peer could not be taken (too many open files): the listener goes on.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop listening."""


class Clock(ABC):
    """Time, twice: for durations and for the calendar."""

    @abstractmethod
    def monotonic_s(self) -> float:
        """Seconds since some start; never goes back."""

    @abstractmethod
    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as the machine believes."""


class Network(ABC):
    """Listeners and connections."""

    @abstractmethod
    async def listen(self, host: str, port: int) -> Listener:
        """Listen at ``host``.

        Port 0 takes a free one. Raises `OSError` when the address cannot be had.
        """

    @abstractmethod
    async def connect(self, host: str, port: int) -> Stream:
        """Connect to a listener. Raises `OSError` when nobody listens."""


class File(ABC):
    """An open file: it grows at its end, is read anywhere, and lasts once it is synced.

    Until `sync` has returned, a crash of the machine may take any part of what was appended or cut
    off since the last one, torn at any octet. Whatever is done to a closed file raises `OSError`
    (EBADF).
    """

    path: str
    """Where it was opened; a later rename does not show here."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Octets in the file, synced or not."""

    @abstractmethod
    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add ``data`` at the end; it may be changed afterwards.

        Raises `OSError` when the disk is full (ENOSPC) or ill. A part may have been added even so:
        `size_bytes` counts it, and `truncate` takes it away.
        """

    @abstractmethod
    def read(self, offset: int, bytes_max: int) -> bytes:
        """The octets from ``offset`` on, ``bytes_max`` of them, fewer only where the file ends.

        Raises `OSError` when they cannot be had.
        """

    @abstractmethod
    def truncate(self, size_bytes: int) -> None:
        """Cut off what lies behind ``size_bytes``, which is not more than the file has.

        Raises `OSError`.
        """

    @abstractmethod
    async def sync(self) -> None:
        """Make the content last: what was appended or cut off before the call survives a crash.

        What happens to the file meanwhile is not covered. One sync of a file at a time. Cancelling
        does not end one that has begun.

        Raises `OSError` when it fails. What has reached the disk then is not known, and asking
        again would not tell: the system may have dropped the content and call it clean. From then
        on `append`, `truncate` and `sync` raise `OSError` (EIO), and a file that is opened anew in
        this place deserves no trust either (Rebello et al., Can Applications Recover from fsync
        Failures?, ATC 2020).
        """

    @abstractmethod
    def lock(self) -> None:
        """Keep every other `File` of the same place from being locked, in any process.

        Until the file is closed or the process ends. Raises `BlockingIOError` when it is locked
        already.
        """

    @abstractmethod
    def close(self) -> None:
        """End the use of the file, not while it is synced. It syncs nothing. Twice is harmless."""


class Disk(ABC):
    """Files and folders; paths are as the system's, parts separated by ``/``.

    Every method raises `OSError` when the disk fails, and what Python's own functions raise:
    `FileNotFoundError`, `FileExistsError`, `NotADirectoryError`, `IsADirectoryError`. All but the
    syncs are done at once. A name that was made, replaced or removed is sure to stay so after a
    crash of the machine only when `sync_folder` has returned; before, each such change may or may
    not have happened, whatever the order.
    """

    @abstractmethod
    def open(self, path: str, create: bool = False, read_only: bool = False) -> File:
        """Open the file at ``path``; with ``create``, make an empty one where there is none.

        With ``read_only`` no right to write is needed, and `append`, `truncate` and `sync` raise
        `OSError` (EBADF).
        """

    @abstractmethod
    def make_folder(self, path: str) -> None:
        """Make one folder, whose own folder exists. Harmless when it is there already."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """What is in a folder: names of files and folders, sorted."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Give a file another name in its folder, in place of the file that had it, if any.

        Or a folder a name that nothing has.

        Whoever looks, after a crash too, finds the one or the other under ``new``. It says nothing
        about the content: sync that first.
        """

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, or a folder that is empty. Those who have the file open keep it.

        The name is gone at once; what the file took shows in `free_bytes` some time later.
        """

    @abstractmethod
    async def sync_folder(self, path: str) -> None:
        """Make the names in a folder last, as they were at the call.

        Not those in folders within, nor any content. Cancelling does not end one that has begun.
        When it fails, it raises `OSError`, and from then on (EIO) for this folder.
        """

    @abstractmethod
    def free_bytes(self, path: str) -> int:
        """What can still be written where ``path`` lies; very much if nobody knows."""


class Memory(ABC):
    """The machine's memory, as far as the node must watch it."""

    @abstractmethod
    def total_bytes(self) -> int:
        """What this process may use: the machine's memory, or less where it is confined."""

    @abstractmethod
    def used_bytes(self) -> int:
        """What this process occupies (resident)."""

    @abstractmethod
    def give_back(self) -> None:
        """Return to the system what the allocator keeps for later; it may take milliseconds."""


@attrs.frozen
class World:
    """Everything outside the node, as it sees it."""

    clock: Clock
    network: Network
    disk: Disk
    memory: Memory
    random: random.Random
