"""The brokers that are measured: ours, started anew for each run, and others that run already."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Protocol

from .client import BrokerError, Client, Url

READY = "amqpbroker ready:"
OURS = "amqpbroker"
STOP_TIMEOUT_S = 10.0
_COMMAND = (sys.executable, "-m", "amqpbroker", "serve", "--memory", "--listen", "127.0.0.1:0")


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that accepts connections."""

    url: Url
    pid: int | None = None
    start_s: float | None = None
    """From the start of its process to the end of the first AMQP handshake."""


class Subject(Protocol):
    """Something to measure, with a name for its column."""

    name: str
    product: str
    version: str

    def broker(self) -> AbstractContextManager[Broker]:
        """The broker for one run."""


class OwnBroker:
    """Our broker, a new process for each run."""

    def __init__(self) -> None:
        self.name = self.product = OURS
        with self.broker() as broker, Client(broker.url) as client:
            properties = client.server_properties
        self.version = str(properties.get("amqpbroker_version", properties.get("version", "")))

    @contextmanager
    def broker(self) -> Iterator[Broker]:
        """Start a broker in memory on a free port; end it with SIGTERM."""
        begun = time.perf_counter()
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                url = ready_url(process.stdout.readline())
                Client(url).close()
                yield Broker(url, process.pid, time.perf_counter() - begun)
            except BrokerError as error:
                raise BrokerError(f"{error}{_last_line(log)}") from error
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def _last_line(log: IO[bytes]) -> str:
    """What a broker logged last, to be added to an error."""
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((f"; it logged: {line}" for line in reversed(lines) if line.strip()), "")


def ready_url(line: str) -> Url:
    """Where a broker listens, from the one line that it prints when it is ready."""
    fields = dict(word.partition("=")[::2] for word in line.removeprefix(READY).split())
    if not line.startswith(READY) or "amqp" not in fields:
        raise BrokerError("our broker did not start")
    return Url.parse(fields["amqp"])


class RunningBroker:
    """A broker that somebody else has started."""

    def __init__(self, url: Url, name: str | None = None) -> None:
        self._url = url
        self.pid: int | None = None
        with Client(url) as client:
            properties = client.server_properties
        self.product = str(properties.get("product", url))
        self.version = str(properties.get("version", ""))
        self.name = name or self.product

    @contextmanager
    def broker(self) -> Iterator[Broker]:
        """The broker as it is."""
        yield Broker(self._url, self.pid)


def parse_target(text: str) -> tuple[str | None, Url]:
    """Read ``[NAME=]amqp://…``. Raises `ValueError`."""
    name, equals, url = text.partition("=")
    if equals and "://" not in name:
        return name or None, Url.parse(url)
    return None, Url.parse(text)


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
