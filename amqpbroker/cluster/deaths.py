"""Which lives of nodes are over, known before their leases end.

A lease tells of a node's end after ten seconds; often there is evidence at once: the node's address
refuses connections, where it was found before (see `Links.on_refused`), or it has begun another
life. Then its registration is struck off, unless it has been renewed meanwhile, and whoever
listens is told.

Evidence of the first kind may be wrong, where something between the nodes refuses by itself. A node
that lives and sees its registration vanish puts it back; it has lost what its end would have cost.
"""

import logging
from collections.abc import Callable

import attrs
import trio

from amqpbroker.cluster.etcd.contract import Delete, Get, KeyValue, KeyValueStore, unchanged
from amqpbroker.cluster.members import MEMBER, Member, decode
from amqpbroker.cluster.schema import Schema
from amqpbroker.errors import DataError, StoreError

log = logging.getLogger(__name__)


@attrs.frozen
class Death:
    """The lives of ``node`` up to ``incarnation`` are over, and none of them is registered."""

    node: str
    incarnation: int
    is_ours: bool
    """This node has struck the last of them off, and sees to what it has left; if it does not come
    to that, whoever collects what is left behind will, later."""


@attrs.frozen
class _Over:
    incarnation: int
    revision: int
    """When that life was not registered any more."""


class Deaths:
    """Strikes nodes off in ``store`` when there is evidence, in `run`, and tells ``listeners``.

    A listener may hear of a death again after the node was seen to live.
    """

    def __init__(self, store: KeyValueStore, schema: Schema) -> None:
        self.listeners: list[Callable[[Death], None]] = []
        self._store = store
        self._schema = schema
        self._reported: dict[str, tuple[int, str]] = {}
        self._over: dict[str, _Over] = {}
        self._lot = trio.lowlevel.ParkingLot()

    def report(self, node: str, incarnation: int, evidence: str) -> None:
        """There is evidence that the lives of a node up to ``incarnation`` are over.

        It may be told again and again; while the store is away, it has to be.
        """
        over = self._over.get(node)
        known, _ = self._reported.get(node, (0, ""))
        if incarnation > max(known, 0 if over is None else over.incarnation):
            self._reported[node] = incarnation, evidence
            self._lot.unpark_all()

    def lives(self, node: str, incarnation: int, revision: int) -> None:
        """A node has registered its life ``incarnation`` at ``revision``."""
        over = self._over.get(node)
        if over is not None and incarnation <= over.incarnation and revision > over.revision:
            log.warning("%s lives on, although it was taken for gone", node)
            del self._over[node]

    async def run(self) -> None:
        """Look into what is reported, until cancelled."""
        while True:
            while self._reported:
                node = next(iter(self._reported))
                incarnation, evidence = self._reported[node]
                try:
                    await self._look_into(node, incarnation, evidence)
                except (StoreError, DataError) as error:
                    log.info("cannot strike %s off: %s", node, error)
                if self._reported[node] == (incarnation, evidence):
                    del self._reported[node]
            await self._lot.park()

    async def _look_into(self, node: str, incarnation: int, evidence: str) -> None:
        key = self._schema.path(MEMBER, node)
        reading = await self._store.get(key)
        revision, is_ours = reading.revision, False
        if reading.item is not None and self._life(reading.item) <= incarnation:
            seen = unchanged(key, reading.item.mod_revision)
            result = await self._store.txn([seen], [Delete(key)], [Get(key)])
            revision, is_ours = result.revision, result.succeeded
            there = () if is_ours else result.results[0].items
            if any(self._life(item) <= incarnation for item in there):
                return  # It has told something of itself meanwhile: it lives.
        log.warning("%s has ended (incarnation %d): %s", node, incarnation, evidence)
        self._over[node] = _Over(incarnation, revision)
        for listener in self.listeners:
            listener(Death(node, incarnation, is_ours))

    @staticmethod
    def _life(item: KeyValue) -> int:
        return decode(item.key, item.value, Member).inc
