"""Who belongs to a cluster, and who of these is up, as its store says.

A node belongs to it from its first start until it is forgotten, and is up while it is registered.
Where it has registered last it is looked for as long as it belongs to the cluster, even when its
lease has ended: the store may have been away, and not the node.
"""

import logging
from typing import TypeVar

from amqpbroker.cluster.deaths import Deaths
from amqpbroker.cluster.feed import Feed
from amqpbroker.cluster.leavings import Leavings
from amqpbroker.cluster.links import Address, Links
from amqpbroker.cluster.members import INCARNATION, MEMBER, Incarnation, Member, decode
from amqpbroker.cluster.membership import Membership
from amqpbroker.errors import DataError
from amqpbroker.world import Clock

Record = TypeVar("Record", Member, Incarnation)

log = logging.getLogger(__name__)


class Roster:
    """The nodes of a cluster, as the node ``own`` knows them from ``feed``.

    Who has to know of them is told: the ``links``, whom to be linked with; the ``deaths`` and the
    ``leavings``, who lives, and who may have gone; its own ``membership``, what is said of it.
    """

    def __init__(
        self,
        own: str,
        feed: Feed,
        clock: Clock,
        links: Links,
        deaths: Deaths,
        leavings: Leavings,
        membership: Membership,
    ) -> None:
        self.nodes: dict[str, None] = {}
        """Those that belong to it, up or not."""
        self.running: dict[str, Member] = {}
        """Those that are up."""
        self._own = own
        self._feed = feed
        self._clock = clock
        self._links = links
        self._deaths = deaths
        self._leavings = leavings
        self._membership = membership
        self._addresses: dict[str, Address] = {}
        feed.listeners = {MEMBER: self.see_member, INCARNATION: self.see_incarnation}

    def see_member(self, names: list[str], value: bytes | None) -> None:
        """A node has come up or gone, or tells something else of itself.

        Raises `DataError` if that makes no sense.
        """
        [node] = names
        key = self._feed.schema.path(MEMBER, node)
        member = None if value is None else self._decoded(key, value, Member)
        self._leavings.gone(node, self._clock.monotonic_s())
        if member is None:
            self.running.pop(node, None)
        else:
            self.running[node] = member
            self._deaths.lives(node, member.inc, self._feed.modified(key))
            host, port = member.link_address
            self._addresses[node] = Address(host, port, member.inc)
            self._links.set_members(self._addresses)
        if node == self._own:
            self._membership.see(member)

    def see_incarnation(self, names: list[str], value: bytes | None) -> None:
        """A node belongs to the cluster, or does not any more."""
        [node] = names
        key = self._feed.schema.path(INCARNATION, node)
        found = None if value is None else self._decoded(key, value, Incarnation)
        if found is not None and found.uuid:
            self.nodes[node] = None
            self._leavings.gone(node, self._clock.monotonic_s())
            self.see_life(node, found.inc)
        else:
            self.nodes.pop(node, None)
            if self._addresses.pop(node, None) is not None:
                self._links.set_members(self._addresses)

    def see_life(self, node: str, incarnation: int) -> None:
        """A node is in this life: those that are known of it are over, if they are earlier."""
        known = self._addresses.get(node)
        if known is not None and known.incarnation < incarnation:
            self._deaths.report(node, incarnation - 1, f"incarnation {incarnation} has begun")

    def see_refusal(self, node: str, incarnation: int) -> None:
        """A node refuses connections where it was found in that life."""
        self._deaths.report(node, incarnation, "it refuses connections where it was linked")

    def _decoded(self, key: bytes, value: bytes, kind: type[Record]) -> Record | None:
        try:
            return decode(key, value, kind)
        except DataError as error:
            log.error("%s", error)  # noqa: TRY400 - it is all in the text
            return None

    @property
    def linked(self) -> set[str]:
        """Other nodes to which there is a link."""
        return {node for node in self.nodes if self._links.to(node).is_up}

    @property
    def is_linked_with_all(self) -> bool:
        """Whether this node is known to be up, and linked with all that are."""
        own = self._own
        return own in self.running and all(
            self._links.are_up(node) for node in self.running if node != own
        )

    @property
    def is_first(self) -> bool:
        """Whether this node is the one of those that are up to do what one has to do for all."""
        return self._own == min(self.running, default="")

    @property
    def alarms(self) -> set[str]:
        """What runs low on other nodes."""
        return {
            alarm
            for node, member in self.running.items()
            if node != self._own
            for alarm in member.alarms
        }
