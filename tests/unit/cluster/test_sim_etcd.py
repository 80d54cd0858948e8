"""The simulated etcd: the contract, and the faults that it can have."""

import random

import pytest
import trio
import trio.testing

from amqpbroker.cluster.etcd.contract import KeyValueStore
from amqpbroker.errors import Compacted, LeaseNotFound, OutcomeUnknown, StoreUnavailable
from amqpbroker.testing.etcd_contract import KeyValueStoreContract, events_of
from amqpbroker.testing.sim_etcd import Fate, SimEtcd, SimEtcdClient
from amqpbroker.testing.world import SimClock


@pytest.fixture
def etcd(autojump_clock: trio.testing.MockClock) -> SimEtcd:
    return SimEtcd(SimClock(), random.Random(1))


@pytest.fixture
def store(etcd: SimEtcd) -> SimEtcdClient:
    return etcd.client()


@pytest.fixture
def other(etcd: SimEtcd) -> SimEtcdClient:
    return etcd.client()


class TestSimEtcd(KeyValueStoreContract):
    @pytest.fixture
    def prefix(self) -> bytes:
        return b"/prefix"

    async def compact(self, store: KeyValueStore, revision: int) -> None:
        assert isinstance(store, SimEtcdClient)
        store.etcd.compact(revision)


@pytest.mark.parametrize(("fate", "done"), [("done", True), ("not done", False)])
async def test_a_change_whose_answer_is_lost_was_done_or_not(
    etcd: SimEtcd, store: SimEtcdClient, fate: Fate, done: bool
) -> None:
    etcd.lose_answer(fate)
    with pytest.raises(OutcomeUnknown):
        await store.put(b"a", b"1")

    assert ((await store.get(b"a")).item is not None) == done
    await store.put(b"a", b"2")


async def test_a_change_whose_answer_is_lost_may_be_done_behind_a_later_one(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    etcd.delay_s_max = 0
    etcd.lose_answer("done later")
    with pytest.raises(OutcomeUnknown):
        await store.put(b"a", b"1")
    with store.watch(b"a", 1) as watch:
        [event] = await events_of(watch, 1)
    assert event.value == b"1"


async def test_a_share_of_answers_is_lost(etcd: SimEtcd, store: SimEtcdClient) -> None:
    etcd.unknown_outcomes = 0.3
    unknown = 0
    for _ in range(200):
        try:
            await store.put(b"a", b"")
        except OutcomeUnknown:
            unknown += 1
        await store.get(b"a")

    assert 40 < unknown < 80
    item = (await store.get(b"a")).item
    assert item is not None
    assert 200 - unknown < item.version < 200


async def test_a_store_that_stalls_answers_nobody_and_ends_leases_when_it_goes_on(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    lease = await store.grant_lease(3)
    revision = await store.put(b"a", b"", lease=lease.id)
    with store.watch(b"a", revision + 1) as watch:
        etcd.stall()
        with pytest.raises(StoreUnavailable):
            await store.get(b"a")
        assert (await store.get(b"a", serializable=True)).item is not None
        with pytest.raises(StoreUnavailable):
            await store.keep_alive(lease.id)
        unanswered = [b"b%d" % number for number in range(20)]
        for key in unanswered:
            with pytest.raises(OutcomeUnknown):
                await store.put(key, b"")
        with trio.move_on_after(10):
            raise AssertionError(await anext(watch))
        etcd.resume()
        [event] = await events_of(watch, 1)

    assert event.value is None
    with pytest.raises(LeaseNotFound):
        await store.keep_alive(lease.id)
    assert 0 < len((await store.get_prefix(b"b")).items) < len(unanswered)


async def test_one_client_can_be_cut_off(store: SimEtcdClient, other: SimEtcdClient) -> None:
    with store.watch(b"a", 1) as watch:
        store.cut()
        with pytest.raises(StoreUnavailable):
            await store.put(b"a", b"1")
        await other.put(b"a", b"2")
        with trio.move_on_after(10):
            raise AssertionError(await anext(watch))
        store.heal()
        [event] = await events_of(watch, 1)

    assert event.value == b"2"


async def test_a_watch_lags_and_what_it_missed_may_be_compacted(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    etcd.watch_lag_s_max = 8
    with store.watch(b"a", 1) as watch:
        await store.put(b"a", b"1")
        told_s = trio.current_time()
        await events_of(watch, 1)
        assert trio.current_time() - told_s > 1
        await store.put(b"a", b"2")
        await store.put(b"a", b"3")
        etcd.compact()
        with pytest.raises(Compacted):
            await anext(watch)


async def test_a_lease_can_be_ended_before_its_time(etcd: SimEtcd, store: SimEtcdClient) -> None:
    lease = await store.grant_lease(60)
    await store.put(b"a", b"", lease=lease.id)
    etcd.expire_lease(lease.id)
    etcd.expire_lease(lease.id)

    assert (await store.get(b"a")).item is None


async def test_a_serializable_read_may_be_old(etcd: SimEtcd, store: SimEtcdClient) -> None:
    etcd.stale_revisions_max = 3
    for number in range(10):
        await store.put(b"a", b"%d" % number)
    seen = set()
    for _ in range(100):
        item = (await store.get(b"a", serializable=True)).item
        assert item is not None
        seen.add(item.value)
        now = (await store.get(b"a")).item
        assert now is not None
        assert now.value == b"9"

    assert seen == {b"6", b"7", b"8", b"9"}


async def test_a_change_that_its_caller_gave_up_may_be_done(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    etcd.delay_s_max = 1
    for number in range(50):
        with trio.move_on_after(0.1):
            await store.put(b"a%d" % number, b"")

    etcd.delay_s_max = 0
    assert 0 < len((await store.get_prefix(b"a")).items) < 50
