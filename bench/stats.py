"""Medians, spreads and ratios of a few runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

BOUND = 1.3
"""A subject within this factor of the sink's figure measures the generator, not the broker."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What several runs of one figure amount to."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """The summary of at least one value."""
        return cls(median(values), min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The median of the ratios of runs that followed each other; None if there is none.

    Pairs are compared, since what disturbs a machine for a minute disturbs both.
    """
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]
    return median(pairs) if pairs else None


def generator_bound(values: Sequence[float], ceiling: Sequence[float]) -> bool:
    """Whether a rate is so near to the generator's own that it says nothing about the broker."""
    return bool(values and ceiling) and median(values) * BOUND >= median(ceiling)
