"""A cluster on one machine: etcd and nodes as processes, for trying out and for tests.

DIR/etcd/           what etcd keeps and logs
DIR/rabbit1/ …      the data directories of the nodes, with their logs beside (DIR/rabbit1.log)
DIR/cluster.json    where everything is; started there again, it is there again
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import attrs

from amqpbroker.cli.etcd_servers import EtcdServers, MemberPorts, find_etcd, free_ports
from amqpbroker.errors import ConfigError

NODES_MAX = 20
"""With more, the ports of one kind would reach into those of another."""
_HOST = "127.0.0.1"
_READY = "amqpbroker ready: "
_READY_S_MAX = 60.0
_STOP_S_MAX = 20.0
_LOOK_S = 0.2
_LOG_TAIL_BYTES = 2000


@attrs.frozen
class NodePorts:
    """Where one node listens."""

    amqp: int
    http: int
    metrics: int
    link: int

    @classmethod
    def from_base(cls, base: int, number: int) -> "NodePorts":
        """Those of the node ``number``, from 0, of a cluster whose first has AMQP at ``base``."""
        port = base + number
        return cls(port, 10_000 + port, 10_020 + port, 20_000 + port)


class LocalNode:
    """One node of a cluster on this machine, and its process while it runs."""

    def __init__(
        self, number: int, ports: NodePorts, folder: Path, options: Sequence[str] = ()
    ) -> None:
        self.name = f"rabbit{number + 1}@localhost"
        self.ports = ports
        self.data_dir = folder / f"rabbit{number + 1}"
        self.log = folder / f"rabbit{number + 1}.log"
        self._options = list(options)
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, as user guest, in the virtual host ``/``."""
        return f"amqp://guest:guest@{_HOST}:{self.ports.amqp}/"

    @property
    def http_url(self) -> str:
        """Where its HTTP API is."""
        return f"http://{_HOST}:{self.ports.http}"

    @property
    def pid(self) -> int | None:
        """Its process; None: it does not run."""
        return None if self._process is None else self._process.pid

    def launch(self, etcd_urls: Sequence[str]) -> None:
        """Start its process."""
        assert self._process is None, self.name
        settings = {
            "name": self.name,
            "data-dir": str(self.data_dir),
            "listen": f"{_HOST}:{self.ports.amqp}",
            "http": f"{_HOST}:{self.ports.http}",
            "metrics": f"{_HOST}:{self.ports.metrics}",
            "link": f"{_HOST}:{self.ports.link}",
            "cluster": ",".join(etcd_urls),
        }
        own = [f"--{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "amqpbroker", "serve", *own, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(),
            )

    def wait_until_ready(self) -> None:
        """Wait until it serves clients. Raises `ConfigError`, with the end of its log."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        # Whatever is too slow is killed; then the line ends.
        impatience = threading.Timer(_READY_S_MAX, process.kill)
        impatience.start()
        try:
            line = process.stdout.readline()
        finally:
            impatience.cancel()
        if not line.startswith(_READY):
            self.end()
            tail = self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
            raise ConfigError(f"{self.name} did not start; {self.log} ends with:\n{tail}")

    def status(self) -> int | None:
        """With what its process has ended by itself; None: it has not."""
        return None if self._process is None else self._process.poll()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait until it has ended, for some time; then kill it. Its status."""
        process, self._process = self._process, None
        assert process is not None
        with process:  # Closes its pipe.
            try:
                return process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


class LocalCluster:
    """etcd and nodes in ``folder``, as a context in which they run.

    ``ports`` and ``options`` are those of each node. Raises `ConfigError` if something cannot be
    started.
    """

    def __init__(
        self,
        folder: Path,
        ports: Sequence[NodePorts],
        *,
        etcd_members: int = 1,
        options: Callable[[int], Sequence[str]] = lambda number: (),
    ) -> None:
        self.folder = folder
        self.file = folder / "cluster.json"
        self.executable = find_etcd()
        self.etcd = EtcdServers(self.executable, folder / "etcd", self._etcd_ports(etcd_members))
        common = ["--etcd-development"] if self.executable.is_development else []
        self.nodes = [
            LocalNode(number, each, folder, [*common, *options(number)])
            for number, each in enumerate(ports)
        ]

    def _etcd_ports(self, members: int) -> list[MemberPorts]:
        """The ports that etcd had there before, or new ones."""
        try:
            there = json.loads(self.file.read_text())["etcd"]
            ports = [MemberPorts(each["client"], each["peer"], each["health"]) for each in there]
        except FileNotFoundError:
            return free_ports(members)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.file} cannot be read ({error!r}): choose another folder with --data-dir"
            ) from error
        if len(ports) != members:
            raise ConfigError(
                f"{self.file} says that there are {len(ports)} members of etcd: start it with"
                f" --etcd-members {len(ports)}, or choose another folder with --data-dir"
            )
        return ports

    def start(self) -> None:
        """Start everything; done when all nodes serve clients."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self.etcd.start()
        for node in self.nodes:
            node.launch(self.etcd.urls)
        for node in self.nodes:
            node.wait_until_ready()
        self._write()

    def _write(self) -> None:
        """Say where everything is."""
        nodes: list[dict[str, Any]] = [
            {
                "name": node.name,
                "pid": node.pid,
                "url": node.url,
                "http_url": node.http_url,
                "ports": attrs.asdict(node.ports),
                "data_dir": str(node.data_dir),
                "log": str(node.log),
            }
            for node in self.nodes
        ]
        etcd = [attrs.asdict(each) for each in self.etcd.ports]
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps({"etcd": etcd, "nodes": nodes}, indent=2) + "\n")
        draft.replace(self.file)

    def start_node(self, number: int) -> None:
        """Start a node that does not run; done when it serves clients."""
        self.nodes[number].launch(self.etcd.urls)
        self.nodes[number].wait_until_ready()

    def kill_node(self, number: int) -> None:
        """End a node without giving it time for anything."""
        self.nodes[number].signal(signal.SIGKILL)
        self.nodes[number].end()

    def stop_node(self, number: int) -> None:
        """End a node as an operator would."""
        self.nodes[number].signal(signal.SIGTERM)
        self.nodes[number].end()

    def ended(self) -> list[tuple[LocalNode, int]]:
        """Nodes that have ended by themselves since the last call, and their status."""
        found = [node for node in self.nodes if node.status() is not None]
        return [(node, node.end()) for node in found]

    def watch(self, say: Callable[[str], None], is_over: Callable[[], bool]) -> None:
        """Tell which nodes end by themselves, until ``is_over``, or none is left."""
        while not is_over() and any(node.pid is not None for node in self.nodes):
            for node, status in self.ended():
                say(f"{node.name} has ended, status {status}; {node.log} says why")
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """End all nodes in good order, then etcd."""
        running = [node for node in self.nodes if node.pid is not None]
        for node in running:
            node.signal(signal.SIGTERM)
        for node in running:
            node.end()
        self.etcd.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _environment() -> dict[str, str]:
    """The environment, without settings for a node of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AMQPBROKER_")}
