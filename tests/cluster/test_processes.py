"""A cluster of real processes on this machine: the fixture, and the command that runs one."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pika
import pika.exceptions
import pytest

from amqpbroker.cli.etcd_servers import find_etcd
from amqpbroker.cli.local_cluster import NodePorts
from amqpbroker.errors import ConfigError
from amqpbroker.testing.cluster import ClusterForTest

pytestmark = pytest.mark.slow
PERSISTENT = pika.BasicProperties(delivery_mode=2)
Make = Callable[..., ClusterForTest]


@pytest.fixture(autouse=True)
def _needs_etcd() -> None:
    try:
        find_etcd()
    except ConfigError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


opened: list[Any] = []


@pytest.fixture(autouse=True)
def _closes() -> Iterator[None]:
    """Close the connections that a test has opened, as far as their nodes are there."""
    yield
    while opened:
        connection = opened.pop()
        with suppress(pika.exceptions.AMQPError):
            connection.process_data_events(0)
            if connection.is_open:
                connection.close()


def channel(cluster: ClusterForTest, i: int) -> Any:
    connection = pika.BlockingConnection(pika.URLParameters(cluster.nodes[i].url))
    opened.append(connection)
    return connection.channel()


def eventually(act: Callable[[], Any], patience_s: float = 15) -> Any:
    """What ``act`` returns once it raises nothing any more."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            return act()
        except pika.exceptions.AMQPError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)


def count(cluster: ClusterForTest, i: int, queue: str) -> int:
    found: int = channel(cluster, i).queue_declare(queue, passive=True).method.message_count
    return found


def test_a_node_dies_and_comes_back_with_its_queues(amqp_cluster: Make) -> None:
    cluster = amqp_cluster(n=3)
    channel(cluster, 0).queue_declare("q", durable=True)
    publisher = channel(cluster, 1)
    publisher.confirm_delivery()
    for number in range(100):
        publisher.basic_publish("", "q", b"%d" % number, PERSISTENT)
    cluster.kill(0)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="home node 'rabbit1@localh"):
        count(cluster, 2, "q")
    cluster.start(0)
    assert eventually(lambda: count(cluster, 2, "q")) == 100
    cluster.stop(0)
    cluster.start(0)
    assert eventually(lambda: count(cluster, 1, "q")) == 100


def passive(cluster: ClusterForTest, i: int, queue: str) -> str:
    """Why a queue cannot be used at a node; empty: it can be."""
    try:
        count(cluster, i, queue)
    except pika.exceptions.ChannelClosedByBroker as error:
        text: str = error.reply_text
        return text
    return ""


def test_what_a_killed_node_has_left_goes_at_once(amqp_cluster: Make) -> None:
    cluster = amqp_cluster(n=3)
    channel(cluster, 0).queue_declare("exclusive", exclusive=True)
    channel(cluster, 0).queue_declare("transient")
    assert passive(cluster, 1, "transient") == ""
    cluster.kill(0)
    until_s = time.monotonic() + 3
    for queue in ("exclusive", "transient"):
        while passive(cluster, 1, queue) != f"NOT_FOUND - no queue '{queue}' in vhost '/'":
            assert time.monotonic() < until_s
            time.sleep(0.05)
    logs = [cluster.nodes[node].log.read_text() for node in (1, 2)]
    assert any("rabbit1@localhost has ended (incarnation 1): it refuses" in log for log in logs)


def test_a_node_that_stands_still_is_not_taken_for_gone(amqp_cluster: Make) -> None:
    cluster = amqp_cluster(n=2)
    channel(cluster, 0).queue_declare("transient")
    cluster.nodes[0].signal(signal.SIGSTOP)
    try:
        time.sleep(7)
        assert "is down or inaccessible" in passive(cluster, 1, "transient")
    finally:
        cluster.nodes[0].signal(signal.SIGCONT)
    time.sleep(1)
    assert eventually(lambda: count(cluster, 1, "transient")) == 0
    assert "has ended" not in cluster.nodes[1].log.read_text()


