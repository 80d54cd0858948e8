"""What the tests of storage share: a data directory on a simulated disk."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from amqpbroker.storage import disk_log, segments
from amqpbroker.storage.store import Store
from amqpbroker.testing.sim_disk import SimDisk
from amqpbroker.testing.trace import Trace

Wait = Callable[[Callable[[], Awaitable[object]]], object]


@pytest.fixture
def wait() -> Wait:
    """Run what waits, in no time."""

    def wait(act: Callable[[], Awaitable[object]]) -> object:
        return trio.run(act, clock=trio.testing.MockClock(autojump_threshold=0))

    return wait


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_log, "RESIDUE_BYTES_MAX", 3_000)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 30_000)


@pytest.fixture
def disk() -> SimDisk:
    return SimDisk(random.Random(1), Trace())


@pytest.fixture
def open_store(disk: SimDisk, wait: Wait) -> Callable[..., Store]:
    """Open the data directory, as a node does that has just been started."""

    def open_store(waiting_bytes_max: int = 1 << 20, name: str = "rabbit@here") -> Store:
        disk.restart()
        store = wait(partial(Store.open, disk, "/data", name, waiting_bytes_max))
        assert isinstance(store, Store)
        return store

    return open_store
