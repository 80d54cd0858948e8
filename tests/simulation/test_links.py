"""Nodes that dial each other over a network that is cut, severed and slow."""

import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import trio

from amqpbroker.broker.turn import Turn
from amqpbroker.cluster.hello import MAGIC, Identity
from amqpbroker.cluster.link import SILENT_BEATS_MAX, StreamLink
from amqpbroker.cluster.links import HELLO_S_MAX, STRANGERS_MAX, Address, Links
from amqpbroker.cluster.wire import FIRST_USER_KIND, HELLO, OUTBOX_BYTES_MAX, Link, encode_frame
from amqpbroker.errors import DiskFailure, LinkFault
from amqpbroker.testing.certificates import Certificate, make_certificate
from amqpbroker.testing.links import NotingUser
from amqpbroker.testing.world import Simulation, simulate
from amqpbroker.world import Network, real_world
from amqpbroker.world.tls import TlsNetwork, node_contexts

PING, PONG = FIRST_USER_KIND, FIRST_USER_KIND + 1
PORT = 25672
SECRET = b"only the nodes have it"
SILENCE_S = SILENT_BEATS_MAX * 0.5


class Member:
    """A node's links, at a host of its own; its server answers every ping."""

    def __init__(
        self,
        sim: Simulation,
        host: str,
        incarnation: int = 1,
        certificate: Certificate | None = None,
        **own: Any,
    ) -> None:
        self.sim = sim
        self.host = host
        self.name = f"rabbit@{host}"
        self.incarnation = incarnation
        self.network: Network = sim.network.at(host)
        if certificate is not None:
            contexts = node_contexts(*attrs.astuple(certificate))
            self.network = TlsNetwork(self.network, *contexts)
        world = attrs.evolve(
            sim.world,
            network=self.network,
            random=random.Random(f"{sim.seed} {host} {incarnation}"),
        )
        identity = Identity(
            **{"cluster": "shop", "secret": SECRET, **own}, node=self.name, incarnation=incarnation
        )
        self.turn = Turn()
        self.asker = NotingUser()
        self.server = NotingUser(lambda link, _, payload: link.send(PONG, [payload]))
        self.links = Links(world, self.turn, identity, self.asker, self.server)
        self.scope = trio.CancelScope()

    @property
    def address(self) -> Address:
        return Address(self.host, PORT, self.incarnation)

    async def run(self) -> None:
        listener = await self.network.listen(self.host, PORT)
        try:
            with self.scope:
                await self.links.run(listener)
        finally:
            listener.close()

    def know(self, *members: "Member") -> None:
        self.links.set_members({member.name: member.address for member in members})

    def to(self, other: "Member") -> StreamLink:
        return self.links.to(other.name)

    def ping(self, other: "Member", payload: bytes = b"") -> None:
        self.to(other).send(PING, [payload])
        self.turn.end_batch()


@asynccontextmanager
async def running(*members: Member, acquainted: bool = True) -> AsyncIterator[trio.Nursery]:
    """All members run, and know each other."""
    async with trio.open_nursery() as nursery:
        for member in members:
            if acquainted:
                member.know(*members)
            nursery.start_soon(member.run)
        yield nursery
        nursery.cancel_scope.cancel()


