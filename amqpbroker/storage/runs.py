"""Runs: indexes of a log that lie in one stride, as `range` objects."""

STRIDE_MAX = 64
"""Runs with a longer step are not made: nobody shares messages so widely."""


def join(one: range, other: range) -> range | None:
    """Two runs as one, if their indexes lie in one stride; neither is empty."""
    if other.start < one.start:
        one, other = other, one
    step = other.start - one[-1]
    if (
        0 < step <= STRIDE_MAX
        and (len(one) == 1 or one.step == step)
        and (len(other) == 1 or other.step == step)
    ):
        return range(one.start, other[-1] + 1, step)
    return None


def runs_of(indexes: list[int]) -> list[range]:
    """Ascending indexes, at least one, as runs."""
    first, last = indexes[0], indexes[-1]
    if last - first == len(indexes) - 1:
        return [range(first, last + 1)]
    runs = [range(first, first + 1)]
    for index in indexes[1:]:
        joined = join(runs[-1], range(index, index + 1))
        if joined is None:
            runs.append(range(index, index + 1))
        else:
            runs[-1] = joined
    return runs
