"""Figures other than throughput: latency, memory, stops, and the cost of many declarations.

Each function measures once and returns its figures in the order in which its row names them.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from . import wire
from .checks import Confirms, OrderedDeliveries
from .client import BrokerError, Client
from .load import PATIENCE_S, Inbox, Publisher, consume, stage
from .subjects import Broker, settled_resident_bytes
from .workload import Workload

LATENCY_RATE = 5000
"""Messages a second of the latency figures."""
SEND_MESSAGES = 500
"""Messages that are sent between two looks at the prober."""
_PLAIN = Workload("figures", "16 B, automatic ack")
_CONFIRMED = Workload("figures", "16 B, confirms", confirms=True)
_EXCHANGE, _PROBE = "bench", "bench.probe"


class NotApplicable(Exception):
    """The figure cannot be had of this broker; the text says why."""


class Patience:
    """Ends a wait for something that no longer goes on."""

    def __init__(self) -> None:
        self._count = -1
        self._since = 0.0

    def check(self, count: int) -> None:
        """Raise `BrokerError` if ``count`` is the same for `PATIENCE_S`."""
        now = time.perf_counter()
        if count != self._count:
            self._count, self._since = count, now
        elif now > self._since + PATIENCE_S:
            raise BrokerError(f"nothing moved for {PATIENCE_S:.0f} s after {count} messages")


def latency(broker: Broker, seconds: float) -> tuple[float, ...]:
    """Milliseconds from when a message is due to its delivery: median, 99th percentile, longest.

    Messages are due by the clock, whatever the broker does: if it stops, those that wait count with
    their whole wait. The first tenth is left out.
    """
    total = int(seconds * LATENCY_RATE)
    with stage(broker.url, _PLAIN) as (_, sender, receiver):
        consume(receiver, _PLAIN)
        sender.socket.setblocking(False)
        receiver.socket.setblocking(False)
        waits = _on_schedule(Publisher(sender.socket, _PLAIN), Inbox(receiver.socket), total)
    waits = sorted(waits[total // 10 :])
    return tuple(1000 * waits[int(part * (len(waits) - 1))] for part in (0.5, 0.99, 1.0))


def _on_schedule(publisher: Publisher, inbox: Inbox, total: int) -> list[float]:
    """Seconds that each of ``total`` messages took. Never sleeps, since timers wake late."""
    deliveries, patience, clock = OrderedDeliveries(_PLAIN), Patience(), time.perf_counter
    waits: list[float] = []
    start = clock()
    while deliveries.delivered < total:
        due = min(total, int((clock() - start) * LATENCY_RATE) + 1)
        if publisher.published < due or not publisher.between_messages:
            publisher.send(due - publisher.published)
        inbox.used(deliveries.feed(inbox.receive()))
        elapsed = clock() - start
        for number in range(len(waits), deliveries.delivered):
            waits.append(elapsed - number / LATENCY_RATE)
        patience.check(deliveries.delivered)
    return waits


def connection_memory(broker: Broker, count: int) -> tuple[float, ...]:
    """KiB that one more idle connection with one channel costs."""
    pid = _pid(broker)
    _allow_files(count + 200)
    with ExitStack() as connections:

        def connect(number: int) -> None:
            for _ in range(number):
                connections.enter_context(Client(broker.url)).open_channel()

        connect(20)
        before = settled_resident_bytes(pid)
        connect(count)
        return ((settled_resident_bytes(pid) - before) / count / 1024,)


def queue_memory(broker: Broker, count: int) -> tuple[float, ...]:
    """KiB that one more empty transient queue costs."""
    pid = _pid(broker)
    names = [f"bench.{i:06}" for i in range(count + 20)]
    with _queues(broker, names) as client:
        for name in names[:20]:
            client.declare_queue(name)
        before = settled_resident_bytes(pid)
        for name in names[20:]:
            client.declare_queue(name)
        return ((settled_resident_bytes(pid) - before) / count / 1024,)


@contextmanager
def _queues(broker: Broker, names: Sequence[str]) -> Iterator[Client]:
    """A connection with a channel; what is declared by these names is deleted in the end."""
    try:
        with Client(broker.url) as client:
            client.open_channel()
            yield client
    finally:
        with suppress(BrokerError), Client(broker.url) as cleaner:
            cleaner.open_channel()
            cleaner.delete_exchange(_EXCHANGE)
            for name in names:
                cleaner.delete_queue(name)


def _pid(broker: Broker) -> int:
    if broker.pid is None:
        raise NotApplicable("give its process id with --pid")
    return broker.pid


def _allow_files(count: int) -> None:
    """Raise this process's own limit of open files, if that is possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def start(broker: Broker) -> tuple[float, ...]:
    """Seconds from the start of the process to the end of the first handshake."""
    if broker.start_s is None:
        raise NotApplicable("it was running already")
    return (broker.start_s,)


