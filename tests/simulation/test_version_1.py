"""A node of version 1 of the protocol between nodes, in octets as they were written down once.

As long as a release speaks version 1 (`hello.VERSIONS`), such a node can be its neighbour, and
upgrades go node by node. So once version 1 has been released nothing in here is changed to suit the
code: what is said otherwise is another version.
"""

import hmac
import json
from struct import Struct

import msgspec
import trio
from pamqp import commands

from amqpbroker.cluster.hello import VERSIONS
from amqpbroker.testing.client import Content
from amqpbroker.testing.sim_cluster import SimCluster
from amqpbroker.testing.world import Simulation, simulate
from amqpbroker.world import Stream

basic, queue = commands.Basic, commands.Queue

HEAD = Struct(">IB")
HELLO, CHALLENGE, PROOF, WELCOME, REFUSAL, HEARTBEAT, REVISION = range(7)
PUBLISH, SETTLE, LIMITS, QUESTION, DELIVER, COMMITTED, ANSWER, GOT, REPLY = range(16, 25)
OLD = "rabbit@old"
NONCE = bytes(range(32))
PREFIX = b"/simulated/v1/"

CONTENT = "0200010000000f003c00000000000000000005100002ce0300010000000568656c6c6fce"
"""Content frames on channel 1: "hello", with delivery mode 2."""
ORIGIN = "00010000000200ffffffffffffffff0300000171"
"""Channel 1, frames of 131072 octets, persistent, exchange "", routing key "q"."""
TWO = f"000000000000000002000000020000000100000200000001{ORIGIN}2400000024000000{CONTENT}{CONTENT}"
ONE = f"000000000000000001000000010000000100000100000001{ORIGIN}24000000{CONTENT}"
SECOND = f"010000000000000001000000010000000100000100000001{ORIGIN}24000000{CONTENT}"
"""Images of two messages, of the first of them, of the second."""


def begins_with(found: object, expected: object) -> bool:
    """Whether lists, and those in them, begin as they should."""
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) >= len(expected) and all(map(begins_with, found, expected))
    return found == expected


class OldStream:
    """A stream to or from the other node, on which only octets are known."""

    def __init__(self, stream: Stream, cluster_id: str, secret: bytes) -> None:
        self._stream = stream
        self._cluster_id = cluster_id
        self._secret = secret
        self._data = b""

    async def send(self, kind: int, payload: bytes) -> None:
        data = HEAD.pack(len(payload), kind) + payload
        assert self._stream.send_nowait(data) == len(data)

    async def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            data = await self._stream.receive_some(65536)
            assert data, "the other end has gone"
            self._data += data
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    async def receive(self) -> tuple[int, bytes]:
        """The next frame that is no heartbeat, no revision, and no limit of a consumer."""
        while True:
            size, kind = HEAD.unpack(await self._take(HEAD.size))
            payload = await self._take(size)
            if kind not in (HEARTBEAT, REVISION, LIMITS):
                return kind, payload

    async def expect(self, kind: int, octets: str) -> None:
        """This comes next."""
        assert await self.receive() == (kind, bytes.fromhex(octets))

    async def ask(self, octets: str, *answer: object) -> None:
        """Ask something; this is the answer, or what it begins with (others may say more)."""
        await self.send(QUESTION, bytes.fromhex(octets))
        kind, payload = await self.receive()
        assert kind == ANSWER
        assert begins_with(msgspec.msgpack.decode(payload), list(answer))

    async def asked(self) -> list[object]:
        """The question that comes next, by name and fields."""
        kind, payload = await self.receive()
        assert kind == QUESTION
        question: list[object] = msgspec.msgpack.decode(payload)
        return question

    async def answer(self, *answer: object) -> None:
        await self.send(ANSWER, msgspec.msgpack.encode(answer))

    def _introduce(self) -> bytes:
        return msgspec.msgpack.encode([[1], self._cluster_id, OLD, 1, NONCE])

    def _mac(self, role: bytes, hello: bytes, challenge: bytes) -> bytes:
        parts = [len(part).to_bytes(4, "big") + part for part in (role, hello, challenge)]
        return hmac.digest(self._secret, b"".join(parts), "sha256")

    async def dial(self) -> None:
        """Make the acquaintance of the other as the one who has dialled."""
        hello = self._introduce()
        assert self._stream.send_nowait(b"amqplink") == 8
        await self.send(HELLO, hello)
        kind, challenge = await self.receive()
        versions, cluster_id, name, incarnation, nonce = msgspec.msgpack.decode(challenge)
        assert (kind, versions, cluster_id) == (CHALLENGE, [1], self._cluster_id)
        assert (name, incarnation, len(nonce)) == ("rabbit@node1", 1, 32)
        await self.send(PROOF, self._mac(b"dialler", hello, challenge))
        assert await self.receive() == (WELCOME, self._mac(b"accepter", hello, challenge))

    async def accept(self) -> None:
        """Make the acquaintance of the other who has dialled."""
        assert await self._take(8) == b"amqplink"
        kind, hello = await self.receive()
        versions, cluster_id, name, incarnation, nonce = msgspec.msgpack.decode(hello)
        assert kind == HELLO
        assert 1 in versions
        assert (cluster_id, name, incarnation) == (self._cluster_id, "rabbit@node1", 1)
        assert len(nonce) == 32
        challenge = self._introduce()
        await self.send(CHALLENGE, challenge)
        assert await self.receive() == (PROOF, self._mac(b"dialler", hello, challenge))
        await self.send(WELCOME, self._mac(b"accepter", hello, challenge))


