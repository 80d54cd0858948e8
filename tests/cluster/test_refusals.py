"""A node that is not where it belongs ends with one clear line; what may pass is waited for."""

import http.server
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import trio

from amqpbroker.cli.etcd_servers import EtcdExecutable, EtcdServers, free_ports
from amqpbroker.cluster.etcd.client import EtcdClient
from amqpbroker.cluster.members import SECRET
from amqpbroker.cluster.schema import Schema
from amqpbroker.world import real_world
from tests.cluster.rig import free_port
from tests.crash.broker import Broker, DidNotStart

pytestmark = pytest.mark.slow

A, B = "rabbit@n1", "rabbit@n2"
LINE_S_MAX = 20

_clusters = count(1)


class Nodes:
    """Nodes of one cluster, in ``folder``."""

    def __init__(self, urls: list[str], folder: Path) -> None:
        self.urls = urls
        self.folder = folder
        self.cluster = f"cluster-{next(_clusters)}"
        self._brokers: list[Broker] = []

    def node(self, name: str, folder: str = "", cluster: str = "") -> Broker:
        """A node that is not started yet, on a data directory of its name, or another."""
        broker = Broker(
            self.folder / f"log-{len(self._brokers)}",
            (
                *("--name", name, "--data-dir", str(self.folder / (folder or name))),
                *("--cluster", ",".join(self.urls)),
                *("--cluster-name", cluster or self.cluster),
                *("--link", f"127.0.0.1:{free_port()}"),
            ),
        )
        self._brokers.append(broker)
        return broker

    def started(self, name: str, folder: str = "", cluster: str = "") -> Broker:
        broker = self.node(name, folder, cluster)
        broker.start()
        return broker

    def close(self) -> None:
        for broker in self._brokers:
            if broker.process is not None:
                broker.kill(with_helpers=True)
                broker.end()


