"""Leaders and mirrors over streams, on logs as nodes have them."""

import random

import pytest

from amqpbroker.broker.turn import Turn
from amqpbroker.cluster import replica_frames as frames
from amqpbroker.cluster.leaders import PAGES_UNKEPT_MAX, Leaders
from amqpbroker.cluster.mirrors import Mirrors
from amqpbroker.errors import LinkFault
from amqpbroker.message import Origin
from amqpbroker.replication.leader import PAGE_MAX, Leader
from amqpbroker.replication.leadership import Leadership, first_index
from amqpbroker.replication.mirror import Mirror
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.journal import Waiting
from amqpbroker.storage.segments import Segments
from amqpbroker.testing.fakes import FakeClock, fake_origin, numbered
from amqpbroker.testing.links import Loopback
from amqpbroker.testing.sim_disk import SimDisk
from amqpbroker.testing.world import Trace
from amqpbroker.world import Disk

A, B = "rabbit@a@1", "rabbit@b@1"
QUEUE = 7
BASE = first_index(3)
ORIGIN = fake_origin()


def open_log(disk: Disk) -> DiskLog:
    """A log whose messages end with the node: they are as safe as they get at once."""
    return DiskLog(QUEUE, Segments(disk, "/q"), Waiting(1 << 20), journal=None)


class Pair:
    """Node a leads a queue, of which node b has a mirror."""

    def __init__(self, disk: Disk, in_sync: tuple[str, ...] = (A, B), backlog: int = 0) -> None:
        self.turn = Turn()
        self.clock = FakeClock()
        self.leaders = Leaders(self.clock, self.turn.speak)
        self.mirrors = Mirrors(self.turn.speak)
        self.log, self.copy = open_log(disk), open_log(disk)
        self.append(backlog)
        self.log.skip_to(BASE)
        record = Leadership(3, A, in_sync, ("rabbit@a", "rabbit@b"))
        self.leader = Leader(self.log, record)
        self.leaders.lead(QUEUE, self.leader)
        self.mirror = Mirror(self.copy, B)
        self.mirrors.follow(QUEUE, self.mirror, "rabbit@a", 3)
        self.streams = Loopback.between(self.mirrors, self.turn, self.leaders, self.turn)

    def append(self, count: int, origin: Origin = ORIGIN) -> None:
        if count:
            self.log.append(origin, numbered(count))

    def settle(self) -> None:
        """Let everything happen that can."""
        while True:
            self.streams.settle()
            if not self.turn.run():
                return

    def live(self) -> tuple[list[range], list[range]]:
        return self.log.live().runs(), self.copy.live().runs()


@pytest.fixture
def disk() -> Disk:
    return SimDisk(random.Random(1), Trace())


def test_a_message_is_committed_when_the_mirror_has_it(disk: Disk) -> None:
    pair = Pair(disk)
    pair.settle()
    pair.streams.serving.is_held = True
    pair.append(3)
    pair.settle()
    assert pair.log.committed == BASE
    pair.streams.serving.is_held = False
    pair.settle()
    assert pair.log.committed == pair.log.readable == BASE + 3
    assert pair.live() == ([range(BASE, BASE + 3)], [range(BASE, BASE + 3)])
    assert pair.copy.committed == BASE + 3


def test_what_is_settled_is_forgotten_when_both_know(disk: Disk) -> None:
    pair = Pair(disk)
    pair.append(5)
    pair.settle()
    pair.streams.asking.is_held = True
    pair.log.settle(range(BASE + 1, BASE + 3))
    pair.settle()
    assert len(pair.log.live()) == len(pair.copy.live()) == 5
    pair.streams.asking.is_held = False
    pair.settle()
    assert pair.live()[0] == pair.live()[1]
    assert len(pair.log.live()) == 3


