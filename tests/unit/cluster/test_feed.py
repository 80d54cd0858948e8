"""What a node makes of its cluster's store: what others have written there too."""

import json
import logging
import random
from typing import Any

import attrs
import pytest

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.cluster_queues import ClusterQueues
from amqpbroker.cluster.etcd.contract import Event, EventBatch, KeyValue
from amqpbroker.cluster.feed import Feed
from amqpbroker.cluster.schema import Schema, leadership_value
from amqpbroker.definitions import (
    Definition,
    ExchangeDefinition,
    PolicyDefinition,
    QueueDefinition,
    UserDefinition,
    VHostDefinition,
)
from amqpbroker.errors import DiskFailure, StoreLost
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.replication.leadership import only_on
from amqpbroker.testing.fakes import fake_world

SCHEMA = Schema("c")
VHOST = VHostDefinition("/")
QUEUE = QueueDefinition("/", "q", durable=True, log_id=7)
GOOD: dict[str, Any] = {
    "id": 9,
    "durable": True,
    "exclusive": False,
    "auto_delete": False,
    "owner": None,
    "args": {},
}


class Node:
    """A broker, and what it knows of a store in which anybody may write."""

    def __init__(self) -> None:
        queues = ClusterQueues("rabbit@a", ClassicQueues())
        self.broker = Broker(fake_world(), name="rabbit@a", queue_types={"classic": queues})
        self.feed = Feed(SCHEMA, self.broker.apply)
        self.revision = 0
        self.there: dict[bytes, KeyValue] = {}
        for each in (VHOST, UserDefinition("ann", ""), QUEUE):
            if isinstance(each, QueueDefinition):
                self.put(SCHEMA.leadership_key(each), leadership_value(only_on("rabbit@a")))
            self.write(each)

    def write(self, definition: Definition) -> None:
        self.put(SCHEMA.key(definition), SCHEMA.value(definition))

    def put(self, key: bytes, value: bytes) -> None:
        self.revision += 1
        before = self.there.get(key)
        created = self.revision if before is None else before.create_revision
        self.there[key] = KeyValue(key, value, created, self.revision, 1)
        event = Event(key, value, self.revision, created)
        self.feed.take(EventBatch(self.revision, (event,)))

    def delete(self, key: bytes) -> None:
        self.revision += 1
        del self.there[key]
        self.feed.take(EventBatch(self.revision, (Event(key, None, self.revision, 0),)))

    def restart(self) -> "Node":
        """A node that reads everything at once."""
        other = Node()
        other.feed.load(self.there.values(), self.revision)
        return other

    @property
    def names(self) -> set[str]:
        """Everything that the broker knows, beside what every virtual host has."""
        return {
            name
            for vhost in self.broker.vhosts.values()
            for name in (vhost.name, *vhost.queues, *vhost.router.exchanges)
            if not name.startswith("amq.")
        } | set(self.broker.users)