@pytest.fixture
def nodes(etcd: EtcdServers, tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(etcd.urls, tmp_path)
    yield nodes
    nodes.close()


def stop(broker: Broker) -> None:
    broker.terminate()
    assert broker.end() == 0


def copy_disk(nodes: Nodes, name: str) -> None:
    shutil.copytree(
        nodes.folder / name, nodes.folder / "copy", ignore=shutil.ignore_patterns("ctl.sock")
    )


def refusal(broker: Broker) -> tuple[int, str]:
    """The exit status of a node that does not start, and the one line that says why."""
    with pytest.raises(DidNotStart) as refused:
        broker.start()
    status, words = refused.value.args
    return status, said(words)


def said(words: str) -> str:
    assert "Traceback" not in words
    [line] = [line for line in words.splitlines() if line.startswith("amqpbroker: ")]
    assert words.splitlines()[-1] == line
    return line.removeprefix("amqpbroker: ")


def wait_for(broker: Broker, text: str, times: int = 1) -> None:
    """Until the node has logged that."""
    until_s = time.monotonic() + LINE_S_MAX
    while broker.log.read_text().count(text) < times:
        assert time.monotonic() < until_s, broker.last_words()
        time.sleep(0.05)


# -- secrets and clusters ------------------------------------------------------------------------


def test_nodes_with_different_secrets_say_so_once_and_stay_apart(nodes: Nodes) -> None:
    first = nodes.started(A)

    async def change_secret() -> None:
        world = real_world()
        client = EtcdClient(world.network, world.random, nodes.urls)
        await client.put(Schema(nodes.cluster).path(SECRET), b"another" * 5)
        client.close()

    trio.run(change_secret)
    second = nodes.started(B)
    for broker, text in (
        (first, f"the secret of {B} is not that of {A}, although both belong to cluster"),
        (second, f"the secret of {A} is not that of {B}, although both belong to cluster"),
    ):
        wait_for(broker, text)
        time.sleep(2)  # They dial again meanwhile.
        assert broker.log.read_text().count(text) <= 2, broker.last_words()
        assert "is up, version" not in broker.log.read_text()
        stop(broker)


def test_a_node_of_another_cluster_is_refused(nodes: Nodes) -> None:
    stop(nodes.started(A))
    stop(nodes.started(B, cluster="elsewhere"))
    status, line = refusal(nodes.node(A, cluster="elsewhere"))
    assert status == 1
    assert line.startswith("the data directory belongs to another cluster (")
    assert "than the one that is named 'elsewhere' here" in line


def test_a_store_that_knows_nothing_of_the_cluster_is_refused(nodes: Nodes) -> None:
    stop(nodes.started(A))
    status, line = refusal(nodes.node(A, cluster="nowhere"))
    assert status == 1
    assert line.startswith("the data directory belongs to a cluster (")
    assert "this store has none that is named 'nowhere': start the node with the --cluster" in line


def test_a_node_of_a_cluster_does_not_start_alone(nodes: Nodes) -> None:
    stop(nodes.started(A))
    alone = nodes.node(A)
    alone.settings = ("--name", A, "--data-dir", str(nodes.folder / A))
    status, line = refusal(alone)
    assert status == 1
    assert "belongs to a node of a cluster (" in line
    assert "start it with the --cluster it had" in line


# -- names and disks -----------------------------------------------------------------------------


def test_a_name_that_runs_is_not_given_to_another_disk(nodes: Nodes) -> None:
    first = nodes.started(A)
    status, line = refusal(nodes.node(A, folder="another"))
    assert status == 78
    assert line.startswith(f"another disk than this has the name {A} in cluster")
    stop(first)


def test_a_name_that_has_run_is_not_given_to_a_new_disk(nodes: Nodes) -> None:
    stop(nodes.started(A))
    status, line = refusal(nodes.node(A, folder="another"))
    assert status == 78
    assert f"first have the node forgotten (amqpbrokerctl forget_cluster_node {A})" in line


def test_one_data_directory_is_for_one_process(nodes: Nodes) -> None:
    first = nodes.started(A)
    status, line = refusal(nodes.node(A))
    assert status == 1
    assert line.startswith(f"the data directory {nodes.folder / A} is used by a running node")
    stop(first)


@pytest.mark.parametrize("twin_runs", [True, False])
def test_an_old_copy_of_a_disk_is_refused(nodes: Nodes, twin_runs: bool) -> None:
    stop(nodes.started(A))
    copy_disk(nodes, A)
    first = nodes.started(A)
    if not twin_runs:
        stop(first)
    status, line = refusal(nodes.node(A, folder="copy"))
    assert status == 78
    assert line.startswith(
        f"the data directory is an old copy: it knows {A} up to incarnation 1, and cluster"
    )
    assert line.endswith(
        f"(amqpbrokerctl forget_cluster_node {A}), and start it with an empty --data-dir"
    )
    if twin_runs:
        stop(first)
    stop(nodes.started(A))


def test_of_two_processes_on_copies_of_one_disk_the_older_ends(nodes: Nodes) -> None:
    first = nodes.started(A)
    copy_disk(nodes, A)
    second = nodes.started(A, folder="copy")
    assert first.end() == 1
    line = said(first.last_words())
    assert line.startswith(f"another process was started as node {A} (incarnation 2, this one is 1")
    stop(second)


# -- etcd ----------------------------------------------------------------------------------------


@pytest.fixture
def fake_etcd() -> Iterator[Callable[[bytes], str]]:
    """Serves one answer for everything, and gives its URL."""
    servers: list[http.server.HTTPServer] = []

    def serve(body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("version", "complaint"),
    [("3.5.1", "can lose what it has committed"), ("3.3.27", "is too old")],
)
def test_an_etcd_of_a_refused_version_is_named(
    fake_etcd: Callable[[bytes], str], tmp_path: Path, version: str, complaint: str
) -> None:
    url = fake_etcd(b'{"etcdserver":"%s","etcdcluster":"3.5.0"}' % version.encode())
    status, line = refusal(Nodes([url], tmp_path).node(A))
    assert status == 78
    assert line.startswith(f"etcd {version} at {url} {complaint}: run 3.5.13 or newer")


def test_without_etcd_a_node_says_so_again_and_again_and_starts_when_it_is_there(
    etcd_executable: EtcdExecutable, etcd_options: list[str], tmp_path: Path
) -> None:
    servers = EtcdServers(etcd_executable, tmp_path, free_ports(1), options=etcd_options)
    nodes = Nodes(servers.urls, tmp_path)
    node = nodes.node(A)
    starting = threading.Thread(target=node.start, daemon=True)
    starting.start()
    begun_s = time.monotonic()
    while not node.log.exists():
        time.sleep(0.05)
    wait_for(node, "the cluster's store does not serve this node, trying on: no member of etcd")
    assert time.monotonic() - begun_s < 5
    wait_for(node, "the cluster's store does not serve this node, trying on", times=2)
    with servers:
        starting.join(LINE_S_MAX)
        assert not starting.is_alive()
        wait_for(node, "the cluster's store serves this node again")
        stop(node)


def test_a_node_that_waits_for_etcd_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        node = Nodes([url], tmp_path).node(A)
        starting = threading.Thread(target=pytest.raises, args=(DidNotStart, node.start))
        starting.start()
        while not node.log.exists():
            time.sleep(0.05)
        wait_for(node, "the cluster's store does not serve this node, trying on")
        begun_s = time.monotonic()
        node.terminate()
        starting.join(LINE_S_MAX)
        assert time.monotonic() - begun_s < 5
        assert "stopping: SIGTERM" in node.last_words()
