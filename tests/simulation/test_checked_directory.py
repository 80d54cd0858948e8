"""What a node has left on its disk is what a check of it tells."""

import attrs
import pytest
import trio
from pamqp import commands

from amqpbroker.errors import DataError
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import encode_method
from amqpbroker.server import keeping
from amqpbroker.server.checkup import DirectoryReport, check_directory
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.storage import disk_log, segments, wal
from amqpbroker.storage.store import Store
from amqpbroker.testing.client import Client
from amqpbroker.testing.world import Simulation, simulate

CONFIG = Config(listen="127.0.0.1:5672", data_dir="/data", name="rabbit@here")
COUNTS = {"empty": 0, "short": 3, "long": 3000}
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files so small that all kinds of them come and go."""
    monkeypatch.setattr(wal, "WAL_FILE_BYTES_MAX", 60_000)
    monkeypatch.setattr(disk_log, "RESIDUE_BYTES_MAX", 3_000)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 30_000)
    monkeypatch.setattr(keeping, "WAITING_BYTES_MAX", 20_000)


def message(name: str, number: int) -> bytes:
    method, block = basic.Publish(0, "", name), b"\x10\x00\x02"
    return encode_method(1, method) + encode_content(1, block, b"message %d" % number, 131072)


async def use(client: Client) -> None:
    """Fill queues with messages, persistent and transient ones, and take some away."""
    declare = exchange.Declare(exchange="x", exchange_type="fanout", durable=True)
    await client.call(declare, exchange.DeclareOk)
    for name, count in COUNTS.items():
        await client.call(queue.Declare(queue=name, durable=True), queue.DeclareOk)
        await client.call(queue.Bind(queue=name, exchange="x"), queue.BindOk)
        await client.send_bytes(b"".join(message(name, number) for number in range(count)))
        await client.publish(name, b"transient")
    await client.call(queue.Declare(queue="passing"), queue.DeclareOk)
    await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
    await client.publish("long", b"the last", persistent=True)
    await client.wait_for(basic.Ack)
    for _ in range(10):
        await client.send(basic.Get(queue="long", no_ack=True))
    await trio.sleep(1)


@pytest.mark.parametrize("crash", [False, True])
def test_a_directory_that_a_node_has_left_is_sound(crash: bool) -> None:
    async def scenario(sim: Simulation) -> DirectoryReport:
        with trio.CancelScope() as scope:
            async with Node(CONFIG, sim.world) as node:
                client = await Client.connect(sim.network, node.address, 1)
                await use(client)
                with pytest.raises(DataError, match="is used by a running node"):
                    check_directory(sim.disk, "/data")
                if crash:
                    sim.disk.crash()
                    scope.cancel()
        sim.disk.restart()
        return check_directory(sim.disk, "/data")

    report = simulate(1, scenario)

    assert report.is_sound
    assert report.owner.name == "rabbit@here"
    assert report.is_clean != crash
    assert report.definitions == {
        "vhosts": 1,
        "users": 1,
        "permissions": 1,
        "topic_permissions": 0,
        "policies": 0,
        "parameters": 0,
        "global_parameters": 0,
        "exchanges": 1,
        "queues": 3,
        "bindings": 3,
    }
    assert {each.name: each.log.messages for each in report.queues} == COUNTS | {"long": 2991}
    [long] = [each.log for each in report.queues if each.name == "long"]
    assert long.segments.count > 1
    assert long.in_wal.count + long.in_segments.count - long.transient == 2991
    assert report.lost == 0
    assert not report.strange


def test_the_queues_of_a_node_of_a_cluster_go_by_the_ids_of_their_logs() -> None:
    async def scenario(sim: Simulation) -> DirectoryReport:
        async with Node(CONFIG, sim.world) as node:
            await use(await Client.connect(sim.network, node.address, 1))
        sim.disk.restart()
        store = await Store.open(sim.disk, "/data", "rabbit@here")
        await store.sign(attrs.evolve(store.owner, cluster="c"))
        store.wal.all_definitions = bytes
        for log_id in (1, 2, 3):
            store.open_log(log_id)
        await store.stop()
        return check_directory(sim.disk, "/data")

    report = simulate(1, scenario)

    assert report.is_sound
    assert report.as_json()["cluster"] == "c"
    assert [(each.name, each.log.messages) for each in report.queues] == [
        ("log 2", 3),
        ("log 3", 2991),
    ]
    assert not report.ownerless


def test_damage_is_told_by_the_name_of_the_queue() -> None:
    async def scenario(sim: Simulation) -> DirectoryReport:
        async with Node(CONFIG, sim.world) as node:
            await use(await Client.connect(sim.network, node.address, 1))
        path = "/data/queues/3/00000002.seg"
        file = sim.disk.open(path)
        data = file.read(0, file.size_bytes)
        file.truncate(0)
        file.append(data.replace(b"message", b"massage", 1))
        sim.disk.restart()
        sim.disk.open("/data/letter", create=True)
        sim.disk.make_folder("/data/queues/letters")
        sim.disk.open("/data/wal/letter.wal", create=True)
        sim.disk.open("/data/queues/3/letter.seg", create=True)
        return check_directory(sim.disk, "/data")

    report = simulate(1, scenario)

    assert not report.is_sound
    [damage] = report.damages
    queue = report.queue_of(damage)
    assert queue is not None
    assert queue.name == "long"
    assert damage.path == "/data/queues/3/00000002.seg"
    assert 0 < damage.messages <= 1024
    assert queue.log.lost == report.lost == damage.messages
    assert queue.log.messages == 2991 - damage.messages
    assert report.strange == [
        "/data/letter",
        "/data/wal/letter.wal",
        "/data/queues/3/letter.seg",
        "/data/queues/letters",
    ]
    said = report.as_json()
    assert said["sound"] is False
    assert said["damages"] == [
        {
            "file": damage.path,
            "position": damage.offset,
            "what": "a chunk of messages is not what was written there",
            "queue": {"vhost": "/", "name": "long"},
            "messages_lost": damage.messages,
        }
    ]
