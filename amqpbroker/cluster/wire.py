"""Streams between nodes, as their users see them, and the frames that travel on them.

A frame is the count of the octets in its payload (32 bits), its kind (8 bits), and the payload.
Kinds under `FIRST_USER_KIND` are the link's own; what the others mean is their users' matter.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from struct import Struct

from amqpbroker.errors import LinkFault

HELLO, CHALLENGE, PROOF, WELCOME, REFUSAL, HEARTBEAT, REVISION = range(7)
"""The link's own kinds of frames."""
FIRST_USER_KIND = 16

FRAME_BYTES_MAX = 256 << 20
"""The payload of one frame; a message that a client may send has room in it."""
OUTBOX_BYTES_HIGH = 1 << 20
"""From here on, nothing that can wait should be sent: consumers get no credit."""
OUTBOX_BYTES_MAX = 64 << 20
"""What may be added although so much waits; past that the stream is broken."""
SEND_BYTES_MAX = 256 * 1024
"""Given to the system at once; then the link's own frames go first, and other peers."""

_HEAD = Struct(">IB")
HEAD_BYTES = _HEAD.size
_NOTHING = memoryview(b"")
"""An empty view of what was sent would keep that in memory."""


class Link(ABC):
    """One stream to another node, as its user sees it.

    Frames arrive in the order in which they were sent, or not at all; nothing is sent again on the
    stream that follows a broken one.
    """

    node: str
    """The name of the node at the other end."""
    version: int
    """The version of the protocol that both speak, while it is up."""
    is_up: bool

    @property
    @abstractmethod
    def outbox_bytes(self) -> int:
        """Octets that the system has not taken yet; over `OUTBOX_BYTES_HIGH`, hold back."""

    @abstractmethod
    def send(self, kind: int, pieces: list[bytes]) -> None:
        """Send a frame whose payload is ``pieces``, which must not change any more.

        It goes out at the end of the turn. While the link is down it is dropped, and so it is when
        it is too big (`FRAME_BYTES_MAX`), or too much waits already (`OUTBOX_BYTES_MAX`): then the
        stream breaks.
        """

    @abstractmethod
    def break_off(self, reason: str) -> None:
        """End the stream, if there is one; the user is told soon."""


class LinkUser(ABC):
    """What sends and receives on links.

    A node has one for the streams that it has dialled, to ask others, and one for those that it was
    dialled on, to answer. Everything is called from within a turn, which ends soon after.
    """

    @abstractmethod
    def up(self, link: Link) -> None:
        """``link`` has a stream; nothing has travelled on it yet."""

    @abstractmethod
    def down(self, link: Link) -> None:
        """The stream is broken: what was asked is not answered, what was sent may have arrived.

        A link to a node that this node dials may come up again. One that was accepted does not.
        """

    @abstractmethod
    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        """A frame has come, of a kind from `FIRST_USER_KIND` on; the work it was.

        Work is counted as a `Turn` counts it, in messages: after a turn's work others have the
        processor. Raises `LinkFault` for what makes no sense: then the stream breaks.
        """

    @abstractmethod
    def drained(self, link: Link) -> None:
        """What waited in the outbox after an earlier turn has been taken by the system."""


def encode_frame(kind: int, payload: bytes = b"") -> bytes:
    """A frame, as octets."""
    return _HEAD.pack(len(payload), kind) + payload


