"""Fixtures for the tests of those who use a broker: ``pip install amqpbroker[pytest]``, no more.

``amqp_broker`` is one broker for the whole session, in a thread of the test process; ``amqp_vhost``
a fresh virtual host for each test. Both are plain synchronous fixtures, at home with any client
library and with pytest-asyncio, pytest-trio and pytest-xdist (a broker per worker). What the broker
logged is attached to the report of a test that fails.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from amqpbroker.testing.thread import BrokerThread, VHostForTest

_broker_key = pytest.StashKey["BrokerThread"]()


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Attach what the broker logged in this phase of the test to the report of a failure."""
    report = yield
    broker = item.config.stash.get(_broker_key, None)
    if broker is not None:
        lines = broker.take_log()
        if report.failed and lines:
            report.sections.append(("amqpbroker log", "\n".join(lines)))
    return report