def declarations(broker: Broker, count: int) -> tuple[float, ...]:
    """Queues declared and bound to one topic exchange a second: the first and the last tenth."""
    tenth = count // 10
    names = [f"bench.{i:06}" for i in range(count)]
    with _queues(broker, names) as client:
        client.delete_exchange(_EXCHANGE)
        client.declare_exchange(_EXCHANGE, "topic")
        marks = [time.perf_counter()]
        for i, name in enumerate(names, 1):
            client.declare_queue(name)
            client.bind(name, _EXCHANGE, f"bench.{i}.*")
            if i % tenth == 0:
                marks.append(time.perf_counter())
    return tenth / (marks[1] - marks[0]), tenth / (marks[-1] - marks[-2])


class Prober:
    """Asks for its own queue again and again, and notes the longest wait for an answer."""

    def __init__(self, client: Client) -> None:
        client.declare_queue(_PROBE)
        client.socket.setblocking(False)
        self._inbox = Inbox(client.socket)
        arguments = bytes(2) + wire.shortstr(_PROBE) + b"\x01" + wire.table()
        self._question = wire.method(1, wire.QUEUE_DECLARE, arguments)
        self._asked_at = 0.0
        self._longest = 0.0
        self._ask()

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        self._inbox.socket.send(self._question)

    def look(self) -> None:
        """If the answer is there, ask again."""
        octets = self._inbox.receive()
        whole = wire.read_frame(octets)
        wait = time.perf_counter() - self._asked_at
        if whole:
            if wire.which_method(whole[2]) != (50, 11):
                raise BrokerError(f"the prober received {whole[2]!r}")
            self._longest = max(self._longest, wait)
            self._inbox.used(whole[3])
            self._ask()
        elif wait > PATIENCE_S:
            raise BrokerError(f"the prober waited over {PATIENCE_S:.0f} s")

    def longest(self) -> float:
        """The longest wait since the last call, in milliseconds."""
        longest, self._longest = self._longest, 0.0
        return 1000 * longest


def stops(broker: Broker, count: int) -> tuple[float, ...]:
    """The longest that a connection of its own waits for an answer, in milliseconds.

    First while ``count`` messages pile up in memory, then while they are drained.
    """
    with stage(broker.url, _CONFIRMED) as (_, sender, receiver), _queues(broker, [_PROBE]) as asker:
        prober = Prober(asker)
        sender.socket.setblocking(False)
        _fill(sender, count, prober)
        filling = prober.longest()
        consume(receiver, _CONFIRMED)
        _drain(receiver, count, prober)
        return filling, prober.longest()


def _fill(sender: Client, count: int, prober: Prober) -> None:
    """Publish until ``count`` messages are confirmed."""
    publisher, inbox = Publisher(sender.socket, _CONFIRMED), Inbox(sender.socket)
    confirms, patience = Confirms(), Patience()
    while confirms.confirmed < count:
        publisher.send(min(SEND_MESSAGES, count - publisher.published))
        inbox.used(confirms.feed(inbox.receive(), publisher.published + 1))
        prober.look()
        patience.check(confirms.confirmed)


def _drain(receiver: Client, count: int, prober: Prober) -> None:
    """Receive ``count`` messages."""
    deliveries, inbox, patience = OrderedDeliveries(_CONFIRMED), Inbox(receiver.socket), Patience()
    deliveries.feed(memoryview(receiver.unread()))
    receiver.socket.setblocking(False)
    while deliveries.delivered < count:
        inbox.used(deliveries.feed(inbox.receive()))
        prober.look()
        patience.check(deliveries.delivered)
