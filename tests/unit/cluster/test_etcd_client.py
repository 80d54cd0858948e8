"""The client, and members that break off, dawdle, talk nonsense, or are not there."""

from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from amqpbroker.cluster.etcd.client import EtcdClient
from amqpbroker.cluster.etcd.contract import EventBatch, KeyValue
from amqpbroker.cluster.etcd.members import EtcdUser
from amqpbroker.cluster.etcd.versions import judge_version
from amqpbroker.errors import (
    Compacted,
    ConfigError,
    LeaseNotFound,
    OutcomeUnknown,
    StoreRefused,
    StoreUnavailable,
)
from amqpbroker.testing.fake_etcd import CUT, END, FakeMember, answer, chunk, chunked, fault
from amqpbroker.testing.world import Simulation, simulate


def base64(octets: bytes) -> str:
    return b64encode(octets).decode()


def header(revision: int) -> dict[str, object]:
    return {"cluster_id": "1", "member_id": "2", "revision": str(revision), "raft_term": "2"}


def kv(key: bytes, value: bytes, revision: int) -> dict[str, object]:
    numbers = dict.fromkeys(("create_revision", "mod_revision"), str(revision))
    return {"key": base64(key), "value": base64(value), "version": "1", **numbers}


FOUND = {"header": header(7), "kvs": [kv(b"a", b"1", 5)], "count": "1"}
WRITTEN = {"header": header(8)}
NO_LEADER = fault(14, "etcdserver: no leader")

Play = Callable[..., Awaitable[None]]


def play(scenario: Play, *names: str, seed: int = 1, **settings: Any) -> None:
    """Run ``scenario`` with a client and its members, which listen."""

    async def run(simulation: Simulation) -> None:
        members = [FakeMember(simulation, name) for name in names or ("m1",)]
        world = simulation.world
        urls = settings.pop("urls", [member.url for member in members])
        client = EtcdClient(world.network, world.random, urls, **settings)
        async with trio.open_nursery() as nursery:
            for member in members:
                await nursery.start(member.run)
            await scenario(client, *members)
            client.close()
            nursery.cancel_scope.cancel()

    simulate(seed, run)


# -- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "whole", [answer(FOUND), chunked(FOUND), chunked(FOUND, trailer=b"A: b\r\n")]
)
def test_an_answer_may_come_in_any_two_pieces(whole: bytes) -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        for cut in range(1, len(whole)):
            member.answers.append([whole[:cut], 0.1, whole[cut:]])
            reading = await client.get(b"a")
            assert reading.revision == 7
            assert reading.item == KeyValue(b"a", b"1", 5, 5, 1)
        assert member.connections == 1

    play(scenario)


def test_what_has_its_default_value_is_left_out_of_answers() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [
            [answer({"header": header(3)})],
            [answer({"header": header(3), "kvs": [{"key": "YQ==", "version": "1"}]})],
            [answer({"header": header(3)})],
            [answer({"header": header(3), "responses": [{"response_range": {}}]})],
            [answer({"header": header(3), "succeeded": True})],
        ]
        assert (await client.get(b"a")).item is None
        assert (await client.get(b"a")).item == KeyValue(b"a", b"", 0, 0, 1)
        assert not await client.delete(b"a")
        result = await client.txn([], [])
        assert (result.succeeded, len(result.results)) == (False, 1)
        assert (await client.txn([], [])).succeeded

    play(scenario)


def test_an_error_answer_with_trailers_leaves_the_connection_in_order() -> None:
    refused = fault(3, "etcdserver: key is not provided")
    trailer = b"Grpc-Trailer-Content-Type: application/grpc\r\n"

    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        for _ in range(3):
            member.answers += [[chunked(refused, status=400, trailer=trailer)], [answer(FOUND)]]
            with pytest.raises(StoreRefused, match="key is not provided") as refusal:
                await client.put(b"", b"")
            assert refusal.value.code == 3
            assert (await client.get(b"a")).revision == 7
        assert member.connections == 1

    play(scenario)


