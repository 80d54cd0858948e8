"""Nodes that are known to have ended are struck off at once, unless they live."""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from amqpbroker.cluster.deaths import Death, Deaths
from amqpbroker.cluster.etcd.contract import Put, present
from amqpbroker.cluster.members import MEMBER, Member, encode
from amqpbroker.cluster.schema import Schema
from amqpbroker.testing.sim_etcd import SimEtcd, SimEtcdClient
from amqpbroker.testing.world import SimClock

SCHEMA = Schema("c")
A = "rabbit@a"
KEY = SCHEMA.path(MEMBER, A)


@pytest.fixture
def etcd(autojump_clock: trio.testing.MockClock) -> SimEtcd:
    return SimEtcd(SimClock(), random.Random(1))


@pytest.fixture
def store(etcd: SimEtcd) -> SimEtcdClient:
    """The test's own way to the store."""
    return etcd.client()


class Witness:
    """A node that hears of deaths."""

    def __init__(self, etcd: SimEtcd) -> None:
        self.store = etcd.client()
        self.deaths = Deaths(self.store, SCHEMA)
        self.heard: list[Death] = []
        self.deaths.listeners.append(self.heard.append)

    def report(self, incarnation: int = 1) -> None:
        self.deaths.report(A, incarnation, "a test says so")


@asynccontextmanager
async def running(*witnesses: Witness) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for witness in witnesses:
            nursery.start_soon(witness.deaths.run)
        yield
        nursery.cancel_scope.cancel()


async def register(store: SimEtcdClient, incarnation: int = 1, **fields: object) -> int:
    return await store.put(KEY, encode(Member(incarnation, **fields)))  # type: ignore[arg-type]


async def is_there(store: SimEtcdClient) -> bool:
    return (await store.get(KEY)).item is not None


async def test_a_node_that_has_ended_is_struck_off_and_all_who_know_are_told(
    etcd: SimEtcd, store: SimEtcdClient, caplog: pytest.LogCaptureFixture
) -> None:
    await register(store)
    one, other = Witness(etcd), Witness(etcd)
    async with running(one, other):
        one.report()
        other.report()
        await trio.sleep(0.1)
        assert not await is_there(store)
    assert sorted(death.is_ours for death in one.heard + other.heard) == [False, True]
    assert {(death.node, death.incarnation) for death in one.heard + other.heard} == {(A, 1)}
    assert caplog.messages == ["rabbit@a has ended (incarnation 1): a test says so"] * 2


async def test_what_is_reported_again_is_told_once(etcd: SimEtcd, store: SimEtcdClient) -> None:
    await register(store)
    witness = Witness(etcd)
    async with running(witness):
        for _ in range(5):
            witness.report()
            witness.report()
            await trio.sleep(0.1)
            witness.report()
        requests = etcd.requests
        witness.report()
        await trio.sleep(1)
        assert etcd.requests == requests
    assert witness.heard == [Death(A, 1, is_ours=True)]


async def test_a_node_whose_lease_has_ended_before_is_told_of_too(etcd: SimEtcd) -> None:
    witness = Witness(etcd)
    async with running(witness):
        witness.report()
        await trio.sleep(0.1)
    assert witness.heard == [Death(A, 1, is_ours=False)]


async def test_a_node_that_has_begun_another_life_keeps_that(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    await register(store, 3)
    witness = Witness(etcd)
    async with running(witness):
        witness.report(1)
        witness.report(2)
        await trio.sleep(0.1)
        assert await is_there(store)
    assert witness.heard == [Death(A, 2, is_ours=False)]


@pytest.mark.parametrize("seed", range(20))
async def test_a_node_that_tells_of_itself_meanwhile_is_not_struck_off(
    etcd: SimEtcd, store: SimEtcdClient, seed: int
) -> None:
    etcd.random.seed(seed)
    await register(store)
    witness = Witness(etcd)
    telling = True

    async def tell() -> None:
        for number in itertools.count(1):
            if not telling:
                return
            await store.txn([present(KEY)], [Put(KEY, encode(Member(1, started=number)))])

    async with running(witness), trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        witness.report()
        await trio.sleep(0.1)
        telling = False
    assert await is_there(store) is not bool(witness.heard)


async def test_evidence_is_of_no_use_while_the_store_is_away_and_has_to_be_told_again(
    etcd: SimEtcd, store: SimEtcdClient
) -> None:
    await register(store)
    witness = Witness(etcd)
    async with running(witness):
        etcd.stall()
        witness.report()
        await trio.sleep(6)
        etcd.resume()
        await trio.sleep(10)
        assert await is_there(store)
        assert not witness.heard
        witness.report()
        await trio.sleep(0.1)
        assert not await is_there(store)
    assert witness.heard == [Death(A, 1, is_ours=True)]


@pytest.mark.parametrize("fate", ["done", "not done", "done later"])
async def test_a_lost_answer_costs_no_more_than_another_report(
    etcd: SimEtcd, store: SimEtcdClient, fate: str
) -> None:
    await register(store)
    witness = Witness(etcd)
    etcd.lose_answer(fate)  # type: ignore[arg-type]
    async with running(witness):
        for _ in range(2):
            witness.report()
            await trio.sleep(6)
    assert not await is_there(store)
    assert [(death.node, death.incarnation) for death in witness.heard] == [(A, 1)]


async def test_evidence_that_was_wrong_counts_again_when_the_node_is_back(
    etcd: SimEtcd, store: SimEtcdClient, caplog: pytest.LogCaptureFixture
) -> None:
    before = await register(store)
    witness = Witness(etcd)
    async with running(witness):
        witness.report()
        await trio.sleep(0.1)
        witness.deaths.lives(A, 1, before)  # An event that comes late says nothing.
        assert "lives on" not in caplog.text
        back = await register(store)
        witness.deaths.lives(A, 1, back)
        assert "rabbit@a lives on, although it was taken for gone" in caplog.messages
        witness.report()
        await trio.sleep(0.1)
    assert witness.heard == [Death(A, 1, is_ours=True)] * 2


async def test_what_makes_no_sense_in_the_store_is_left_alone(
    etcd: SimEtcd, store: SimEtcdClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await store.put(KEY, b"hello")
    witness = Witness(etcd)
    async with running(witness):
        witness.report()
        await trio.sleep(0.1)
    assert "cannot strike rabbit@a off: the key /c/v1/n/rabbit%40a in the cluster's" in caplog.text
    assert await is_there(store)
    assert not witness.heard
