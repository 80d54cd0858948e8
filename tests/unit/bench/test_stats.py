"""Medians, ratios, and when a figure does not count."""

import pytest

from bench.report import number, ratios, rows_of, verdict
from bench.run import CEILING, Run
from bench.scenarios import SCENARIOS
from bench.stats import Summary, generator_bound, ratio

AUTO_ACK = next(s for s in SCENARIOS if s.name == "auto-ack")


def row(**runs: list[float]):
    kept = [
        Run("auto-ack", subject, turn, (value,))
        for subject, values in runs.items()
        for turn, value in enumerate(values)
    ]
    return rows_of([AUTO_ACK], kept)[0]


def test_a_summary_is_median_least_and_most():
    assert Summary.of([5, 1, 3]) == Summary(3, 1, 5)


def test_the_ratio_is_that_of_neighbouring_runs_not_of_medians():
    assert ratio([10, 20, 90], [1, 10, 10]) == 9
    assert ratio([10], []) is None


def test_a_rate_within_a_third_of_the_ceiling_measures_the_generator():
    assert generator_bound([80], [100])
    assert not generator_bound([70], [100])
    assert not generator_bound([80], [])


def test_a_generator_bound_row_says_so_and_shows_no_ratio():
    bound = row(ours=[95, 96], theirs=[20, 20], **{CEILING: [100, 101]})
    assert verdict(bound, ["ours", "theirs"]) == "ours: not measured (generator-bound)"
    assert ratios(bound, ["ours", "theirs"]) == [None]


def test_a_row_far_from_the_ceiling_has_a_ratio_and_nothing_to_add():
    good = row(ours=[60, 50], theirs=[10, 10], **{CEILING: [100, 101]})
    assert verdict(good, ["ours", "theirs"]) == ""
    assert ratios(good, ["ours", "theirs"]) == [5.5]


def test_only_rates_have_a_ceiling():
    backlog = next(s for s in SCENARIOS if s.name == "backlog")
    values = tuple(float(i) for i in range(1, 1 + len(backlog.figures)))
    rows = rows_of([backlog], [Run("backlog", CEILING, 0, values)])
    assert [bool(row.ceiling) for row in rows] == [row.figure.unit == "msg/s" for row in rows]


def test_one_failed_run_fails_its_row():
    runs = [Run("auto-ack", "ours", 0, (1.0,)), Run("auto-ack", "ours", 1, failure="lost 7")]
    assert verdict(rows_of([AUTO_ACK], runs)[0], ["ours"]) == "failed: ours: lost 7"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123, "0.12"), (45.6, "45.6"), (9876, "9876"), (123456, "123 k"), (1234567, "1.23 M")],
)
def test_numbers_have_three_digits(value: float, text: str):
    assert number(value) == text