def changed(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"\xff\xfe/x", b"{}"),
        (b"q/%2F/\xff", changed()),
        (b"q/%2F/a/b", changed()),
        (b"q/%2F", changed()),
        (b"q/nowhere/a", changed()),
        (b"q/%2F/a", b"{"),
        (b"q/%2F/a", b"[" * 100_000),
        (b"q/%2F/a", b"{}"),
        (b"q/%2F/a", changed(id="9")),
        (b"q/%2F/a", changed(id=-9)),
        (b"q/%2F/a", changed(id=1 << 70)),
        (b"q/%2F/a", changed(id=7)),
        (b"q/%2F/a", changed(owner=5)),
        (b"q/%2F/a", changed(owner="rabbit@a@first")),
        (b"q/%2F/a", changed(args=None)),
        (b"q/%2F/a", changed(args={"x-message-ttl": "soon"})),
        (b"q/%2F/a", changed(args={"x-queue-type": "quorum"})),
        (b"x/nowhere/a", SCHEMA.value(ExchangeDefinition("", "a", "direct"))),
        (b"x/%2F/a", SCHEMA.value(ExchangeDefinition("", "a", "unheard-of"))),
        (b"pol/nowhere/a", SCHEMA.value(PolicyDefinition("", "a", "", {}))),
        (b"b/%2F/amq.topic/q/q/0", b'{"key": "\\ud800", "args": {}, "did": 4}'),
        (b"b/%2F/amq.topic/q/nothing/0", b'{"key": "k", "args": {}, "did": 4}'),
        (b"perm/%2F/ann", b'{"configure": "(", "write": "", "read": ""}'),
        (b"ql", b"{}"),
        (b"ql/a", b"{}"),
        (b"ql/9/9", b"{}"),
        (b"ql/9", b'{"e": Infinity, "l": 1, "isr": 1, "r": 1}'),
        (b"n", b"{}"),
        (b"n/a/b", b"{}"),
        (b"", b""),
    ],
)
def test_what_makes_no_sense_is_left_alone_and_all_else_goes_on(
    key: bytes, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node()
    heard: list[str] = []
    node.feed.listeners["n"] = lambda names, value: heard.extend(names)

    node.put(SCHEMA.prefix + key, value)
    node.write(ExchangeDefinition("/", "later", "direct"))

    assert node.names == node.restart().names == {"/", "q", "later", "", "ann"}
    assert not heard
    for record in caplog.records:
        assert record.levelno == logging.ERROR
        assert "the cluster's store" in record.message
        assert "\n" not in record.message
    node.delete(SCHEMA.prefix + key)
    assert not node.feed.unread
    assert node.names == node.restart().names == {"/", "q", "later", "", "ann"}


def test_what_is_made_senseless_by_hand_stays_in_force_and_is_remembered() -> None:
    node = Node()
    node.put(SCHEMA.key(QUEUE), b"{")
    assert node.names == {"/", "q", "", "ann"}
    assert node.feed.unread == {SCHEMA.key(QUEUE)}

    node.write(QUEUE)

    assert not node.feed.unread


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_two_queues_with_one_id_the_first_is_one_on_all_nodes(names: tuple[str, str]) -> None:
    node = Node()
    for name in names:
        node.put(SCHEMA.path("q", "/", name), changed())
    expected = {"/", "q", "", "ann", names[0]}
    assert node.names == node.restart().names == expected
    node.delete(SCHEMA.path("q", "/", names[0]))
    assert node.names == {"/", "q", "", "ann"}


def test_a_disk_that_fails_is_nobody_elses_fault() -> None:
    def fail(change: object) -> None:
        raise DiskFailure("no more")

    feed = Feed(SCHEMA, fail)
    with pytest.raises(DiskFailure):
        feed.take(EventBatch(1, (Event(SCHEMA.key(VHOST), SCHEMA.value(VHOST), 1, 1),)))


META = SCHEMA.path("meta")


def test_a_store_that_has_lost_the_cluster_has_deleted_nothing() -> None:
    node = Node()
    node.put(META, b'{"cluster_id": "mine"}')
    node.feed.cluster_id = "mine"
    everything = list(node.there.values())
    gone = tuple(Event(each.key, None, 99, 0) for each in everything)
    random.Random(1).shuffle(everything)

    with pytest.raises(StoreLost, match="it knows nothing of the cluster mine any more"):
        node.feed.take(EventBatch(99, gone))
    with pytest.raises(StoreLost):
        node.feed.load((), 1)
    with pytest.raises(StoreLost):
        node.put(META, b'{"cluster_id": "another"}')
    assert node.names == {"/", "q", "", "ann"}

    queue = node.broker.vhosts["/"].queues["q"]
    again = [attrs.evolve(each, create_revision=40, mod_revision=40) for each in everything]
    node.feed.load(again, 45)
    assert node.broker.vhosts["/"].queues["q"] is queue, "it has its messages"
    node.feed.load(everything, 50)
    assert node.broker.vhosts["/"].queues["q"] is queue

    assert node.names == {"/", "q", "", "ann"}
    assert node.feed.revision == 50
