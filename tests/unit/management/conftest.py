import pytest

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.api import Api
from amqpbroker.testing.fakes import fake_world


@pytest.fixture
def broker() -> Broker:
    broker = Broker(fake_world())
    broker.boot("guest", "guest")
    return broker


@pytest.fixture
def api(broker: Broker) -> Api:
    return Api(broker)
