"""The brokers that are measured: ours, started anew for each run, and others that run already."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

from amqpbroker.cli.etcd_servers import EtcdServers, find_etcd, free_ports
from amqpbroker.errors import ConfigError

from .client import BrokerError, Client, Url

READY = "amqpbroker ready:"
OURS = "amqpbroker"
STOP_TIMEOUT_S = 60.0
FATE_S = 0.5
"""Its connections close a little earlier than a process ends."""
_DOORS = tuple(f"--{door}=127.0.0.1:0" for door in ("listen", "http", "metrics"))
_COMMAND = (sys.executable, "-m", "amqpbroker", "serve", *_DOORS)


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that accepts connections."""

    url: Url
    pid: int | None = None
    start_s: float | None = None
    """From the start of its process to the end of the first AMQP handshake."""
    restart: Callable[[signal.Signals], tuple[float, "Broker"]] | None = None
    """End it by a signal, and start it again on what it has kept; None if it is not ours to.

    Returns the seconds that ending took, and the broker, which may be somewhere else now.
    """
    holder: Url | None = None
    """Another node of the same cluster; None if none is known."""
    holder_pid: int | None = None
    """Its process, if it is ours."""


class Subject(Protocol):
    """Something to measure, with a name for its column."""

    name: str
    product: str
    version: str

    def broker(
        self, durable: bool = False, clustered: bool = False
    ) -> AbstractContextManager[Broker]:
        """The broker for one run: if it is to be ``durable``, on a disk; or a node of several."""


class OwnNode:
    """A process of our broker, which can be ended and started again, on a port of its own choice.

    ``where`` are the arguments that say where it keeps its data.
    """

    def __init__(self, where: Sequence[str], log: IO[bytes]) -> None:
        self._command = (*_COMMAND, *where)
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Broker:
        """Start it, and wait until it has shaken hands. Raises `BrokerError`."""
        begun = time.perf_counter()
        self._process = process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert process.stdout is not None
        url = ready_url(process.stdout.readline())
        Client(url).close()
        return Broker(url, process.pid, time.perf_counter() - begun, self._restart)

    def _restart(self, how: signal.Signals) -> tuple[float, Broker]:
        begun = time.perf_counter()
        self.end(how)
        return time.perf_counter() - begun, self.start()

    def end(self, how: signal.Signals) -> None:
        """Send it a signal, and wait until it has ended; kill it if that takes too long."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            process.send_signal(how)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise BrokerError(f"our broker did not end for {STOP_TIMEOUT_S:.0f} s") from None

    def fate(self) -> str:
        """How it ended, to be added to an error; empty if it runs."""
        try:
            status = self._process.wait(FATE_S) if self._process else None
        except subprocess.TimeoutExpired:
            status = None
        return "" if status is None else f"; its process ended with status {status}"

    def __enter__(self) -> "OwnNode":
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGTERM)


def _last_line(log: IO[bytes]) -> str:
    """What a broker logged last, to be added to an error."""
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((f"; it logged: {line}" for line in reversed(lines) if line.strip()), "")


class OwnBroker:
    """Our broker, a new process for each run; durable ones have a folder in ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.name = self.product = OURS
        with self.broker() as broker, Client(broker.url) as client:
            properties = client.server_properties
        self.version = str(properties.get("amqpbroker_version", properties.get("version", "")))

    @contextmanager
    def broker(self, durable: bool = False, clustered: bool = False) -> Iterator[Broker]:
        """Start a broker on a free port; end it with SIGTERM.

        In memory, or ``durable`` on a data directory that is deleted afterwards; or two nodes and
        an etcd, if it is to be ``clustered``.
        """
        if clustered:
            with own_cluster(self._data_dir) as (holder, broker):
                yield replace(broker, holder=holder.url, holder_pid=holder.pid, restart=None)
            return
        with ExitStack() as stack:
            where = ["--memory"]
            if durable:
                kept = tempfile.TemporaryDirectory(prefix="bench-data-", dir=self._data_dir)
                where = ["--data-dir", stack.enter_context(kept)]
            log = stack.enter_context(tempfile.TemporaryFile())
            node = stack.enter_context(OwnNode(where, log))
            try:
                yield node.start()
            except BrokerError as error:
                raise BrokerError(f"{error}{node.fate()}{_last_line(log)}") from error


