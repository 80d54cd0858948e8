"""The coordinator of a cluster: the store that all nodes share decides.

What is submitted waits while a txn is on its way, and then goes as one txn with all that came
meanwhile: so many declarations cost few round trips, and changes that do not bear each other's
company (one rests on what the other writes) go one after the other. A txn that is refused is cut
in halves until it is known which change was to blame.

A change takes effect when the store's events bring it back (`Feed`), and is answered after that,
when every other node that can be reached has it too: "declare here, publish there" holds. A refused
txn writes something as well, its fence; its revision comes by with the events, and then the node
knows what the refusal was about.

Sometimes nobody knows what became of a txn. Then a fence is put behind it, and what has come by
until then has happened. What has not will not: each txn rests on the node's guard, which that fence
moves. Else one that a member of the store has kept while it stood still could be done long after it
was given up, sent again, and undone by somebody.

A thing that is to be deleted is the one that was there when that was submitted, and no other that
has its name by the time.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

import attrs
import trio

from amqpbroker.cluster.coordinator import Coordinator
from amqpbroker.cluster.deeds import Deed, Deeds
from amqpbroker.cluster.etcd.contract import (
    OPERATIONS_MAX,
    Compare,
    Delete,
    KeyValueStore,
    Put,
    unchanged,
)
from amqpbroker.cluster.feed import Feed
from amqpbroker.definitions import Change, QueueDefinition
from amqpbroker.errors import (
    Compacted,
    InternalError,
    OutcomeUnknown,
    Overtaken,
    StoreLost,
    StoreRefused,
    StoreUnavailable,
)
from amqpbroker.queues.queue import Pending
from amqpbroker.replication.leadership import life_of, only_on
from amqpbroker.world import Clock

log = logging.getLogger(__name__)

DECIDED_S_MAX = 5.0
"""How long a change may wait for the store."""
BARRIER_S_MAX = 0.2
"""How long an answer waits for nodes that do not say that they have the change."""
_RETRY_S = 0.1
_LOST_RETRY_S = 1.0
_COMES_BY_S_MAX = 0.2
"""What was written before comes by sooner, if it is this cluster's."""
_CHANGES_MAX = 40
_ID_BITS = 63


@attrs.define(eq=False)
class _Submitted:
    """A change, and who waits for it; nobody any more, if there is no ``pending``.

    ``created`` is when what it is about had come to be; 0: it was not there.
    """

    change: Change
    pending: Pending[None] | None
    created: int

    def fail(self, error: Exception) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.fail(error)

    def resolve(self) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.resolve(None)


@attrs.define(eq=False)
class _Decided:
    """What is answered when the node has come to ``revision``; ``since_s``: it has, then."""

    revision: int
    submitted: _Submitted
    is_refused: bool
    since_s: float | None = None