def test_a_mirror_knows_how_much_each_publisher_has_sent(disk: Disk) -> None:
    pair = Pair(disk)
    pair.settle()
    for count in (2, 5):
        pair.append(3)
        pair.leader.published(9, count)
    pair.settle()
    assert pair.mirror.publishers == {9: 5}
    pair.streams.cut()
    pair.leader.published(8, 1)
    pair.streams.connect()
    pair.settle()
    assert pair.mirror.publishers == {9: 5, 8: 1}


def test_a_mirror_is_sent_what_it_lacks_while_the_queue_goes_on(disk: Disk) -> None:
    backlog = PAGE_MAX * (PAGES_UNKEPT_MAX + 2)
    pair = Pair(disk, (A,), backlog)
    pair.streams.asking.flush()
    assert pair.streams.asking.carry_to(pair.streams.serving), "it has said hello"
    pair.streams.asking.is_held = True  # Its acks wait, and so does the rest of the pages.
    pair.settle()
    [follower] = pair.leader.followers.values()
    assert follower.pages == PAGES_UNKEPT_MAX
    pair.append(10)
    pair.settle()
    assert pair.log.committed == BASE + 10, "nobody waits for it"
    assert not follower.is_whole
    pair.log.settle(range(0, backlog, 2))
    pair.streams.asking.is_held = False
    pair.settle()
    assert follower.is_whole
    assert pair.live()[0] == pair.live()[1]
    wished = pair.leader.wish(0, ("rabbit@a", "rabbit@b"), lambda life: True)
    assert wished is not None
    assert wished.in_sync == (A, B)


def test_a_mirror_drops_what_it_has_too_much_when_it_lacks_nothing(disk: Disk) -> None:
    pair = Pair(disk, (A,), 4)
    pair.streams.cut()
    pair.copy.append(ORIGIN, numbered(9))
    pair.append(2)
    pair.streams.connect()
    pair.settle()
    assert pair.live()[0] == pair.live()[1]
    assert len(pair.copy.live()) == 6


def test_after_a_stream_has_broken_both_agree_again(disk: Disk) -> None:
    pair = Pair(disk)
    pair.append(4)
    pair.settle()
    pair.streams.cut()
    pair.append(4)
    pair.log.settle(range(BASE, BASE + 2))
    pair.settle()
    assert pair.log.committed == BASE + 4, "it is in sync, and not there"
    pair.streams.connect()
    pair.settle()
    assert pair.log.committed == BASE + 8
    assert pair.live() == ([range(BASE + 2, BASE + 8)], [range(BASE + 2, BASE + 8)])


def test_a_mirror_that_is_told_nonsense_begins_anew(disk: Disk) -> None:
    pair = Pair(disk)
    pair.append(4)
    pair.settle()
    pair.mirror._settles += 1  # As if something had been lost.
    pair.log.settle(range(BASE, BASE + 1))
    pair.settle()
    assert pair.live() == ([range(BASE + 1, BASE + 4)], [range(BASE + 1, BASE + 4)])
    assert pair.streams.asking.is_up


def test_who_does_not_lead_says_so_and_is_not_followed(disk: Disk) -> None:
    pair = Pair(disk)
    pair.leaders.give_up(QUEUE)
    pair.mirrors.follow(QUEUE, pair.mirror, "rabbit@a", 3)
    pair.settle()
    assert pair.mirror.ack() is None


def test_what_no_mirror_says_ends_the_stream(disk: Disk) -> None:
    pair = Pair(disk)
    pair.settle()
    head = frames.encode_refused(QUEUE, 3)
    with pytest.raises(LinkFault, match="nothing that a mirror says"):
        pair.leaders.frame(pair.streams.serving, frames.COMMIT, b"".join(head))
    with pytest.raises(LinkFault, match="cut off"):
        pair.leaders.frame(pair.streams.serving, frames.HELLO, b"")
    with pytest.raises(LinkFault, match="hello"):
        pair.leaders.frame(pair.streams.serving, frames.HELLO, b"".join(head))
