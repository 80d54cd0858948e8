"""What a node that holds a queue spends on a message: asked by a client, or by another node.

    python -m bench.proxy_cost

Two nodes are started, and a queue is declared on one of them, its holder. The same load is brought
to the holder itself and, in turns with that, to the other node. What counts is the processor time
of the holder's process: the figures hold on a machine that does something else, too.
"""

import argparse
import statistics
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .backlog import fill
from .checks import Confirms, Mismatch, deliveries_of
from .client import BrokerError, Client, Url
from .load import Acknowledger, Inbox, Publisher, consume, stage
from .subjects import Broker, OwnBroker, processor_time_s
from .wire import QOS
from .workload import Workload

COUNTS = {1: 1000, 20: 10_000, 1000: 50_000}
"""Messages that are sent before an answer is waited for, and messages of a run."""
PLAIN = Workload("proxy-cost", "16 B", confirms=True, acks="single")
FAN_OUT = Workload("proxy-fan-out", "16 B", confirms=True, queues=10, exchange_type="fanout")
_WARM_UP = 0.1
_FILL_WINDOW = 1000


class Ends:
    """A publisher and a consumer that wait after every ``at_once`` messages."""

    def __init__(
        self, publisher: Client, consumer: Client, workload: Workload, at_once: int
    ) -> None:
        self._workload = workload
        self._at_once = at_once
        self._sender, self._receiver = publisher, consumer
        self._publisher = Publisher(publisher.socket, workload)
        self._confirms = Confirms()
        self._confirm_inbox = Inbox(publisher.socket)
        self._deliveries = deliveries_of(workload)
        self._delivery_inbox = Inbox(consumer.socket)
        self._acknowledger = Acknowledger(workload)
        self._taken = 0

    def fill(self, count: int) -> None:
        """Have so many messages wait in the queue."""
        fill(self._sender, self._workload, count, _FILL_WINDOW)

    def start_consuming(self) -> None:
        """Take as many messages at once, from now on."""
        self._receiver.call(1, QOS, struct.pack(">IHB", 0, self._at_once, False))
        consume(self._receiver, self._workload)
        unread = self._receiver.unread()
        self._deliveries.feed(memoryview(unread))
        self._ack()

    def publish(self) -> None:
        """Publish, and wait for the confirms."""
        self._send()
        self._wait_for_confirms()

    def take(self) -> None:
        """Wait for deliveries, and ack each."""
        self._taken += self._at_once
        while self._deliveries.delivered < self._taken:
            self._take_some()

    def pass_on(self) -> None:
        """Publish, wait for the deliveries, ack each, and wait for the confirms."""
        self._send()
        while self._deliveries.delivered < self._publisher.published:
            self._take_some()
        self._wait_for_confirms()

    def _send(self) -> None:
        publisher = self._publisher
        goal = publisher.published + self._at_once
        while publisher.published < goal or not publisher.between_messages:
            publisher.send(goal - publisher.published)

    def _wait_for_confirms(self) -> None:
        published = self._publisher.published
        while self._confirms.confirmed < published:
            octets = self._confirm_inbox.receive()
            self._confirm_inbox.used(self._confirms.feed(octets, published))

    def _take_some(self) -> None:
        self._delivery_inbox.used(self._deliveries.feed(self._delivery_inbox.receive()))
        self._ack()

    def _ack(self) -> None:
        self._receiver.socket.sendall(self._acknowledger.acks(self._deliveries.delivered, True))


@dataclass(frozen=True, slots=True)
class Options:
    """How often and how much."""

    rounds: int = 5
    size: float = 1.0
    """Factor of the messages of a run."""
    pause_s: float = 0.0005
    """After each answer. A client on this machine would else be back before the holder has gone to
    sleep, another node is not, and to be woken costs more than a message."""


@dataclass(frozen=True, slots=True)
class Work:
    """Something that clients do with a queue."""

    title: str
    workload: Workload
    step: Callable[[Ends], None]
    is_consuming: bool = False
    is_filled: bool = False

    def cost_us(self, url: Url, holder: Url, pid: int, at_once: int, options: Options) -> float:
        """Microseconds of a process for each message, if clients of ``url`` do it."""
        count = int(COUNTS[at_once] * options.size)
        warm_up = max(1, int(_WARM_UP * count / at_once))
        steps = max(1, count // at_once)
        with stage(url, self.workload, holder) as (_, sender, receiver):
            ends = Ends(sender, receiver, self.workload, at_once)
            if self.is_filled:
                ends.fill((warm_up + steps) * at_once)
                sender.socket.setblocking(True)
            if self.is_consuming:
                ends.start_consuming()
            for _ in range(warm_up):
                self.step(ends)
                time.sleep(options.pause_s)
            before_s = processor_time_s(pid)
            for _ in range(steps):
                self.step(ends)
                time.sleep(options.pause_s)
            return (processor_time_s(pid) - before_s) / (steps * at_once) * 1e6


WORKS = (
    Work("publish, confirm", PLAIN, Ends.publish),
    Work("deliver, ack", PLAIN, Ends.take, is_consuming=True, is_filled=True),
    Work("publish, confirm, deliver, ack", PLAIN, Ends.pass_on, is_consuming=True),
    Work("publish to 10 queues, confirm", FAN_OUT, Ends.publish),
)


def compare(
    broker: Broker, work: Work, at_once: int, options: Options
) -> tuple[float, float, float]:
    """Microseconds of the holder for a message of its own, and of one of the other node's.

    And the ratio; these are medians of all pairs of runs.
    """
    holder, pid = broker.holder, broker.holder_pid
    assert holder is not None
    assert pid is not None
    pairs = [
        [work.cost_us(url, holder, pid, at_once, options) for url in (holder, broker.url)]
        for _ in range(options.rounds)
    ]
    own, proxied = zip(*pairs, strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(own), statistics.median(proxied), ratio


def main() -> int:
    """Print the table; 1 if a node could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.proxy_cost", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="pairs of runs (5)")
    add("--size", type=float, default=1.0, help="factor of all counts (1)")
    add("--pause", type=float, default=0.5, metavar="MS", help="after each answer (0.5 ms)")
    add("--data-dir", type=Path, default=Path(), help="where the nodes keep their data (here)")
    arguments = parser.parse_args()
    options = Options(arguments.rounds, arguments.size, arguments.pause / 1000)
    table = Table("work", "at once", "own, µs", "proxied, µs", "proxied / own")
    try:
        with OwnBroker(arguments.data_dir).broker(clustered=True) as broker:
            for work in WORKS:
                for at_once in COUNTS:
                    figures = compare(broker, work, at_once, options)
                    table.add_row(work.title, str(at_once), *[f"{each:.2f}" for each in figures])
    except (BrokerError, Mismatch) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
