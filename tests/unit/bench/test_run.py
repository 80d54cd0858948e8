"""The order of the runs, and what becomes of a run that fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.checks import Mismatch
from bench.client import Url
from bench.figures import NotApplicable
from bench.report import rows_of
from bench.run import count_runs, run_all
from bench.scenarios import SCENARIOS, Figure, Options, Scenario
from bench.subjects import Broker


class Fake:
    """A broker that is told from others by its port."""

    product, version = "fake", "1"

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port

    @contextmanager
    def broker(self, durable: bool = False, clustered: bool = False) -> Iterator[Broker]:
        self.was_durable = durable
        yield Broker(Url("localhost", self.port))


def measure(broker: Broker, options: Options) -> tuple[float, ...]:
    if broker.url.port == 13:
        raise Mismatch("delivery 7 is wrong")
    if broker.url.port == 14:
        raise NotApplicable("no process id")
    return (float(broker.url.port),)


TWICE = Scenario("twice", (Figure("twice", "ms"),), measure)
ONCE = Scenario("once", (Figure("once", "ms"),), measure, repeated=False)


def ignore(text: str) -> None:
    """Take no notice of progress."""


def test_subjects_take_turns_within_each_repeat():
    subjects = [Fake("a", 1), Fake("b", 2)]
    runs = list(run_all([TWICE, ONCE], subjects, Options(), 2, ignore))
    order = [(run.scenario, run.repeat, run.subject) for run in runs]
    assert order == [
        ("twice", 0, "a"), ("twice", 0, "b"), ("twice", 1, "a"), ("twice", 1, "b"),
        ("once", 0, "a"), ("once", 0, "b"),
    ]  # fmt: skip
    assert count_runs([TWICE, ONCE], subjects, 2) == len(runs)


def test_a_run_that_fails_is_kept_with_its_reason_and_the_others_go_on():
    runs = list(run_all([TWICE], [Fake("bad", 13), Fake("good", 2)], Options(), 1, ignore))
    assert [(run.subject, run.values, run.failure) for run in runs] == [
        ("bad", (), "delivery 7 is wrong"),
        ("good", (2.0,), ""),
    ]


def test_a_figure_that_cannot_be_had_is_no_failure():
    (run,) = run_all([TWICE], [Fake("other", 14)], Options(), 1, ignore)
    assert not run.failure
    assert rows_of([TWICE], [run])[0].reason("other") == "no process id"


def test_a_figure_of_several_may_be_missing():
    figures = (Figure("rate", "msg/s"), Figure("memory", "MiB"))
    both = Scenario("both", figures, lambda broker, options: (7.0, None))
    runs = list(run_all([both], [Fake("other", 1)], Options(), 2, ignore))
    rate, memory = rows_of([both], runs)
    assert rate.values("other") == [7.0, 7.0]
    assert memory.values("other") == []


@pytest.mark.parametrize("durable", [False, True])
def test_a_durable_scenario_is_measured_on_a_disk(durable: bool):
    subject = Fake("a", 1)
    scenario = Scenario("row", (Figure("row", "ms"),), measure, durable=durable)
    list(run_all([scenario], [subject], Options(), 1, ignore))
    assert subject.was_durable == durable


def test_restarts_are_for_our_own_broker_only():
    restart = [s for s in SCENARIOS if s.name.startswith("restart")]
    runs = list(run_all(restart, [Fake("other", 1)], Options(), 1, ignore))
    assert [run.not_applicable for run in runs] == ["it is not ours to restart"] * 2
