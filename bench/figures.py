"""Figures other than throughput: latency, memory, stops, and the cost of many declarations.

Each function measures once and returns its figures in the order in which its row names them.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from .backlog import Patience, drain, fill, probing
from .checks import Confirms, OrderedDeliveries
from .client import BrokerError, Client
from .load import Acknowledger, Inbox, Publisher, consume, stage
from .subjects import Broker, settled_resident_bytes
from .workload import Workload

LATENCY_RATE = 5000
"""Messages a second of the latency figures."""
_PLAIN = Workload("figures", "16 B, automatic ack")
_CONFIRMED = Workload("figures", "16 B, confirms", confirms=True)
_EXCHANGE = "bench"


class NotApplicable(Exception):
    """The figure cannot be had of this broker; the text says why."""


def latency(broker: Broker, seconds: float) -> tuple[float, ...]:
    """Milliseconds from when a message is due to its delivery: median, 99th percentile, longest.

    Messages are due by the clock, whatever the broker does: if it stops, those that wait count with
    their whole wait. The first tenth is left out.
    """
    delivered, _ = _on_schedule(broker, _PLAIN, int(seconds * LATENCY_RATE))
    return _percentiles(delivered, 0.5, 0.99, 1.0)


def persistent_latency(broker: Broker, workload: Workload, seconds: float) -> tuple[float, ...]:
    """As `latency`, with confirms and acks; then to the confirm: median, 99th percentile."""
    delivered, confirmed = _on_schedule(broker, workload, int(seconds * LATENCY_RATE))
    return _percentiles(delivered, 0.5, 0.99, 1.0) + _percentiles(confirmed, 0.5, 0.99)


def _percentiles(waits: Sequence[float], *parts: float) -> tuple[float, ...]:
    """Milliseconds that these parts of the waits do not exceed, but for the first tenth of them."""
    ordered = sorted(waits[len(waits) // 10 :])
    return tuple(1000 * ordered[int(part * (len(ordered) - 1))] for part in parts)


def _on_schedule(broker: Broker, workload: Workload, total: int) -> tuple[list[float], list[float]]:
    """Seconds that each of ``total`` messages took to its delivery, and to its confirm.

    Never sleeps, since timers wake late.
    """
    with stage(broker.url, workload) as (_, sender, receiver):
        consume(receiver, workload)
        sender.socket.setblocking(False)
        receiver.socket.setblocking(False)
        publisher, confirms = Publisher(sender.socket, workload), Confirms()
        deliveries, acknowledger = OrderedDeliveries(workload), Acknowledger(workload)
        inbox, confirm_inbox = Inbox(receiver.socket), Inbox(sender.socket)
        patience, clock = Patience(), time.perf_counter
        delivered: list[float] = []
        confirmed: list[float] = []
        start = clock()
        while len(delivered) < total or (workload.confirms and len(confirmed) < total):
            due = min(total, int((clock() - start) * LATENCY_RATE) + 1)
            if publisher.published < due or not publisher.between_messages:
                publisher.send(due - publisher.published)
            inbox.used(deliveries.feed(inbox.receive()))
            _note(delivered, deliveries.delivered, clock() - start)
            if acks := acknowledger.acks(deliveries.delivered, last=False):
                receiver.socket.send(acks)
            if workload.confirms:
                octets = confirm_inbox.receive()
                confirm_inbox.used(confirms.feed(octets, publisher.published + 1))
                _note(confirmed, confirms.confirmed, clock() - start)
            patience.check(deliveries.delivered + confirms.confirmed)
    return delivered, confirmed


def _note(waits: list[float], count: int, elapsed_s: float) -> None:
    """All up to message ``count`` have arrived by now; note how long after they were due."""
    for number in range(len(waits), count):
        waits.append(elapsed_s - number / LATENCY_RATE)


def connection_memory(broker: Broker, count: int) -> tuple[float, ...]:
    """KiB that one more idle connection with one channel costs."""
    pid = process_of(broker)
    _allow_files(count + 200)
    with ExitStack() as connections:

        def connect(number: int) -> None:
            for _ in range(number):
                connections.enter_context(Client(broker.url)).open_channel()

        connect(20)
        before = settled_resident_bytes(pid)
        connect(count)
        return ((settled_resident_bytes(pid) - before) / count / 1024,)


def queue_memory(broker: Broker, count: int, durable: bool) -> tuple[float, ...]:
    """KiB that one more empty queue costs."""
    pid = process_of(broker)
    names = [f"bench.{i:06}" for i in range(count + 20)]
    with _queues(broker, names) as client:
        for name in names[:20]:
            client.declare_queue(name, durable=durable)
        before = settled_resident_bytes(pid)
        for name in names[20:]:
            client.declare_queue(name, durable=durable)
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


def process_of(broker: Broker) -> int:
    """The broker's process id. Raises `NotApplicable`."""
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


def durable_declarations(broker: Broker, count: int) -> tuple[float, ...]:
    """Durable queues declared one after another, a second."""
    names = [f"bench.{i:06}" for i in range(count)]
    with _queues(broker, names) as client:
        start = time.perf_counter()
        for name in names:
            client.declare_queue(name, durable=True)
        return (count / (time.perf_counter() - start),)


def stops(broker: Broker, count: int) -> tuple[float, ...]:
    """The longest that a connection of its own waits for an answer, in milliseconds.

    First while ``count`` messages pile up in memory, then while they are drained.
    """
    with stage(broker.url, _CONFIRMED) as (_, sender, receiver), probing(broker.url) as prober:
        fill(sender, _CONFIRMED, count, count, prober)
        filling = prober.longest()
        drain(receiver, _CONFIRMED, count, prober)
        return filling, prober.longest()
