"""What every `Log` keeps, as tests that any of them can run.

A contract is a class of tests; a subclass says how the thing is opened, and pytest does the rest.
The models stand beside: a thing together with the plainest code that says what it must do. Whoever
drives one (a seeded walk here, hypothesis in our own tests) needs no assertion of his own.
"""

import random
import weakref
from abc import ABC, abstractmethod

from amqpbroker.message import Origin
from amqpbroker.protocol.content import encode_content
from amqpbroker.storage.chunks import CHUNK_BYTES_MAX, CHUNK_MAX
from amqpbroker.storage.log import READ_BYTES_MAX, Bodies, Log
from amqpbroker.testing.fakes import fake_origin, numbered

_WALKS = 20
_STEPS = 60


def said(origin: Origin) -> tuple[object, ...]:
    """What an origin says that a log must keep; it need not give back the very object."""
    traits = origin.traits
    frames = origin.channel, origin.frame_max
    return origin.address, *frames, traits.persistent, traits.priority, origin.expires_ms


# -- logs --------------------------------------------------------------------------------------


class LogModel:
    """A log, and a dict of the messages that it must hold."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.messages: dict[int, tuple[Origin, bytes]] = {}

    def append(self, origin: Origin, raws: list[bytes]) -> None:
        """Append, and see that the end moved by as much."""
        end = self.log.end
        assert self.log.append(origin, raws) == self.log.end == end + len(raws)
        self.messages.update((end + i, (origin, raw)) for i, raw in enumerate(raws))

    def skip_to(self, index: int) -> None:
        """Have the log jump, and see that its marks do so that stood at the end."""
        log = self.log
        marks = [index if mark == log.end else mark for mark in (log.readable, log.committed)]
        log.skip_to(index)
        assert [log.end, log.readable, log.committed] == [index, *marks]

    def run_from(self, place: int, step: int, count: int) -> range:
        """A run of readable messages: it begins at the ``place``-th, and has ``count`` at most."""
        there = [index for index in self.messages if index < self.log.readable]
        if not there:
            return range(0)
        first = there[place % len(there)]
        stop = first + step
        while stop in self.messages and stop < self.log.readable and stop < first + step * count:
            stop += step
        return range(first, stop, step)

    def read(self, indexes: range) -> None:
        """Read to the end of ``indexes``, in as many bites as the log makes of it."""
        while indexes:
            batch = self.log.read(indexes)
            count = len(batch.raws)
            assert 1 <= count <= min(len(indexes), CHUNK_MAX), (count, indexes)
            assert sum(map(len, batch.raws[:-1])) <= READ_BYTES_MAX
            there = [self.messages[index] for index in indexes[:count]]
            assert batch.raws == [raw for _, raw in there], indexes
            assert list(map(said, batch.origins)) == [said(origin) for origin, _ in there], indexes
            indexes = indexes[count:]

    def origins(self, indexes: range) -> None:
        """Read only the origins, to the end of ``indexes``."""
        while indexes:
            origins = self.log.origins(indexes)
            assert 1 <= len(origins) <= min(len(indexes), CHUNK_MAX)
            here = indexes[: len(origins)]
            sent = [self.messages[index][0] for index in here]
            assert list(map(said, origins)) == list(map(said, sent)), indexes
            indexes = indexes[len(origins) :]

    def settle(self, indexes: range) -> None:
        """Settle a run that is there."""
        self.log.settle(indexes)
        for index in indexes:
            del self.messages[index]


class LogContract(ABC):
    """The promises of `Log`."""

    @abstractmethod
    def open(self) -> Log:
        """An empty log."""

    def catch_up(self, log: Log) -> None:  # noqa: B027 - nothing to do for a log in memory
        """Have the log do what its marks need to come to its end."""

    def filled(self, raws: list[bytes]) -> Log:
        """A log with ``raws``, all readable."""
        log = self.open()
        log.append(fake_origin(), raws)
        self.catch_up(log)
        return log

    def test_a_new_log_is_empty(self) -> None:
        log = self.open()

        assert log.end == log.readable == log.committed == 0

    def test_append_gives_the_new_end(self) -> None:
        log = self.open()

        assert log.append(fake_origin(), numbered(3)) == 3
        assert log.append(fake_origin(), numbered(1)) == 4
        assert log.end == 4

    def test_the_marks_come_to_the_end(self) -> None:
        log = self.filled(numbered(3))

        assert log.readable == log.committed == 3

    def test_a_message_keeps_its_origin_and_its_octets(self) -> None:
        log = self.open()
        origins = [fake_origin(routing_key=key) for key in ("a", "b")]
        log.append(origins[0], [b"one"])
        log.append(origins[1], [b"", b"three"])
        self.catch_up(log)

        batch = log.read(range(3))

        assert batch.raws == [b"one", b"", b"three"]
        assert [origin.routing_key for origin in batch.origins] == ["a", "b", "b"]

    def test_origins_are_told_without_the_messages(self) -> None:
        model = LogModel(self.open())
        for key, count in (("a", 3), ("b", 2 * CHUNK_MAX), ("c", 1)):
            model.append(fake_origin(routing_key=key), numbered(count))
        self.catch_up(model.log)

        model.origins(range(model.log.end))
        model.origins(range(1, model.log.end, 7))

    def test_a_run_with_a_step_is_read_as_such(self) -> None:
        raws = numbered(10)
        log = self.filled(raws)

        assert log.read(range(1, 10, 4)).raws == raws[1::4]

    def test_reading_changes_nothing(self) -> None:
        raws = numbered(10)
        log = self.filled(raws)

        assert log.read(range(3, 6)).raws == log.read(range(3, 6)).raws == raws[3:6]

    def test_what_lies_far_back_is_read_as_it_was(self) -> None:
        raws = numbered(5 * CHUNK_MAX + 7)
        model = LogModel(self.open())
        model.append(fake_origin(), raws)
        self.catch_up(model.log)

        model.read(range(len(raws)))
        model.read(range(2, len(raws), 3))

    def test_runs_appended_around_a_border_lie_in_order(self) -> None:
        for before in (CHUNK_MAX - 2, CHUNK_MAX - 1, CHUNK_MAX, CHUNK_MAX + 1):
            for count in (1, 2, CHUNK_MAX, CHUNK_MAX + 1, 2 * CHUNK_MAX):
                model = LogModel(self.open())
                model.append(fake_origin(), numbered(before))
                model.append(fake_origin(), numbered(count, before))
                model.append(fake_origin(), [b"the last"])
                self.catch_up(model.log)

                model.read(range(before + count + 1))

    def test_messages_of_all_sizes_lie_in_order(self) -> None:
        large = CHUNK_BYTES_MAX
        model = LogModel(self.open())
        for sizes in ([1, large, 1], [large - 1], [1], [1] * 9, [large // 3] * 7, [2 * large, 0]):
            model.append(fake_origin(), [bytes([size % 251]) * size for size in sizes])
            self.catch_up(model.log)

        model.read(range(model.log.end))
        model.settle(range(1, model.log.end, 2))
        model.read(range(0, model.log.end, 2))

    def test_a_read_ends_where_it_has_its_fill(self) -> None:
        log = self.filled([b"x" * (READ_BYTES_MAX // 4)] * 10)

        raws = log.read(range(10)).raws

        assert 1 <= len(raws) <= 5

    def test_a_message_larger_than_a_read_is_read_alone(self) -> None:
        log = self.filled([b"x" * (READ_BYTES_MAX + 1), b"small"])

        assert [len(raw) for raw in log.read(range(2)).raws] == [READ_BYTES_MAX + 1]

    def test_what_is_left_between_settled_messages_is_read(self) -> None:
        raws = numbered(3 * CHUNK_MAX)
        log = self.filled(raws)
        for step in (range(0, len(raws), 3), range(1, len(raws), 3)):
            log.settle(step)

        indexes = range(2, len(raws), 3)
        read: list[bytes] = []
        while indexes:
            bite = log.read(indexes).raws
            read += bite
            indexes = indexes[len(bite) :]

        assert read == raws[2::3]

    def test_indexes_go_on_when_all_is_settled(self) -> None:
        log = self.filled(numbered(10))
        log.settle(range(10))

        assert log.append(fake_origin(), [b"later"]) == 11
        self.catch_up(log)
        assert log.read(range(10, 11)).raws == [b"later"]

    def test_a_log_that_jumps_goes_on_there(self) -> None:
        far = (5 << 44) + 7
        for before in (0, 1, CHUNK_MAX - 1, CHUNK_MAX, CHUNK_MAX + 1):
            model = LogModel(self.open())
            gaps: list[range] = []
            model.log.on_skip = gaps.append
            if before:
                model.append(fake_origin(), numbered(before))
            self.catch_up(model.log)
            model.skip_to(before)
            model.skip_to(far)
            model.append(fake_origin(), numbered(3))
            model.skip_to(far + 13)
            model.append(fake_origin(), numbered(2 * CHUNK_MAX, 3))
            self.catch_up(model.log)

            assert model.log.committed == model.log.end == far + 13 + 2 * CHUNK_MAX
            assert gaps == [range(before, far), range(far + 3, far + 13)]
            for run in (range(before), range(far, far + 3), range(far + 13, model.log.end)):
                model.read(run)
                model.settle(run[1::2])
                model.read(run[::2])
                model.settle(run[::2])

    def test_a_log_jumps_when_all_is_settled(self) -> None:
        model = LogModel(self.open())
        model.append(fake_origin(), numbered(10))
        self.catch_up(model.log)
        model.settle(range(10))

        model.skip_to(1 << 50)
        model.append(fake_origin(), numbered(3))
        self.catch_up(model.log)

        model.read(range(1 << 50, (1 << 50) + 3))

    def test_a_run_may_reach_over_a_jump(self) -> None:
        model = LogModel(self.open())
        model.append(fake_origin(), numbered(10))
        self.catch_up(model.log)
        model.skip_to(15)
        model.append(fake_origin(), numbered(10))
        self.catch_up(model.log)

        model.read(range(3, 24, 6))
        model.settle(range(3, 24, 6))

    def test_nothing_is_kept_of_messages_that_are_settled(self) -> None:
        log = self.open()
        origin = fake_origin()
        log.append(origin, numbered(3 * CHUNK_MAX + 10))
        self.catch_up(log)
        log.read(range(10))
        kept = weakref.ref(origin)
        del origin

        log.settle(range(0, log.end, 2))
        log.settle(range(1, log.end, 2))

        assert kept() is None

    def test_a_log_agrees_with_the_model_on_random_walks(self) -> None:
        for seed in range(_WALKS):
            rng = random.Random(seed)
            model = LogModel(self.open())
            for _ in range(_STEPS):
                run = model.run_from(rng.randrange(1 << 16), rng.randint(1, 3), rng.randint(1, 999))
                match rng.randrange(5):
                    case 0:
                        model.append(fake_origin(), numbered(rng.choice((1, 2, 700))))
                        self.catch_up(model.log)
                    case 1:
                        model.read(run)
                    case 2:
                        model.origins(run)
                    case 3:
                        model.skip_to(model.log.end + rng.choice((0, 0, 1, 5, 3000)))
                    case _:
                        model.settle(run)

    # -- sizes ---------------------------------------------------------------------------------

    def test_what_messages_come_to_is_told_without_their_headers(self) -> None:
        log = self.open()
        lasting, passing = fake_origin(persistent=True), fake_origin()
        log.append(lasting, contents(3 * CHUNK_MAX, 100))
        log.append(passing, contents(CHUNK_MAX, 100))
        self.catch_up(log)
        count = 4 * CHUNK_MAX
        bodies = log.bodies()
        assert (bodies.octets, bodies.persistent) == (count * 100, 3 * CHUNK_MAX)
        assert bodies.persistent_octets == 3 * CHUNK_MAX * 100

        log.settle(range(10, 20))
        log.settle(range(CHUNK_MAX + 1, CHUNK_MAX + 200, 2))
        log.settle(range(2 * CHUNK_MAX, 3 * CHUNK_MAX))
        left = count - 10 - 100 - CHUNK_MAX
        assert log.bodies().octets == left * 100
        assert log.body_octets(range(10)) == 1000
        assert log.body_octets(range(CHUNK_MAX, CHUNK_MAX + 200, 2)) == 10_000
        assert log.body_octets(range(20, 2 * CHUNK_MAX, CHUNK_MAX // 2)) == 400

    def test_a_few_messages_are_weighed_one_by_one(self) -> None:
        log = self.open()
        for size in (1, 20, 300, 4000):
            log.append(fake_origin(persistent=size > 100), contents(1, size))
        self.catch_up(log)
        assert log.bodies().octets == 4321
        assert log.body_octets(range(1, 3)) == 320
        log.settle(range(0, 4, 2))
        assert log.bodies().octets == 4020
        assert log.body_octets(range(1, 4, 2)) == 4020
        log.settle(range(1, 4, 2))
        assert log.bodies() == Bodies()

    def test_messages_are_in_memory_or_paged_out(self) -> None:
        log = self.open()
        for _ in range(5):
            log.append(fake_origin(persistent=True), contents(CHUNK_MAX, 10))
            self.catch_up(log)
        bodies = log.bodies()
        assert bodies.octets == 5 * CHUNK_MAX * 10
        assert bodies.paged_out_octets == bodies.paged_out * 10
        assert 0 <= bodies.paged_out <= 5 * CHUNK_MAX


def contents(count: int, size: int) -> list[bytes]:
    """Content frames of messages whose bodies have so many octets."""
    return [encode_content(1, b"\0\0", bytes(size), 131072)] * count
