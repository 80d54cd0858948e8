"""Sets of indexes of a log."""

from collections.abc import Iterator

from amqpbroker.queues.ready import runs_of

_BLOCK_INDEXES = 1024


class IndexSet:
    """Indexes of a log: those that another node has and has not settled.

    A bit for each, in blocks: runs come and go in a few operations, however they interleave.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, run: range) -> None:
        """Take in indexes that are not in it; at least one."""
        blocks = self._blocks
        for number, mask in _masks(run):
            blocks[number] = blocks.get(number, 0) | mask

    def remove(self, run: range) -> bool:
        """Take out indexes, at least one; False if one of them is not in it."""
        blocks = self._blocks
        for number, mask in _masks(run):
            left = blocks.get(number, 0)
            if left & mask != mask:
                return False
            left ^= mask
            if left:
                blocks[number] = left
            else:
                del blocks[number]
        return True

    def take(self) -> list[range]:
        """Take out some, in order, as runs; none if it is empty."""
        if not self._blocks:
            return []
        number = min(self._blocks)
        mask = self._blocks.pop(number)
        base = number * _BLOCK_INDEXES
        return runs_of([base + bit for bit in range(mask.bit_length()) if mask >> bit & 1])


def _masks(run: range) -> Iterator[tuple[int, int]]:
    """The blocks that a run lies in, and its bits there."""
    step = run.step
    while run:
        number, start = divmod(run.start, _BLOCK_INDEXES)
        count = min(len(run), (_BLOCK_INDEXES - start + step - 1) // step)
        if step == 1 or count == 1:
            mask = (1 << count) - 1
        else:
            mask = ((1 << count * step) - 1) // ((1 << step) - 1)
        yield number, mask << start
        run = run[count:]
