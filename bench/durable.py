"""Figures of what is kept on disk: large backlogs, and restarts with them.

Each function measures once and returns its figures in the order in which its row names them.
"""

import signal
import time
from dataclasses import replace

from .backlog import drain, fill, probing
from .checks import Mismatch
from .client import Client
from .figures import NotApplicable
from .load import prepare, stage
from .subjects import Broker, helpers_bytes, settled_resident_bytes
from .workload import Workload

PROBE_PAUSE_S = 0.001
"""Between two questions while rates are measured, too."""


def backlog(
    broker: Broker, workload: Workload, count: int, window: int
) -> tuple[float | None, ...]:
    """What it is to have ``count`` messages waiting.

    While they are published: messages a second, longest stop in milliseconds, then resident MiB;
    the same while and after they are drained, with the rate of the slowest tenth after the rate.
    """
    with (
        stage(broker.url, workload) as (_, sender, receiver),
        probing(broker.url, PROBE_PAUSE_S) as prober,
    ):
        filled = fill(sender, workload, count, window, prober)
        grown = prober.longest(), _resident_mib(broker)
        drained = drain(receiver, workload, count, prober)
        return filled, *grown, *drained, prober.longest(), _resident_mib(broker)


def _resident_mib(broker: Broker) -> float | None:
    """What the broker holds with its helper processes; None if its process is not known."""
    if broker.pid is None:
        return None
    return (settled_resident_bytes(broker.pid) + helpers_bytes(broker.pid)) / 1024**2


def restart(broker: Broker, workload: Workload, count: int, window: int) -> tuple[float, ...]:
    """Seconds that it takes to start with ``count`` messages until their number is known.

    After kill -9; then how long SIGTERM takes to end it, and the start after that. Everything must
    be there in the end.
    """
    _must_be_ours(broker)
    with Client(broker.url) as publisher:
        _publish(publisher, workload, count, window)
    _, killed_s, broker = _restarted(broker, signal.SIGKILL, workload, count)
    stop_s, stopped_s, broker = _restarted(broker, signal.SIGTERM, workload, count)
    with Client(broker.url) as receiver:
        receiver.open_channel()
        drain(receiver, replace(workload, redelivered=True), count)
    return killed_s, stop_s, stopped_s


def restart_with_queues(
    broker: Broker, workload: Workload, queues: int, window: int
) -> tuple[float, ...]:
    """As `restart`, with one message in each of so many queues; known is that of the last one."""
    _must_be_ours(broker)
    workload = replace(workload, queues=queues)
    with Client(broker.url) as publisher:
        _publish(publisher, workload, queues, window)
    _, killed_s, broker = _restarted(broker, signal.SIGKILL, workload, 1)
    stop_s, stopped_s, broker = _restarted(broker, signal.SIGTERM, workload, 1)
    with Client(broker.url) as asker:
        asker.open_channel()
        for queue in range(queues):
            must_hold(asker, workload.queue(queue), 1)
    return killed_s, stop_s, stopped_s


def _must_be_ours(broker: Broker) -> None:
    if broker.restart is None:
        raise NotApplicable("it is not ours to restart")


def _publish(publisher: Client, workload: Workload, count: int, window: int) -> None:
    """Declare what the workload needs, and have ``count`` messages confirmed."""
    publisher.open_channel()
    prepare(publisher, workload)
    publisher.select_confirms()
    fill(publisher, workload, count, window)


def _restarted(
    broker: Broker, how: signal.Signals, workload: Workload, expected: int
) -> tuple[float, float, Broker]:
    """Seconds to end the broker, seconds from its start until the last queue's count is known."""
    assert broker.restart is not None
    stop_s, broker = broker.restart(how)
    up_at = time.perf_counter()
    assert broker.start_s is not None
    with Client(broker.url) as asker:
        asker.open_channel()
        must_hold(asker, workload.queue(workload.queues - 1), expected)
        known_s = broker.start_s + time.perf_counter() - up_at
    return stop_s, known_s, broker


def must_hold(asker: Client, queue: str, expected: int) -> None:
    """Raise `Mismatch` unless so many messages are ready in ``queue``."""
    ready = asker.declare_queue(queue, passive=True)
    if ready != expected:
        raise Mismatch(f"after the restart, {ready} messages of {expected} are in {queue}")
