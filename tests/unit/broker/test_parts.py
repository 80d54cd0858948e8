"""Small parts: deadlines, turns, access."""

import random

import pytest

from amqpbroker.broker.access import hash_password, is_loopback, password_matches
from amqpbroker.broker.deadlines import Deadlines
from amqpbroker.broker.turn import WORK_MAX, Turn
from amqpbroker.definitions import QueueDefinition, UserDefinition
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.storage.log import MemoryLog
from amqpbroker.testing.fakes import FakeConsumer, FakeKeeper, fake_origin

# -- deadlines ---------------------------------------------------------------------------------


def test_what_is_due_is_called_in_order_with_the_time() -> None:
    deadlines = Deadlines()
    calls: list[tuple[str, float]] = []
    for name, when_s in (("c", 3.0), ("a", 1.0), ("later", 9.0), ("b", 2.0), ("a2", 1.0)):
        deadlines.at(when_s, lambda now_s, name=name: calls.append((name, now_s)))

    deadlines.run(3.5)

    assert calls == [("a", 3.5), ("a2", 3.5), ("b", 3.5), ("c", 3.5)]
    assert deadlines.next_s() == 9.0


def test_what_is_cancelled_is_not_called() -> None:
    deadlines = Deadlines()
    calls: list[float] = []
    first = deadlines.at(1, calls.append)
    deadlines.at(2, calls.append)

    first.cancel()

    assert deadlines.next_s() == 2
    deadlines.run(5)
    assert calls == [5]
    assert deadlines.next_s() is None


def test_a_call_may_set_the_next_deadline() -> None:
    deadlines = Deadlines()
    calls: list[float] = []

    def tick(now_s: float) -> None:
        calls.append(now_s)
        deadlines.at(now_s + 1, tick)

    deadlines.at(1, tick)
    for now_s in (1.0, 1.5, 2.0):
        deadlines.run(now_s)

    assert calls == [1.0, 2.0]


def test_whoever_waits_is_told_when_the_next_deadline_has_come_nearer() -> None:
    deadlines = Deadlines()
    told: list[float | None] = []
    deadlines.on_earlier = lambda: told.append(deadlines.next_s())

    for when_s in (5.0, 7.0, 3.0, 4.0):
        deadlines.at(when_s, lambda now_s: None)

    assert told == [5.0, 3.0]


def test_deadlines_that_are_cancelled_early_do_not_gather() -> None:
    deadlines = Deadlines()
    kept = deadlines.at(1, lambda now_s: None)

    for _ in range(10_000):
        deadlines.at(1000, lambda now_s: None).cancel()

    assert len(deadlines) < 600
    assert deadlines.next_s() == kept.when_s


# -- turns -------------------------------------------------------------------------------------


class Noting:
    """Something with bytes to send, and confirms to give."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    def flush(self) -> None:
        self.notes.append(f"{self.name} speaks")

    def advance(self) -> None:
        self.notes.append(f"{self.name} confirms")


def test_a_turn_confirms_before_it_speaks_and_each_once() -> None:
    turn = Turn()
    notes: list[str] = []
    a, b = Noting("a", notes), Noting("b", notes)
    for _ in range(2):
        turn.speak(b)
        turn.speak(a)
        turn.confirm(a)

    more = turn.run()

    assert notes == ["a confirms", "b speaks", "a speaks"]
    assert not more
    assert not turn.run()
    assert len(notes) == 3


def test_a_turn_ends_when_its_work_is_done_and_says_that_there_is_more() -> None:
    keeper = FakeKeeper()
    consumers = [FakeConsumer(), FakeConsumer()]
    queues = [ClassicQueue(QueueDefinition("/", name), MemoryLog(), keeper) for name in ("a", "b")]
    for queue, consumer in zip(queues, consumers, strict=True):
        queue.publish(fake_origin(), [b""] * 2 * WORK_MAX)
        queue.consume(consumer)

    more = keeper.turn.run()

    handed = [len(consumer.taken) for consumer in consumers]
    assert more
    assert sum(handed) <= WORK_MAX + 1024
    assert min(handed) > 0, "neither queue keeps the other from its turn"
    while keeper.turn.run():
        pass
    assert [len(consumer.taken) for consumer in consumers] == [2 * WORK_MAX] * 2


# -- access ------------------------------------------------------------------------------------


def test_a_hash_that_rabbitmq_documents_is_understood() -> None:
    # Passwords and hashing, in RabbitMQ's documentation: salt 908DC60A, password test12.
    user = UserDefinition("u", "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR")

    assert password_matches(user, "test12")
    assert not password_matches(user, "test13")


def test_a_password_is_hashed_with_a_salt_of_its_own() -> None:
    rng = random.Random(1)
    hashes = [hash_password("secret", rng) for _ in range(2)]

    assert hashes[0] != hashes[1]
    assert all(password_matches(UserDefinition("u", each), "secret") for each in hashes)


def test_an_empty_password_opens_nothing() -> None:
    user = UserDefinition("u", hash_password("", random.Random(1)))

    assert not password_matches(user, "")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::1%lo", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_the_rest_of_the_world(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
