"""The rows of the table: what is measured, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from . import figures
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
    def arrow(self) -> str:
        """Up if more is better, as it is of rates; else down."""
        return "↑" if self.unit.endswith("/s") else "↓"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that can be measured, by name; it yields one value for each of its figures."""

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[Broker, Options], tuple[float, ...]]
    """Raises `BrokerError`, `Mismatch`, `NotApplicable`."""
    workload: Workload | None = None
    """What the sink answers to; None if the generator cannot be what limits it."""
    repeated: bool = True
    """False where a second run in the same broker would measure what the first has left."""


def _throughput(workload: Workload) -> Scenario:
    def run(broker: Broker, options: Options) -> tuple[float, ...]:
        result = measure(broker.url, workload, options.warm_up_s, options.seconds, options.window)
        return (result.rate,)

    return Scenario(workload.name, (Figure(workload.title, "msg/s"),), run, workload)


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
        lambda broker, options: figures.queue_memory(broker, options.count(10000)),
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
)


def workload_named(name: str) -> Workload:
    """The workload of a throughput row. Raises `KeyError`."""
    return {workload.name: workload for workload in THROUGHPUT}[name]
