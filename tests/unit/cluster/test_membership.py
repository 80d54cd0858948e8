"""Nodes join, stay and leave, over a store that loses answers, stalls, and ends leases."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from amqpbroker.cluster.etcd.contract import Put
from amqpbroker.cluster.members import (
    INCARNATION,
    MEMBER,
    META,
    SCHEMA,
    Incarnation,
    Member,
    Meta,
    decode,
    encode,
)
from amqpbroker.cluster.membership import KEEP_ALIVE_S, LEASE_S, SAID_AGAIN_S, Membership
from amqpbroker.cluster.schema import Schema
from amqpbroker.errors import ConfigError, DataError, StoreRefused
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.sim_etcd import SimEtcd, SimEtcdClient
from amqpbroker.testing.world import SimClock

KEYS = Schema("c")
A = "rabbit@a"
WHERE = Member(0, link="a:25672", amqp="a:5672")


@pytest.fixture
def etcd(autojump_clock: trio.testing.MockClock) -> SimEtcd:
    return SimEtcd(SimClock(), random.Random(1))


@pytest.fixture
def store(etcd: SimEtcd) -> SimEtcdClient:
    """The test's own look into the store."""
    return etcd.client()


def process(
    etcd: SimEtcd,
    node: str = A,
    disk: str = "disk a",
    cluster: str = "c",
    store: SimEtcdClient | None = None,
    seed: int = 0,
) -> Membership:
    world = fake_world(seed, SimClock())
    return Membership(world, store or etcd.client(), cluster, node, disk)


class Disk:
    """What a disk has of its node's starts."""

    def __init__(self, remembered: int = 0) -> None:
        self.remembered = remembered
        self.fails = False

    def copy(self) -> "Disk":
        return Disk(self.remembered)

    async def remember(self, incarnation: int) -> None:
        assert incarnation > self.remembered
        if self.fails:
            raise DataError("the disk is full")
        self.remembered = incarnation


async def begin(membership: Membership, disk: Disk, known: str = "") -> None:
    await membership.find(known)
    await membership.begin(is_known=bool(known), remembered=disk.remembered, remember=disk.remember)


async def join(membership: Membership, known: str = "", disk: Disk | None = None) -> Membership:
    """Be a member, with a new disk, or another."""
    await begin(membership, disk or Disk(), known)
    await membership.announce(WHERE)
    return membership


