"""Who leads a queue, and who has all of it.

A *life* of a node is its name and its incarnation, ``rabbit@one@7``: a process that was restarted
is another member than before (Kafka KIP-903), for it may have lost what it had not synced.

An *epoch* is the time under one leader. Its messages have indexes of their own, from
`first_index` on: so an index says in which epoch the message came, no two leaders ever give the
same one, and two replicas that have the same index have the same message. What a replica must do
to agree with its leader is therefore a difference between two sets of indexes, whatever happened
before.
"""

import attrs

EPOCH_INDEXES = 1 << 44
"""Messages that an epoch has room for: at a million a second half a year."""
EPOCH_MAX = 1 << 19
"""Indexes stay below 1 << 63."""
ANY_LIFE = "*"
"""In the place of an incarnation: whichever life of the node it is."""


def first_index(epoch: int) -> int:
    """The index of the first message of an epoch."""
    return (epoch - 1) * EPOCH_INDEXES


def epoch_of(index: int) -> int:
    """The epoch in which a message with this index came."""
    return index // EPOCH_INDEXES + 1


def life_of(node: str, incarnation: int | str) -> str:
    """That life of a node."""
    return f"{node}@{incarnation}"


def node_of(life: str) -> str:
    """The name of the node whose life it is."""
    return life.rpartition("@")[0]


@attrs.frozen
class Leadership:
    """The record of one queue: ``leader`` and ``in_sync`` are lives, ``replicas`` names of nodes.

    Whoever is in sync has every message that was confirmed; the leader is one of them, and comes
    first. Others follow as they came to be. A queue that is not mirrored is on its node in
    whichever of its lives (`ANY_LIFE`).
    """

    epoch: int
    leader: str
    in_sync: tuple[str, ...]
    replicas: tuple[str, ...]
    unclean: int = 0
    """How often it was led by one that was not in sync: messages may have been lost."""

    @property
    def node(self) -> str:
        """The name of the node that leads."""
        return node_of(self.leader)


def only_on(node: str, epoch: int = 1) -> Leadership:
    """A queue that is on one node, in whichever of its lives."""
    life = life_of(node, ANY_LIFE)
    return Leadership(epoch, life, (life,), (node,))
