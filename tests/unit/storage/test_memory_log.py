"""The log in memory."""

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from amqpbroker.storage.chunks import CHUNK_BYTES_MAX, CHUNK_MAX
from amqpbroker.storage.log import READ_BYTES_MAX, Log, MemoryLog
from amqpbroker.testing.fakes import fake_origin
from amqpbroker.testing.log_contract import LogContract, LogModel, numbered

counts = st.one_of(
    st.integers(1, 5), st.integers(CHUNK_MAX - 2, CHUNK_MAX + 2), st.just(2 * CHUNK_MAX + 1)
)
places = st.integers(0, 1 << 16)


class TestMemoryLog(LogContract):
    def open(self) -> Log:
        return MemoryLog()

    def test_what_is_appended_is_readable_and_committed_at_once(self) -> None:
        log = MemoryLog()

        log.append(fake_origin(), numbered(3))

        assert log.readable == log.committed == log.end == 3

    def test_a_settled_body_is_let_go_though_its_neighbours_stay(self) -> None:
        log = MemoryLog()
        tracemalloc.start()
        log.append(fake_origin(), [bytes(100_000) for _ in range(100)])

        log.settle(range(1, 100))
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()

        assert kept < 300_000

    def test_a_backlog_that_nobody_reads_is_no_heap_of_objects(self) -> None:
        raws = numbered(50 * CHUNK_MAX)
        log = MemoryLog()
        origin = fake_origin()
        size = sum(map(len, raws))
        tracemalloc.start()
        for start in range(0, len(raws), 100):
            log.append(origin, [bytes(bytearray(raw)) for raw in raws[start : start + 100]])

        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()

        assert kept < 2 * size

    def test_large_messages_wait_as_they_came(self) -> None:
        raws = [bytes(5000) for _ in range(CHUNK_MAX)]
        log = MemoryLog()

        log.append(fake_origin(), raws)

        assert log.read(range(1)).raws[0] is raws[0]

    @pytest.mark.parametrize("at_once", [1, 100])
    def test_a_chunk_is_full_with_so_many_octets_too(self, at_once: int) -> None:
        size_bytes = CHUNK_BYTES_MAX // 4
        log = MemoryLog()

        for _ in range(100 // at_once):
            log.append(fake_origin(), [bytes(size_bytes)] * at_once)

        assert [chunk.count for chunk in log._chunks.values()] == [4] * 25

    def test_a_backlog_is_read_in_the_bites_that_it_is_written_in(self) -> None:
        log = MemoryLog()
        log.append(fake_origin(), [b"x" * 100] * 2 * CHUNK_MAX)

        assert len(log.read(range(log.end)).raws) == CHUNK_MAX
        assert len(log.read(range(10, log.end)).raws) == CHUNK_MAX - 10

    def test_a_read_ends_with_the_message_that_still_fits(self) -> None:
        log = MemoryLog()
        log.append(fake_origin(), [b"x" * (READ_BYTES_MAX // 4)] * 10)

        assert len(log.read(range(10)).raws) == 4


class MemoryLogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = LogModel(MemoryLog())
        self.origins = [fake_origin(routing_key=key) for key in "ab"]

    @rule(count=counts, which=st.integers(0, 1), size=st.sampled_from((0, 10, 5000)))
    def append(self, count: int, which: int, size: int) -> None:
        raws = [raw.ljust(size, b".") for raw in numbered(count, self.model.log.end)]
        self.model.append(self.origins[which], raws)

    @rule(place=places, step=st.integers(1, 5), count=counts)
    def read(self, place: int, step: int, count: int) -> None:
        self.model.read(self.model.run_from(place, step, count))

    @rule(place=places, step=st.integers(1, 5), count=counts)
    def settle(self, place: int, step: int, count: int) -> None:
        self.model.settle(self.model.run_from(place, step, count))

    @rule()
    def settle_everything(self) -> None:
        while run := self.model.run_from(0, 1, 1 << 20):
            self.model.settle(run)
        assert not self.model.log._chunks

    @invariant()
    def the_marks_are_at_the_end(self) -> None:
        log = self.model.log
        assert log.readable == log.committed == log.end


TestMemoryLogAgainstTheModel = pytest.mark.slow(MemoryLogMachine.TestCase)
TestMemoryLogAgainstTheModel.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None
)