def test_a_keep_alive_without_a_time_is_of_no_lease() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [
            [chunked({"result": {"header": header(1), "ID": "5", "TTL": "10"}})],
            [chunked({"result": {"header": header(1), "ID": "5"}})],
            [chunked({"error": {"grpc_code": 14, "http_code": 503, "message": "no leader"}})],
            [chunked({"result": {"ID": "5", "TTL": "9"}})],
        ]
        assert await client.keep_alive(5) == 10
        with pytest.raises(LeaseNotFound):
            await client.keep_alive(5)
        assert await client.keep_alive(5) == 9
        assert member.requests[0].body == {"ID": 5}

    play(scenario)


# -- what is not answered ----------------------------------------------------------------------


@pytest.mark.parametrize("end", [END, CUT])
def test_an_answer_that_is_broken_off_leaves_a_change_unknown_and_a_read_repeated(end: str) -> None:
    whole = answer(WRITTEN)

    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        for cut in range(len(whole)):
            member.answers = [[whole[:cut], end]]
            with pytest.raises(OutcomeUnknown):
                await client.put(b"a", b"1")
            member.answers = [[answer(FOUND)[:cut], end], [answer(FOUND)]]
            assert (await client.get(b"a")).revision == 7
        assert member.targets == ["kv/put", "kv/range", "kv/range"] * len(whole)

    play(scenario)


@pytest.mark.parametrize("end", [END, CUT])
def test_a_connection_that_was_closed_meanwhile_is_not_given_a_change(end: str) -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        for turn in range(5):
            member.answers.append([answer(WRITTEN), 0.1, end])
            assert await client.put(b"a", b"1") == 8
            await trio.sleep(1)
            assert member.connections == turn + 1

    play(scenario)


def test_a_connection_that_was_idle_for_long_is_not_trusted() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[answer(WRITTEN)]] * 3
        for wait_s in (20, 40, 0):
            await client.put(b"a", b"1")
            await trio.sleep(wait_s)
        assert [request.connection for request in member.requests] == [0, 0, 1]

    play(scenario)


def test_a_change_is_not_sent_twice_and_has_a_deadline() -> None:
    async def scenario(client: EtcdClient, member: FakeMember, other: FakeMember) -> None:
        begun_s = trio.current_time()
        with pytest.raises(OutcomeUnknown, match="no answer in time"):
            await client.put(b"a", b"1")
        assert trio.current_time() - begun_s == pytest.approx(2.5, abs=0.01)
        assert (member.targets, other.targets) == (["kv/put"], [])
        other.answers = [[answer(WRITTEN)]]
        assert await client.put(b"a", b"1") == 8

    play(scenario, "m1", "m2")


def test_a_read_is_tried_with_the_next_member_within_its_deadline() -> None:
    async def scenario(client: EtcdClient, member: FakeMember, other: FakeMember) -> None:
        begun_s = trio.current_time()
        other.answers = [[answer(FOUND)]]
        assert (await client.get(b"a")).revision == 7
        assert 2.5 <= trio.current_time() - begun_s < 2.6
        begun_s = trio.current_time()
        with pytest.raises(StoreUnavailable, match=r"within 5\.0 s"):
            await client.get(b"a")
        assert trio.current_time() - begun_s == pytest.approx(5, abs=0.01)
        begun_s = trio.current_time()
        with pytest.raises(StoreUnavailable):
            await client.keep_alive(5)
        assert trio.current_time() - begun_s == pytest.approx(1, abs=0.01)

    play(scenario, "m1", "m2")


def test_a_member_that_is_not_there_is_passed_over_for_good() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[answer(WRITTEN)]] * 3
        for _ in range(3):
            assert await client.put(b"a", b"1") == 8
        assert member.connections == 1

    play(scenario, "m2", urls=["http://m1:2379", "http://m2:2379/"])


