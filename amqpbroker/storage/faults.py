"""What errors of a disk mean: one that is full has room again some day, others have failed."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from amqpbroker.errors import DiskFailure


@attrs.frozen
class Damage:
    """A place in a file that is not what was written there.

    ``messages`` of the log ``log_id`` are lost, at most; 0: none, or it is not known which.
    """

    path: str
    offset: int
    what: str
    log_id: int = 0
    messages: int = 0

    def __str__(self) -> str:
        lost = f"; {self.messages} messages at most are lost" if self.messages else ""
        return f"{self.path} is damaged at {self.offset}: {self.what}{lost}"


def is_full(error: OSError) -> bool:
    """Whether there was no room, for all or for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_failure(error: BaseException) -> DiskFailure:
    """What stops the node after ``error``."""
    return DiskFailure(
        f"the disk has failed: {error}. The node stops, since nobody knows what was written;"
        " what was confirmed before is safe. See to the disk, then start the node again"
    )


@contextmanager
def must_work() -> Iterator[None]:
    """Within, in the midst of what a client asks for, an `OSError` is raised as `DiskFailure`."""
    try:
        yield
    except OSError as error:
        raise disk_failure(error) from error
