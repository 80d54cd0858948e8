"""Runs scenarios on subjects in turn, and keeps every single figure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .checks import Mismatch
from .client import BrokerError
from .figures import NotApplicable
from .scenarios import Figure, Options, Scenario
from .sink import running_sink
from .subjects import Broker, Subject

CEILING = "sink"
"""The name under which the sink's runs are kept."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scenario on one subject."""

    scenario: str
    subject: str
    repeat: int
    values: tuple[float | None, ...] = ()
    failure: str = ""
    """Why there are no values, if the broker is to blame."""
    not_applicable: str = ""
    """Why there are no values, if nobody is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all subjects."""

    scenario: Scenario
    index: int
    runs: list[Run] = field(default_factory=list)

    def values(self, subject: str) -> list[float]:
        """The figure in all runs of a subject that yielded it."""
        values = (r.values[self.index] for r in self.runs if r.subject == subject and r.values)
        return [value for value in values if value is not None]

    @property
    def ceiling(self) -> list[float]:
        """What the generator reaches by itself; empty unless the figure is a rate."""
        return self.values(CEILING) if self.figure.is_rate else []

    @property
    def figure(self) -> Figure:
        """What the row shows."""
        return self.scenario.figures[self.index]

    def reason(self, subject: str) -> str:
        """Why a subject has no value; empty if it has one or has not run."""
        reasons = [r.failure or r.not_applicable for r in self.runs if r.subject == subject]
        return next(filter(None, reasons), "")


def count_runs(scenarios: Sequence[Scenario], subjects: Sequence[Subject], repeat: int) -> int:
    """How many runs `run_all` makes."""
    return sum(
        (len(subjects) + (scenario.workload is not None)) * (repeat if scenario.repeated else 1)
        for scenario in scenarios
    )


def run_all(
    scenarios: Sequence[Scenario],
    subjects: Sequence[Subject],
    options: Options,
    repeat: int,
    announce: Callable[[str], None],
) -> Iterator[Run]:
    """Yield each run as it ends; ``announce`` learns of what starts."""
    for scenario in scenarios:
        for turn in range(repeat if scenario.repeated else 1):
            for subject in subjects:
                announce(f"{scenario.name}: {subject.name}")
                yield _run(scenario, subject, options, turn)
            if scenario.workload is not None:
                announce(f"{scenario.name}: the generator itself")
                with running_sink(scenario.workload) as url:
                    values = scenario.measure(Broker(url, holder=url), options)
                yield Run(scenario.name, CEILING, turn, values)


def _run(scenario: Scenario, subject: Subject, options: Options, turn: int) -> Run:
    try:
        with subject.broker(scenario.durable, scenario.clustered) as broker:
            values = scenario.measure(broker, options)
    except (BrokerError, Mismatch) as error:
        return Run(scenario.name, subject.name, turn, failure=str(error))
    except NotApplicable as reason:
        return Run(scenario.name, subject.name, turn, not_applicable=str(reason))
    return Run(scenario.name, subject.name, turn, values)