def test_nobody_there_is_told_when_the_deadline_is_over() -> None:
    async def scenario(client: EtcdClient) -> None:
        begun_s = trio.current_time()
        with pytest.raises(StoreUnavailable, match=r"http://m[12]:2379: nobody listens"):
            await client.put(b"a", b"1")
        assert trio.current_time() - begun_s == pytest.approx(5, abs=0.01)

    async def run(simulation: Simulation) -> None:
        world = simulation.world
        await scenario(
            EtcdClient(world.network, world.random, ["http://m1:2379", "http://m2:2379"])
        )

    simulate(1, run)


def test_a_member_that_comes_back_within_the_deadline_is_asked() -> None:
    async def run(simulation: Simulation) -> None:
        member = FakeMember(simulation, answers=[[answer(WRITTEN)]])
        client = EtcdClient(simulation.world.network, simulation.world.random, [member.url])

        async def put() -> None:
            assert await client.put(b"a", b"1") == 8
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await trio.sleep(3)
            await nursery.start(member.run)
        client.close()

    simulate(1, run)


@pytest.mark.parametrize(
    "nonsense",
    [
        answer(b"<html>bad gateway</html>", 502),
        answer(b"", 500),
        answer(b"not JSON"),
        answer([1, 2]),
        answer({"header": {"revision": "many"}}),
        answer(fault(14, "etcdserver: request timed out"), 503),
        answer(fault(4, "context deadline exceeded"), 408),
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
def test_an_answer_that_tells_nothing_leaves_a_change_unknown(nonsense: bytes) -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[nonsense, END], [nonsense, END], [answer(FOUND)]]
        with pytest.raises(OutcomeUnknown):
            await client.put(b"a", b"1")
        assert (await client.get(b"a")).revision == 7
        assert member.targets == ["kv/put", "kv/range", "kv/range"]

    play(scenario)


@pytest.mark.parametrize("text", ["etcdserver: no leader", "etcdserver: too many requests"])
def test_a_change_that_a_member_did_not_begin_is_tried_with_another(text: str) -> None:
    async def scenario(client: EtcdClient, member: FakeMember, other: FakeMember) -> None:
        member.answers = [[answer(fault(14, text), 503)]]
        other.answers = [[answer(WRITTEN)]]
        assert await client.put(b"a", b"1") == 8
        assert member.requests[0].headers["grpc-metadata-hasleader"] == "true"

    play(scenario, "m1", "m2")


def test_a_request_that_is_given_up_does_not_leave_its_answer_to_the_next() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[0.5, answer(WRITTEN)], [answer(FOUND)]]
        with trio.move_on_after(0.2):
            await client.put(b"a", b"1")
        await trio.sleep(1)
        assert (await client.get(b"a")).revision == 7
        assert member.connections == 2

    play(scenario)


def test_connections_are_used_again_and_have_a_bound() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[0.01, answer(WRITTEN)]] * 100
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(client.put, b"a", b"1")
        assert member.connections == 4
        assert len(member.requests) == 100

    play(scenario, connections_max=4)


def test_whoever_gets_no_connection_in_time_has_sent_nothing() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        faults: list[BaseException] = []

        async def put() -> None:
            with pytest.raises((OutcomeUnknown, StoreUnavailable)) as fault:
                await client.put(b"a", b"1")
            faults.append(fault.value)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(put)
        assert len(member.requests) == sum(isinstance(each, OutcomeUnknown) for each in faults)
        assert any(isinstance(each, StoreUnavailable) for each in faults)

    play(scenario, connections_max=1)


# -- pages -------------------------------------------------------------------------------------


def test_pages_are_of_one_revision() -> None:
    pages = [
        {"header": header(9), "kvs": [kv(b"p/1", b"", 1)], "more": True},
        {"header": header(12), "kvs": [kv(b"p/2", b"", 2)], "more": True},
        {"header": header(13), "kvs": [kv(b"p/3", b"", 3)]},
    ]

    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[answer(page)] for page in pages]
        reading = await client.get_prefix(b"p/")
        assert reading.revision == 9
        assert [item.key for item in reading.items] == [b"p/1", b"p/2", b"p/3"]
        asked = [(each.body["key"], each.body.get("revision")) for each in member.requests]
        assert asked == [
            (base64(b"p/"), None),
            (base64(b"p/1\0"), 9),
            (base64(b"p/2\0"), 9),
        ]
        assert {each.body["range_end"] for each in member.requests} == {base64(b"p0")}

    play(scenario)


