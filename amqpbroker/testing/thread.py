"""A broker in a thread of its own, for tests that know nothing of trio."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

import attrs
import trio

from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import PermissionDefinition, VHostDefinition, delete, put
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node

Result = TypeVar("Result")

_LOG_LINES_MAX = 1000


@attrs.frozen
class VHostForTest:
    """A virtual host of a running broker."""

    name: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """Where clients connect, as user guest."""
        return f"amqp://guest:guest@{self.host}:{self.port}/{self.name}"


class _LogKeeper(logging.Handler):
    """Keeps the last lines."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=_LOG_LINES_MAX)
        self.setFormatter(logging.Formatter("[%(levelname)s] %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)  # A name may hold what no terminal can show.
        self.lines.append(line.encode("utf-8", "backslashreplace").decode())


class BrokerThread:
    """A memory node on a free loopback port, as a context."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._numbers = itertools.count(1)
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._log = _LogKeeper()
        self._thread = threading.Thread(target=self._run, name="amqpbroker")
        self._token: trio.lowlevel.TrioToken
        self._stop: trio.Event
        self._broker: Broker

    @property
    def url(self) -> str:
        """Where clients connect, as user guest, in the virtual host ``/``."""
        return f"amqp://guest:guest@{self.host}:{self.port}/"

    def __enter__(self) -> Self:
        logger = logging.getLogger("amqpbroker")
        logger.addHandler(self._log)
        logger.setLevel(logging.INFO)
        self._thread.start()
        self._ready.wait()
        if self._fault is not None:
            raise self._fault
        return self

    def __exit__(self, *exception: object) -> None:
        self.call(self._stop.set)
        self._thread.join()
        logging.getLogger("amqpbroker").removeHandler(self._log)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self._fault = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        config = Config(memory=True, listen="127.0.0.1:0", shutdown_timeout_s=0.1)
        async with Node(config) as node:
            self.port = node.address[1]
            self._broker = node.broker
            self._token = trio.lowlevel.current_trio_token()
            self._stop = trio.Event()
            self._ready.set()
            await self._stop.wait()

    def call(self, act: Callable[[], Result]) -> Result:
        """Run ``act`` in the broker's thread, between two of its turns."""
        return trio.from_thread.run_sync(act, trio_token=self._token)

    @contextmanager
    def vhost(self) -> Iterator[VHostForTest]:
        """A fresh virtual host; it is dropped, with its connections, when the block is left."""
        name = f"test-{next(self._numbers)}"
        definition = VHostDefinition(name)
        self.call(lambda: self._make(definition))
        try:
            yield VHostForTest(name, self.host, self.port)
        finally:
            self.call(lambda: self._drop(definition))

    def _make(self, definition: VHostDefinition) -> None:
        self._broker.apply(put(definition))
        self._broker.apply(put(PermissionDefinition(definition.name, "guest", ".*", ".*", ".*")))

    def _drop(self, definition: VHostDefinition) -> None:
        self._broker.apply(delete(definition))
        self._broker.turn.end_batch()

    def take_log(self) -> list[str]:
        """What was logged since this was last asked."""
        lines = list(self._log.lines)
        self._log.lines.clear()
        return lines