@asynccontextmanager
async def running(membership: Membership) -> AsyncIterator[None]:
    """Within, the process runs; when the block is left, it is killed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(membership.run)
        yield
        nursery.cancel_scope.cancel()


async def there(store: SimEtcdClient, node: str = A) -> Member | None:
    item = (await store.get(KEYS.path(MEMBER, node))).item
    return None if item is None else decode(item.key, item.value, Member)


async def refusal_of(call: Awaitable[object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        await call
    text = str(caught.value)
    assert "\n" not in text
    return text


async def overtaken(call: Callable[[], Awaitable[object]]) -> str:
    with trio.fail_after(60):
        return await refusal_of(call(), DataError)


# -- joining -----------------------------------------------------------------------------------


async def test_the_first_node_makes_the_cluster_and_the_others_find_it(etcd: SimEtcd) -> None:
    first = await join(process(etcd))
    second = await join(process(etcd, "rabbit@b", "disk b", seed=1))

    assert first.cluster_id == second.cluster_id != ""
    assert first.secret == second.secret
    assert len(first.secret) == 32
    assert (first.incarnation, second.incarnation) == (1, 1)


async def test_two_nodes_that_start_together_make_one_cluster(etcd: SimEtcd) -> None:
    nodes = [process(etcd, f"rabbit@{number}", f"disk {number}", seed=number) for number in (1, 2)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(join, node)

    assert nodes[0].cluster_id == nodes[1].cluster_id
    assert nodes[0].secret == nodes[1].secret


async def test_clusters_of_different_names_share_nothing(etcd: SimEtcd) -> None:
    one = await join(process(etcd))
    other = await join(process(etcd, cluster="other/one", seed=1))

    assert one.cluster_id != other.cluster_id
    assert one.secret != other.secret


async def test_each_start_is_a_new_incarnation(etcd: SimEtcd, store: SimEtcdClient) -> None:
    disk = Disk()
    cluster_id = (await join(process(etcd), disk=disk)).cluster_id
    again = await join(process(etcd), cluster_id, disk)

    assert again.incarnation == disk.remembered == 2
    assert await there(store) == Member(2, link="a:25672", amqp="a:5672")


async def test_a_start_that_crashed_before_it_was_told_counts_all_the_same(etcd: SimEtcd) -> None:
    crashed, disk = process(etcd), Disk()
    await begin(crashed, disk)
    again = await join(process(etcd), crashed.cluster_id, disk)

    assert again.incarnation == 2


async def test_what_later_releases_tell_of_a_node_is_left_alone() -> None:
    assert decode(b"n/a", b'{"inc":3,"amqp":"a:5672","colour":"blue"}', Member) == Member(
        3, amqp="a:5672"
    )


def test_addresses_may_be_of_any_kind() -> None:
    assert Member(1, link="a.example:25672").link_address == ("a.example", 25672)
    assert Member(1, link="[::1]:25672").link_address == ("::1", 25672)


@pytest.mark.parametrize("fate", ["done", "not done", "done later"])
@pytest.mark.parametrize("number", range(5))
async def test_any_answer_may_be_lost_at_the_start(
    etcd: SimEtcd, store: SimEtcdClient, number: int, fate: str
) -> None:
    for _ in range(number):
        etcd.lose_answer("answered")
    etcd.lose_answer(fate)  # type: ignore[arg-type]
    disk = Disk()
    membership = await join(process(etcd), disk=disk)

    assert membership.incarnation in (1, 2)
    assert membership.incarnation == disk.remembered
    assert await there(store) == Member(membership.incarnation, link="a:25672", amqp="a:5672")
    again = await join(process(etcd), membership.cluster_id, disk)
    assert again.secret == membership.secret


async def test_a_start_waits_for_the_store(etcd: SimEtcd, caplog: pytest.LogCaptureFixture) -> None:
    etcd.stall()
    membership = process(etcd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(join, membership)
        await trio.sleep(SAID_AGAIN_S * 2 + 7)  # Each attempt takes 5 s.
        assert membership.is_store_away
        etcd.resume()

    assert not membership.is_store_away
    assert 2 <= caplog.text.count("does not serve this node") <= 3


@pytest.mark.parametrize(
    ("code", "fault", "remedy"),
    [
        (7, "permission denied", "see to its user and rights"),
        (8, "mvcc: database space exceeded", "give etcd room"),
    ],
)
async def test_a_store_that_refuses_the_node_ends_the_start(
    etcd: SimEtcd, monkeypatch: pytest.MonkeyPatch, code: int, fault: str, remedy: str
) -> None:
    async def refuse(key: bytes) -> None:
        raise StoreRefused(code, f"etcdserver: {fault}")

    client = etcd.client()
    monkeypatch.setattr(client, "get", refuse)
    text = await refusal_of(join(process(etcd, store=client)), ConfigError)
    assert f"{fault}; {remedy}" in text


# -- where a node does not belong --------------------------------------------------------------


async def test_another_disk_may_not_have_the_name(etcd: SimEtcd) -> None:
    await join(process(etcd))
    text = await refusal_of(join(process(etcd, disk="disk b")), ConfigError)

    assert text == (
        "another disk than this has the name rabbit@a in cluster 'c': choose another --name, or"
        " start the node with the --data-dir it had; if that is lost, first have the node"
        " forgotten (amqpbrokerctl forget_cluster_node rabbit@a)"
    )


async def test_of_two_disks_that_come_together_with_one_name_one_is_refused(etcd: SimEtcd) -> None:
    texts: list[str] = []

    async def attempt(disk: str) -> None:
        try:
            await join(process(etcd, disk=disk))
        except ConfigError as error:
            texts.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, "disk a")
        nursery.start_soon(attempt, "disk b")

    [text] = texts
    assert text.startswith("another disk")


async def test_a_disk_of_another_cluster_is_refused(etcd: SimEtcd) -> None:
    await join(process(etcd))
    text = await refusal_of(process(etcd).find("0123"), DataError)
    assert text.startswith("the data directory belongs to another cluster (0123) than the one")


async def test_a_store_that_has_lost_the_cluster_gets_no_new_one(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    text = await refusal_of(process(etcd).find("0123"), DataError)

    assert text.startswith(
        "the data directory belongs to a cluster (0123), and this store has none"
    )
    assert (await store.get(KEYS.path(META))).item is None


async def test_a_cluster_of_a_later_release_is_refused(etcd: SimEtcd, store: SimEtcdClient) -> None:
    await store.put(KEYS.path(META), encode(Meta("0123", SCHEMA + 1)))
    text = await refusal_of(process(etcd).find(), ConfigError)
    assert "is kept in version 2, and this release reads 1" in text


async def test_a_store_with_something_else_in_it_is_refused(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    await store.put(KEYS.path(META), b"hello")
    text = await refusal_of(process(etcd).find(), DataError)
    assert text.startswith("the key /c/v1/meta in the cluster's store makes no sense: ")


async def test_a_node_that_was_forgotten_may_come_with_an_empty_disk_only(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    cluster_id = (await join(process(etcd))).cluster_id
    await store.put(KEYS.path(INCARNATION, A), encode(Incarnation("", 1)))
    text = await refusal_of(join(process(etcd), cluster_id), DataError)
    assert text.startswith("cluster 'c' has forgotten the node rabbit@a, and its queues")

    assert (await join(process(etcd, disk="disk b"))).incarnation == 2


# -- old copies of a disk ----------------------------------------------------------------------


async def test_an_old_copy_of_a_disk_is_refused_whether_its_newer_twin_runs_or_not(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    disk = Disk()
    first = await join(process(etcd), disk=disk)
    old = disk.copy()
    await join(process(etcd), first.cluster_id, disk)
    newest = await join(process(etcd), first.cluster_id, disk)
    for _ in range(2):
        text = await refusal_of(join(process(etcd), first.cluster_id, old), ConfigError)
        assert text == (
            "the data directory is an old copy: it knows rabbit@a up to incarnation 1, and cluster"
            " 'c' up to 3; what the node has kept since then is not here: start it with the"
            " --data-dir that it ran on last; if that is lost, have the node forgotten"
            " (amqpbrokerctl forget_cluster_node rabbit@a), and start it with an empty --data-dir"
        )
        await newest.leave()
    assert old.remembered == 1
    assert (await join(process(etcd), first.cluster_id, disk)).incarnation == 4


async def test_a_copy_of_a_disk_from_before_it_belonged_to_a_cluster_is_refused(
    etcd: SimEtcd,
) -> None:
    await join(process(etcd))
    text = await refusal_of(join(process(etcd)), ConfigError)
    assert text.startswith(
        "the data directory is an old copy: it knows rabbit@a up to incarnation 0,"
    )


async def test_a_start_that_crashes_before_the_store_has_heard_of_it_is_made_up_for(
    etcd: SimEtcd,
) -> None:
    disk = Disk()
    cluster_id = (await join(process(etcd), disk=disk)).cluster_id
    etcd.lose_answer("not done")
    crashed = process(etcd)
    with trio.move_on_after(0.3):
        await join(crashed, cluster_id, disk)
    assert (crashed.incarnation, disk.remembered) == (0, 2)

    copy = disk.copy()
    again = await join(process(etcd), cluster_id, disk)
    assert again.incarnation == disk.remembered == 3, "nobody knows what became of the second"
    await refusal_of(join(process(etcd), cluster_id, copy), ConfigError)


@pytest.mark.parametrize("fate", ["done", "not done", "done later"])
@pytest.mark.parametrize("crashes", [False, True])
async def test_no_start_is_taken_for_another_whatever_became_of_its_change(
    etcd: SimEtcd, fate: str, crashes: bool
) -> None:
    disk = Disk()
    cluster_id = (await join(process(etcd), disk=disk)).cluster_id
    numbers = [1]
    for number in range(12):
        for _ in range(number % 4):
            etcd.lose_answer("answered")
        etcd.lose_answer(fate)  # type: ignore[arg-type]
        membership = process(etcd)
        with trio.move_on_after(0.1 if crashes else 60):
            await join(membership, cluster_id, disk)
        if membership.incarnation:
            numbers.append(membership.incarnation)
    numbers.append((await join(process(etcd), cluster_id, disk)).incarnation)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == disk.remembered


async def test_nothing_is_asked_of_the_store_when_the_disk_cannot_remember(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    disk = Disk()
    cluster_id = (await join(process(etcd), disk=disk)).cluster_id
    disk.fails = True
    assert "full" in await refusal_of(join(process(etcd), cluster_id, disk), DataError)
    item = (await store.get(KEYS.path(INCARNATION, A))).item
    assert item is not None
    assert decode(item.key, item.value, Incarnation).inc == 1


async def test_a_store_that_was_set_back_gives_no_number_twice_and_is_complained_of(
    etcd: SimEtcd, store: SimEtcdClient, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(7)
    cluster_id = (await join(process(etcd, "rabbit@b", "disk b"))).cluster_id
    await store.put(KEYS.path(INCARNATION, A), encode(Incarnation("disk a", 5)))
    again = await join(process(etcd), cluster_id, disk)
    assert again.incarnation == 8
    [line] = [each for each in caplog.messages if "was set back" in each]
    assert line.startswith("this is incarnation 8 of rabbit@a at least, and the cluster's store")


async def test_a_node_that_runs_ends_when_the_store_is_set_back(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    membership = await join(process(etcd), disk=Disk(6))
    await store.put(KEYS.path(INCARNATION, A), encode(Incarnation("disk a", 5)))
    membership.see(None)
    text = await overtaken(membership.run)
    assert text.startswith("the cluster's store was set back to what it was before: it has heard")
    assert "incarnation 5 of rabbit@a, and this one is 7" in text


# -- bringing definitions ----------------------------------------------------------------------


async def test_a_cluster_begins_with_what_is_first_in_it(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    for seed, value in enumerate((b"1", b"2")):
        await process(etcd, seed=seed).find("", [Put(b"/first", value)])
    item = (await store.get(b"/first")).item
    assert item is not None
    assert item.value == b"1"


async def test_nobody_begins_before_the_definitions_of_the_first_are_there(
    etcd: SimEtcd, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = process(etcd), process(etcd, "rabbit@b", "disk b")
    await first.find(brings=True)
    assert first.uploads
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.find)
        await trio.sleep(10)
        assert not second.cluster_id
        await first.uploaded()

    assert second.cluster_id == first.cluster_id
    assert not second.uploads
    assert caplog.text.count("node rabbit@a brings its definitions to cluster 'c'") == 1


async def test_an_upload_that_was_broken_off_is_gone_on_with(etcd: SimEtcd) -> None:
    crashed = process(etcd)
    await crashed.find(brings=True)
    unsigned, signed = process(etcd), process(etcd)
    await unsigned.find(brings=True)
    await signed.find(crashed.cluster_id)
    assert unsigned.uploads
    assert signed.uploads

    etcd.lose_answer("done")
    await signed.uploaded()
    assert not signed.uploads
    last = process(etcd)
    await last.find(crashed.cluster_id)
    assert not last.uploads


# -- staying -----------------------------------------------------------------------------------


async def test_a_node_that_runs_stays_registered(etcd: SimEtcd, store: SimEtcdClient) -> None:
    membership = await join(process(etcd))
    async with running(membership):
        for _ in range(100):
            await trio.sleep(1)
            assert await there(store)
            assert membership.lease_deadline_s - trio.current_time() > LEASE_S / 2


async def test_a_node_that_was_killed_is_gone_when_its_lease_ends(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    membership = await join(process(etcd))
    async with running(membership):
        await trio.sleep(100)
    await trio.sleep(membership.lease_deadline_s - trio.current_time() - 0.1)
    assert await there(store)
    await trio.sleep(3)
    assert not await there(store)


async def test_a_node_that_stops_is_gone_at_once(etcd: SimEtcd, store: SimEtcdClient) -> None:
    membership = await join(process(etcd))
    async with running(membership):
        await trio.sleep(5)
    await membership.leave()
    assert not await there(store)


async def test_a_node_stops_without_the_store_too(etcd: SimEtcd) -> None:
    membership = await join(process(etcd))
    etcd.stall()
    began_s = trio.current_time()
    await membership.leave()
    assert trio.current_time() - began_s <= 2


async def test_a_store_that_stalls_for_longer_than_the_lease_costs_no_life(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    nodes = [await join(process(etcd, f"rabbit@{n}", f"disk {n}", seed=n)) for n in range(3)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.run)
        await trio.sleep(5)
        etcd.stall()
        await trio.sleep(3 * LEASE_S)
        assert all(node.is_store_away for node in nodes)
        assert all(node.lease_deadline_s < trio.current_time() for node in nodes)
        etcd.resume()
        assert not etcd.read(KEYS.inside(MEMBER), prefix=True, serializable=False).items
        await trio.sleep(3)
        for number, node in enumerate(nodes):
            assert not node.is_store_away
            assert node.lease_deadline_s > trio.current_time()
            member = await there(store, f"rabbit@{number}")
            assert member is not None
            assert member.inc == 1
        nursery.cancel_scope.cancel()


async def test_a_lease_that_ends_early_is_replaced(etcd: SimEtcd, store: SimEtcdClient) -> None:
    membership = await join(process(etcd))
    async with running(membership):
        await trio.sleep(5)
        item = (await store.get(KEYS.path(MEMBER, A))).item
        assert item is not None
        etcd.expire_lease(item.lease)
        assert not await there(store)
        await trio.sleep(KEEP_ALIVE_S + 0.1)
        assert await there(store) == Member(1, link="a:25672", amqp="a:5672")


async def test_a_registration_that_vanishes_is_put_back_when_it_is_seen(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    membership = await join(process(etcd))
    async with running(membership):
        await trio.sleep(0.5)
        await store.delete(KEYS.path(MEMBER, A))
        membership.see(await there(store))
        await trio.sleep(0.1)
        assert await there(store) == Member(1, link="a:25672", amqp="a:5672")
        revision = (await store.get(KEYS.path(MEMBER, A))).revision
        membership.see(await there(store))
        await trio.sleep(3)
        assert (await store.get(KEYS.path(MEMBER, A))).revision == revision


async def test_a_store_that_has_lost_its_data_is_away(etcd: SimEtcd, store: SimEtcdClient) -> None:
    membership = await join(process(etcd))
    async with running(membership):
        await store.delete_prefix(KEYS.prefix)
        membership.see(None)
        await trio.sleep(3)
        assert membership.is_store_away


async def test_what_is_told_of_a_node_can_change(etcd: SimEtcd, store: SimEtcdClient) -> None:
    membership = await join(process(etcd))
    async with running(membership):
        await trio.sleep(0.5)
        membership.change(maintenance=True)
        await trio.sleep(0.1)
        changed = Member(1, link="a:25672", amqp="a:5672", maintenance=True)
        assert await there(store) == changed
        assert membership.member == changed
        revision = (await store.get(KEYS.path(MEMBER, A))).revision
        membership.change(maintenance=True)
        await trio.sleep(0.5)
        assert (await store.get(KEYS.path(MEMBER, A))).revision == revision


async def test_a_node_is_registered_whatever_answers_are_lost(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    etcd.unknown_outcomes = 0.3
    etcd.expiry_delay_s_max = 0
    membership = await join(process(etcd))
    async with running(membership):
        for _ in range(20):
            item = (await store.get(KEYS.path(MEMBER, A))).item
            if item is not None:
                etcd.expire_lease(item.lease)
            await trio.sleep(8 * LEASE_S)
            assert (await there(store)) == Member(
                membership.incarnation, link="a:25672", amqp="a:5672"
            )


# -- two processes with one name ---------------------------------------------------------------


async def test_a_node_that_is_restarted_at_once_does_not_wait_for_its_old_lease(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    disk = Disk()
    cluster_id = (await join(process(etcd), disk=disk)).cluster_id
    began_s = trio.current_time()
    again = await join(process(etcd), cluster_id, disk)
    assert trio.current_time() - began_s < 1
    async with running(again):
        await trio.sleep(3 * LEASE_S)
        assert await there(store) == Member(2, link="a:25672", amqp="a:5672")


async def test_a_process_whose_disk_was_copied_ends_when_the_copy_is_started(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    disk = Disk()
    original = await join(process(etcd), disk=disk)
    copy = await join(process(etcd, seed=1), original.cluster_id, disk.copy())
    original.see(await there(store))

    text = await overtaken(original.run)
    assert text.startswith("another process was started as node rabbit@a (incarnation 2, this one")
    await original.leave()
    assert await there(store) == copy.member


async def test_a_process_that_was_frozen_ends_when_another_has_its_name(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    disk = Disk()
    frozen = await join(process(etcd), disk=disk)
    await trio.sleep(60)
    other = await join(process(etcd), frozen.cluster_id, disk)
    text = await overtaken(frozen.run)

    assert "another process was started" in text
    assert await there(store) == other.member


async def test_of_two_starts_on_copies_of_one_disk_that_race_one_has_the_name(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    """Whoever has raised the count last is the node, in whatever order the others register.

    The other one ends, or, if it came late, does not start.
    """
    ends = set()
    for seed in range(30):
        etcd.random.seed(seed)
        node = f"rabbit@{seed}"
        racers = [process(etcd, node), process(etcd, node)]
        ended: list[Membership] = []

        async def race(racer: Membership, ended: list[Membership] = ended) -> None:
            try:
                await join(racer)
                await racer.run()
            except (DataError, ConfigError):
                ended.append(racer)

        async with trio.open_nursery() as nursery:
            for racer in racers:
                nursery.start_soon(race, racer)
            for _ in range(5):
                await trio.sleep(1)
                for racer in racers:
                    racer.see(await there(store, node))
            nursery.cancel_scope.cancel()
        [loser] = ended
        [winner] = [racer for racer in racers if racer is not loser]
        member = await there(store, node)
        assert member is not None
        assert member.inc == winner.incarnation > loser.incarnation
        ends.add(loser.incarnation > 0)
    assert ends == {True, False}


async def test_a_node_that_is_forgotten_while_it_runs_ends(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    membership = await join(process(etcd))
    await store.txn([], [Put(KEYS.path(INCARNATION, A), encode(Incarnation("", 1)))])
    membership.see(None)
    text = await overtaken(membership.run)
    assert text.startswith("cluster 'c' has forgotten the node rabbit@a")
