"""Queues as seen from a node that does not lead them.

A `RemoteQueue` counts what is published to it, gathers that and everything else that is to be told,
and sends it once a turn, in order, on the stream to the node that leads the queue, its *leader*.
What the leader delivers goes straight to the consumers here. Each says how much it may be sent
(a limit of messages and octets in all), so that no more is ever on its way than it takes, or a
window full.

Nothing is sent twice. When the stream breaks, what was published and not told to be committed is
refused (the leader may have it or not), consumers are cancelled, questions end in an error, and the
leader has what was not settled wait again: a settle that comes later is void. So RabbitMQ does it
when the node of a queue goes down.
"""

from collections.abc import Callable, Mapping

from amqpbroker.cluster.remote_node import RemoteNode
from amqpbroker.cluster.remote_queue import RemoteQueue
from amqpbroker.cluster.remote_reply import ADDRESS_MAX, RemoteReply, address_prefix
from amqpbroker.cluster.reports import Inquiry, Tally
from amqpbroker.cluster.wire import Link, LinkUser
from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.arguments import check_declare
from amqpbroker.queues.queue import Keeper, QueueType


class RemoteQueues(QueueType, LinkUser):
    """Opens the queues that other nodes lead; the user of the streams that this node has dialled.

    ``leader_of`` says which node leads a queue.
    """

    def __init__(self, leader_of: Callable[[QueueDefinition], str]) -> None:
        self.nodes: dict[str, RemoteNode] = {}
        self._reply_prefixes: dict[str, RemoteNode] = {}
        self._leader_of = leader_of

    def _node(self, name: str) -> RemoteNode:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = RemoteNode(name)
        return node

    def check(self, definition: QueueDefinition) -> None:
        check_declare(definition)

    def open(self, definition: QueueDefinition, keeper: Keeper) -> RemoteQueue:
        node = self._node(self._leader_of(definition))
        queue = node.queues[definition.log_id] = RemoteQueue(definition, keeper, node)
        return queue

    @property
    def is_refreshing(self) -> bool:
        """Whether some node has not told all numbers that it was asked for."""
        return any(node.is_refreshing for node in self.nodes.values())

    def refresh(self) -> None:
        """Ask all nodes for the numbers of their queues, for those who only glance at them."""
        for node in self.nodes.values():
            node.refresh()

    def find_reply(self, address: str) -> RemoteReply | None:
        """Where direct replies to ``address`` go, if a node is known that may have it."""
        node = self._reply_prefixes.get(address[: address.rfind(".") + 1])
        if node is None or len(address) > ADDRESS_MAX:
            return None
        return RemoteReply(node, address)

    def count(self, what: str, name: str) -> Tally | None:
        """How many connections or channels somebody has on all nodes that are there, if any is."""
        counts = [node.count(what, name) for node in self.nodes.values() if node.is_up]
        return Tally(counts) if counts else None

    def inquire(self, what: str, about: Mapping[str, str]) -> list[Inquiry]:
        """Ask all nodes that are there for a report."""
        return [node.inquire(what, about) for node in self.nodes.values() if node.is_up]

    def up(self, link: Link) -> None:
        node = self._node(link.node)
        node.link = link
        self._reply_prefixes[address_prefix(node.name)] = node

    def down(self, link: Link) -> None:
        self._node(link.node).down()

    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        return self._node(link.node).frame(kind, payload)

    def drained(self, link: Link) -> None:
        self._node(link.node).drained()
