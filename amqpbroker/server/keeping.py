"""What a node with a data directory does beside: it keeps definitions and messages.

`Keeping` opens the directory, gives the broker what was kept, and commits what it is told, a batch
at a time. A disk that fails ends the node: after that nothing is sure that was not synced before.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial

import trio

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.catalog import Catalog
from amqpbroker.cluster.coordinator import EmbeddedCoordinator
from amqpbroker.cluster.members import new_id
from amqpbroker.cluster.records import decode_change
from amqpbroker.definitions import Definition, QueueDefinition
from amqpbroker.errors import DataError, DefinitionError
from amqpbroker.storage.directory import Owner
from amqpbroker.storage.faults import disk_failure, is_full
from amqpbroker.storage.log import Log
from amqpbroker.storage.store import WAITING_BYTES_MAX, Store
from amqpbroker.world import World

log = logging.getLogger(__name__)

_FULL_DISK_RETRY_S = 0.2
_IDLE_S = 1.0
"""After so long without anything to keep, what is not needed on disk is given back."""


def read_definitions(catalog: Catalog, folder: str, lines: list[bytes]) -> None:
    """Take up what the lines in a data directory say. Raises `DataError`."""
    try:
        for line in lines:
            catalog.apply(decode_change(line), line)
    except DefinitionError as error:
        raise DataError(
            f"the definitions in {folder} cannot be read: {error}; use the version that has"
            " written it, or a newer one"
        ) from error


class Keeping:
    """Keeps what a broker has, in a data directory that is opened by `open`."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._lot = trio.lowlevel.ParkingLot()
        self._work_lot = trio.lowlevel.ParkingLot()
        self._stopping = False
        self._stopped = trio.Event()

    @classmethod
    async def open(
        cls, world: World, folder: str, name: str, *, is_alone: bool = True
    ) -> "Keeping":
        """Open the data directory of the node ``name``. Raises `DataError`.

        ``is_alone``: the node is started without a cluster.
        """
        salt = world.random.getrandbits(32)
        catalog = Catalog()
        read = partial(read_definitions, catalog, folder)
        uuid = new_id(world.random)
        store = await Store.open(
            world.disk, folder, name, WAITING_BYTES_MAX, salt, read, uuid, is_alone
        )
        catalog.newest_log_id = max(catalog.newest_log_id, store.newest_log_id)
        return cls(store, catalog)

    @property
    def is_new(self) -> bool:
        """Whether no node has ever kept anything there."""
        return self._store.is_new

    @property
    def is_full(self) -> bool:
        """Whether something waits for room on the disk."""
        return self._store.is_full

    def free_bytes(self) -> int:
        """What can still be written. Raises `DiskFailure`."""
        return self._store.free_bytes()

    @property
    def owner(self) -> Owner:
        """Whose the data directory is."""
        return self._store.owner

    async def sign(self, owner: Owner) -> None:
        """Say anew whose the data directory is. Raises `DataError`."""
        await self._store.sign(owner)

    @property
    def definitions(self) -> list[Definition]:
        """What was kept of definitions, each after those that it names.

        Raises `DataError` if not all of it could be read.
        """
        if self._store.damages and not self._store.knows_definitions:
            raise DataError(
                f"the definitions are lost ({self._store.damages[0]}): restore the data directory"
                " from a backup, or move it away to begin anew"
            )
        return [change.definition for change in self._catalog.changes()]

    def open_log(self, definition: QueueDefinition) -> Log:
        """The log of a queue; of one that ends with this node, a transient one."""
        if definition.log_id and not definition.owner:
            is_async = definition.arguments.get("x-flush") == "async"
            opened = self._store.open_log(definition.log_id, is_async)
            if opened.damaged_count:
                lost = opened.damaged_count
                log.error("%s: %d messages are damaged and lost", definition.title, lost)
            return opened
        return self._store.open_transient_log()

    def begin(self, broker: Broker) -> None:
        """Give the broker what was kept; from now on, keep what it decides.

        In one step, which may be long (10 000 queues: 0.75 s): nobody is served yet. Raises
        `DiskFailure`.
        """
        queues = []
        for change in self._catalog.changes():
            broker.apply(change)
            if isinstance(change.definition, QueueDefinition):
                queues.append(change.definition)
        self.attend(self._catalog.text)
        self.clear_up(queues)
        broker.coordinator = EmbeddedCoordinator(broker.apply, self._catalog, self._store.wal)

    def attend(self, text: Callable[[], bytes]) -> None:
        """Be there for logs; the definitions that are kept beside them are ``text``."""
        wal = self._store.wal
        wal.all_definitions = text
        wal.on_gathered = self._wake
        self._store.on_work(self._wake_worker)

    def clear_up(self, queues: Iterable[QueueDefinition]) -> None:
        """The logs of all queues are open; what is there of others goes. Raises `DiskFailure`."""
        self._store.clear_up({queue.log_id for queue in queues})
        for damage in self._store.damages:
            log.error("%s", damage)

    def _wake(self) -> None:
        self._lot.unpark_all()

    def _wake_worker(self) -> None:
        self._work_lot.unpark_all()

    async def run(self, broker: Broker) -> None:
        """Commit what gathers, until `stop`. Raises `DiskFailure`.

        Not before `clear_up`: what no open log needs is deleted.
        """
        wal = self._store.wal
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._work_off, broker)
                while not self._stopping:
                    if not wal.has_gathered:
                        await self._rest()
                        continue
                    await self._store.tidy(is_idle=False)
                    await wal.commit()
                    if self._store.has_work:
                        self._wake_worker()
                    broker.turn.end_batch()
                    if wal.is_full:
                        broker.set_alarm("disk", True)
                        await trio.sleep(_FULL_DISK_RETRY_S)
                nursery.cancel_scope.cancel()
        except* OSError as group:
            raise disk_failure(group.exceptions[0]) from group
        self._stopped.set()

    async def _rest(self) -> None:
        """Wait until something gathers, or tidy up if it takes long."""
        with trio.move_on_after(_IDLE_S) as rest:
            await self._lot.park()
        if rest.cancelled_caught:
            await self._store.tidy(is_idle=True)
            self._wake_worker()

    async def _work_off(self, broker: Broker) -> None:
        """Do what is to be done beside the commits."""
        while True:
            if not await self._store.work_off():
                await self._work_lot.park()
            elif self._store.is_full:
                broker.set_alarm("disk", True)
                await trio.sleep(_FULL_DISK_RETRY_S)
            else:
                await trio.lowlevel.checkpoint()

    async def stop(self) -> None:
        """Keep everything that was told, and say where the queues stand.

        Without room for it the directory stays as a crash would leave it. Raises `DiskFailure`.
        """
        self._stopping = True
        self._wake()
        await self._stopped.wait()
        try:
            await self._store.stop()
        except OSError as error:
            if not is_full(error):
                raise disk_failure(error) from error
            log.warning("the disk is full: what was not confirmed is not kept")

    def close(self) -> None:
        """Let go of the directory as it is."""
        self._store.close()
