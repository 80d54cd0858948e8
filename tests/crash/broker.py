"""A broker in a process of its own, on a data directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs

PATIENCE_S = 30
TINY = """
from amqpbroker.cli.main import main
from amqpbroker.server import keeping
from amqpbroker.storage import disk_log, segments, store, wal
wal.WAL_FILE_BYTES_MAX = 300_000
segments.SEGMENT_BYTES_MAX = 100_000
disk_log.RESIDUE_BYTES_MAX = 10_000
store.WASTE_BYTES_MAX = 100_000
store.IDLE_WASTE_BYTES_MAX = 10_000
keeping.WAITING_BYTES_MAX = 200_000
keeping._IDLE_S = 0.05
main()
"""


class DidNotStart(Exception):
    """The broker has ended before it was ready: its exit status, and what it logged at last."""


@attrs.define
class Broker:
    """A node with ``settings`` on a loopback port, which it keeps; it logs to the file ``log``."""

    log: Path
    settings: tuple[str, ...]
    environment: dict[str, str] = attrs.Factory(dict)
    tiny: bool = False
    """Files of the journal and of segments are full soon, and hardly anything waits in memory."""
    port: int = 0
    process: subprocess.Popen[str] | None = None

    @classmethod
    def on_disk(cls, folder: Path, log: Path, **more: object) -> "Broker":
        return cls(log, ("--data-dir", str(folder), "--name", "rabbit@crash"), **more)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def start(self) -> None:
        """Start it; it accepts connections when this returns."""
        listen = f"127.0.0.1:{self.port}"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("AMQPBROKER_")
        }
        python = [sys.executable, *(("-c", TINY) if self.tiny else ("-m", "amqpbroker"))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*python, "serve", "--listen", listen, "--http=", "--metrics=", *self.settings],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment | self.environment,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("amqpbroker ready:"):
            raise DidNotStart(self.end(), self.last_words())
        self.port = int(line.split()[2].rpartition(":")[2])

    def last_words(self) -> str:
        """The end of what it has logged."""
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self, *, with_helpers: bool = False) -> None:
        """End it without giving it time for anything; `end` waits for that.

        ``with_helpers``: and its processes at once, as when the power fails. Else they end when
        they see that it has, and may have done their last work by then.
        """
        assert self.process is not None
        if with_helpers:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def terminate(self) -> None:
        """Ask it to end, as an operator would; `end` waits for that."""
        assert self.process is not None
        self.process.terminate()

    def end(self) -> int:
        """Wait until it has ended; the exit status. Raises `TimeoutExpired`, and kills it then."""
        process, self.process = self.process, None
        assert process is not None
        with process:  # Closes its pipe.
            try:
                return process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
