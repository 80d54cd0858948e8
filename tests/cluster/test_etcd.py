"""The client and a real etcd keep the contract of the store, whatever happens to members."""

import json
import os
import shutil
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from amqpbroker.cli.etcd_servers import EtcdExecutable, EtcdServers, free_ports
from amqpbroker.cluster.etcd.client import EtcdClient
from amqpbroker.cluster.etcd.contract import KeyValueStore, Put, Watch, unchanged
from amqpbroker.cluster.etcd.members import EtcdUser
from amqpbroker.errors import (
    LeaseNotFound,
    OutcomeUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from amqpbroker.testing.certificates import Certificate, make_certificate
from amqpbroker.testing.etcd_contract import KeyValueStoreContract, events_of
from amqpbroker.world import real_world
from amqpbroker.world.tls import client_context

pytestmark = pytest.mark.slow

_prefixes = count(1)


ClientOf = Callable[..., EtcdClient]


@pytest.fixture
async def client_of() -> AsyncIterator[ClientOf]:
    """Makes clients of members, and closes them at the end."""
    world = real_world()
    clients = []

    def make(servers: EtcdServers, **settings: Any) -> EtcdClient:
        clients.append(EtcdClient(world.network, world.random, servers.urls, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def post(servers: EtcdServers, path: str, request: dict[str, object]) -> None:
    body = json.dumps(request).encode()
    with urllib.request.urlopen(f"{servers.urls[0]}/v3/{path}", body) as answer:
        answer.read()


@pytest.fixture
async def store(client_of: ClientOf, etcd: EtcdServers) -> EtcdClient:
    return client_of(etcd)


class TestEtcd(KeyValueStoreContract):
    @pytest.fixture
    def prefix(self) -> bytes:
        return b"/prefix%06d" % next(_prefixes)

    @pytest.fixture
    async def other(self, client_of: ClientOf, etcd: EtcdServers) -> EtcdClient:
        return client_of(etcd)

    @pytest.fixture(autouse=True)
    def remember(self, etcd: EtcdServers) -> None:
        self.etcd = etcd

    async def compact(self, store: KeyValueStore, revision: int) -> None:
        post(self.etcd, "kv/compaction", {"revision": revision})


# -- members that come and go ------------------------------------------------------------------


async def count_up(store: EtcdClient, key: bytes, turns: int, paused: trio.Event) -> int:
    """Add one to a number, again and again, by compare-and-swap; how often was not known to be.

    Whatever becomes of a change, none may be made twice, or be told and not be there.
    """
    unknown = 0
    done = 0
    while done < turns:
        if done == turns // 2:
            paused.set()
        try:
            item = (await store.get(key)).item
            number = int(item.value) if item is not None else 0
            assert number >= done, "what was confirmed is gone"
            done = number
            revision = item.mod_revision if item is not None else 0
            put = Put(key, b"%d" % (number + 1))
            if (await store.txn([unchanged(key, revision)], [put])).succeeded:
                done = number + 1
        except OutcomeUnknown:
            unknown += 1
        except StoreUnavailable:
            continue
    return unknown


async def numbers_told(watch: Watch, last: int) -> list[int]:
    numbers: list[int] = []
    revision = 0
    while last not in numbers:
        batch = await anext(watch)
        for event in batch.events:
            assert event.revision > revision
            revision = event.revision
            numbers.append(int(event.value or b""))
    return numbers


async def survives(
    client_of: ClientOf, servers: EtcdServers, harm: Callable[[], Awaitable[None]], turns: int
) -> None:
    """Count to ``turns`` with ``harm`` done in the middle, and hear of every step once."""
    store, watcher = client_of(servers), client_of(servers)
    told: list[int] = []
    harmless = trio.Event()

    async def listen() -> None:
        with watcher.watch(b"/number", 1) as watch:
            told.extend(await numbers_told(watch, turns))

    async def count() -> None:
        await count_up(store, b"/number", turns, harmless)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(count)
            await harmless.wait()
            await harm()
    assert told == list(range(1, turns + 1))


async def test_the_end_of_a_member_is_survived(
    client_of: ClientOf, three_members: EtcdServers
) -> None:
    async def kill() -> None:
        three_members.kill(0)

    await survives(client_of, three_members, kill, 400)


async def test_the_end_of_the_leader_is_survived_and_so_are_leases(
    client_of: ClientOf,
    three_members: EtcdServers,
) -> None:
    store = client_of(three_members)
    lease = await store.grant_lease(10)
    await store.put(b"/leased", b"", lease=lease.id)

    async def kill() -> None:
        three_members.kill(three_members.leader())

    await survives(client_of, three_members, kill, 400)
    assert await store.keep_alive(lease.id, timeout_s=5) == 10
    assert (await store.get(b"/leased")).item is not None
    await trio.to_thread.run_sync(three_members.start)
    await store.revoke_lease(lease.id)


async def test_a_member_that_stands_still_is_passed_over(
    client_of: ClientOf, three_members: EtcdServers
) -> None:
    async def pause() -> None:
        three_members.pause(0)
        await trio.sleep(4)
        three_members.resume(0)

    await survives(client_of, three_members, pause, 400)


async def test_members_that_are_restarted_one_after_the_other_are_survived(
    client_of: ClientOf,
    three_members: EtcdServers,
) -> None:
    async def restart() -> None:
        for number in range(3):
            three_members.kill(number)
            await trio.to_thread.run_sync(three_members.start)

    await survives(client_of, three_members, restart, 1000)


async def test_without_a_quorum_nothing_is_done_and_leases_end(
    client_of: ClientOf, three_members: EtcdServers
) -> None:
    store = client_of(three_members, timeout_s=2.0)
    lease = await store.grant_lease(3)
    revision = await store.put(b"/leased", b"", lease=lease.id)
    with store.watch(b"/", revision + 1) as watch:
        for number in (1, 2):
            three_members.pause(number)
        begun_s = trio.current_time()
        with pytest.raises(StoreError):
            await store.put(b"/a", b"")
        with pytest.raises(StoreUnavailable):
            await store.get(b"/a")
        with pytest.raises(StoreUnavailable):
            await store.keep_alive(lease.id)
        assert trio.current_time() - begun_s < 2 * 2.0 + 1.0 + 1.0
        assert (await store.get(b"/leased", serializable=True)).item is not None
        await trio.sleep(begun_s + 6 - trio.current_time())
        for number in (1, 2):
            three_members.resume(number)
        told: dict[bytes, bytes | None] = {}
        with trio.fail_after(20):
            while b"/leased" not in told:
                told |= {event.key: event.value for event in (await anext(watch)).events}
    assert told[b"/leased"] is None
    with pytest.raises(LeaseNotFound):
        await store.keep_alive(lease.id, timeout_s=5)


# -- who may ask -------------------------------------------------------------------------------


async def test_a_user_logs_in_and_again_when_the_token_is_lost(
    client_of: ClientOf, etcd_executable: EtcdExecutable, etcd_options: list[str], tmp_path: Path
) -> None:
    servers = EtcdServers(etcd_executable, tmp_path, free_ports(1), options=etcd_options)
    with servers:
        post(servers, "auth/user/add", {"name": "root", "password": "secret"})
        post(servers, "auth/role/add", {"name": "root"})
        post(servers, "auth/user/grant", {"user": "root", "role": "root"})
        post(servers, "auth/user/add", {"name": "nobody", "password": "x"})
        post(servers, "auth/enable", {})
        store = client_of(servers, user=EtcdUser("root", "secret"))
        revision = await store.put(b"/a", b"1")
        with store.watch(b"/a", revision) as watch:
            await events_of(watch, 1)
            servers.kill(0)
            servers.start()
            assert (await store.get(b"/a")).item is not None
            await store.put(b"/a", b"2")
            [event] = await events_of(watch, 1)
            assert event.value == b"2"

        for user, text in (
            (EtcdUser("root", "wrong"), "authentication failed, invalid user ID or password"),
            (EtcdUser("nobody", "x"), "permission denied"),
            (None, "user name is empty"),
        ):
            stranger = client_of(servers, user=user)
            with pytest.raises(StoreRefused, match=text):
                await stranger.put(b"/a", b"3")
            refusal = "permission denied|user name is empty" if user is None else text
            with (
                stranger.watch(b"/a", 1) as watch,
                trio.fail_after(10),
                pytest.raises(StoreRefused, match=refusal),
            ):
                await anext(watch)


async def test_a_user_that_etcd_does_not_ask_for_is_a_mistake(
    client_of: ClientOf, etcd: EtcdServers
) -> None:
    store = client_of(etcd, user=EtcdUser("root", "secret"))
    with pytest.raises(StoreRefused, match="authentication is not enabled"):
        await store.get(b"/a")


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("there is no openssl")
    return make_certificate(tmp_path / "certificates")


async def test_etcd_is_reached_by_tls(
    client_of: ClientOf,
    etcd_executable: EtcdExecutable,
    etcd_options: list[str],
    tmp_path: Path,
    certificate: Certificate,
) -> None:
    ca, cert, key = attrs.astuple(certificate)
    tls = [f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={ca}"]
    options = [*etcd_options, *tls, "--client-cert-auth"]
    servers = EtcdServers(etcd_executable, tmp_path, free_ports(1), scheme="https", options=options)
    with servers:
        store = client_of(servers, tls=client_context(ca, cert, key))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(store.put, b"/%d" % number, b"a" * 100_000)
        assert len((await store.get_prefix(b"/")).items) == 20
        with store.watch(b"/", 1) as watch:
            await events_of(watch, 20)

        for context, fault in (
            (client_context(None, cert, key), "CERTIFICATE_VERIFY_FAILED"),
            (client_context(ca, None, None), "(?i)bad certificate|the connection was lost"),
        ):
            stranger = client_of(servers, tls=context, timeout_s=2.0)
            with pytest.raises(StoreUnavailable, match=fault):
                await stranger.get(b"/")


# -- versions ----------------------------------------------------------------------------------


async def test_the_version_of_the_members_is_seen(
    store: EtcdClient, etcd_executable: EtcdExecutable
) -> None:
    warnings = await store.check_versions(development=True)
    assert all(etcd_executable.version in warning for warning in warnings)
