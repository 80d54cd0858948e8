"""Where a log stands, by its write-ahead log and by the segments that are there."""

import attrs

from amqpbroker.storage.faults import Damage
from amqpbroker.storage.format import FormatError
from amqpbroker.storage.log_state import LogState
from amqpbroker.storage.recovery import Kept
from amqpbroker.storage.segments import Segments, segment_numbers, segment_path, stored_chunks
from amqpbroker.world import Disk


@attrs.frozen
class Standing:
    """``state`` speaks only of ``segments`` that are there; some of them nobody may need."""

    kept: Kept
    state: LogState
    segments: list[int]

    @property
    def needed(self) -> set[int]:
        """The segments in which there are messages."""
        return {chunk.place.segment for chunk in self.state.chunks}


def find_log(
    disk: Disk, folder: str, log_id: int, kept: Kept, is_clean: bool, damages: list[Damage]
) -> Standing:
    """Where the log stands of which this is ``kept``, and whose segments are in ``folder``.

    ``is_clean`` after an orderly stop; ``damages`` learns what is missing. Raises `OSError` and
    `DiskFailure`.
    """
    numbers = segment_numbers(disk, folder)
    missing = kept.miss(numbers)
    if kept.is_unsure:  # The log may have left those that are missing.
        _salvage(disk, folder, log_id, kept, numbers, damages)
    else:
        for number in sorted(missing):
            path = segment_path(folder, number)
            damages.append(Damage(path, 0, "the file is not there", log_id))
    return Standing(kept, kept.state(is_clean), numbers)


def _salvage(
    disk: Disk, folder: str, log_id: int, kept: Kept, numbers: list[int], damages: list[Damage]
) -> None:
    """Take up all chunks of a log, for it is not known which of them are needed."""
    segments = Segments(disk, folder)
    for number in reversed(numbers):
        for place in reversed(stored_chunks(disk, folder, number)):
            try:
                kept.salvage(place, segments.load(place))
            except FormatError as error:
                damages.append(Damage(segments.path(place), place.offset, str(error), log_id))
    segments.close()
