"""The window of unconfirmed messages."""

import random

import pytest

from amqpbroker.broker.confirms import ConfirmWindow
from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.testing.fakes import FakeKeeper, HeldLog, fake_origin


class Publisher:
    """A window, and queues over logs that commit when the test says so."""

    def __init__(self, confirming: bool = True, queues: int = 2) -> None:
        self.acks: list[tuple[int, bool]] = []
        self.nacks: list[tuple[int, bool]] = []
        self.uncommitted_bytes = 0
        self.woken: dict[ConfirmWindow, None] = {}
        self.logs = [HeldLog() for _ in range(queues)]
        self.queues = [
            ClassicQueue(QueueDefinition("/", f"q{i}"), log, FakeKeeper())
            for i, log in enumerate(self.logs)
        ]
        self.window = ConfirmWindow(self.wake, self.account, self.ack, self.nack)
        self.window.confirming = confirming

    def wake(self, window: ConfirmWindow) -> None:
        self.woken[window] = None

    def account(self, change_bytes: int) -> None:
        self.uncommitted_bytes += change_bytes

    def ack(self, sequence: int, multiple: bool) -> None:
        self.acks.append((sequence, multiple))

    def nack(self, sequence: int, multiple: bool) -> None:
        self.nacks.append((sequence, multiple))

    def refuse(self, place: int, end: int) -> None:
        """The queue at ``place`` has not taken what lies below ``end``, and is not committed."""
        queue = self.queues[place]
        queue.refused = [*queue.refused, range(queue.committed, end)]
        self.commit(place, end)

    def publish(self, count: int, *places: int) -> None:
        """Publish messages of ten octets to the queues at ``places``."""
        raws = [bytes(10)] * count
        targets = [(self.queues[i], self.queues[i].publish(fake_origin(), raws)) for i in places]
        self.window.published(raws, targets)
        self.turn()

    def commit(self, place: int, end: int) -> None:
        """Commit what lies below ``end`` in the queue at ``place``."""
        self.logs[place].advance(committed=end)
        self.turn()

    def turn(self) -> None:
        woken, self.woken = self.woken, {}
        for window in woken:
            window.advance()


def test_what_went_nowhere_is_confirmed() -> None:
    publisher = Publisher()

    publisher.publish(1)

    assert publisher.acks == [(1, False)]


def test_many_messages_without_a_gap_are_confirmed_by_one_ack() -> None:
    publisher = Publisher()
    publisher.publish(2, 0)
    publisher.publish(3, 0)
    assert publisher.acks == []

    publisher.commit(0, 5)

    assert publisher.acks == [(5, True)]


def test_a_part_of_a_run_is_confirmed() -> None:
    publisher = Publisher()
    publisher.publish(5, 0)

    publisher.commit(0, 3)
    publisher.commit(0, 4)
    publisher.commit(0, 5)

    assert publisher.acks == [(3, True), (4, False), (5, False)]


def test_what_lies_behind_a_gap_is_confirmed_one_by_one() -> None:
    publisher = Publisher()
    publisher.publish(1, 0)

    publisher.publish(2, 1)
    publisher.commit(1, 2)

    assert publisher.acks == [(2, False), (3, False)]


def test_what_was_confirmed_before_its_time_is_not_named_again() -> None:
    publisher = Publisher()
    publisher.publish(1, 0)
    publisher.publish(2, 1)
    publisher.commit(1, 2)
    publisher.acks.clear()

    publisher.commit(0, 1)
    publisher.publish(1)

    assert publisher.acks == [(1, False), (4, False)]


def test_the_slowest_of_several_queues_decides() -> None:
    publisher = Publisher()
    publisher.publish(2, 0, 1)

    publisher.commit(0, 2)
    assert publisher.acks == []
    publisher.commit(1, 1)
    publisher.commit(1, 2)

    assert publisher.acks == [(1, False), (2, False)]


def test_the_slowest_may_be_another_one_each_time() -> None:
    publisher = Publisher()
    publisher.publish(3, 0, 1)

    publisher.commit(0, 1)
    publisher.commit(1, 3)
    publisher.commit(0, 2)
    publisher.commit(0, 3)

    assert publisher.acks == [(1, False), (2, False), (3, False)]


def test_messages_of_a_deleted_queue_are_confirmed() -> None:
    publisher = Publisher()
    publisher.publish(2, 0)

    publisher.queues[0].delete()
    publisher.turn()

    assert publisher.acks == [(2, True)]


def test_a_deleted_queue_does_not_decide_for_the_others() -> None:
    publisher = Publisher()
    publisher.publish(1, 0, 1)

    publisher.queues[0].delete()
    publisher.turn()
    assert publisher.acks == []
    publisher.commit(1, 1)

    assert publisher.acks == [(1, False)]


