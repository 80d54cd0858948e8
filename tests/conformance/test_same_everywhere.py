"""Clients notice no difference between a node that has the queues and one that has not.

The same random clients, on a node alone and on one whose queues another node has: what each channel
is told is the same, word for word. Only what two queues say at once may come in another order.
"""

import random
import re
from typing import Any

import pytest
from kit.drivers import InProcess, Setting
from kit.link import Link

QUEUES: dict[str, dict[str, Any]] = {
    "q": {"durable": True},
    "r": {"auto_delete": True},
    "s": {"arguments": {"x-message-ttl": 500, "x-expires": 2000}},
    "t": {"arguments": {"x-max-priority": 3}},
}
CHANNELS = (1, 2, 3)
"""On the second, publishes are confirmed; the third has transactions."""


Told = dict[str, list[str]]
"""What came, by connection and channel."""


class Side:
    """One broker, and what its clients are told."""

    def __init__(self, setting: Setting) -> None:
        self.driver = InProcess(setting)
        self.links = {name: self._connect(name) for name in "ab"}

    def _connect(self, name: str) -> Link:
        link = Link(name, self.driver.connect("127.0.0.1"), lambda line: None)
        link.shake_hands(0.0, channels=())
        for channel in CHANNELS:
            self._open(link, channel)
        return link

    def _open(self, link: Link, channel: int) -> None:
        link.open_channel(channel, 0.0)
        if channel > 1:
            select = "confirm.select" if channel == 2 else "tx.select"
            link.send(channel, select, (), {})
            link.next(channel, 0.0)

    def do(
        self, what: str, name: str, channel: int, fields: dict[str, Any]
    ) -> dict[str, list[str]]:
        """Have something done; what the channels are told thereupon, by channel."""
        if what == "wait":
            self.driver.wait(fields["s"])
        elif what == "drop":
            self.links[name].stream.drop()
            self.driver.wait(0)
            self.links[name] = self._connect(name)
        else:
            self.links[name].send(channel, what, (), dict(fields))
        told = self._told()
        if what == "tx.commit":  # What is committed may be there before it is said to be.
            for lines in told.values():
                lines.sort(key=lambda line: line.startswith("basic.deliver"))
        return told

    def _told(self) -> Told:
        told: Told = {}
        closed = True
        while closed:
            closed = False
            for name, link in self.links.items():
                while link.pull(0.0):
                    pass
                for channel, items in link.inbox.items():
                    while items:
                        item = items.popleft()
                        told.setdefault(f"{name}{channel}", []).append(str(item))
                        if item.name in ("channel.close", "channel.close-ok"):
                            if item.name == "channel.close":
                                link.send(channel, "channel.close-ok", (), {})
                            self._open(link, channel)
                            closed = True
        return told


def newest_tags(told: Told) -> dict[str, int]:
    """The last delivery tag on each channel that was told of any."""
    newest: dict[str, int] = {}
    for place, lines in told.items():
        for line in lines:
            if line.startswith("channel.close"):
                newest[place] = 0
            elif found := re.search(r"delivery_tag=(\d+), redelivered", line):
                newest[place] = int(found[1])
    return newest


def of_each(told: Told) -> dict[tuple[str, str], list[str]]:
    """What came, by connection, channel and consumer, without delivery tags."""
    found: dict[tuple[str, str], list[str]] = {}
    for place, lines in told.items():
        for line in lines:
            delivered = re.match(r"basic.deliver\(consumer_tag='(\w+)', delivery_tag=\d+", line)
            consumer, rest = (delivered[1], line[delivered.end() :]) if delivered else ("", line)
            found.setdefault((place, consumer), []).append(rest)
    return found


def step(
    luck: random.Random, number: int, newest_tag: int, queue: str
) -> tuple[str, dict[str, Any]]:
    """Something that a client does."""
    tag = luck.randint(max(1, newest_tag - 5), newest_tag + 1)

    def chance(share: float) -> bool:
        return luck.random() < share

    message = {
        "exchange": luck.choice(("", "", "", "amq.fanout")),
        "routing_key": queue,
        "mandatory": chance(0.3),
        "body": f"{number}",
        "delivery_mode": luck.choice((1, 2)),
        "priority": luck.randrange(5),
    }
    consumer = {
        "queue": queue,
        "consumer_tag": f"c{number}",
        "no_ack": chance(0.3),
        "exclusive": chance(0.1),
        "arguments": {"x-priority": luck.choice((0, 0, 1))},
    }
    settled = {"delivery_tag": tag, "multiple": chance(0.4)}
    binding = {"queue": queue, "exchange": "amq.fanout"}
    kinds: list[tuple[int, str, dict[str, Any]]] = [
        (8, "basic.publish", message),
        (3, "basic.get", {"queue": queue, "no_ack": chance(0.3)}),
        (3, "basic.consume", consumer),
        (1, "basic.cancel", {"consumer_tag": f"c{luck.randrange(number + 1)}"}),
        (5, "basic.ack", settled),
        (2, "basic.nack", {**settled, "requeue": chance(0.7)}),
        (1, "basic.reject", {"delivery_tag": tag, "requeue": chance(0.7)}),
        (1, "basic.recover", {"requeue": True}),
        (2, "basic.qos", {"prefetch_count": luck.randrange(4)}),
        (1, "queue.purge", {"queue": queue}),
        (1, "queue.delete", {"queue": queue, "if_unused": chance(0.5), "if_empty": chance(0.5)}),
        (2, "queue.declare", {"queue": queue, "passive": True}),
        (3, "queue.declare", {"queue": queue, **QUEUES[queue]}),
        (1, "queue.bind", binding),
        (1, "queue.unbind", binding),
        (4, "tx.commit", {}),
        (1, "tx.rollback", {}),
        (1, "channel.close", {"reply_code": 200}),
        (1, "wait", {"s": luck.choice((0.1, 0.6, 3.0))}),
        (1, "drop", {}),
    ]
    [(_, what, fields)] = luck.choices(kinds, [weight for weight, _, _ in kinds])
    return what, fields


@pytest.mark.parametrize("seed", range(40))
def test_clients_are_told_the_same(seed: int) -> None:
    luck = random.Random(seed)
    here, elsewhere = Side("later"), Side("elsewhere")
    newest: dict[str, int] = {}
    for number in range(150):
        name, channel, queue = luck.choice("ab"), luck.choice(CHANNELS), luck.choice(list(QUEUES))
        what, fields = step(luck, number, newest.get(f"{name}{channel}", 0), queue)
        if what.startswith("tx."):
            channel = 3
        told = here.do(what, name, channel, fields)
        told_elsewhere = elsewhere.do(what, name, channel, fields)
        if told_elsewhere != told:
            assert of_each(told_elsewhere) == of_each(told), (seed, number, what, fields)
            return  # Delivery tags do not mean the same from here on.
        newest.update(newest_tags(told))
