"""Messages that are too many octets for one frame."""

import pytest

from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.storage.log import MemoryLog
from amqpbroker.testing.fakes import FakeConsumer, FakeKeeper, fake_origin
from amqpbroker.testing.remote_queues import NearQueue


@pytest.mark.parametrize("no_ack", [False, True])
def test_big_messages_are_delivered_in_several_frames(
    monkeypatch: pytest.MonkeyPatch, no_ack: bool
) -> None:
    keeper = FakeKeeper()
    queue = NearQueue(
        QueueDefinition("/", "q"), keeper, lambda this, that: ClassicQueue(this, MemoryLog(), that)
    )
    sizes: list[int] = []
    frame = queue._queues.frame
    monkeypatch.setattr(
        queue._queues,
        "frame",
        lambda link, kind, payload: sizes.append(len(payload)) or frame(link, kind, payload),
    )
    raws = [bytes([number]) * 300_000 for number in range(20)]
    raws[5] = bytes(3_000_000)
    queue.publish(fake_origin(), raws)
    consumer = FakeConsumer(credit=100, no_ack=no_ack)
    queue.consume(consumer)
    keeper.hand_out()

    assert consumer.raws == raws
    assert sorted(sizes)[-1] < 3_000_200
    assert sorted(sizes)[-2] < 1_000_000
