"""What a leader and a mirror tell each other about one queue, in order.

The leader's entries are carried out in the order in which they were sent, and none is left out: a
stream that breaks is begun anew with a `Hello`.
"""

import attrs

from amqpbroker.message import Batch
from amqpbroker.storage.format import Image
from amqpbroker.storage.index_set import IndexSet


@attrs.frozen
class Mark:
    """Below the index ``end`` lie ``count`` messages that one publisher has sent in all.

    A publisher is a node that sends to the queue, as long as it counts: what it sends again when
    leaders change is known by that.
    """

    end: int
    publisher: int
    count: int


# -- from the leader -----------------------------------------------------------------------------


@attrs.frozen
class Joined:
    """The mirror is told all that comes from now on.

    Messages with indexes from ``end`` on, settles with numbers from ``settles`` + 1 on.
    """

    end: int
    settles: int
    publishers: dict[int, int]
    """How many messages each publisher has sent in all."""


@attrs.frozen
class Append:
    """New messages, neighbours, from the index ``first`` on."""

    first: int
    batch: Batch
    marks: tuple[Mark, ...] = ()


@attrs.frozen
class Settle:
    """Messages that are to be forgotten, once it is committed that they are."""

    number: int
    runs: list[range]


@attrs.frozen
class Fill:
    """Messages that the mirror does not have, from the ``number``-th page of them."""

    number: int
    image: Image


@attrs.frozen
class Whole:
    """The last page: now the mirror has everything, and what it has too much it is to drop."""

    number: int
    extra: list[range]


@attrs.frozen
class Commit:
    """Messages below ``end`` and settles up to the number ``settles`` are committed."""

    end: int
    settles: int


Entry = Joined | Append | Settle | Fill | Whole | Commit

# -- from a mirror -------------------------------------------------------------------------------


@attrs.frozen
class Hello:
    """A mirror wants to be told what comes: it has ``live``, and nothing else."""

    life: str
    live: IndexSet


@attrs.frozen
class Ack:
    """Of this stream the mirror keeps messages below ``end``, settles and pages up to a number."""

    end: int
    settles: int
    pages: int