def test_pages_are_read_anew_when_their_revision_is_compacted() -> None:
    first = {"header": header(9), "kvs": [kv(b"p/1", b"", 1)], "more": True}
    gone = fault(11, "etcdserver: mvcc: required revision has been compacted")
    last = {"header": header(20), "kvs": [kv(b"p/1", b"", 1)]}

    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[answer(first)], [answer(gone, 400)], [answer(last)]]
        assert (await client.get_prefix(b"p/")).revision == 20
        member.answers = [[answer(first)], [answer(gone, 400)]] * 10_000
        with pytest.raises(StoreUnavailable, match="has been compacted"):
            await client.get_prefix(b"p/")

    play(scenario)


# -- users -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        fault(16, "etcdserver: invalid auth token"),
        fault(3, "etcdserver: revision of auth store is old"),
    ],
)
def test_a_token_is_renewed_when_it_is_refused(refusal: object) -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [
            [answer({"header": header(1), "token": "one"})],
            [answer(WRITTEN)],
            [answer(refusal, 401)],
            [answer({"header": header(1), "token": "two"})],
            [answer(WRITTEN)],
        ]
        await client.put(b"a", b"1")
        await client.put(b"a", b"2")
        assert member.targets == [
            "auth/authenticate",
            "kv/put",
            "kv/put",
            "auth/authenticate",
            "kv/put",
        ]
        assert member.requests[0].body == {"name": "u", "password": "p"}
        tokens = [request.headers.get("authorization") for request in member.requests]
        assert tokens == [None, "one", "one", None, "two"]

    play(scenario, user=EtcdUser("u", "p"))


def test_many_requests_log_in_once() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[answer({"token": "one"})], *[[answer(WRITTEN)]] * 20]
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.put, b"a", b"1")
        assert member.targets == ["auth/authenticate", *["kv/put"] * 20]

    play(scenario, user=EtcdUser("u", "p"))


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(EtcdUser("u", "secret"))


# -- watches -----------------------------------------------------------------------------------


def created(revision: int) -> dict[str, object]:
    return {"result": {"header": header(revision), "created": True}}


def told(*events: tuple[bytes, int]) -> dict[str, object]:
    each = [{"kv": kv(key, b"v", revision)} for key, revision in events]
    return {"result": {"header": header(events[-1][1]), "events": each}}


def revisions(batch: EventBatch) -> list[int]:
    assert batch.revision == batch.events[-1].revision
    return [event.revision for event in batch.events]


def test_a_watch_may_come_in_any_two_pieces() -> None:
    gone = {"type": "DELETE", "kv": {"key": base64(b"a"), "mod_revision": "6"}}
    message = {"result": {"header": header(6), "events": [{"kv": kv(b"a", b"1", 5)}, gone]}}
    whole = chunked(created(4), message, ends=False)

    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        for cut in range(1, len(whole)):
            member.answers.append([whole[:cut], 0.1, whole[cut:], float("inf")])
            with client.watch(b"a", 5) as watch:
                batch = await anext(watch)
            assert revisions(batch) == [5, 6]
            assert [event.value for event in batch.events] == [b"1", None]
        assert {each.body["create_request"]["start_revision"] for each in member.requests} == {5}

    play(scenario)


def test_a_line_of_a_watch_may_come_in_many_chunks_and_many_lines_in_one() -> None:
    lines = b"".join(chunk(each).split(b"\r\n")[1] for each in (told((b"a", 5)), told((b"b", 6))))
    pieces = [chunk(lines[start : start + 7]) for start in range(0, len(lines), 7)]

    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        start = chunked(created(4), ends=False)
        member.answers = [[start, *pieces], [start, chunk(lines)]]
        for _ in range(2):
            with client.watch(b"", 5) as watch:
                assert [revisions(await anext(watch)) for _ in range(2)] == [[5], [6]]

    play(scenario)


