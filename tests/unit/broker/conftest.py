"""What the tests of the broker share: a broker in a world that stands still, and its peers."""

from collections.abc import Callable
from typing import Any

import pytest

from amqpbroker.broker.broker import Broker
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.testing.fakes import FakeClock, SlowQueues, fake_world
from amqpbroker.testing.peer import Peer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def slow() -> SlowQueues:
    """The queues that were declared with the type ``slow``."""
    return SlowQueues()


@pytest.fixture
def broker(clock: FakeClock, slow: SlowQueues) -> Broker:
    broker = Broker(fake_world(clock=clock), queue_types={"classic": ClassicQueues(), "slow": slow})
    broker.boot("guest", "guest")
    return broker


@pytest.fixture
def connect(broker: Broker) -> Callable[..., Peer]:
    """Connect a peer and open channels: ``connect(1, 2, vhost="/")``."""

    def connect(*channels: int, **options: Any) -> Peer:
        return Peer(broker).open(*channels, **options)

    return connect


@pytest.fixture
def peer(connect: Callable[..., Peer]) -> Peer:
    """A peer with channel 1."""
    return connect(1)