class Outbox:
    """Frames that wait to be sent, in their order; those of the link itself go first."""

    def __init__(self) -> None:
        self.size_bytes = 0
        """Octets of everything that waits, heads included."""
        self._frames: deque[tuple[int, bytes, list[bytes]]] = deque()
        self._own: list[bytes] = []
        self._unsent = _NOTHING
        self._is_high = False
        self._pressed_bytes = 0

    def add(self, kind: int, pieces: list[bytes]) -> None:
        """Add a frame at the end.

        Raises `LinkFault` if it is over `FRAME_BYTES_MAX`, or if `OUTBOX_BYTES_MAX` were added
        although too much waited from earlier turns; big frames count as one mebioctet there, so
        that a few messages as big as clients may send them do no harm.
        """
        size = sum(map(len, pieces))
        if size > FRAME_BYTES_MAX:
            raise LinkFault(f"a frame of {size} octets would be sent, more than {FRAME_BYTES_MAX}")
        if self._is_high:
            self._pressed_bytes += HEAD_BYTES + min(size, OUTBOX_BYTES_HIGH)
            if self._pressed_bytes > OUTBOX_BYTES_MAX:
                raise LinkFault(f"over {OUTBOX_BYTES_MAX >> 20} MiB wait for it to read")
        head = _HEAD.pack(size, kind)
        size += HEAD_BYTES
        self._frames.append((size, head, pieces))
        self.size_bytes += size

    def end_turn(self) -> None:
        """What waits now waits from an earlier turn."""
        self._is_high = self.size_bytes > OUTBOX_BYTES_HIGH
        if not self._is_high:
            self._pressed_bytes = 0

    def add_own(self, kind: int, payload: bytes = b"") -> None:
        """Add a frame that waits for no other but those that are partly sent."""
        frame = encode_frame(kind, payload)
        self._own.append(frame)
        self.size_bytes += len(frame)

    def send(self, take: Callable[[memoryview], int]) -> None:
        """Offer octets to ``take``, which returns how many it takes: all, or what it has room for.

        At most `SEND_BYTES_MAX` of them.
        """
        unsent = self._unsent or memoryview(self._gather())
        taken = take(unsent if len(unsent) <= SEND_BYTES_MAX else unsent[:SEND_BYTES_MAX])
        self._unsent = unsent[taken:] if taken < len(unsent) else _NOTHING
        self.size_bytes -= taken

    def _gather(self) -> bytes:
        """Some whole frames; more than may be sent at once only if the last of them is big."""
        parts, self._own = self._own, []
        size = 0
        while self._frames and size < SEND_BYTES_MAX:
            frame_bytes, head, pieces = self._frames.popleft()
            size += frame_bytes
            parts.append(head)
            parts += pieces
        return b"".join(parts)


class Inbox:
    """Makes frames of octets as they come; at most one unfinished frame is kept."""

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        """What the payload of a frame may have."""
        self._octets = b""
        self._start = 0
        self._kind = 0
        self._pieces: list[bytes] = []
        self._missing_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Octets that no frame was made of yet."""
        return len(self._octets) - self._start + sum(map(len, self._pieces))

    def receive(self, data: bytes) -> None:
        """Take octets."""
        rest = self._octets[self._start :]
        self._octets = rest + data if rest else data
        self._start = 0

    def next_frame(self) -> tuple[int, bytes] | None:
        """The next whole frame, kind and payload; None if there is none yet.

        Raises `LinkFault` when one is announced that is too big.
        """
        octets, start = self._octets, self._start
        if self._missing_bytes:
            return self._complete()
        body = start + HEAD_BYTES
        if body > len(octets):
            return None
        size, kind = _HEAD.unpack_from(octets, start)
        if size > self.frame_bytes_max:
            raise LinkFault(f"a frame of {size} octets, more than {self.frame_bytes_max}")
        self._start = end = body + size
        if end <= len(octets):
            return kind, octets[body:end]
        self._kind = kind
        self._pieces = [octets[body:]]
        self._missing_bytes = end - len(octets)
        self._octets, self._start = b"", 0
        return None

    def _complete(self) -> tuple[int, bytes] | None:
        """Add to a frame of which a part has come before; the frame once it is whole."""
        piece = self._octets[self._start : self._start + self._missing_bytes]
        self._pieces.append(piece)
        self._missing_bytes -= len(piece)
        self._start += len(piece)
        if self._missing_bytes:
            return None
        pieces, self._pieces = self._pieces, []
        return self._kind, b"".join(pieces)