def play(scenario: Callable[[Simulation, Member, Member], Any], seed: int = 1) -> None:
    """Run a scenario with two nodes that have found each other."""

    async def run(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b")
        async with running(a, b):
            await trio.sleep(1)
            await scenario(sim, a, b)

    simulate(seed, run)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged that somebody should read."""
    return [each.getMessage() for each in caplog.records if each.levelname != "INFO"]


# -- up and down -------------------------------------------------------------------------------


def test_nodes_find_each_other_and_talk_in_both_directions() -> None:
    async def scenario(sim: Simulation) -> None:
        members = [Member(sim, host) for host in "abc"]
        async with running(*members):
            await trio.sleep(0.5)
            for one in members:
                for other in members:
                    for number in range(50 if one is not other else 0):
                        one.ping(other, b"%s %d" % (one.name.encode(), number))
            await trio.sleep(0.5)
            for member in members:
                assert member.asker.states == member.server.states == ["up", "up"]
                assert len(member.asker.frames) == len(member.server.frames) == 100
            heard = [payload for _, payload in members[0].server.frames if b"@b" in payload]
            assert heard == [b"rabbit@b %d" % number for number in range(50)]
            assert all(link.version == 1 for link in members[0].asker.links)

    simulate(1, scenario)


def test_a_seed_replays_octet_for_octet() -> None:
    async def scenario(sim: Simulation) -> str:
        a, b = Member(sim, "a"), Member(sim, "b")
        async with running(a, b):
            for _ in range(5):
                await trio.sleep(1)
                a.ping(b)
                sim.network.cut("a", "b")
        return sim.trace.digest

    assert simulate(3, scenario) == simulate(3, scenario)
    assert simulate(3, scenario) != simulate(4, scenario)


def test_an_idle_stream_stays_up_and_costs_little() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        events = sim.trace.events
        await trio.sleep(60)
        assert a.asker.states == a.server.states == ["up"]
        # Two streams, two directions, a heartbeat each half second; some in two pieces.
        assert 470 <= sim.trace.events - events < 800

    play(scenario)


def test_a_cut_is_heard_at_both_ends_and_nothing_is_sent_again() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        a.ping(b, b"lost")
        sim.network.cut("a", "b")
        await trio.sleep(0.01)
        assert a.asker.states == a.server.states == b.asker.states == b.server.states
        assert a.asker.states == ["up", "down"]
        a.ping(b, b"dropped")
        await trio.sleep(1)
        assert a.asker.states == b.server.states == ["up", "down", "up"]
        a.ping(b, b"new")
        await trio.sleep(1)
        assert b.server.frames == [(PING, b"new")]
        assert a.asker.frames == [(PONG, b"new")]

    play(scenario)


@pytest.mark.parametrize("ways", [(("a", "b"),), (("b", "a"),), (("a", "b"), ("b", "a"))])
def test_a_way_on_which_nothing_arrives_breaks_the_stream_at_both_ends(
    ways: tuple[tuple[str, str], ...],
) -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        for way in ways:
            sim.network.sever(*way)
        await trio.sleep(SILENCE_S - 1)
        assert a.asker.states == b.asker.states == ["up"]
        await trio.sleep(2)
        hears = {source for source, _ in ways}
        for member, other in ((a, b), (b, a)):
            if other.host in hears:
                assert member.asker.states == member.server.states == ["up", "down"]
        await trio.sleep(20)
        sim.network.heal()
        await trio.sleep(2)
        for member in (a, b):
            assert member.asker.states == member.server.states == ["up", "down", "up"]

    play(scenario)


def test_a_node_that_is_away_is_dialled_until_it_is_there_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b")
        a.know(b)
        b.know(a)
        async with running(a, acquainted=False) as nursery:
            await trio.sleep(60)
            assert lines(caplog) == [
                "link to rabbit@b: b:25672: nobody listens at b:25672 in this world"
            ]
            nursery.start_soon(b.run)
            await trio.sleep(1.5)
            assert a.asker.states == b.asker.states == ["up"]

    simulate(1, scenario)


def test_dialling_again_is_quick_at_first_and_then_once_a_second() -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b")
        dials: list[float] = []
        network = sim.network.at("a")

        class Counting(type(network)):  # type: ignore[misc]
            async def connect(self, host: str, port: int) -> Any:
                dials.append(trio.current_time())
                raise ConnectionRefusedError("no")

        a.links._world = attrs.evolve(a.links._world, network=Counting(sim.network, "a"))
        a.know(b)
        async with running(a, acquainted=False):
            await trio.sleep(1)
            assert 4 <= len(dials) <= 8
            await trio.sleep(100)
            assert 100 <= len(dials) <= 210
            pauses = [after - before for before, after in pairwise(dials[8:])]
            assert 0.5 <= min(pauses) < max(pauses) <= 1

    simulate(1, scenario)


def test_a_node_that_does_not_answer_keeps_nobody() -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b")
        a.know(b)
        mute = await sim.network.listen("b", PORT)
        async with running(a, acquainted=False) as nursery:
            first = await mute.accept()
            second = await mute.accept()
            assert trio.current_time() == pytest.approx(HELLO_S_MAX, abs=0.1)
            first.close()
            second.close()
            mute.close()
            b.know(a)
            nursery.start_soon(b.run)
            await trio.sleep(1.5)
            assert a.asker.states == ["up"]

    simulate(1, scenario)


def test_a_new_stream_takes_the_place_of_one_that_is_not_known_to_be_broken() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        sim.network.delays_s_max["b", "a"] = 1000
        old = a.server.links[0]
        b.to(a).break_off("a test")
        await trio.lowlevel.checkpoint()
        sim.network.delays_s_max.clear()
        await trio.sleep(1)
        assert a.server.states == ["up", "down", "up"]
        assert a.server.links != [old]
        assert not old.is_up
        b.ping(a, b"new")
        await trio.sleep(0.1)
        assert a.server.frames == [(PING, b"new")]

    play(scenario)


# -- refusals ----------------------------------------------------------------------------------


def refusals(member: Member) -> list[tuple[str, int]]:
    """What a node hears of others that refuse it."""
    heard: list[tuple[str, int]] = []
    member.links.on_refused = lambda node, incarnation: heard.append((node, incarnation))
    return heard


def test_a_node_that_refuses_where_it_was_found_is_told_of_at_once() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        heard = refusals(a)
        b.scope.cancel()
        await trio.sleep(0.1)
        assert heard == [("rabbit@b", 1)]
        await trio.sleep(10)
        assert set(heard) == {("rabbit@b", 1)}
        assert 9 <= len(heard) < 30, "again and again"

    play(scenario)


def test_nothing_but_a_refusal_is_one() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        heard = refusals(a)
        sim.network.cut("a", "b")
        await trio.sleep(2)
        for way in (("a", "b"), ("b", "a")):
            sim.network.sever(*way)
            await trio.sleep(20)
            sim.network.heal()
            await trio.sleep(2)
        b.to(a).break_off("a test")
        a.to(b).break_off("a test")
        await trio.sleep(2)
        assert a.to(b).is_up
        # A machine that is off, or a process that stands still, is not there either.
        sim.network.sever("b", "a")
        b.scope.cancel()
        await trio.sleep(20)
        assert not heard

    play(scenario)


def test_a_node_that_was_never_found_in_its_life_may_refuse() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        heard = refusals(a)
        b.scope.cancel()
        reborn = Member(sim, "b", incarnation=2)
        a.know(a, reborn)
        await trio.sleep(5)
        assert not heard
        moved = Address("elsewhere", PORT, 2)
        a.links.set_members({"rabbit@b": moved})
        await trio.sleep(5)
        assert not heard

    play(scenario)


def test_one_refusal_is_none() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        heard = refusals(a)
        b.scope.cancel()
        await trio.sleep(0.03)
        async with trio.open_nursery() as nursery:
            b.scope = trio.CancelScope()
            nursery.start_soon(b.run)
            await trio.sleep(2)
            assert a.to(b).is_up
            assert not heard
            nursery.cancel_scope.cancel()

    play(scenario)


@pytest.mark.parametrize(("refuses", "is_heard"), [({"name", "b"}, True), ({"name"}, False)])
def test_a_name_that_leads_elsewhere_says_nothing_of_where_the_node_was(
    refuses: set[str], is_heard: bool
) -> None:
    """The node was dialled by a name, and found at the place ``b``, which is asked then."""

    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        heard = refusals(a)
        network = sim.network.at("a")
        dials: list[tuple[str, float]] = []

        class Names(type(network)):  # type: ignore[misc]
            async def connect(self, host: str, port: int) -> Any:
                dials.append((host, trio.current_time()))
                if host in refusing:
                    raise ConnectionRefusedError("no")
                return await super().connect("b", port)

        a.links._world = attrs.evolve(a.links._world, network=Names(sim.network, "a"))
        refusing: set[str] = set()
        a.links.set_members({"rabbit@b": Address("name", PORT, 1)})
        await trio.sleep(2)
        assert a.to(b).is_up
        refusing |= refuses
        del dials[:]
        sim.network.cut("a", "b")
        await trio.sleep(0.2)
        assert bool(heard) is is_heard
        assert [host for host, _ in dials[:2]] == ["name", "b"]
        if is_heard:
            assert [host for host, _ in dials[:3]] == ["name", "b", "b"]
            assert dials[2][1] - dials[1][1] == pytest.approx(0.05)

    play(scenario)


def test_a_node_that_proves_to_be_in_a_later_life_is_told_of() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        heard: list[tuple[str, int]] = []
        a.links.on_later_life = lambda node, incarnation: heard.append((node, incarnation))
        b.scope.cancel()
        await trio.sleep(0.1)
        for own, is_heard in (({"secret": b"another"}, False), ({}, True)):
            reborn = Member(sim, "b", incarnation=2, **own)
            reborn.know(a, reborn)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reborn.run)
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
            assert (("rabbit@b", 2) in heard) is is_heard
        earlier = Member(sim, "b", incarnation=0)
        earlier.know(a, earlier)
        del heard[:]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(earlier.run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert not heard

    play(scenario)


# -- members -----------------------------------------------------------------------------------


def test_a_node_that_is_no_member_any_more_is_let_go() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        a.know(a)
        await trio.sleep(1)
        assert a.asker.states == a.server.states == ["up", "down"]
        a.know(a, b)
        a.know(a)
        a.know(a, b)
        await trio.sleep(1.5)
        assert a.asker.states == a.server.states == ["up", "down", "up"]

    play(scenario)


def test_a_node_that_is_restarted_is_another() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        a.links.take_revision("rabbit@b", 70)
        b.scope.cancel()
        await trio.sleep(0.1)
        assert a.asker.states == a.server.states == ["up", "down"]
        assert a.links.revisions == {}
        reborn = Member(sim, "b", incarnation=2)
        reborn.know(a, reborn)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reborn.run)
            await trio.sleep(5)
            # Nobody believes it, as long as not everybody knows.
            assert a.asker.states == ["up", "down"]
            assert reborn.asker.states == []
            a.know(a, reborn)
            await trio.sleep(1.5)
            assert a.asker.states == a.server.states == ["up", "down", "up"]
            reborn.scope.cancel()

    play(scenario)


def test_a_new_life_of_a_node_ends_the_streams_of_the_old_one() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        a.know(a, Member(sim, "b", incarnation=2))
        await trio.sleep(3)
        assert a.asker.states == a.server.states == ["up", "down"]
        assert b.asker.states == ["up", "down"]

    play(scenario)


def test_who_has_moved_is_dialled_where_it_is() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        listener = await sim.network.listen("b", 999)
        a.links.set_members({"rabbit@b": Address("b", 999, 1)})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.links._accept_all, listener, nursery)
            await trio.sleep(1)
            # Its own streams stay.
            assert a.server.states == ["up"]
            assert a.asker.states == b.server.states == ["up", "down", "up"]
            nursery.cancel_scope.cancel()

    play(scenario)


@pytest.mark.parametrize(
    ("different", "line"),
    [
        ({"secret": b"guessed"}, "the secret of"),
        ({"cluster": "other"}, "to cluster 'shop', rabbit@b to 'other'"),
        ({"versions": (2,)}, "version 1 of the protocol between nodes, rabbit@b version 2"),
    ],
)
def test_a_refusal_is_one_clear_line_at_both_ends(
    caplog: pytest.LogCaptureFixture, different: dict[str, Any], line: str
) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b", **different)
        async with running(a, acquainted=False):
            a.know(a, b)
            b.know(a, b)
            b.links._members.pop("rabbit@b", None)
            a.links.set_members({})
            a.know(b)
            async with running(b, acquainted=False):
                await trio.sleep(30)
        assert (a.asker.states, b.asker.states) == ([], [])

    simulate(1, scenario)
    logged = lines(caplog)
    assert len([each for each in logged if "link from b, rabbit@b" in each and line in each]) == 1
    assert (
        len([each for each in logged if "link to rabbit@a: a:25672: ref" in each and line in each])
        == 1
    )
    assert len(logged) == 4, logged


def test_a_refusal_that_passes_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b")
        b.know(a)
        async with running(a, b, acquainted=False):
            await trio.sleep(0.1)
            assert b.asker.states == []
            a.know(b)
            await trio.sleep(1)
            assert a.asker.states == b.asker.states == ["up"]
            assert lines(caplog) == []

    simulate(1, scenario)


def test_a_refusal_that_does_not_pass_is_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b")
        b.know(a)
        async with running(a, b, acquainted=False):
            await trio.sleep(30)

    simulate(1, scenario)
    text = "rabbit@a knows no node rabbit@b in cluster 'shop'"
    assert sorted(lines(caplog)) == [
        f"link from b, rabbit@b: {text}",
        f"link to rabbit@a: a:25672: refused there: {text}",
    ]


# -- strangers ---------------------------------------------------------------------------------


def test_strangers_are_few_and_do_not_stay_and_keep_nobody_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = Member(sim, "a"), Member(sim, "b")
        async with running(a, acquainted=False) as nursery:
            await trio.sleep(0.1)
            strangers = [await sim.network.connect("a", PORT) for _ in range(STRANGERS_MAX + 10)]
            await trio.sleep(0.1)
            for stranger in strangers[:10]:
                assert await stranger.receive_some(1) == b""
            assert len(a.links._strangers) == STRANGERS_MAX
            a.know(b)
            b.know(a)
            nursery.start_soon(b.run)
            await trio.sleep(0.5)
            assert a.server.states == ["up"]
            await trio.sleep(HELLO_S_MAX)
            for stranger in strangers:
                assert await stranger.receive_some(1) == b""
            assert not a.links._strangers
            assert a.server.states == ["up"]

    simulate(1, scenario)
    away = [each for each in lines(caplog) if "strangers" in each]
    assert len(away) == 1


def test_strangers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Simulation) -> None:
        a = Member(sim, "a")
        async with running(a, acquainted=False):
            await trio.sleep(0.1)
            for number in range(200):
                stream = await sim.network.connect("a", PORT)
                hello = [[1], f"another {number}", f"rabbit@{number}", 1, bytes(32)]
                stream.send_nowait(MAGIC + encode_frame(HELLO, msgspec.msgpack.encode(hello)))
                await trio.sleep(0.1)
                stream.close()
                await trio.sleep(0.1)

    simulate(1, scenario)
    assert 10 < len(lines(caplog)) < 30
    assert "more is wrong" in lines(caplog)[-1]


@pytest.mark.parametrize("host", ["a..b", "a\0b", "x" * 100])
def test_a_node_that_tells_an_impossible_address_is_not_reached(
    caplog: pytest.LogCaptureFixture, host: str
) -> None:
    async def try_it() -> None:
        world = attrs.evolve(real_world(), random=random.Random(1))
        own = Identity("shop", "rabbit@a", 1, SECRET)
        links = Links(world, Turn(), own, NotingUser(), NotingUser())
        links.set_members({"rabbit@b": Address(host, PORT, 1)})
        listener = await world.network.listen("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(links.run, listener)
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        listener.close()

    trio.run(try_it)
    assert len(lines(caplog)) == 1
    assert "link to rabbit@b" in lines(caplog)[0]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "link from a: no node, it began with b'GET / HT'"),
        (MAGIC + bytes(4) + b"\x10", "link from a: a frame of kind 16 in the hello"),
        (MAGIC + b"\xff" * 100, "more than 4096"),
        (
            MAGIC + encode_frame(HELLO, msgspec.msgpack.encode([[1], "shop", "x", 1, bytes(32)])),
            "link from a: the other end has hung up during the hello",
        ),
        (b"", "link from a: the other end has hung up during the hello"),
    ],
)
def test_who_is_no_node_is_sent_away(
    caplog: pytest.LogCaptureFixture, said: bytes, line: str
) -> None:
    async def scenario(sim: Simulation) -> None:
        a = Member(sim, "a")
        async with running(a, acquainted=False):
            await trio.sleep(0.1)
            for _ in range(3):
                stream = await sim.network.connect("a", PORT)
                stream.send_nowait(said)
                await trio.sleep(0.1)
                stream.close()
                await trio.sleep(0.1)

    simulate(1, scenario)
    assert len(lines(caplog)) == 1
    assert line in lines(caplog)[0]


def test_garbage_does_no_harm() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        for number in range(200):
            stream = await sim.network.connect("a", PORT)
            said = sim.random.randbytes(sim.random.randrange(5000))
            stream.send_nowait(MAGIC + said if number % 2 else said)
            await trio.sleep(0.05)
            stream.close()
        await trio.sleep(HELLO_S_MAX + 1)
        assert not a.links._strangers
        assert a.server.states == ["up"]

    play(scenario)


@pytest.mark.slow
def test_links_may_be_under_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("there is no openssl")
    certificate = make_certificate(tmp_path / "certificates", "a", "b")

    async def scenario(sim: Simulation) -> None:
        a, b = (Member(sim, host, certificate=certificate) for host in "ab")
        plain = Member(sim, "c")
        async with running(a, b, plain):
            await trio.sleep(3)
            a.ping(b, b"a" * 1_000_000)
            a.ping(b, b"last")
            await trio.sleep(20)
            assert [len(payload) for _, payload in a.asker.frames] == [1_000_000, 4]
            assert a.asker.states == b.server.states == ["up"]
            assert plain.asker.states == []

    simulate(1, scenario)
    assert any("link from c: [SSL: " in line for line in lines(caplog))


# -- faults ------------------------------------------------------------------------------------


def test_a_frame_without_sense_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        def refuse(*_: object) -> None:
            raise LinkFault("a ping without an end")

        a.server.answer = refuse
        b.ping(a)
        await trio.sleep(0.5)
        assert b.asker.states == a.server.states == ["up", "down", "up"]

    play(scenario)
    assert "link from rabbit@b is down: a ping without an end" in lines(caplog)


@pytest.mark.parametrize("kind", [0, 6, 7, 15])
def test_the_links_own_frames_are_known(caplog: pytest.LogCaptureFixture, kind: int) -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        b.to(a).send(kind, [b"what?"])
        b.turn.end_batch()
        await trio.sleep(0.5)
        assert a.server.states == ["up", "down", "up"]

    play(scenario)
    line = f"link from rabbit@b is down: a frame of kind {kind} and 5 octets came"
    assert line in lines(caplog)


def test_garbage_of_a_member_ends_its_stream_at_most() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        for _ in range(50):
            garbage = bytearray(sim.random.randbytes(sim.random.randrange(1, 2000)))
            if sim.random.random() < 0.7:
                garbage[:2] = b"\0\0"  # Else nearly all of it is one frame that is too big.
            b.to(a)._stream.send_nowait(garbage)
            await trio.sleep(0.1)
            b.to(a).break_off("a test")
            await trio.sleep(2)
            assert a.server.states[-1] == b.asker.states[-1] == "up"
            assert b.server.states == a.asker.states == ["up"]

    play(scenario)


def test_a_fault_of_ones_own_ends_the_stream_and_not_the_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError("oops")

        a.server.answer = fail
        b.ping(a)
        await trio.sleep(0.5)
        assert b.asker.states == a.server.states == ["up", "down", "up"]

    play(scenario)
    assert "link from rabbit@b: a frame of kind 16 met a fault" in lines(caplog)
    assert "oops" in caplog.text


def test_a_disk_that_fails_ends_the_node() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        def fail(*_: object) -> None:
            raise DiskFailure("no more")

        a.server.answer = fail
        b.ping(a)
        await trio.sleep(0.5)

    with pytest.raises(BaseExceptionGroup) as caught:
        play(scenario)
    assert caught.group_contains(DiskFailure)


def test_who_does_not_read_is_let_go_before_too_much_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        sim.network.sever("b", "a")
        mib = bytes(1 << 20)
        while b.to(a).is_up:
            b.ping(a, mib)
            assert b.to(a).outbox_bytes <= OUTBOX_BYTES_MAX + 4 * len(mib)
            await trio.sleep(0.01)
        assert trio.current_time() < 2
        assert b.to(a).outbox_bytes == 0

    play(scenario)
    assert "link to rabbit@a is down: over 64 MiB wait for it to read" in lines(caplog)


# -- flow --------------------------------------------------------------------------------------


def test_much_is_sent_by_and_by_and_the_user_hears_when_it_is_done() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        b.ping(a, bytes(3 << 20))
        b.ping(a, b"last")
        assert b.to(a).outbox_bytes > 2 << 20
        assert b.asker.drains == 0
        await trio.sleep(5)
        assert b.asker.drains == 1
        assert [len(payload) for _, payload in a.server.frames] == [3 << 20, 4]
        assert a.server.drains == 1

    play(scenario)


def test_after_a_turns_work_others_have_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        turns: list[int] = []

        def work_hard(link: Link, kind: int, payload: bytes) -> int:
            turns.append(a.turn.number)
            return 1000

        monkeypatch.setattr(a.server, "frame", work_hard)
        for _ in range(10):
            b.to(a).send(PING, [])
        sim.network.delay_s_max = 0
        b.turn.end_batch()
        await trio.sleep(1)
        assert len(turns) == 10
        assert max(turns.count(number) for number in turns) == 3

    play(scenario)


# -- revisions ---------------------------------------------------------------------------------


def test_a_revision_is_told_once_a_turn_to_every_node() -> None:
    async def scenario(sim: Simulation) -> None:
        members = a, b, c = [Member(sim, host) for host in "abc"]
        heard: list[tuple[str, int]] = []
        b.links.on_revision = lambda *said: heard.append(said)
        async with running(*members):
            await trio.sleep(1)
            for revision in range(1, 10):
                a.links.report_revision(revision)
            a.links.report_revision(4)
            a.turn.end_batch()
            await trio.sleep(0.1)
            assert heard == [("rabbit@a", 9)]
            assert b.links.revisions == c.links.revisions == {"rabbit@a": 9}
            a.links.report_revision(10)
            a.turn.end_batch()
            await trio.sleep(0.1)
            assert heard == [("rabbit@a", 9), ("rabbit@a", 10)]

    simulate(1, scenario)


def test_a_revision_is_told_again_on_a_new_stream_and_on_the_one_that_is_left() -> None:
    async def scenario(sim: Simulation, a: Member, b: Member) -> None:
        a.links.report_revision(5)
        a.turn.end_batch()
        sim.network.cut("a", "b")
        await trio.sleep(0.01)
        assert b.links.revisions == {}
        await trio.sleep(1)
        assert b.links.revisions == {"rabbit@a": 5}
        # From now on a cannot dial b.
        b.links._members = {}
        a.to(b).break_off("a test")
        a.links.report_revision(6)
        a.turn.end_batch()
        await trio.sleep(3)
        assert not a.to(b).is_up
        assert b.links.revisions == {"rabbit@a": 6}

    play(scenario)


# -- everything at once ------------------------------------------------------------------------


SEEDS = [seed if seed < 2 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(30)]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_streams_are_in_order_and_come_up_again(seed: int) -> None:
    """Each payload says which stream it was sent on, and its number there."""

    faults: list[bytes] = []
    next_number: dict[tuple[NotingUser, Link, bytes], int] = {}

    class Checking(NotingUser):
        def frame(self, link: Link, kind: int, payload: bytes) -> int:
            stream, number, _ = payload.split(b"|")
            key = self, link, stream
            if int(number) != next_number.get(key, 0) or link not in self.links:
                faults.append(payload)
            next_number[key] = int(number) + 1
            return super().frame(link, kind, payload)

    async def scenario(sim: Simulation) -> None:
        members = [Member(sim, host) for host in "abc"]
        numbers: dict[tuple[str, str, int], int] = {}
        for member in members:
            member.links._server = member.server = Checking()
        async with running(*members):
            for _ in range(300):
                one, other = sim.random.sample(members, 2)
                match sim.random.randrange(14):
                    case 0:
                        sim.network.cut(one.host, other.host)
                    case 1:
                        sim.network.sever(one.host, other.host)
                    case 2 | 6 | 7:
                        sim.network.heal()
                    case 3:
                        sim.network.delays_s_max[one.host, other.host] = sim.random.random()
                    case 4:
                        await trio.sleep(sim.random.random() * 8)
                    case 5:
                        one.know(one)
                        one.know(*members)
                    case _:
                        if one.to(other).is_up:
                            key = one.name, other.name, len(one.asker.states)
                            for _ in range(sim.random.randrange(5)):
                                number = numbers[key] = numbers.get(key, -1) + 1
                                size = sim.random.choice((0, 10, 100_000))
                                text = f"{key}|{number}|{'x' * size}"
                                one.to(other).send(PING, [text.encode()])
                            one.turn.end_batch()
                await trio.sleep(sim.random.random() * 0.2)
            sim.network.heal()
            sim.network.delays_s_max.clear()
            await trio.sleep(10)
            assert not faults
            assert sum(len(member.server.frames) for member in members) > 30
            for member in members:
                assert len(member.asker.links) == len(member.server.links) == 2
                assert all(link.is_up for link in member.asker.links + member.server.links)
                for states in (member.asker.states, member.server.states):
                    assert states.count("up") - states.count("down") == 2

    simulate(seed, scenario)
