"""A stream between two nodes without sockets and tasks, which breaks when the test says so."""

from collections.abc import Callable

import attrs

from amqpbroker.broker.turn import Turn
from amqpbroker.cluster.wire import (
    FRAME_BYTES_MAX,
    OUTBOX_BYTES_HIGH,
    Inbox,
    Link,
    LinkUser,
    Outbox,
)
from amqpbroker.errors import LinkFault


class LoopbackLink(Link):
    """One end of a `Loopback`."""

    def __init__(self, node: str, user: LinkUser, turn: Turn) -> None:
        self.node = node
        self.version = 1
        self.is_up = False
        self.user = user
        self.turn = turn
        self.is_stuck = False
        """The system takes nothing: what is sent fills the outbox."""
        self.is_held = False
        """What was sent is on its way, and does not arrive."""
        self._outbox = Outbox()
        self._travelling: list[bytes] = []
        self._inbox = Inbox(FRAME_BYTES_MAX)
        self._was_left = False

    @property
    def outbox_bytes(self) -> int:
        return self._outbox.size_bytes

    def send(self, kind: int, pieces: list[bytes]) -> None:
        if self.is_up:
            self._outbox.add(kind, list(pieces))
            self.turn.speak(self)

    def flush(self) -> None:
        """Send what the system takes."""
        if not self.is_up:
            return
        was_left = self._was_left or self._outbox.size_bytes > OUTBOX_BYTES_HIGH
        while self._outbox.size_bytes and not self.is_stuck:
            self._outbox.send(self._take)
        self._outbox.end_turn()
        self._was_left = self._outbox.size_bytes > 0
        if was_left and not self._was_left:
            self.user.drained(self)

    def _take(self, data: memoryview) -> int:
        self._travelling.append(bytes(data))
        return len(data)

    def come_up(self) -> None:
        """Have a stream, as new."""
        assert not self.is_up
        self._outbox, self._inbox = Outbox(), Inbox(FRAME_BYTES_MAX)
        self._travelling, self._was_left = [], False
        self.is_up = True
        self.user.up(self)

    def break_off(self, reason: str = "") -> None:
        if self.is_up:
            self.is_up = False
            self.user.down(self)

    def carry_to(self, other: "LoopbackLink") -> bool:
        """Have what was sent arrive at the ``other`` end, if it still listens; whether it was so.

        A frame that makes no sense there breaks the stream.
        """
        if self.is_held or not self._travelling:
            return False
        arriving, self._travelling = self._travelling, []
        for data in arriving:
            other.receive(data)
        return True

    def receive(self, data: bytes) -> None:
        """Octets have come."""
        if not self.is_up:
            return
        self._inbox.receive(data)
        try:
            while (frame := self._inbox.next_frame()) is not None:
                self.user.frame(self, *frame)
        except LinkFault:
            self.break_off()
            raise


@attrs.define
class Loopback:
    """A stream from a node that asks to a node that serves: both ends, and what lies between.

    It is up from the start. `settle` lets everything happen that can.
    """

    asking: LoopbackLink
    serving: LoopbackLink

    @classmethod
    def between(
        cls, asker: LinkUser, asking_turn: Turn, server: LinkUser, serving_turn: Turn
    ) -> "Loopback":
        """A stream that node ``rabbit@b`` has dialled to ``rabbit@a``; the turns may be one."""
        loopback = cls(
            LoopbackLink("rabbit@a", asker, asking_turn),
            LoopbackLink("rabbit@b", server, serving_turn),
        )
        loopback.connect()
        return loopback

    def connect(self) -> None:
        """A new stream; what was on the one before is lost."""
        self.serving.come_up()
        self.asking.come_up()

    def cut(self) -> None:
        """Break the stream: first the asking end hears of it. What was on its way is lost.

        An end alone hears of it by its own `LoopbackLink.break_off`.
        """
        self.asking.break_off()
        self.serving.break_off()

    def settle(self) -> bool:
        """Run turns and carry octets until nothing more happens; whether anything was carried."""
        moved, carried = True, False
        while moved:
            for end in (self.asking, self.serving):
                while end.turn.run():
                    pass
                end.flush()
            moved = self.asking.carry_to(self.serving)
            moved = self.serving.carry_to(self.asking) or moved
            carried = carried or moved
        return carried


class NotingUser(LinkUser):
    """Notes what happens on its links; ``answer`` is called with every frame."""

    def __init__(self, answer: Callable[[Link, int, bytes], None] | None = None) -> None:
        self.answer = answer
        self.links: list[Link] = []
        """Those that are up."""
        self.states: list[str] = []
        """``up`` and ``down``, as they came."""
        self.frames: list[tuple[int, bytes]] = []
        self.drains = 0

    def up(self, link: Link) -> None:
        self.links.append(link)
        self.states.append("up")

    def down(self, link: Link) -> None:
        self.links.remove(link)
        self.states.append("down")

    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        self.frames.append((kind, payload))
        if self.answer is not None:
            self.answer(link, kind, payload)
        return 1

    def drained(self, link: Link) -> None:
        self.drains += 1
