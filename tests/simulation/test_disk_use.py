"""What a node takes on disk: not much more than what is live, and next to nothing after a drain."""

from collections.abc import Awaitable, Callable, Container
from typing import Any

import attrs
import pytest
import trio
from pamqp import commands

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import encode_method
from amqpbroker.server import keeping
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.storage import chunks, disk_log, log, segments, store, wal
from amqpbroker.testing.peer import Peer
from amqpbroker.testing.world import Simulation, simulate

CONFIG = Config(listen="127.0.0.1:5672", data_dir="/data", name="rabbit@here")
KIB = 1024
BODY = bytes(KIB)
AT_ONCE = 100
IDLE_S = 10
LEFT_BYTES_MAX = 64 * KIB
"""What may be left on disk when next to nothing is live."""
WAITING_BYTES = LIMIT_BYTES = 1024 * KIB
basic, queue = commands.Basic, commands.Queue

QUEUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "priority": {"x-max-priority": 3},
    "async": {"x-flush": "async"},
}
PERSISTENT, TRANSIENT = b"\x18\x00\x02", b"\x18\x00\x01"
"""Property blocks that end with a priority."""


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """All limits are 64 times smaller than they are."""
    for module in (chunks, log):
        monkeypatch.setattr(module, "CHUNK_BYTES_MAX", 16 * KIB)
    monkeypatch.setattr(disk_log, "RESIDUE_BYTES_MAX", 16 * KIB)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 256 * KIB)
    monkeypatch.setattr(wal, "WAL_FILE_BYTES_MAX", LIMIT_BYTES)
    monkeypatch.setattr(store, "WASTE_BYTES_MAX", LIMIT_BYTES)
    monkeypatch.setattr(store, "IDLE_WASTE_BYTES_MAX", LEFT_BYTES_MAX)
    monkeypatch.setattr(keeping, "WAITING_BYTES_MAX", WAITING_BYTES)


@attrs.define
class User:
    """A client, and what the disk holds meanwhile."""

    sim: Simulation
    peer: Peer
    block: bytes
    is_durable: bool = True
    peak_bytes: int = 0
    unacked: int = 0

    def used_bytes(self) -> int:
        """All that is on the disk."""
        used = self.sim.disk.capacity_bytes - self.sim.disk.free_bytes("/data")
        self.peak_bytes = max(self.peak_bytes, used)
        return used

    async def _go_on(self) -> None:
        await trio.sleep(0.02)
        self.used_bytes()

    async def declare(self, name: str, kind: str = "plain") -> None:
        """Declare a queue."""
        durable = self.is_durable
        self.peer.send(queue.Declare(queue=name, durable=durable, arguments=QUEUES[kind]))
        await self._go_on()

    async def publish(self, name: str, count: int) -> None:
        """Publish messages of 1 KiB, of three priorities in turn."""
        method = encode_method(1, basic.Publish(0, "", name))
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(count, start + AT_ONCE))
            contents = [
                encode_content(1, self.block + bytes([number % 3]), BODY, 131072)
                for number in numbers
            ]
            self.peer.send_bytes(b"".join(method + content for content in contents))
            await self._go_on()

    async def consume(self, name: str, count: int, left: Container[int] = ()) -> None:
        """Take messages, and ack those whose numbers are not ``left``."""
        peer = self.peer
        done = 0
        peer.send(basic.Qos(prefetch_count=0))
        peer.send(basic.Qos(prefetch_count=self.unacked + AT_ONCE))
        peer.consume(name, name)
        deliveries = peer.deliveries()
        while deliveries or done < count:
            acks = b""
            for method, _ in deliveries:
                if done in left:
                    self.unacked += 1
                else:
                    acks += encode_method(1, basic.Ack(method.delivery_tag))
                done += 1
            peer.send_bytes(acks)
            await self._go_on()
            deliveries = peer.deliveries()
        peer.send(basic.Cancel(consumer_tag=name))
        peer.received()

    async def rest(self) -> int:
        """Let the node have nothing to do for a while; what is on the disk then."""
        await trio.sleep(IDLE_S)
        return self.used_bytes()


def use(block: bytes, act: Callable[[User], Awaitable[None]], is_durable: bool = True) -> None:
    """Have a client of a new node ``act``."""

    async def scenario(sim: Simulation) -> None:
        async with Node(CONFIG, sim.world) as node:
            await act(User(sim, Peer(node.broker).open(1), block, is_durable))

    simulate(1, scenario)


KINDS = pytest.mark.parametrize(
    ("kind", "block", "is_durable"),
    [
        ("plain", PERSISTENT, True),
        ("plain", TRANSIENT, False),
        pytest.param("priority", PERSISTENT, True, marks=pytest.mark.slow),
        pytest.param("async", PERSISTENT, True, marks=pytest.mark.slow),
        pytest.param("plain", TRANSIENT, True, marks=pytest.mark.slow),
        pytest.param("priority", TRANSIENT, True, marks=pytest.mark.slow),
    ],
)


@KINDS
def test_next_to_nothing_is_left_after_a_drain(kind: str, block: bytes, is_durable: bool) -> None:
    async def act(user: User) -> None:
        await user.declare("q", kind)
        await user.publish("q", 4096)
        assert user.used_bytes() > 3 * LIMIT_BYTES
        await user.consume("q", 4096)
        assert user.peak_bytes < (4096 + 2048) * KIB
        assert await user.rest() < LEFT_BYTES_MAX

    use(block, act, is_durable)


@KINDS
@pytest.mark.parametrize("every", [12_000, 400])
def test_messages_that_nobody_acks_keep_no_others_on_the_disk(
    kind: str, block: bytes, is_durable: bool, every: int
) -> None:
    """One in so many, in a long stream that waits on the disk for a while."""

    async def act(user: User) -> None:
        await user.declare("q", kind)
        for turn in range(6):
            await user.publish("q", 2000)
            left = {at for at in range(2000) if (2000 * turn + at) % every == 300}
            await user.consume("q", 2000, left)
        assert user.unacked == 12_000 // every
        assert user.peak_bytes < (2000 + 3 * 1024) * KIB
        assert await user.rest() < LEFT_BYTES_MAX + 3 * user.unacked * KIB

    use(block, act, is_durable)


@KINDS
def test_an_old_message_in_each_of_many_queues_keeps_no_others_on_the_disk(
    kind: str, block: bytes, is_durable: bool
) -> None:
    async def act(user: User) -> None:
        names = [f"q{number}" for number in range(10)]
        for name in names:
            await user.declare(name, kind)
            await user.publish(name, 600)
        assert user.used_bytes() > 4 * LIMIT_BYTES
        for name in names:
            await user.consume(name, 600, left={300})
        assert user.peak_bytes < (6000 + 3 * 1024) * KIB
        assert await user.rest() < LEFT_BYTES_MAX

    use(block, act, is_durable)