@pytest.mark.parametrize("end", [[END], [CUT], [b"nonsense", END], [chunk(b"nonsense\n")]])
def test_a_watch_that_breaks_goes_on_from_where_it_was(end: list[Any]) -> None:
    async def scenario(client: EtcdClient, member: FakeMember, other: FakeMember) -> None:
        member.answers = [[chunked(created(4), told((b"a", 5), (b"b", 5)), ends=False), 1.0, *end]]
        other.answers = [[chunked(created(9), told((b"a", 7)), ends=False), float("inf")]]
        with client.watch(b"", 3) as watch:
            assert revisions(await anext(watch)) == [5, 5]
            assert revisions(await anext(watch)) == [7]
        start = [
            each.requests[0].body["create_request"]["start_revision"] for each in (member, other)
        ]
        assert start == [3, 6]

    play(scenario, "m1", "m2", seed=3)


def test_a_watch_that_is_silent_begins_anew() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        progress = {"result": {"header": header(4)}}
        member.answers = [
            [chunked(created(4), ends=False), 4.0, chunk(progress), 4.0, chunk(progress), 60.0],
            [chunked(created(4), ends=False), 60.0],
            [chunked(created(5), told((b"a", 5)), ends=False), 60.0],
        ]
        begun_s = trio.current_time()
        with client.watch(b"", 5) as watch:
            assert revisions(await anext(watch)) == [5]
        assert trio.current_time() - begun_s == pytest.approx(8 + 5 + 5, abs=0.2)
        assert member.connections == 3

    play(scenario)


def test_a_member_that_gives_no_watch_is_passed_over() -> None:
    async def scenario(client: EtcdClient, member: FakeMember, other: FakeMember) -> None:
        cancelled = {"header": header(4), "created": True, "canceled": True}
        member.answers = [
            [60.0],
            [answer(NO_LEADER, 503)],
            [chunked({"result": cancelled | {"cancel_reason": "etcdserver: no leader"}}), 60.0],
            [chunked({"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}), 60.0],
            [chunked(told((b"a", 5)), ends=False), 60.0],
        ]
        other.answers = [[END]] * 4 + [[chunked(created(5), told((b"a", 5))), 60.0]]
        with client.watch(b"", 5) as watch:
            assert revisions(await anext(watch)) == [5]
        assert len(member.requests) == len(other.requests) == 5

    play(scenario, "m1", "m2")


def test_what_was_told_already_is_not_told_again() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        messages = [
            told((b"a", 5), (b"a", 6)),
            told((b"a", 5)),
            told((b"a", 4), (b"a", 6), (b"a", 7), (b"b", 7), (b"a", 3), (b"a", 8)),
        ]
        member.answers = [[chunked(created(4), *messages, ends=False), 60.0]]
        with client.watch(b"", 5) as watch:
            assert revisions(await anext(watch)) == [5, 6]
            assert revisions(await anext(watch)) == [7, 7, 8]

    play(scenario)


def test_a_watch_whose_history_is_compacted_says_so() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        message = {"header": header(9), "canceled": True, "compact_revision": "6875"}
        member.answers = [[chunked({"result": message}), 60.0]]
        watch = client.watch(b"", 5)
        with pytest.raises(Compacted) as fault:
            await anext(watch)
        assert fault.value.compact_revision == 6875
        assert [batch async for batch in watch] == []

    play(scenario)


def test_a_store_that_was_restored_from_a_backup_is_noticed() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [
            [chunked(created(8), told((b"a", 9)), ends=False), END],
            [chunked(created(6), ends=False), 1.0, chunk(told((b"a", 10))), END],
            [answer({"header": header(9)})],  # Only this member was behind.
            [chunked(created(6), ends=False), 60.0],
            [answer({"header": header(6)})],
        ]
        with client.watch(b"", 5) as watch:
            assert revisions(await anext(watch)) == [9]
            assert revisions(await anext(watch)) == [10]
            with pytest.raises(Compacted) as fault:
                await anext(watch)
        assert fault.value.compact_revision == 6

    play(scenario)


def test_a_watch_that_is_not_permitted_logs_in_once_more_and_ends() -> None:
    denied = {"created": True, "canceled": True, "cancel_reason": "etcdserver: permission denied"}

    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [
            [answer({"token": "one"})],
            [chunked({"result": denied}), 60.0],
            [answer({"token": "two"})],
            [answer(fault(16, "etcdserver: invalid auth token"), 401)],
            [answer({"token": "three"})],
            [chunked(created(5), told((b"a", 5)), ends=False), 60.0, END],
            [chunked({"result": denied}), 60.0],
            [answer({"token": "four"})],
            [chunked({"result": denied}), 60.0],
        ]
        with client.watch(b"", 5) as watch:
            assert revisions(await anext(watch)) == [5]
            with pytest.raises(StoreRefused, match="permission denied"):
                await anext(watch)
            assert [batch async for batch in watch] == []
        tokens = [each.headers.get("authorization") for each in member.requests]
        assert [token for token in tokens if token] == ["one", "two", "three", "three", "four"]

    play(scenario, user=EtcdUser("u", "p"))


def test_a_watch_that_was_closed_while_it_waits_has_ended() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[chunked(created(5), ends=False), 60.0]]
        watch = client.watch(b"", 5)

        async def listen() -> None:
            assert [batch async for batch in watch] == []

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.sleep(1)
            watch.close()

    play(scenario)


# -- versions and settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("3.3.27", "refused"),
        ("3.4.0", "warned"),
        ("3.4.21", "warned"),
        ("3.4.22", "good"),
        ("3.4.34", "good"),
        ("3.5.0", "refused"),
        ("3.5.2", "refused"),
        ("3.5.3", "warned"),
        ("3.5.12", "warned"),
        ("3.5.13", "good"),
        ("3.6.0-rc.1", "good"),
        ("3.10.0", "good"),
        ("4.0.0", "good"),
        ("", "warned"),
    ],
)
def test_versions_that_lose_data_are_refused_and_old_ones_told(version: str, verdict: str) -> None:
    if verdict == "refused":
        with pytest.raises(
            ConfigError, match=r"run 3\.5\.13 or newer, or 3\.4\.22 or newer of 3\.4"
        ):
            judge_version(version, "http://m1:2379", development=False)
    else:
        warning = judge_version(version, "http://m1:2379", development=False)
        assert verdict == ("good" if warning is None else "warned")


