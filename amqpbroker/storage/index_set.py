"""Sets of indexes of a log."""

import struct
from collections.abc import Iterable, Iterator

from amqpbroker.storage.format import FormatError
from amqpbroker.storage.runs import STRIDE_MAX, join

_BLOCK_INDEXES = 1024
_FULL = (1 << _BLOCK_INDEXES) - 1
_STRIDES = [0] + [
    ((1 << -(-_BLOCK_INDEXES // step) * step) - 1) // ((1 << step) - 1) & _FULL
    for step in range(1, STRIDE_MAX + 1)
]
"""By step: the bits of a block in which every step-th is set, the first being one of them."""
_NUMBER_MAX = (1 << 63) // _BLOCK_INDEXES
_BLOCKS_MAX = 1 << 20
"""Blocks that a set may have which comes from elsewhere: a thousand million messages."""

_HEAD = struct.Struct("<I")
"""Runs of full blocks."""
_RUN = struct.Struct("<QI")
"""Number of the first block, blocks."""
_PARTIAL = struct.Struct("<QB")
"""Number of a block that is not full, octets of its bits, which follow, less one."""


class IndexSet:
    """Indexes of a log.

    A bit for each, in blocks: runs come and go in a few operations, however they interleave, and
    so do whole sets.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self._descending: list[int] | None = []
        """The numbers of all blocks, perhaps of others, too; None: in disorder."""

    def __len__(self) -> int:
        return sum(mask.bit_count() for mask in self._blocks.values())

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def __eq__(self, other: object) -> bool:
        return self._blocks == other._blocks if isinstance(other, IndexSet) else NotImplemented

    def has(self, index: int) -> bool:
        """Whether an index is in it."""
        number, bit = divmod(index, _BLOCK_INDEXES)
        return bool(self._blocks.get(number, 0) >> bit & 1)

    def add(self, run: range) -> None:
        """Take in indexes, at least one."""
        for number, mask in _masks(run):
            self._add(number, mask)

    def add_bits(self, first: int, bits: int) -> None:
        """Take in the index ``first + n`` for each bit n that is set in ``bits``."""
        number, shift = divmod(first, _BLOCK_INDEXES)
        bits <<= shift
        while bits:
            if bits & _FULL:
                self._add(number, bits & _FULL)
            bits >>= _BLOCK_INDEXES
            number += 1

    def _add(self, number: int, mask: int) -> None:
        there = self._blocks.get(number)
        if there is None:
            self._blocks[number] = mask
            self._descending = None
        else:
            self._blocks[number] = there | mask

    def remove(self, run: range) -> bool:
        """Take out indexes, at least one; none, and False, if one of them is not in it."""
        blocks = self._blocks
        for number, mask in _masks(run):
            left = blocks.get(number, 0)
            if left & mask != mask:
                self._put_back(run, number)
                return False
            self._leave(number, left ^ mask)
        return True

    def _put_back(self, run: range, end: int) -> None:
        """Take in again what was taken out of the blocks before the number ``end``."""
        for number, mask in _masks(run):
            if number == end:
                break
            self._add(number, mask)

    def discard(self, run: range) -> int:
        """Take out those of the indexes that are in it; returns how many they were."""
        count = 0
        for number, mask in _masks(run):
            there = self._blocks.get(number, 0)
            mask &= there
            if mask:
                count += mask.bit_count()
                self._leave(number, there ^ mask)
        return count

    def _leave(self, number: int, mask: int) -> None:
        """Have only these bits left of a block."""
        if mask:
            self._blocks[number] = mask
        else:
            del self._blocks[number]

    def difference(self, other: "IndexSet") -> "IndexSet":
        """Those that are not in ``other``."""
        result = IndexSet()
        others = other._blocks
        for number, mask in self._blocks.items():
            if mask := mask & ~others.get(number, 0):
                result._add(number, mask)
        return result

    # -- as runs -------------------------------------------------------------------------------

    def runs(self) -> list[range]:
        """All of them, in order."""
        runs: list[range] = []
        for number in sorted(self._blocks):
            _extend(runs, number, self._blocks[number])
        return runs

    def take_up_to(self, limit: int) -> list[range]:
        """Take out the first ``limit`` of them, or all if there are not so many, in order."""
        blocks = self._blocks
        runs: list[range] = []
        if self._descending is None:
            self._descending = sorted(blocks, reverse=True)
        while limit > 0 and self._descending:
            number = self._descending[-1]
            mask = blocks.get(number, 0)
            count = mask.bit_count()
            if count > limit:
                taken = _lowest(mask, limit)
                blocks[number], mask, count = mask ^ taken, taken, limit
            else:
                self._descending.pop()
                blocks.pop(number, None)
            _extend(runs, number, mask)
            limit -= count
        return runs

    # -- as octets -----------------------------------------------------------------------------

    def encode(self) -> bytes:
        """What `decode` makes the same set of again; little, if there are few gaps."""
        full: list[list[int]] = []
        partial: list[bytes] = []
        for number in sorted(self._blocks):
            mask = self._blocks[number]
            if mask != _FULL:
                bits = mask.to_bytes((mask.bit_length() + 7) // 8, "little")
                partial += (_PARTIAL.pack(number, len(bits) - 1), bits)
            elif full and sum(full[-1]) == number:
                full[-1][1] += 1
            else:
                full.append([number, 1])
        return b"".join((_HEAD.pack(len(full)), *[_RUN.pack(*run) for run in full], *partial))

    @classmethod
    def decode(cls, data: bytes) -> "IndexSet":
        """The set of which this was said. Raises `FormatError`."""
        result = cls()
        result._descending = None
        blocks = result._blocks
        try:
            (count,) = _HEAD.unpack_from(data)
            position = _HEAD.size + count * _RUN.size
            for first, length in _RUN.iter_unpack(data[_HEAD.size : position]):
                if length > _BLOCKS_MAX - len(blocks):
                    raise FormatError("a set of indexes is too large")
                blocks.update(dict.fromkeys(range(first, first + length), _FULL))
            if position > len(data):
                raise FormatError("a set of indexes is cut off")
            while position < len(data):
                number, more = _PARTIAL.unpack_from(data, position)
                position += _PARTIAL.size
                bits = data[position : position + more + 1]
                position += more + 1
                mask = int.from_bytes(bits, "little")
                if not 0 < mask <= _FULL or len(bits) <= more or number in blocks:
                    raise FormatError("a set of indexes does not add up")
                blocks[number] = mask
        except struct.error as error:
            raise FormatError("a set of indexes is cut off") from error
        if len(blocks) > _BLOCKS_MAX or max(blocks, default=0) >= _NUMBER_MAX:
            raise FormatError("a set of indexes is too large")
        return result


def _masks(run: range) -> Iterable[tuple[int, int]]:
    """The blocks that a run lies in, and its bits there."""
    if len(run) > 1:
        return _masks_of_many(run)
    number, bit = divmod(run.start, _BLOCK_INDEXES)
    return ((number, 1 << bit),)


def _masks_of_many(run: range) -> Iterator[tuple[int, int]]:
    step = run.step
    while run:
        number, start = divmod(run.start, _BLOCK_INDEXES)
        count = min(len(run), (_BLOCK_INDEXES - start + step - 1) // step)
        if count == 1:
            mask = 1
        else:
            stride = _STRIDES[step] if step <= STRIDE_MAX else _stride(step)
            mask = stride & ((1 << (count - 1) * step + 1) - 1)
        yield number, mask << start
        run = run[count:]


def _stride(step: int) -> int:
    """As `_STRIDES`, of any step."""
    return sum(1 << bit for bit in range(0, _BLOCK_INDEXES, step))


def _lowest(mask: int, count: int) -> int:
    """The ``count`` lowest bits of those that are set; there are more."""
    low, high = count, _BLOCK_INDEXES  # So many bits of the block have at most, at least as many.
    while low < high:
        middle = (low + high) // 2
        if (mask & ((1 << middle) - 1)).bit_count() < count:
            low = middle + 1
        else:
            high = middle
    return mask & ((1 << low) - 1)


def _extend(runs: list[range], number: int, mask: int) -> None:
    """Add the indexes of a block to runs of lower ones."""
    for run in _runs(mask):
        base = number * _BLOCK_INDEXES
        run = range(base + run.start, base + run.stop, run.step)
        joined = join(runs[-1], run) if runs else None
        if joined is None:
            runs.append(run)
        else:
            runs[-1] = joined


def _runs(mask: int) -> Iterator[range]:
    """The bits that are set, in runs."""
    while mask:
        start = _lowest_bit(mask)
        rest = mask >> start + 1
        step = _lowest_bit(rest) + 1 if rest else 0
        count = 1
        if 0 < step <= STRIDE_MAX:
            stray = mask ^ (_STRIDES[step] << start & _FULL)
            end = _lowest_bit(stray) if stray else _BLOCK_INDEXES
            count = (end - start + step - 1) // step
            if count == 2 and step > 1:
                count = 1  # It may lie in a stride with those behind it.
        last = start + (count - 1) * step
        yield range(start, last + 1, step or 1)
        mask &= -1 << last + 1


def _lowest_bit(mask: int) -> int:
    """The place of the lowest bit that is set; there must be one."""
    return (mask & -mask).bit_length() - 1
