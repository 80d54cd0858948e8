"""Three nodes and their clients without sockets and tasks, for tests."""

from typing import Any

from pamqp.base import Frame

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.remote import RemoteQueues
from amqpbroker.cluster.serving import Serving
from amqpbroker.definitions import Change, QueueDefinition
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.queues.queue import Keeper, Queue, QueueStat, QueueType
from amqpbroker.testing.council import Council
from amqpbroker.testing.fakes import FakeClock, HeldQueues, fake_world
from amqpbroker.testing.links import Loopback, LoopbackLink
from amqpbroker.testing.peer import Peer

NAMES = ("rabbit@a", "rabbit@b", "rabbit@c")


class PlacingCouncil(Council):
    """Decides who leads a queue by its name: ``a.tasks`` is led by rabbit@a."""

    def _placed(self, change: Change, asker: str) -> Change:
        if isinstance(change.definition, QueueDefinition):
            self.leader = f"rabbit@{change.definition.name.partition('.')[0]}"
        return super()._placed(change, asker)


class Placed(QueueType):
    """Opens the queues that a node leads ``here``, others ``elsewhere``."""

    def __init__(self, node: str, here: QueueType, elsewhere: QueueType) -> None:
        self.node = node
        self.here = here
        self.elsewhere = elsewhere
        self.held: dict[int, Queue] = {}

    def check(self, definition: QueueDefinition) -> None:
        self.here.check(definition)

    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        if definition.leader != self.node:
            return self.elsewhere.open(definition, keeper)
        queue = self.held[definition.log_id] = self.here.open(definition, keeper)
        return queue


class Nodes:
    """Three nodes, each with streams to the others, and clients of theirs."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.council = PlacingCouncil()
        self.brokers: dict[str, Broker] = {}
        self.held = {name: HeldQueues() for name in NAMES}
        self.remote: dict[str, RemoteQueues] = {}
        self.peers: list[Peer] = []
        servings = {}
        for name in NAMES:
            self.remote[name] = RemoteQueues(lambda definition: definition.leader)
            classic = Placed(name, ClassicQueues(), self.remote[name])
            held = Placed(name, self.held[name], self.remote[name])
            types = {"classic": classic, "held": held}
            broker = Broker(fake_world(clock=self.clock), name=name, queue_types=types)
            self.brokers[name] = broker
            self.council.join(broker)
            servings[name] = self._serving(broker, classic, held)
        self.streams: dict[tuple[str, str], Loopback] = {}
        for name in NAMES:
            for other in NAMES:
                if name != other:
                    stream = Loopback(
                        LoopbackLink(other, self.remote[name], self.brokers[name].turn),
                        LoopbackLink(name, servings[other], self.brokers[other].turn),
                    )
                    stream.connect()
                    self.streams[name, other] = stream
        self.brokers["rabbit@a"].boot("guest", "guest")
        self.settle()

    def _serving(self, broker: Broker, *kinds: Placed) -> Serving:
        def delete(definition: QueueDefinition, if_unused: bool, if_empty: bool) -> Any:
            vhost = broker.vhosts[definition.vhost]
            return vhost.delete_queue(definition.name, None, if_unused, if_empty)

        def find(queue_id: int) -> Any:
            return kinds[0].held.get(queue_id) or kinds[1].held.get(queue_id)

        serving = Serving(broker.turn, find, delete)
        serving.reply_address = broker.replies.here.get
        broker.replies.elsewhere = self.remote[broker.name].find_reply
        return serving

    def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(6):
            self.council.settle_down()
            for peer in self.peers:
                peer.settle_down()
            for stream in self.streams.values():
                stream.settle()

    def peer(self, node: str, *channels: int) -> Peer:
        """A client of a node."""
        peer = Peer(self.brokers[f"rabbit@{node}"]).open(*channels or (1,))
        self.peers.append(peer)
        return peer

    def ask(self, peer: Peer, *methods: Frame, channel: int = 1) -> list[Any]:
        """Send methods, and let everything happen; the methods that came back."""
        peer.send(*methods, channel=channel)
        self.settle()
        return [item for _, item in peer.received() if isinstance(item, Frame)]

    def down(self, node: str) -> None:
        """A node cannot be reached any more."""
        for (asker, holder), stream in self.streams.items():
            if f"rabbit@{node}" in (asker, holder):
                stream.cut()
        self.settle()

    def up(self, node: str) -> None:
        """It is back."""
        for (asker, holder), stream in self.streams.items():
            if f"rabbit@{node}" in (asker, holder):
                stream.connect()
        self.settle()

    def stat(self, name: str) -> QueueStat:
        """The numbers of a queue."""
        broker = self.brokers[f"rabbit@{name.partition('.')[0]}"]
        stat = broker.vhosts["/"].queues[name].stat()
        assert isinstance(stat, QueueStat)
        return stat


def names(items: list[Any]) -> list[str]:
    return [item.name for item in items]


def bodies(nodes: Nodes, peer: Peer) -> list[bytes]:
    """What was delivered to a peer, once everything has happened."""
    nodes.settle()
    return [body for _, body in peer.deliveries()]