def test_a_development_etcd_is_accepted_with_a_line() -> None:
    async def scenario(client: EtcdClient, member: FakeMember, other: FakeMember) -> None:
        member.answers = [[answer({"etcdserver": "3.5.1", "etcdcluster": "3.5.0"})]] * 2
        other.answers = [[answer({"etcdserver": "3.5.21"})], [END]]
        with pytest.raises(ConfigError, match=r"etcd 3\.5\.1 at http://m1:2379 can lose"):
            await client.check_versions()
        [warning] = await client.check_versions(development=True)
        assert warning.startswith("development etcd, not for data you keep")
        assert member.requests[0].target == "/version"

    play(scenario, "m1", "m2")


def test_a_version_that_nobody_tells_is_not_checked() -> None:
    async def scenario(client: EtcdClient, member: FakeMember) -> None:
        member.answers = [[END]]
        with pytest.raises(StoreUnavailable, match="no member of etcd answers"):
            await client.check_versions()

    play(scenario)


@pytest.mark.parametrize(
    "url",
    ["", "m1:2379", "ftp://m1:2379", "http://", "http://m1:x", "http://m1:2379/v3", "http://[::1"],
)
def test_an_endpoint_that_is_none_is_refused(url: str) -> None:
    async def run(simulation: Simulation) -> None:
        world = simulation.world
        with pytest.raises(
            ConfigError, match=r"an endpoint of etcd is like http://127\.0\.0\.1:2379"
        ):
            EtcdClient(world.network, world.random, [url])
        with pytest.raises(ConfigError, match="etcd has no endpoints"):
            EtcdClient(world.network, world.random, [])

    simulate(1, run)
