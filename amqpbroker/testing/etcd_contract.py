"""What every `KeyValueStore` keeps, as tests that any of them can run."""

from abc import ABC, abstractmethod

import pytest
import trio

from amqpbroker.cluster.etcd.contract import (
    OPERATIONS_MAX,
    Compare,
    Delete,
    Event,
    EventBatch,
    Get,
    KeyValueStore,
    Operation,
    OperationResult,
    Put,
    Watch,
    absent,
    present,
    unchanged,
)
from amqpbroker.errors import Compacted, LeaseExists, LeaseNotFound, StoreRefused

_PATIENCE_S = 10


async def events_of(watch: Watch, count: int) -> list[Event]:
    """The next events of a watch, however they come in batches; exactly ``count`` must come."""
    events: list[Event] = []
    with trio.fail_after(_PATIENCE_S):
        while len(events) < count:
            batch = await anext(watch)
            assert batch.events
            assert batch.revision == batch.events[-1].revision
            events += batch.events
    assert len(events) == count, events
    return events


class KeyValueStoreContract(ABC):
    """The promises of `KeyValueStore`, as tests.

    A subclass has the fixtures ``store``, ``other`` (another client of the same store) and
    ``prefix``, under which nothing is yet.
    """

    @abstractmethod
    async def compact(self, store: KeyValueStore, revision: int) -> None:
        """Let the store forget what was before a revision."""

    # -- keys ----------------------------------------------------------------------------------

    async def test_a_key_that_was_never_put_is_not_there(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        assert (await store.get(prefix)).item is None
        assert (await store.get_prefix(prefix)).items == ()
        assert not await store.delete(prefix)
        assert await store.delete_prefix(prefix) == 0

    async def test_a_put_is_seen_by_everybody_with_its_revisions(
        self, store: KeyValueStore, other: KeyValueStore, prefix: bytes
    ) -> None:
        before = (await store.get(prefix)).revision
        first = await store.put(prefix, b"1")
        second = await store.put(prefix, b"2")

        reading = await other.get(prefix)

        assert before < first < second == reading.revision
        item = reading.item
        assert item is not None
        assert (item.key, item.value, item.lease) == (prefix, b"2", 0)
        assert (item.create_revision, item.mod_revision, item.version) == (first, second, 2)

    async def test_a_key_that_comes_again_is_a_new_one(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        await store.put(prefix, b"1")
        assert await store.delete(prefix)
        assert (await store.get(prefix)).item is None
        again = await store.put(prefix, b"2")

        item = (await store.get(prefix)).item

        assert item is not None
        assert (item.create_revision, item.version) == (again, 1)

    async def test_any_octets_are_kept(self, store: KeyValueStore, prefix: bytes) -> None:
        octets = bytes(range(256))
        await store.put(prefix + octets, octets)
        await store.put(prefix, b"")

        items = (await store.get_prefix(prefix)).items

        assert [(item.key, item.value) for item in items] == [
            (prefix, b""),
            (prefix + octets, octets),
        ]

    async def test_a_prefix_has_its_keys_in_order_and_no_others(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        for key in (b"/b", b"/a\xff\xff", b"/a", b"/a\xff", b"/a/x", b"."):
            await store.put(prefix + key, key)

        there = (await store.get_prefix(prefix + b"/a")).items
        to_the_end = (await store.get_prefix(prefix + b"/a\xff")).items

        assert [item.value for item in there] == [b"/a", b"/a/x", b"/a\xff", b"/a\xff\xff"]
        assert [item.value for item in to_the_end] == [b"/a\xff", b"/a\xff\xff"]
        assert await store.delete_prefix(prefix + b"/a") == 4
        left = (await store.get_prefix(prefix)).items
        assert [item.value for item in left] == [b".", b"/b"]

    async def test_more_keys_than_one_answer_holds_are_read_at_one_revision(
        self, store: KeyValueStore, other: KeyValueStore, prefix: bytes
    ) -> None:
        keys = [b"%s/%05d" % (prefix, number) for number in range(4096 + 1)]
        for first in range(0, len(keys), OPERATIONS_MAX):
            some = keys[first : first + OPERATIONS_MAX]
            await store.txn((), [Put(key, b"old") for key in some])
        revision = (await store.get(prefix)).revision

        async def change() -> None:
            await other.txn((), [Put(keys[0], b"new"), Put(keys[-1], b"new")])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            reading = await store.get_prefix(prefix)

        assert [item.key for item in reading.items] == keys
        changed = b"new" if reading.revision > revision else b"old"
        values = [item.value for item in reading.items]
        assert values == [changed, *[b"old"] * (len(keys) - 2), changed]

    async def test_a_serializable_read_has_the_same_form(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        await store.put(prefix, b"1")
        assert (await store.get(prefix, serializable=True)).revision > 0
        assert len((await store.get_prefix(prefix, serializable=True)).items) <= 1

    # -- txn -----------------------------------------------------------------------------------

    async def test_a_txn_takes_the_branch_that_its_conditions_say(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        first = await store.txn([absent(prefix)], [Put(prefix, b"1")], [Get(prefix)])
        second = await store.txn([absent(prefix)], [Put(prefix, b"2")], [Get(prefix)])

        assert (first.succeeded, first.results) == (True, (OperationResult(),))
        assert not second.succeeded
        [result] = second.results
        [item] = result.items
        assert (item.value, item.mod_revision) == (b"1", first.revision)
        assert second.revision == first.revision

    @pytest.mark.parametrize(
        ("target", "less", "same", "more"),
        [
            ("VERSION", 1, 2, 3),
            ("VALUE", b"a", b"b", b"c"),
            ("LEASE", -1, 0, 1),
            ("CREATE", -1, 0, +1),
            ("MOD", -1, 0, +1),
        ],
    )
    async def test_every_comparison_means_what_it_says(
        self,
        store: KeyValueStore,
        prefix: bytes,
        target: str,
        less: int | bytes,
        same: int | bytes,
        more: int | bytes,
    ) -> None:
        created = await store.put(prefix, b"a")
        modified = await store.put(prefix, b"b")
        base = {"CREATE": created, "MOD": modified}.get(target)

        async def held(operand: int | bytes) -> list[str]:
            if base is not None and isinstance(operand, int):
                operand += base
            relations = []
            for relation in ("=", "!=", "<", ">"):
                compare = Compare(prefix, target, relation, operand)  # type: ignore[arg-type]
                if (await store.txn([compare], [])).succeeded:
                    relations.append(relation)
            return relations

        assert await held(less) == ["!=", ">"]
        assert await held(same) == ["="]
        assert await held(more) == ["!=", "<"]

    async def test_a_key_that_is_not_there_has_zeros_and_no_value(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        async def holds(*compare: Compare) -> bool:
            return (await store.txn(compare, [])).succeeded

        assert await holds(
            absent(prefix),
            unchanged(prefix, 0),
            Compare(prefix, "VERSION", "=", 0),
            Compare(prefix, "LEASE", "=", 0),
        )
        assert not await holds(present(prefix))
        assert not await holds(Compare(prefix, "LEASE", "=", 7))
        assert not await holds(Compare(prefix, "VALUE", "=", b""))
        assert not await holds(Compare(prefix, "VALUE", "!=", b"a"))

    async def test_one_condition_that_does_not_hold_is_enough(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        revision = await store.put(prefix, b"1")
        result = await store.txn(
            [unchanged(prefix, revision), absent(prefix)], [Delete(prefix)], []
        )

        assert (result.succeeded, result.results, result.revision) == (False, (), revision)
        assert (await store.get(prefix)).item is not None

    async def test_a_txn_is_one_change_and_sees_what_it_did(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        await store.put(prefix + b"/a", b"1")
        await store.put(prefix + b"/b", b"1")
        result = await store.txn(
            [],
            [
                Put(prefix + b"/c", b"2"),
                Delete(prefix + b"/a"),
                Delete(prefix + b"/x", prefix=True),
                Get(prefix, prefix=True),
            ],
        )

        assert [each.deleted for each in result.results] == [0, 1, 0, 0]
        assert [item.key for item in result.results[3].items] == [prefix + b"/b", prefix + b"/c"]
        item = (await store.get(prefix + b"/c")).item
        assert item is not None
        assert item.mod_revision == result.revision == result.results[3].items[1].mod_revision

    async def test_a_key_is_written_once_in_a_txn(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        twice: list[list[Operation]] = [
            [Put(prefix, b"1"), Put(prefix, b"2")],
            [Put(prefix, b"1"), Delete(prefix)],
            [Put(prefix + b"/a", b"1"), Delete(prefix, prefix=True)],
        ]
        for operations in twice:
            with pytest.raises(StoreRefused, match="duplicate key given in txn request") as refusal:
                await store.txn([], operations)
            assert refusal.value.code == 3
        with pytest.raises(StoreRefused, match="key is not provided"):
            await store.put(b"", b"1")

    async def test_a_list_of_a_txn_has_a_limit(self, store: KeyValueStore, prefix: bytes) -> None:
        puts = [Put(b"%s/%d" % (prefix, number), b"") for number in range(OPERATIONS_MAX + 1)]
        conditions = [absent(put.key) for put in puts]

        assert (await store.txn(conditions[1:], puts[1:], puts[1:])).succeeded
        for turn in range(3):
            lists = conditions * (turn == 0), puts * (turn == 1), puts * (turn == 2)
            with pytest.raises(StoreRefused, match="128 entries in a list, and has 129: divide it"):
                await store.txn(*lists)

    # -- leases --------------------------------------------------------------------------------

    async def test_a_lease_takes_its_keys_with_it(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        lease = await store.grant_lease(60)
        assert lease.ttl_s == 60
        first = await store.put(prefix + b"/a", b"1", lease=lease.id)
        await store.txn(
            [], [Put(prefix + b"/b", b"1", lease.id), Put(prefix + b"/c", b"", lease.id)]
        )
        await store.put(prefix + b"/c", b"without")
        item = (await store.get(prefix + b"/a")).item
        assert item is not None
        assert item.lease == lease.id
        with store.watch(prefix, first + 3) as watch:
            await store.revoke_lease(lease.id)
            events = await events_of(watch, 2)

        assert sorted(event.key for event in events) == [prefix + b"/a", prefix + b"/b"]
        assert {event.value for event in events} == {None}
        assert [item.value for item in (await store.get_prefix(prefix)).items] == [b"without"]

    async def test_a_lease_that_is_not_kept_alive_ends(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        lease = await store.grant_lease(2)
        revision = await store.put(prefix, b"1", lease=lease.id)
        begun_s = trio.current_time()
        await trio.sleep(1.2)
        assert await store.keep_alive(lease.id) == lease.ttl_s
        with store.watch(prefix, revision + 1) as watch:
            [event] = await events_of(watch, 1)

        assert (event.key, event.value, event.create_revision) == (prefix, None, 0)
        assert trio.current_time() - begun_s > 1.2 + lease.ttl_s - 0.2
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(lease.id)

    async def test_a_lease_has_the_id_that_was_asked_for_once(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        number = 0x7FFF_0000_0000_0000 + int.from_bytes(prefix[-6:])
        lease = await store.grant_lease(60, number)
        assert lease.id == number

        with pytest.raises(LeaseExists):
            await store.grant_lease(60, number)

        assert 50 < await store.lease_time_to_live(number) <= 60
        await store.revoke_lease(number)
        again = await store.grant_lease(30, number)
        assert (again.id, again.ttl_s) == (number, 30)
        await store.revoke_lease(number)

    async def test_an_unknown_lease_is_told_apart(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        unknown = 77
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(unknown)
        with pytest.raises(LeaseNotFound):
            await store.lease_time_to_live(unknown)
        with pytest.raises(LeaseNotFound):
            await store.revoke_lease(unknown)
        with pytest.raises(LeaseNotFound):
            await store.put(prefix, b"", lease=unknown)
        with pytest.raises(LeaseNotFound):
            await store.txn([], [Put(prefix, b"", unknown)])
        assert (await store.get(prefix)).item is None

    # -- watches -------------------------------------------------------------------------------

    async def test_a_watch_tells_what_was_and_what_comes(
        self, store: KeyValueStore, other: KeyValueStore, prefix: bytes
    ) -> None:
        first = await store.put(prefix + b"/a", b"1")
        second = await store.put(prefix + b"/a", b"2")
        await store.put(b"not" + prefix, b"")
        with other.watch(prefix, second) as watch:
            assert await events_of(watch, 1) == [Event(prefix + b"/a", b"2", second, first)]
            third = await store.put(prefix + b"/b", b"")
            assert await events_of(watch, 1) == [Event(prefix + b"/b", b"", third, third)]
            await store.delete(prefix + b"/a")
            assert await events_of(watch, 1) == [Event(prefix + b"/a", None, third + 1, 0)]

    async def test_the_events_of_a_txn_come_together(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        keys = [b"%s/%03d" % (prefix, number) for number in range(OPERATIONS_MAX)]
        revision = (await store.get(prefix)).revision
        with store.watch(prefix, revision + 1) as watch:
            for _ in range(3):
                await store.txn([], [Put(key, b"") for key in keys])
            batches: list[EventBatch] = []
            with trio.fail_after(_PATIENCE_S):
                while sum(len(batch.events) for batch in batches) < 3 * len(keys):
                    batches.append(await anext(watch))

        events = [event for batch in batches for event in batch.events]
        told = [(event.revision, event.key) for event in events]
        assert told == [(revision + 1 + turn, key) for turn in range(3) for key in keys]
        for batch in batches:
            assert len(batch.events) % len(keys) == 0
            assert batch.revision == batch.events[-1].revision

    async def test_many_events_come_once_each_in_their_order(
        self, store: KeyValueStore, other: KeyValueStore, prefix: bytes
    ) -> None:
        revision = (await store.get(prefix)).revision
        with other.watch(prefix, revision + 1) as watch:
            async with trio.open_nursery() as nursery:
                for name in range(8):

                    async def put(name: int = name) -> None:
                        for number in range(50):
                            await store.put(b"%s/%d" % (prefix, name), b"%d" % number)

                    nursery.start_soon(put)
                events = await events_of(watch, 400)

        assert [event.revision for event in events] == [revision + 1 + i for i in range(400)]
        for name in range(8):
            key = b"%s/%d" % (prefix, name)
            values = [event.value for event in events if event.key == key]
            assert values == [b"%d" % number for number in range(50)]

    async def test_a_wait_that_is_cancelled_loses_nothing(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        revision = await store.put(prefix, b"0")
        events: list[Event] = []
        with store.watch(prefix, revision) as watch:
            for number in range(1, 10):
                with trio.move_on_after(0.002):
                    events += (await anext(watch)).events
                await store.put(prefix, b"%d" % number)
            events += await events_of(watch, 10 - len(events))

        assert [event.value for event in events] == [b"%d" % number for number in range(10)]

    async def test_a_watch_that_is_closed_has_ended(
        self, store: KeyValueStore, prefix: bytes
    ) -> None:
        revision = await store.put(prefix, b"")
        watch = store.watch(prefix, revision)
        await events_of(watch, 1)
        watch.close()
        watch.close()

        assert [batch async for batch in watch] == []

    async def test_what_is_compacted_is_not_told(self, store: KeyValueStore, prefix: bytes) -> None:
        revision = await store.put(prefix, b"1")
        await store.put(prefix, b"2")
        last = await store.put(prefix, b"3")
        await self.compact(store, last)
        with store.watch(prefix, revision) as watch, trio.fail_after(_PATIENCE_S):
            with pytest.raises(Compacted) as fault:
                await anext(watch)
            assert fault.value.compact_revision == last
            assert [batch async for batch in watch] == []

        with store.watch(prefix, last) as watch:
            [event] = await events_of(watch, 1)
        assert event.value == b"3"
        assert (await store.get(prefix)).revision == last
