"""The rows of the table: what is measured, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from . import durable, figures
from .figures import NotApplicable
from .load import measure
from .subjects import Broker
from .workload import ACK_EVERY, Workload


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how much; the same for every broker."""

    seconds: float = 5.0
    warm_up_s: float = 1.0
    window: int = 5000
    size: float = 1.0
    """Factor of all counts: connections, queues, messages that are queued."""

    def count(self, full: int) -> int:
        """``full``, made smaller as asked."""
        return max(10, int(full * self.size))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    title: str
    unit: str

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    @property
    def arrow(self) -> str:
        """Up if more is better, else down."""
        return "↑" if self.is_rate else "↓"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that can be measured, by name; it yields one value for each of its figures."""

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[Broker, Options], tuple[float | None, ...]]
    """None for a figure that cannot be had. Raises `BrokerError`, `Mismatch`, `NotApplicable`."""
    workload: Workload | None = None
    """What the sink answers to; None if the generator cannot be what limits it."""
    durable: bool = False
    """Whether our broker has a data directory; else it keeps everything in memory."""
    clustered: bool = False
    """Whether the broker is one of two nodes, and the other has the queues."""
    repeated: bool = True
    """False where a second run in the same broker would measure what the first has left."""


def _throughput(workload: Workload, clustered: bool = False) -> Scenario:
    def run(broker: Broker, options: Options) -> tuple[float, ...]:
        if clustered and broker.holder is None:
            raise NotApplicable("it needs a second node: --url NAME=URL,URL-OF-ANOTHER-NODE")
        result = measure(
            broker.url,
            workload,
            options.warm_up_s,
            options.seconds,
            options.window,
            broker.holder if clustered else None,
        )
        return (result.rate,)

    title = Figure(workload.title, "msg/s")
    return Scenario(workload.name, (title,), run, workload, workload.durable, clustered)


def _backlog(workload: Workload, count: int, repeated: bool = True) -> Scenario:
    title = workload.title
    return Scenario(
        workload.name,
        (
            Figure(f"{title}: publish", "msg/s"),
            Figure("… longest stop meanwhile", "ms"),
            Figure("… memory with them", "MiB"),
            Figure("… drain", "msg/s"),
            Figure("… slowest tenth", "msg/s"),
            Figure("… longest stop meanwhile", "ms"),
            Figure("… memory afterwards", "MiB"),
        ),
        lambda broker, options: durable.backlog(
            broker, workload, options.count(count), options.window
        ),
        workload,
        durable=True,
        repeated=repeated,
    )


def _restart_figures(title: str) -> tuple[Figure, ...]:
    return (
        Figure(f"{title}: start after kill -9", "s"),
        Figure("… end by SIGTERM", "s"),
        Figure("… start after that", "s"),
    )


THROUGHPUT = (
    Workload("auto-ack", "16 B, automatic ack"),
    Workload("multiple-ack", f"16 B, an ack every {ACK_EVERY}", acks="multiple"),
    Workload("single-ack", "16 B, an ack each", acks="single"),
    Workload("confirms", "16 B, confirms and acks", acks="multiple", confirms=True),
    Workload("1kib", "1 KiB, automatic ack", body_bytes=(1024,)),
    Workload("mixed-sizes", "16 to 64 B, sizes in turn", body_bytes=(16, 47, 24, 64, 19, 40, 28)),
    Workload("other-channel", "16 B, consumer on channel 7", consumer_channel=7),
    Workload("small-frames", "16 B, consumer's frames ≤ 4 KiB", consumer_frame_max=4096),
    Workload(
        "split-frames",
        "8 KiB, consumer's frames ≤ 4 KiB",
        body_bytes=(8192,),
        consumer_frame_max=4096,
    ),
    Workload("message-ids", "16 B, a new message-id each", message_ids=True),
    Workload("1000-queues", "16 B, 1000 queues in turn", queues=1000),
    Workload("fan-out", "16 B, fan-out to 10 queues", queues=10, exchange_type="fanout"),
    Workload("topic-10", "16 B, new keys, 10 bindings", exchange_type="topic", bindings=10),
    Workload(
        "topic-10000", "16 B, new keys, 10000 bindings", exchange_type="topic", bindings=10000
    ),
)
PERSISTENT = Workload(
    "persistent",
    "1 KiB persistent, confirms and acks",
    body_bytes=(1024,),
    acks="multiple",
    confirms=True,
    durable=True,
)
PROXIED = Workload(
    "proxied", "16 B, confirms and acks, through another node", acks="multiple", confirms=True
)
PROXIED_PERSISTENT = Workload(
    "proxied-persistent",
    "1 KiB persistent, through another node",
    body_bytes=(1024,),
    acks="multiple",
    confirms=True,
    durable=True,
)
BACKLOG = Workload(
    "backlog", "1 M × 1 KiB persistent", body_bytes=(1024,), confirms=True, durable=True
)
SMALL_BACKLOG = Workload("small-backlog", "10 M × 16 B persistent", confirms=True, durable=True)
WITH_SINK = (*THROUGHPUT, PERSISTENT, PROXIED, PROXIED_PERSISTENT, BACKLOG, SMALL_BACKLOG)
"""What a sink can answer to."""

SCENARIOS = (
    Scenario(
        "connection-memory",
        (Figure("memory of an idle connection", "KiB"),),
        lambda broker, options: figures.connection_memory(broker, options.count(1000)),
        repeated=False,
    ),
    Scenario(
        "queue-memory",
        (Figure("memory of an empty queue", "KiB"),),
        lambda broker, options: figures.queue_memory(broker, options.count(10000), durable=False),
        repeated=False,
    ),
    Scenario(
        "durable-queue-memory",
        (Figure("memory of an empty durable queue", "KiB"),),
        lambda broker, options: figures.queue_memory(broker, options.count(10000), durable=True),
        durable=True,
        repeated=False,
    ),
    *(_throughput(workload) for workload in THROUGHPUT),
    Scenario(
        "latency",
        (
            Figure("latency at 5000/s, median", "ms"),
            Figure("latency at 5000/s, 99 %", "ms"),
            Figure("latency at 5000/s, longest", "ms"),
        ),
        lambda broker, options: figures.latency(broker, options.seconds),
    ),
    Scenario(
        "stops",
        (Figure("longest stop, a backlog grows", "ms"), Figure("longest stop, it drains", "ms")),
        lambda broker, options: figures.stops(broker, options.count(1_000_000)),
    ),
    Scenario(
        "declarations",
        (
            Figure("declare and bind, first tenth", "pairs/s"),
            Figure("declare and bind, last tenth", "pairs/s"),
        ),
        lambda broker, options: figures.declarations(broker, options.count(10000)),
    ),
    Scenario("start", (Figure("start", "s"),), lambda broker, options: figures.start(broker)),
    _throughput(PERSISTENT),
    _throughput(PROXIED, clustered=True),
    _throughput(PROXIED_PERSISTENT, clustered=True),
    Scenario(
        "persistent-latency",
        (
            Figure("1 KiB persistent at 5000/s, median", "ms"),
            Figure("… 99 %", "ms"),
            Figure("… longest", "ms"),
            Figure("… to the confirm, median", "ms"),
            Figure("… to the confirm, 99 %", "ms"),
        ),
        lambda broker, options: figures.persistent_latency(broker, PERSISTENT, options.seconds),
        durable=True,
    ),
    _backlog(BACKLOG, 1_000_000),
    _backlog(SMALL_BACKLOG, 10_000_000, repeated=False),
    Scenario(
        "restart",
        _restart_figures(BACKLOG.title),
        lambda broker, options: durable.restart(
            broker, BACKLOG, options.count(1_000_000), options.window
        ),
        durable=True,
    ),
    Scenario(
        "restart-queues",
        _restart_figures("10000 queues, 1 KiB in each"),
        lambda broker, options: durable.restart_with_queues(
            broker, BACKLOG, options.count(10000), options.window
        ),
        durable=True,
    ),
    Scenario(
        "durable-declarations",
        (Figure("declare durable queues", "queues/s"),),
        lambda broker, options: figures.durable_declarations(broker, options.count(2000)),
        durable=True,
    ),
    Scenario(
        "durable-start",
        (Figure("start, an empty data directory", "s"),),
        lambda broker, options: figures.start(broker),
        durable=True,
    ),
)


def workload_named(name: str) -> Workload:
    """The workload of a row that a sink can answer to. Raises `KeyError`."""
    return {workload.name: workload for workload in WITH_SINK}[name]