@contextmanager
def own_cluster(data_dir: Path) -> Iterator[list[Broker]]:
    """Two nodes of our broker and an etcd, which keep their data below ``data_dir`` meanwhile.

    Raises `BrokerError`.
    """
    with ExitStack() as stack:
        kept = tempfile.TemporaryDirectory(prefix="bench-data-", dir=data_dir)
        folder = Path(stack.enter_context(kept))
        try:
            etcd = EtcdServers(find_etcd(), folder / "etcd", free_ports(1))
            urls = stack.enter_context(etcd).urls
        except ConfigError as error:
            raise BrokerError(str(error)) from error
        log = stack.enter_context(tempfile.TemporaryFile())
        nodes = []
        for name in ("rabbit1@localhost", "rabbit2@localhost"):
            where = ["--name", name, "--data-dir", str(folder / name)]
            where += ["--cluster", ",".join(urls), "--link", "127.0.0.1:0"]
            nodes.append(stack.enter_context(OwnNode(where, log)))
        try:
            yield [node.start() for node in nodes]
        except BrokerError as error:
            fates = "".join(node.fate() for node in nodes)
            raise BrokerError(f"{error}{fates}{_last_line(log)}") from error


def ready_url(line: str) -> Url:
    """Where a broker listens, from the one line that it prints when it is ready."""
    fields = dict(word.partition("=")[::2] for word in line.removeprefix(READY).split())
    if not line.startswith(READY) or "amqp" not in fields:
        raise BrokerError("our broker did not start")
    return Url.parse(fields["amqp"])


class RunningBroker:
    """A broker that somebody else has started."""

    def __init__(self, url: Url, name: str | None = None, holder: Url | None = None) -> None:
        self._url = url
        self._holder = holder
        self.pid: int | None = None
        with Client(url) as client:
            properties = client.server_properties
        self.product = str(properties.get("product", url))
        self.version = str(properties.get("version", ""))
        self.name = name or self.product

    @contextmanager
    def broker(self, durable: bool = False, clustered: bool = False) -> Iterator[Broker]:
        """The broker as it is; all of these are taken to be durable."""
        yield Broker(self._url, self.pid, holder=self._holder)


def parse_target(text: str) -> tuple[str | None, Url, Url | None]:
    """Read ``[NAME=]amqp://…[,amqp://…]``: the second is another node. Raises `ValueError`."""
    name, equals, urls = text.partition("=")
    if not equals or "://" in name:
        name, urls = "", text
    first, comma, second = urls.partition(",")
    return name or None, Url.parse(first), Url.parse(second) if comma else None


def processor_time_s(pid: int) -> float:
    """The processor time that all threads of a process have used. Raises `OSError`."""
    return time.clock_gettime((~pid << 3) | 2)  # What clock_getcpuclockid(3) makes of it.


def resident_bytes(pid: int) -> int:
    """Memory that a process holds. Raises `BrokerError` if there is no such process."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        pass
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    if not shown.stdout.strip():
        raise BrokerError(f"there is no process {pid}")
    return int(shown.stdout) * 1024


def settled_resident_bytes(pid: int) -> int:
    """Memory that a process holds once that no longer changes by 0.1 %, or after 5 s."""
    held = resident_bytes(pid)
    for _ in range(20):
        time.sleep(0.25)
        before, held = held, resident_bytes(pid)
        if abs(held - before) * 1000 <= held:
            break
    return held


def helpers_bytes(pid: int) -> int:
    """Memory that the processes hold which a process has started, and those that they have."""
    shown = subprocess.run(
        ["ps", "-A", "-o", "ppid=,pid=,rss="], capture_output=True, text=True, check=True
    )
    rows = [tuple(map(int, line.split())) for line in shown.stdout.splitlines()]
    parents, held = {pid}, 0
    while children := [(child, rss) for parent, child, rss in rows if parent in parents]:
        parents = {child for child, _ in children}
        held += sum(rss for _, rss in children)
    return held * 1024