class SharedCoordinator(Coordinator):
    """Decides for the node ``node`` in its life ``incarnation``.

    ``place`` says which node is to lead a new queue, ``incarnation_of`` in which life such a node
    is. ``others_revision`` is the revision that all other nodes which can be reached have come to;
    None: there are none. ``after`` is called when something was carried out or answered. `run` does
    the work.
    """

    def __init__(
        self,
        store: KeyValueStore,
        feed: Feed,
        node: str,
        incarnation: int,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.place: Callable[[QueueDefinition], str] = lambda queue: node
        self.incarnation_of: Callable[[str], int] = lambda node: incarnation
        self.others_revision: Callable[[], int | None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.loaded = trio.Event()
        """Whether the node knows what is there."""
        self.has_lost_cluster = False
        """Whether the store does not know the cluster any more."""
        self._store = store
        self._feed = feed
        self._deeds = Deeds(feed)
        self._node = node
        self._clock = clock
        self._rng = rng
        self._is_store_away = False
        self._fence = feed.schema.path("fence", node)
        self._guard = feed.schema.path("guard", node)
        self._waiting: deque[_Submitted] = deque()
        """What is yet to be sent."""
        self._void: deque[tuple[int, bytes]] = deque()
        """Keys that are void from a revision on."""
        self._decided: deque[_Decided] = deque()
        self._due: deque[tuple[float, _Submitted]] = deque()
        """When those that are submitted have waited too long."""
        self._asked: list[Pending[None]] = []
        """Who has to know all that was decided."""
        # Tasks wait in these for something to send, for the cluster to be found again, for somebody
        # who asks, for a newer revision, and for an earlier end of their time.
        self._send_lot = trio.lowlevel.ParkingLot()
        self._found_lot = trio.lowlevel.ParkingLot()
        self._ask_lot = trio.lowlevel.ParkingLot()
        self._feed_lot = trio.lowlevel.ParkingLot()
        self._clock_lot = trio.lowlevel.ParkingLot()

    def submit(self, change: Change) -> Pending[None]:
        definition = change.definition
        if change.act == "put" and isinstance(definition, QueueDefinition):
            change = attrs.evolve(change, definition=self._placed(definition))
        created = self._feed.created(self._feed.schema.key(change.definition))
        submitted = _Submitted(change, Pending(), created)
        assert submitted.pending is not None
        self._waiting.append(submitted)
        self._due.append((self._clock.monotonic_s() + DECIDED_S_MAX, submitted))
        self._send_lot.unpark_all()
        self._clock_lot.unpark_all()
        return submitted.pending

    def _placed(self, queue: QueueDefinition) -> QueueDefinition:
        """A new queue with its id, its leader, and with whom it ends.

        One that is a connection's own is where that is (rabbit_classic_queue:declare).
        """
        leader = self._node if queue.exclusive else self.place(queue)
        is_kept = queue.durable and not queue.exclusive
        owner = "" if is_kept else life_of(leader, self.incarnation_of(leader))
        log_id = self._rng.getrandbits(_ID_BITS) | 1
        return attrs.evolve(queue, log_id=log_id, leader=leader, owner=owner)

    async def run(self) -> None:
        """Follow the store, and have it decide, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._send)
            nursery.start_soon(self._mind_the_time)
            nursery.start_soon(self._bring_up_to_date)

    # -- following -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        feed, store = self._feed, self._store
        prefix = feed.schema.prefix
        while True:
            try:
                reading = await store.get_prefix(prefix)
                feed.load(reading.items, reading.revision)
                self._note_found()
                self._void += [(feed.revision, key) for key in feed.void_bindings()]
                self._send_lot.unpark_all()
                self.loaded.set()
                self.look()
                with store.watch(prefix, reading.revision + 1) as watch:
                    async for batch in watch:
                        feed.take(batch)
                        self._note_here()
                        self.look()
            except Compacted as error:
                log.warning("%s: everything is read anew", error)
            except StoreLost as error:
                self._note_away(error)
                self.has_lost_cluster = True
                await trio.sleep(_LOST_RETRY_S)
            except (StoreUnavailable, StoreRefused) as error:
                self._note_away(error)
                await trio.sleep(_RETRY_S)

    def look(self) -> None:
        """Answer what can be answered by now: something has come by, here or elsewhere."""
        now_s = self._clock.monotonic_s()
        others = self.others_revision()
        waiting: deque[_Decided] = deque()
        for decided in self._decided:
            if decided.revision > self._feed.revision:
                waiting.append(decided)
            elif decided.is_refused and not self._is_done(decided.submitted):
                decided.submitted.fail(Overtaken())
            else:
                if decided.since_s is None:
                    decided.since_s = now_s
                if others is None or others >= decided.revision:
                    decided.submitted.resolve()
                elif now_s - decided.since_s >= BARRIER_S_MAX:
                    log.warning("revision %d is not known to be everywhere", decided.revision)
                    decided.submitted.resolve()
                else:
                    waiting.append(decided)
        self._decided = waiting
        self._feed_lot.unpark_all()
        self._clock_lot.unpark_all()
        self.after()

    async def _mind_the_time(self) -> None:
        """Let nothing wait longer than it may."""
        while True:
            now_s = self._clock.monotonic_s()
            while self._due and (self._due[0][0] <= now_s or self._due[0][1].pending is None):
                _, submitted = self._due.popleft()
                submitted.fail(_no_answer())
                self.after()
            if any(decided.since_s is not None for decided in self._decided):
                await trio.sleep(BARRIER_S_MAX / 4)
                self.look()
            elif self._due:
                with trio.move_on_after(self._due[0][0] - now_s):
                    await self._clock_lot.park()
            else:
                await self._clock_lot.park()

    async def _reached(self, revision: int) -> None:
        while self._feed.revision < revision:
            await self._feed_lot.park()

    async def fence(self) -> None:
        """Come to know everything that was decided before the call. Raises `StoreError`.

        To read the newest revision will do, as long as all that is written to the store is this
        cluster's, and comes by: writing would fill the store with what nobody needs.
        """
        reading = await self._store.get(self._fence)
        self._note_here()
        with trio.move_on_after(_COMES_BY_S_MAX):
            await self._reached(reading.revision)
            return
        await self._reached(await self._put(self._fence))

    @property
    def is_away(self) -> bool:
        return self._is_store_away

    def catch_up(self) -> Pending[None]:
        pending: Pending[None] = Pending()
        self._asked.append(pending)
        self._ask_lot.unpark_all()
        return pending

    async def _bring_up_to_date(self) -> None:
        """Answer those who have to know all: one fence for all who ask meanwhile."""
        while True:
            if not self._asked:
                await self._ask_lot.park()
            asked, self._asked = self._asked, []
            with trio.move_on_after(DECIDED_S_MAX) as patience:
                await self._insist_on_fence()
            if patience.cancelled_caught:
                self._note_away(TimeoutError(f"no answer for {DECIDED_S_MAX:g} s"))
            for pending in asked:
                if patience.cancelled_caught:
                    pending.fail(_no_answer())
                else:
                    pending.resolve(None)
            self.after()

    async def _insist_on_fence(self, *, is_behind: bool = False) -> None:
        """Come to know everything; ``is_behind``: and what is still on its way to be decided.

        Whatever is still on its way then comes too late, for its guard has moved.
        """
        while True:
            try:
                if is_behind:
                    await self._reached(await self._put(self._guard))
                else:
                    await self.fence()
            except (StoreUnavailable, OutcomeUnknown, StoreRefused) as error:
                self._note_away(error)
                await trio.sleep(_RETRY_S)
            else:
                return

    async def _put(self, key: bytes) -> int:
        result = await self._store.txn((), (Put(key, b""),))
        self._note_here()
        return result.revision

    # -- having it decided ---------------------------------------------------------------------

    async def _send(self) -> None:
        await self.loaded.wait()
        while True:
            if self.has_lost_cluster:
                await self._found_lot.park()
                continue
            batch = self._next_batch()
            if batch:
                await self._carry_out(batch)
            elif self._void:
                await self._sweep()
            else:
                await self._send_lot.park()

    def _next_batch(self) -> list[tuple[_Submitted, Deed]]:
        """What goes in one txn: in order, and nothing that rests on what goes along."""
        batch: list[tuple[_Submitted, Deed]] = []
        written: set[bytes] = set()
        # Several have some conditions in common: each goes once.
        conditions: set[Compare] = {self._unguarded()}
        operations = 0
        while self._waiting and len(batch) < _CHANGES_MAX:
            submitted = self._waiting[0]
            deed = None if submitted.pending is None else self._deed_of(submitted)
            if deed is not None:
                conditions.update(deed.conditions)
                operations += len(deed.operations)
                if max(len(conditions), operations) > OPERATIONS_MAX:
                    break
                if not written.isdisjoint((*deed.reads(), *deed.writes())):
                    break
                written.update(deed.writes())
                batch.append((submitted, deed))
            self._waiting.popleft()
        return batch

    def _unguarded(self) -> Compare:
        """The condition that nothing which was sent later has made this one void."""
        return unchanged(self._guard, self._feed.modified(self._guard))

    def _deed_of(self, submitted: _Submitted) -> Deed | None:
        definition = submitted.change.definition
        leadership = only_on(definition.leader) if isinstance(definition, QueueDefinition) else None
        try:
            if submitted.change.act == "delete" and self._is_done(submitted):
                raise Overtaken
            return self._deeds.of(submitted.change, leadership)
        except Overtaken as error:
            submitted.fail(error)
            self.after()
            return None

    async def _carry_out(self, batch: list[tuple[_Submitted, Deed]]) -> None:
        """Have a batch decided on; what could not even be asked waits again."""
        of_deeds = dict.fromkeys(each for _, deed in batch for each in deed.conditions)
        conditions = [self._unguarded(), *of_deeds]
        operations = [each for _, deed in batch for each in deed.operations]
        try:
            result = await self._store.txn(conditions, operations, (Put(self._fence, b""),))
        except StoreUnavailable as error:
            self._note_away(error)
            self._wait_again(submitted for submitted, _ in batch)
            await trio.sleep(_RETRY_S)
            return
        except OutcomeUnknown as error:
            self._note_away(error)
            await self._find_out(batch)
            return
        except StoreRefused as error:
            # Perhaps it is too much for one txn, or one change is to blame.
            if len(batch) > 1:
                await self._carry_out_by_halves(batch)
                return
            [(submitted, _)] = batch
            submitted.fail(InternalError(f"the cluster's store (etcd) refuses it: {error}"))
            self.after()
            return
        self._note_here()
        if result.succeeded or len(batch) == 1:
            self._note(batch, result.revision, is_refused=not result.succeeded)
        else:
            await self._carry_out_by_halves(batch)

    async def _carry_out_by_halves(self, batch: list[tuple[_Submitted, Deed]]) -> None:
        middle = len(batch) // 2
        await self._carry_out(batch[:middle])
        await self._carry_out(batch[middle:])

    def _note(
        self, batch: list[tuple[_Submitted, Deed]], revision: int, is_refused: bool = False
    ) -> None:
        for submitted, deed in batch:
            self._decided.append(_Decided(revision, submitted, is_refused))
            if not is_refused:
                self._void += [(revision, key) for key in deed.void]
        if revision <= self._feed.revision:
            self.look()

    def _wait_again(self, submitted: Iterable[_Submitted]) -> None:
        self._waiting.extendleft(reversed(list(submitted)))

    async def _find_out(self, batch: list[tuple[_Submitted, Deed]]) -> None:
        """Nobody knows what became of a txn: see what has come of it behind a fence."""
        await self._insist_on_fence(is_behind=True)
        done = [each for each in batch if self._is_done(each[0])]
        self._note(done, self._feed.revision)
        self._wait_again(each[0] for each in batch if each not in done)

    def _is_done(self, submitted: _Submitted) -> bool:
        """Whether what was submitted is so, whoever has done it."""
        change, feed = submitted.change, self._feed
        key = feed.schema.key(change.definition)
        there = feed.definition(key)
        if change.act == "delete":
            if there is None or feed.created(key) != submitted.created:
                return True
            # It was submitted again, of a queue that had gone before.
            return (
                isinstance(there, QueueDefinition)
                and isinstance(change.definition, QueueDefinition)
                and there.log_id != change.definition.log_id
            )
        if isinstance(there, QueueDefinition) and isinstance(change.definition, QueueDefinition):
            return there.log_id == change.definition.log_id
        return there == change.definition

    async def _sweep(self) -> None:
        """Delete keys that are void: nobody waits for it."""
        count = min(len(self._void), OPERATIONS_MAX)
        left = [self._void.popleft() for _ in range(count)]
        await self._reached(max(revision for revision, _ in left))
        with suppress(OutcomeUnknown, StoreRefused, StoreUnavailable):
            await self._delete_void(list(dict.fromkeys(key for _, key in left)))

    async def _delete_void(self, keys: list[bytes]) -> None:
        """Delete those of the keys that are not in force again, by now or in a moment."""
        feed = self._feed
        void = [key for key in keys if feed.modified(key) and feed.definition(key) is None]
        if void:
            conditions = [unchanged(key, feed.modified(key)) for key in void]
            result = await self._store.txn(conditions, [Delete(key) for key in void])
            if not result.succeeded and len(void) > 1:
                middle = len(void) // 2
                await self._delete_void(void[:middle])
                await self._delete_void(void[middle:])

    # -- whether the store is there ------------------------------------------------------------

    def _note_away(self, error: Exception) -> None:
        if not self._is_store_away:
            self._is_store_away = True
            log.warning("the cluster's store (etcd) is away: %s", error)

    def _note_found(self) -> None:
        self.has_lost_cluster = False
        self._found_lot.unpark_all()
        self._note_here()

    def _note_here(self) -> None:
        if self._is_store_away and not self.has_lost_cluster:
            self._is_store_away = False
            log.warning("the cluster's store (etcd) is back")


def _no_answer() -> InternalError:
    return InternalError(
        "the cluster's store (etcd) does not answer: nothing can be declared, bound or deleted"
        " until it does; try again"
    )
