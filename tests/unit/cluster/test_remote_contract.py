"""A queue on another node keeps what every queue promises."""

from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.queues.queue import Keeper, Queue
from amqpbroker.storage.log import Log
from amqpbroker.testing.queue_contract import QueueContract
from amqpbroker.testing.queue_time_contract import QueueTimeContract
from amqpbroker.testing.remote_queues import NearQueue


class TestRemoteQueue(QueueContract, QueueTimeContract):
    def open(self, definition: QueueDefinition, log: Log, keeper: Keeper) -> Queue:
        return NearQueue(
            definition, keeper, lambda definition, keeper: ClassicQueue(definition, log, keeper)
        )
