"""Backlogs and the prober beside them."""

import socket
from collections.abc import Iterator

import pytest

from bench import backlog
from bench.backlog import Patience, Prober, drain, fill, probing
from bench.checks import Mismatch
from bench.client import BrokerError
from bench.load import stage
from bench.scenarios import workload_named
from bench.sink import running_sink
from bench.wire import CONNECTION_CLOSE, method, read_frame

ANSWER = method(1, (50, 11), b"\0" + bytes(8))


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(backlog, "time", clock)
    return clock


class Asker:
    """Just enough of a client for a prober."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.declared: list[str] = []

    def declare_queue(self, name: str) -> int:
        self.declared.append(name)
        return 0


@pytest.fixture
def broker() -> Iterator[tuple[Asker, socket.socket]]:
    """A prober's client, and the broker's end of its connection."""
    here, there = socket.socketpair()
    there.setblocking(False)
    with here, there:
        yield Asker(here), there


def questions(there: socket.socket) -> int:
    """How many questions have come."""
    try:
        octets = there.recv(65536)
    except BlockingIOError:
        return 0
    count, at = 0, 0
    while whole := read_frame(octets, at):
        count, at = count + 1, whole[3]
    return count


def test_a_prober_has_one_question_open_and_asks_again_when_it_is_answered(clock, broker):
    asker, there = broker
    prober = Prober(asker)
    prober.look()
    prober.look()
    assert questions(there) == 1
    there.sendall(ANSWER)
    prober.look()
    assert questions(there) == 1


def test_a_prober_notes_the_longest_wait_since_it_was_asked(clock, broker):
    asker, there = broker
    prober = Prober(asker)
    for wait in (0.25, 1.0, 0.5):
        prober.look()
        clock.now += wait
        there.sendall(ANSWER)
        prober.look()
    there.sendall(ANSWER)
    assert prober.longest() == 1000.0
    assert prober.longest() == 0.0


def test_what_comes_after_a_prober_was_asked_is_no_wait(clock, broker):
    asker, there = broker
    prober = Prober(asker)
    prober.look()
    there.sendall(ANSWER)
    prober.longest()
    clock.now += 10
    prober.look()
    there.sendall(ANSWER)
    assert prober.longest() == 0.0


def test_a_prober_pauses_between_an_answer_and_the_next_question(clock, broker):
    asker, there = broker
    prober = Prober(asker, pause_s=0.5)
    prober.look()
    there.sendall(ANSWER)
    prober.look()
    assert questions(there) == 1
    clock.now += 0.25
    prober.look()
    assert questions(there) == 0
    clock.now += 0.25
    prober.look()
    assert questions(there) == 1


def test_a_prober_that_waits_in_vain_or_is_refused_fails(clock, broker):
    asker, there = broker
    prober = Prober(asker)
    prober.look()
    clock.now += 31
    with pytest.raises(BrokerError, match="over 30 s"):
        prober.look()
    there.sendall(method(0, CONNECTION_CLOSE, bytes(7)))
    with pytest.raises(BrokerError, match="the prober received"):
        prober.look()


def test_patience_ends_when_nothing_moves(clock):
    patience = Patience()
    for count in (0, 0, 5, 5):
        patience.check(count)
        clock.now += 20
    with pytest.raises(BrokerError, match="nothing moved for 30 s after 5 messages"):
        patience.check(5)


@pytest.mark.slow
def test_a_backlog_against_the_sink_comes_back_whole():
    workload = workload_named("backlog")
    with (
        running_sink(workload) as url,
        stage(url, workload) as (_, sender, receiver),
        probing(url) as prober,
    ):
        assert fill(sender, workload, 3000, 500, prober) > 0
        assert prober.longest() > 0
        rate, slowest = drain(receiver, workload, 3000, prober)
        assert rate >= slowest > 0


@pytest.mark.slow
def test_a_message_that_is_not_the_one_foreseen_is_caught():
    sent, foreseen = workload_named("backlog"), workload_named("small-backlog")
    with running_sink(sent) as url, stage(url, sent) as (_, sender, receiver):
        fill(sender, sent, 10, 10)
        with pytest.raises(Mismatch):
            drain(receiver, foreseen, 10)