class OldNode:
    """A node of version 1, which has put itself into the store."""

    def __init__(self, sim: Simulation, cluster: SimCluster) -> None:
        self._network = sim.network.at("old")
        self._store = cluster.etcd.client()

    async def join(self) -> None:
        self._listener = await self._network.listen("old", 25672)
        meta = await self._store.get(PREFIX + b"meta")
        secret = await self._store.get(PREFIX + b"secret")
        assert meta.item is not None
        assert secret.item is not None
        self._cluster_id = json.loads(meta.item.value)["cluster_id"]
        self._secret = secret.item.value
        await self.put(b"inc/rabbit%40old", b'{"uuid":"of the disk","inc":1}')
        await self.put(b"n/rabbit%40old", b'{"inc":1,"link":"old:25672","v":"1.0"}')

    async def put(self, key: bytes, value: bytes) -> None:
        await self._store.put(PREFIX + key, value)

    async def declare(self, name: bytes, number: int, node: bytes) -> None:
        """A durable queue with the id ``number``, on ``node``."""
        life = node + b"@*"
        await self.put(
            b"ql/%d" % number,
            b'{"e":1,"l":"%s","isr":["%s"],"r":["%s"]}' % (life, life, node),
        )
        await self.put(
            b"q/%%2F/%s" % name,
            b'{"id":%d,"durable":true,"exclusive":false,"auto_delete":false,"owner":null,"args":{}}'
            % number,
        )

    async def dialled(self) -> OldStream:
        stream = OldStream(
            await self._network.connect("node1", 25672), self._cluster_id, self._secret
        )
        await stream.dial()
        return stream

    async def accepted(self) -> OldStream:
        stream = OldStream(await self._listener.accept(), self._cluster_id, self._secret)
        await stream.accept()
        return stream


def test_version_1_is_spoken() -> None:
    """When it is not any more, this file may go."""
    assert 1 in VERSIONS
    assert max(VERSIONS) <= 2