def ctl(cluster: ClusterForTest, i: int, *words: str) -> str:
    """What ``amqpbrokerctl`` says of a node, without banners and headers."""
    command = [sys.executable, "-m", "amqpbroker.cli.ctl", *words, "-s"]
    environment = os.environ | {"AMQPBROKER_URL": cluster.nodes[i].http_url}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_any_node_tells_of_the_whole_cluster_and_closes_what_is_elsewhere(
    amqp_cluster: Make,
) -> None:
    cluster = amqp_cluster(n=2)
    there = channel(cluster, 1)
    there.queue_declare("q", durable=True)
    there.confirm_delivery()
    there.basic_publish("", "q", b"12345", PERSISTENT)
    there.basic_get("q")
    ctl(cluster, 1, "set_user_limits", "guest", '{"max-connections": 1}')

    columns = ("name", "messages_unacknowledged", "message_bytes", "pid")
    name, *numbers, pid = ctl(cluster, 0, "list_queues", *columns).split()
    assert (name, numbers, pid.split(".")[0]) == ("q", ["1", "5"], "<rabbit2@localhost")
    assert ctl(cluster, 0, "list_channels", "messages_unacknowledged") == "1\n"
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        channel(cluster, 0)
    ctl(cluster, 0, "close_connection", ctl(cluster, 0, "list_connections", "pid").strip(), "why")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="why"):
        there.connection.process_data_events(10)
    opened.remove(there.connection)


def test_two_nodes_that_cannot_reach_each_other(amqp_cluster: Make) -> None:
    cluster = amqp_cluster(n=3)
    channel(cluster, 0).queue_declare("q", durable=True)
    cluster.partition(0, 1)
    time.sleep(7)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="is down or inaccessible"):
        count(cluster, 1, "q")
    assert count(cluster, 2, "q") == 0
    cluster.heal()
    assert eventually(lambda: count(cluster, 1, "q")) == 0


def free_base_port() -> int:
    """For two nodes, below the ports that others are given by chance."""
    while True:
        base = random.randrange(6000, 12_000)
        try:
            for number in range(2):
                for port in attrs.astuple(NodePorts.from_base(base, number)):
                    socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return base


def test_the_command_runs_a_cluster_and_finds_it_again(tmp_path: Path) -> None:
    base = free_base_port()
    command = [sys.executable, "-m", "amqpbroker", "cluster", "--nodes=2", f"--base-port={base}"]
    for life in range(2):
        process = subprocess.Popen(
            [*command, f"--data-dir={tmp_path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            if lines[0].startswith("development etcd"):
                lines = [*lines[1:], process.stdout.readline()]
            assert lines[0].startswith(
                f"rabbit1@localhost: amqp=amqp://guest:guest@127.0.0.1:{base}"
            )
            assert lines[2].startswith("amqpbroker cluster ready")
            told = json.loads((tmp_path / "cluster.json").read_text())
            urls = [node["url"] for node in told["nodes"]]
            first, second = [pika.BlockingConnection(pika.URLParameters(url)) for url in urls]
            if not life:
                first.channel().queue_declare("kept", durable=True)
            second.channel().queue_declare("kept", durable=True, passive=True)
            first.close()
            second.close()
            process.terminate()
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert errors == ""
        for node in told["nodes"]:
            with pytest.raises(ProcessLookupError):
                os.kill(node["pid"], 0)


def test_the_command_tells_of_a_node_that_dies(tmp_path: Path) -> None:
    base = f"--base-port={free_base_port()}"
    command = [sys.executable, "-m", "amqpbroker", "cluster", "--nodes=2", base]
    process = subprocess.Popen(
        [*command, f"--data-dir={tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "cluster ready" not in process.stdout.readline():
            assert process.poll() is None
        told = json.loads((tmp_path / "cluster.json").read_text())
        os.kill(told["nodes"][1]["pid"], signal.SIGKILL)
        assert "rabbit2@localhost has ended, status -9" in process.stderr.readline()
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
