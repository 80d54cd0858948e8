"""Fixtures for the tests of those who use a broker: ``pip install amqpbroker[pytest]``, no more.

``amqp_broker`` is one broker for the whole session, in a thread of the test process; ``amqp_vhost``
a fresh virtual host for each test. Both are plain synchronous fixtures, at home with any client
library and with pytest-asyncio, pytest-trio and pytest-xdist (a broker per worker). What the broker
logged is attached to the report of a test that fails.

``amqp_cluster`` makes clusters of processes, with an etcd that is found on the PATH or in the extra
``cluster``: for tests of what happens when a node dies.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from amqpbroker.testing.cluster import ClusterForTest
    from amqpbroker.testing.thread import BrokerThread, VHostForTest

_broker_key = pytest.StashKey["BrokerThread"]()
_clusters_key = pytest.StashKey["list[ClusterForTest]"]()


@pytest.fixture(scope="session")
def amqp_broker(request: pytest.FixtureRequest) -> "Iterator[BrokerThread]":
    """A broker in memory on a free port: ``.host``, ``.port``, ``.url``."""
    from amqpbroker.testing.thread import BrokerThread

    with BrokerThread() as broker:
        request.config.stash[_broker_key] = broker
        yield broker


@pytest.fixture
def amqp_vhost(amqp_broker: "BrokerThread") -> "Iterator[VHostForTest]":
    """A fresh virtual host, dropped afterwards: ``.name``, ``.url``."""
    with amqp_broker.vhost() as vhost:
        yield vhost


@pytest.fixture
def amqp_cluster(request: pytest.FixtureRequest) -> "Iterator[Callable[..., ClusterForTest]]":
    """Make a cluster of ``n`` nodes (3), which ends with the test.

    ``.nodes[i].url``, ``.kill(i)``, ``.stop(i)``, ``.start(i)``, ``.partition(a, b)``, ``.heal()``.
    """
    from amqpbroker.testing.cluster import ClusterForTest

    request.node.stash[_clusters_key] = clusters = []
    with ExitStack() as undo:

        def make(n: int = 3, etcd_members: int = 1) -> ClusterForTest:
            cluster = ClusterForTest(n, etcd_members)
            clusters.append(undo.enter_context(cluster))
            return cluster

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Attach what the broker logged in this phase of the test to the report of a failure."""
    report = yield
    broker = item.config.stash.get(_broker_key, None)
    if broker is not None:
        lines = broker.take_log()
        if report.failed and lines:
            report.sections.append(("amqpbroker log", "\n".join(lines)))
    if report.failed:
        for cluster in item.stash.get(_clusters_key, []):
            report.sections.append(("amqpbroker logs", cluster.logs()))
    return report