def test_nobody_is_told_without_confirms() -> None:
    publisher = Publisher(confirming=False)
    publisher.publish(2, 0)

    publisher.commit(0, 2)

    assert publisher.acks == []


def test_sequence_numbers_begin_when_confirms_are_asked_for() -> None:
    publisher = Publisher(confirming=False)
    publisher.publish(3)
    publisher.publish(2, 0)
    publisher.window.confirming = True

    publisher.publish(1, 1)
    publisher.publish(1, 0)
    publisher.commit(1, 1)
    assert publisher.acks == [(1, False)]
    publisher.commit(0, 2)
    publisher.commit(0, 3)

    assert publisher.acks == [(1, False), (2, False)]
    assert publisher.uncommitted_bytes == 0


def test_octets_count_until_they_are_committed_with_and_without_confirms() -> None:
    for confirming in (False, True):
        publisher = Publisher(confirming)
        publisher.publish(2, 0)
        publisher.publish(3, 0, 1)
        assert publisher.uncommitted_bytes == 50

        publisher.commit(0, 5)
        assert publisher.uncommitted_bytes == 30
        publisher.commit(1, 3)

        assert publisher.uncommitted_bytes == 0


def test_a_window_that_closes_has_nothing_uncommitted_and_nothing_to_say() -> None:
    publisher = Publisher()
    publisher.publish(2, 0)

    publisher.window.close()
    publisher.commit(0, 2)

    assert publisher.uncommitted_bytes == 0
    assert publisher.acks == []


def test_what_a_queue_refuses_is_told_at_once_as_far_as_there_is_no_gap() -> None:
    publisher = Publisher()
    publisher.publish(3, 0)
    publisher.publish(2, 1)

    publisher.refuse(0, 2)
    publisher.commit(0, 3)
    publisher.commit(1, 2)

    assert publisher.nacks == [(2, True)]
    assert publisher.acks == [(3, False), (5, True)]
    assert publisher.uncommitted_bytes == 0


def test_confirms_come_before_what_is_refused_with_them() -> None:
    publisher = Publisher()
    publisher.publish(6, 0)
    publisher.queues[0].refused = [range(2, 4)]

    publisher.commit(0, 6)

    assert publisher.acks == [(2, True), (5, False), (6, False)]
    assert publisher.nacks == [(3, False), (4, False)]


def test_a_message_is_refused_if_one_of_its_queues_has_not_taken_it() -> None:
    publisher = Publisher()
    publisher.publish(1, 0, 1)
    publisher.publish(1, 1)
    publisher.commit(1, 2)

    publisher.refuse(0, 1)

    assert (publisher.acks, publisher.nacks) == ([(2, False)], [(1, True)])


def test_nobody_is_told_of_what_was_refused_without_confirms() -> None:
    publisher = Publisher(confirming=False)
    publisher.publish(2, 0)

    publisher.refuse(0, 2)

    assert (publisher.acks, publisher.nacks, publisher.uncommitted_bytes) == ([], [], 0)
    assert publisher.window.has_lost


@pytest.mark.parametrize("seed", range(50))
def test_each_message_is_confirmed_or_refused_once_and_when_it_is_committed(seed: int) -> None:
    rng = random.Random(seed)
    publisher = Publisher(queues=3)
    needs: dict[int, list[tuple[int, int]]] = {}
    told: dict[int, bool] = {}
    refused: set[tuple[int, int]] = set()
    for _ in range(60):
        if rng.random() < 0.5:
            places = rng.sample(range(3), rng.randint(0, 3))
            count = rng.randint(1, 4)
            for i in range(count):
                ends = [(place, publisher.logs[place].end + i + 1) for place in places]
                needs[len(needs) + 1] = ends
            publisher.publish(count, *places)
        else:
            place = rng.randrange(3)
            log = publisher.logs[place]
            end = rng.randint(log.committed, log.end)
            if rng.random() < 0.3:
                refused.update((place, i + 1) for i in range(log.committed, end))
                publisher.refuse(place, end)
            else:
                publisher.commit(place, end)
        for tells, taken in ((publisher.acks, True), (publisher.nacks, False)):
            for sequence, multiple in tells:
                assert sequence not in told
                for named in range(1 if multiple else sequence, sequence + 1):
                    told.setdefault(named, taken)
            tells.clear()
        assert told == {
            sequence: refused.isdisjoint(ends)
            for sequence, ends in needs.items()
            if all(publisher.logs[place].committed >= end for place, end in ends)
        }
    for place, log in enumerate(publisher.logs):
        publisher.commit(place, log.end)
    assert publisher.uncommitted_bytes == 0
