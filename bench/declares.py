"""What many durable queues cost a cluster: to declare them, to keep them, and to start with them.

    python -m bench.declares --queues 50000

Two nodes are started. Many channels of one connection declare queues at once, all on the first
node, their holder. Then each node is stopped and started again, some times: the holder has the logs
of all queues to open, the other node only has to know of them.
"""

import argparse
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import wire
from .client import BrokerError, Client
from .subjects import Broker, own_cluster, processor_time_s, settled_resident_bytes

_DECLARE_OK = (50, 11)


class Declarer:
    """Declares durable queues on many channels of one connection, one at a time on each."""

    def __init__(self, client: Client, channels: int) -> None:
        self.waits_s: list[float] = []
        """How long each answer took."""
        self._client = client
        self._channels = channels
        self._asked_at: dict[int, float] = {}
        self._buffer = b""
        for channel in range(1, channels + 1):
            client.open_channel(channel)

    def declare(self, names: Sequence[str]) -> float:
        """Declare queues with these names; how many a second. Raises `BrokerError`."""
        left = iter(names)
        begun = time.perf_counter()
        for channel, name in zip(range(1, self._channels + 1), left, strict=False):
            self._ask(channel, name)
        while self._asked_at:
            for channel, name in zip(self._answered(), left, strict=False):
                self._ask(channel, name)
        return len(names) / (time.perf_counter() - begun)

    def _ask(self, channel: int, name: str) -> None:
        arguments = bytes(2) + wire.shortstr(name) + b"\x02" + wire.table()
        self._asked_at[channel] = time.perf_counter()
        self._client.socket.sendall(wire.method(channel, wire.QUEUE_DECLARE, arguments))

    def _answered(self) -> list[int]:
        """The channels of the answers that come next, at least one."""
        channels: list[int] = []
        while not channels:
            try:
                octets = self._client.socket.recv(65536)
            except OSError as error:
                raise BrokerError(f"no answer: {error}") from error
            self._buffer += octets
            now, used = time.perf_counter(), 0
            while whole := wire.read_frame(self._buffer, used):
                _, channel, payload, used = whole
                which = wire.which_method(payload)
                if which != _DECLARE_OK:
                    raise BrokerError(f"{wire.closing(which, payload) or which} is no answer")
                self.waits_s.append(now - self._asked_at.pop(channel))
                channels.append(channel)
            self._buffer = self._buffer[used:]
            if not octets:
                raise BrokerError("the broker closed the connection")
        return channels


def _restarted(broker: Broker, names: Sequence[str]) -> tuple[float, float, Broker]:
    """Seconds, and those of the processor, that a node needs from its start until it answers."""
    assert broker.restart is not None
    _, again = broker.restart(signal.SIGTERM)
    assert again.start_s is not None
    assert again.pid is not None
    used_s = processor_time_s(again.pid)
    with Client(again.url) as client:
        client.open_channel()
        for name in (names[0], names[-1]):
            client.declare_queue(name, passive=True)
    return again.start_s, used_s, again


def measure(data_dir: Path, queues: int, channels: int, restarts: int, table: Table) -> None:
    """Fill the table. Raises `BrokerError`."""
    names = [f"bench.{number:06}" for number in range(queues)]
    with own_cluster(data_dir) as nodes:
        before = [_resident_bytes(node) for node in nodes]
        with Client(nodes[0].url) as client:
            declarer = Declarer(client, channels)
            rate = declarer.declare(names)
        waits_ms = [1000 * wait_s for wait_s in sorted(declarer.waits_s)]
        table.add_row("declared by the holder", f"{rate:.0f} /s")
        for part in (50, 99):
            wait_ms = waits_ms[part * (len(waits_ms) - 1) // 100]
            table.add_row(f"… answered, {part} %", f"{wait_ms:.1f} ms")
        for place, title in enumerate(("holder", "other node")):
            node = nodes[place]
            kept = (_resident_bytes(node) - before[place]) / queues / 1024
            table.add_row(f"{title}: memory of a queue", f"{kept:.2f} KiB")
            starts = []
            for _ in range(restarts):
                *start, node = _restarted(node, names)
                starts.append(start)
            wall_s, used_s = (statistics.median(column) for column in zip(*starts, strict=True))
            table.add_row("… start", f"{wall_s:.2f} s")
            table.add_row("… its processor time", f"{used_s:.2f} s")


def _resident_bytes(node: Broker) -> int:
    assert node.pid is not None
    return settled_resident_bytes(node.pid)


def main() -> int:
    """Print the figures; 1 if a node could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.declares", description=__doc__)
    add = parser.add_argument
    add("--queues", type=int, default=5000, help="durable queues (5000)")
    add("--channels", type=int, default=64, help="that declare at once (64)")
    add("--restarts", type=int, default=3, help="of each node; the median counts (3)")
    add("--data-dir", type=Path, default=Path(), help="where the nodes keep their data (here)")
    options = parser.parse_args()
    table = Table(f"{options.queues} durable queues", "")
    try:
        measure(options.data_dir, options.queues, options.channels, options.restarts, table)
    except BrokerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
