"""A broker in a process of its own, for tests in which it must die or come back."""

import os
import subprocess
import sys
from typing import Self

import attrs

_PATIENCE_S = 20


@attrs.define
class BrokerProcess:
    """A memory node on a loopback port, as a context; what it logs goes to standard error.

    It can be killed and started again, and then has the same port and nothing else that it had.
    """

    host: str = "127.0.0.1"
    port: int = 0
    """A free one is taken at the first start."""
    _process: subprocess.Popen[str] | None = attrs.field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where clients connect, as user guest, in the virtual host ``/``."""
        return f"amqp://guest:guest@{self.host}:{self.port}/"

    def start(self) -> None:
        """Start it; it accepts connections when this returns."""
        assert self._process is None
        listen = f"{self.host}:{self.port}"
        settings = ("--memory", "--listen", listen, "--http=", "--metrics=")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "amqpbroker", "serve", *settings],
            stdout=subprocess.PIPE,
            text=True,
            env={
                name: value
                for name, value in os.environ.items()
                if not name.startswith("AMQPBROKER_")
            },
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline().split()
        if ready[:2] != ["amqpbroker", "ready:"]:
            self._end()
            raise RuntimeError("the broker did not start; what it logged says why")
        self.port = int(ready[2].rpartition(":")[2])

    def kill(self) -> None:
        """End it without giving it time for anything."""
        assert self._process is not None
        self._process.kill()
        self._end()

    def stop(self) -> None:
        """End it as an operator would."""
        assert self._process is not None
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        with process:  # Closes its pipe.
            process.wait(_PATIENCE_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self.kill()
