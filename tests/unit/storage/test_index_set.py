"""Runs of indexes, and sets of them."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpbroker.storage.format import FormatError
from amqpbroker.storage.index_set import IndexSet
from amqpbroker.storage.runs import join, runs_of

FAR = (5 << 44) + 7


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (range(3), range(3, 5), range(5)),
        (range(3, 5), range(3), range(5)),
        (range(1), range(3, 4), range(0, 4, 3)),
        (range(0, 7, 3), range(9, 10), range(0, 10, 3)),
        (range(0, 7, 3), range(9, 16, 3), range(0, 16, 3)),
        (range(1), range(65, 66), None),
        (range(0, 7, 3), range(7, 8), None),
        (range(0, 7, 3), range(9, 12), None),
        (range(0, 7, 3), range(1, 8, 3), None),
    ],
)
def test_runs_in_one_stride_are_joined(one: range, other: range, both: range | None) -> None:
    assert join(one, other) == both


def test_indexes_are_put_into_runs() -> None:
    assert runs_of([4, 5, 6]) == [range(4, 7)]
    assert runs_of([4]) == [range(4, 5)]
    assert runs_of([0, 3, 6, 7, 8, 100]) == [range(0, 7, 3), range(7, 9), range(100, 101)]


def set_of(indexes: Iterable[int]) -> IndexSet:
    """A set with these indexes."""
    there = IndexSet()
    for index in indexes:
        there.add(range(index, index + 1))
    return there


def indexes_of(runs: Iterable[range]) -> list[int]:
    return [index for run in runs for index in run]


runs = st.builds(
    lambda first, start, step, count: range(first + start, first + start + count * step, step),
    st.sampled_from((0, FAR)),
    st.integers(0, 5000),
    st.one_of(st.integers(1, 70), st.sampled_from((1, 1, 1, 2000))),
    st.integers(1, 3000),
)
several = st.lists(runs, max_size=5)


@pytest.mark.slow
@settings(deadline=None)
@given(several, several, several)
def test_a_set_of_indexes_agrees_with_a_plain_set(
    added: list[range], discarded: list[range], others: list[range]
) -> None:
    indexes, model, other = IndexSet(), set[int](), IndexSet()
    for run in added:
        indexes.add(run)
        model.update(run)
    for run in discarded:
        assert indexes.discard(run) == len(model.intersection(run))
        model.difference_update(run)
    for run in others:
        other.add(run)

    assert (len(indexes), bool(indexes)) == (len(model), bool(model))
    assert indexes_of(indexes.runs()) == sorted(model)
    assert IndexSet.decode(indexes.encode()) == indexes
    rest = indexes.difference(other)
    assert indexes_of(rest.runs()) == sorted(model.difference(*others))
    for run in added + discarded:
        for index in (run.start - 1, run.start, run[-1], run.stop):
            assert index < 0 or indexes.has(index) is (index in model)


@pytest.mark.slow
@settings(deadline=None)
@given(several, several, st.lists(st.integers(0, 3000), max_size=20))
def test_the_first_indexes_are_taken_out(
    added: list[range], later: list[range], limits: list[int]
) -> None:
    indexes, model = IndexSet(), set[int]()
    for place, limit in enumerate(limits):
        for run in added if place == 0 else later[place - 1 : place]:
            indexes.add(run)
            model.update(run)
        first = sorted(model)[:limit]
        assert indexes_of(indexes.take_up_to(limit)) == first
        model.difference_update(first)
        assert len(indexes) == len(model)


@pytest.mark.parametrize("seed", range(20))
def test_a_set_of_indexes_holds_what_was_added_and_not_removed(seed: int) -> None:
    rng = random.Random(seed)
    indexes, model = IndexSet(), set[int]()
    for _ in range(100):
        if rng.random() < 0.6:
            start, step = rng.randrange(5000), rng.choice((1, 1, 2, 3, 64, 2000))
            run = range(start, start + rng.randint(1, 1500) * step, step)
            if model.isdisjoint(run):
                indexes.add(run)
                model.update(run)
        elif model:
            chosen = rng.sample(sorted(model), rng.randint(1, min(len(model), 50)))
            for run in runs_of(sorted(chosen)):
                assert indexes.remove(run)
            model.difference_update(chosen)
            assert not indexes.remove(range(chosen[0], chosen[0] + 1))
    taken: list[int] = []
    while runs := indexes.take_up_to(100):
        taken += indexes_of(runs)
    assert taken == sorted(model)


@settings(max_examples=30)
@given(st.integers(0, 5000), st.integers(0, (1 << 3000) - 1))
def test_bits_are_indexes(first: int, bits: int) -> None:
    indexes = set_of([0])

    indexes.add_bits(first, bits)

    expected = {0} | {first + n for n in range(bits.bit_length()) if bits >> n & 1}
    assert indexes == set_of(expected)


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [
        ([0, *range(2, 5000)], [range(1), range(2, 5000)]),
        (range(3, 5000, 3), [range(3, 5000, 3)]),
        ([5, *range(100, 3000), 3001, 3004, 3007], None),
        (range(0, 64 * 100, 64), None),
    ],
)
def test_what_lies_in_one_stride_comes_in_few_runs(
    indexes: Iterable[int], expected: list[range] | None
) -> None:
    runs = set_of(indexes).runs()

    assert indexes_of(runs) == list(indexes)
    assert len(runs) <= 4
    assert expected is None or runs == expected


def test_a_long_backlog_is_said_in_few_octets() -> None:
    indexes = IndexSet()
    indexes.add(range(FAR, FAR + 1_000_000))
    indexes.discard(range(FAR + 5, FAR + 6))

    assert len(indexes.encode()) < 500


def test_what_is_no_set_of_indexes_is_refused() -> None:
    said = set_of([*range(3000), 5000, FAR]).encode()

    whole = {16, 16 + 9 + 119, 16 + 9 + 119 + 9 + 114}  # So end sets that lack a block.
    for size in set(range(len(said))) - whole:
        with pytest.raises(FormatError):
            IndexSet.decode(said[:size])
    huge = (1).to_bytes(4, "little") + bytes(8) + b"\xff" * 4
    far = (1).to_bytes(4, "little") + b"\xff" * 8 + (1).to_bytes(4, "little")
    twice = said + said[16:]
    empty = bytes(4) + bytes(9) + b"\0"
    for garbage in (huge, far, twice, empty):
        with pytest.raises(FormatError):
            IndexSet.decode(garbage)


@given(st.binary(max_size=200))
def test_garbage_is_a_set_of_indexes_or_refused(data: bytes) -> None:
    try:
        indexes = IndexSet.decode(data)
    except FormatError:
        return
    assert IndexSet.decode(indexes.encode()) == indexes