def test_a_node_of_version_1_uses_a_queue_here() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 1) as cluster:
            old = OldNode(sim, cluster)
            await old.join()
            await old.declare(b"q", 7, b"rabbit@node1")
            await trio.sleep(1)
            stream = await old.dialled()
            to = "07000000000000000000000000000000"
            await stream.send(PUBLISH, bytes.fromhex(f"ffffffffffffffff01000000{to}{TWO}"))
            await stream.expect(COMMITTED, "0700000000000000020000000000000000000000")
            await stream.ask("93a473746174019107", "numbers", 1, [[2, 0, 0]])
            await stream.ask("98a7636f6e73756d65020701c2c2009402ce000186a00000", "done", 2, None)
            await stream.expect(DELIVER, f"010000000000000000000000000000000001000000{TWO}")
            await stream.send(
                SETTLE,
                bytes.fromhex(
                    "0700000000000000"
                    "000000000000000001000000000000000100000000"  # The first is acked.
                    "010000000000000002000000000000000100000002"  # The second goes back.
                ),
            )
            await stream.send(
                LIMITS,
                bytes.fromhex(
                    "01000000000000000300000000000000a086010000000000"
                    "00000000000000000000000000000000"
                ),
            )
            await stream.expect(DELIVER, f"010000000000000000000000000000000101000000{SECOND}")
            await stream.ask("94a663616e63656c030701", "done", 3, None)
            await stream.send(
                SETTLE, bytes.fromhex("0700000000000000010000000000000002000000000000000100000002")
            )
            await stream.send(QUESTION, bytes.fromhex("94a36765740407c3"))  # A get, without ack.
            await stream.expect(GOT, f"0400000000000000010000000000000000{SECOND}")
            await stream.ask("94a36765740507c3", "done", 5, None)
            await stream.ask("93a570757267650607", "done", 6, 0)
            await stream.send(QUESTION, bytes.fromhex("92a5746f75636807"))  # It is in use.
            await stream.ask("93aa66696e642d7265706c7907a161", "done", 7, 0)  # Who waits at "a"?
            await stream.send(REPLY, bytes.fromhex(f"010061{ONE}"))  # Nobody does.
            await stream.ask("95a664656c6574650807c2c2", "done", 8, 0)
            await stream.send(QUESTION, bytes.fromhex("92a56c6561766507"))  # Nothing more of it.
            await stream.ask("93a57075726765090a", "failed", 9, "", "")

    simulate(1, scenario)


def test_a_queue_of_a_node_of_version_1_is_used_from_here() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 1) as cluster:
            old = OldNode(sim, cluster)
            await old.join()
            stream = await old.accepted()
            await old.declare(b"q", 8, b"rabbit@old")
            await trio.sleep(1)
            client = await cluster.client(0)
            await client.send(queue.Declare(queue="q", passive=True))
            name, number, *asked = await stream.asked()
            assert (name, asked[0]) == ("stat", [8])
            await stream.answer("numbers", number, [[5, 0, 0]])
            assert (await client.wait_for(queue.DeclareOk)).message_count == 5

            await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            for _ in range(2):
                await client.publish("q", b"hello", persistent=True)
            for number in ("00", "01"):
                to = f"0800000000000000{number}00000000000000"
                await stream.expect(PUBLISH, f"ffffffffffffffff01000000{to}{ONE}")
            committed = "0800000000000000020000000000000001000000"
            refused = "01000000000000000200000000000000"
            await stream.send(COMMITTED, bytes.fromhex(committed + refused))
            await client.wait_for(basic.Ack)
            await client.wait_for(basic.Nack)

            await client.send(basic.Consume(queue="q", consumer_tag="t"))
            name, number, *asked = await stream.asked()
            assert (name, asked[0], asked[2:5]) == ("consume", 8, [False, False, 0])
            consumer = asked[1]
            assert isinstance(consumer, int)
            await stream.answer("done", number, None)
            await client.wait_for(basic.ConsumeOk)
            head = consumer.to_bytes(8, "little").hex()
            await stream.send(DELIVER, bytes.fromhex(f"{head}00000000000000000101000000{ONE}"))
            content = await client.wait_for(Content)
            assert (content.body, content.method.redelivered) == (b"hello", True)
            await client.send(basic.Ack(1))
            await stream.expect(
                SETTLE, "0800000000000000000000000000000001000000000000000100000000"
            )

            await client.send(basic.Get(queue="q"))
            name, number, *asked = await stream.asked()
            assert (name, asked[:2]) == ("get", [8, False])
            assert isinstance(number, int)
            head = number.to_bytes(8, "little").hex()
            await stream.send(GOT, bytes.fromhex(f"{head}000300000000000000{ONE}"))
            assert (await client.wait_for(Content)).method.message_count == 3
            await client.send(queue.Purge(queue="q"))
            name, number, *asked = await stream.asked()
            assert (name, asked[0]) == ("purge", 8)
            await stream.answer("failed", number, "ResourceLocked", "no")
            close = await client.wait_for(commands.Channel.Close)
            assert close.reply_text == "RESOURCE_LOCKED - no"

    simulate(1, scenario)
