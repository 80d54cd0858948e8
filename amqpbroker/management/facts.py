"""What only the running node knows of itself."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from amqpbroker.cluster.members import ClusterStatus
from amqpbroker.cluster.reports import Inquiry


@attrs.frozen
class Listening:
    """A port, or a socket in the file system, at which something is served."""

    protocol: str
    host: str
    port: int


def _unknown() -> int:
    return 0


def _nothing() -> None:
    return None


async def _at_once() -> None:
    return None


def _ignore(settings: Mapping[str, Any]) -> None:
    return None


def _no_cluster() -> ClusterStatus | None:
    return None


def _no() -> bool:
    return False


def _nobody(what: str, about: Mapping[str, str]) -> list[Inquiry]:
    return []


@attrs.define(eq=False)
class NodeFacts:
    """What the API says of the process; whoever runs the node fills it in."""

    process_id: int = 0
    started_s: float = 0.0
    """The clock's monotonic time of the start."""
    data_dir: str = ""
    config_file: str = ""
    memory_limit_bytes: Callable[[], int] = _unknown
    disk_free_limit_bytes: Callable[[], int] = _unknown
    disk_free_bytes: Callable[[], int] = _unknown
    files_used: Callable[[], int] = _unknown
    files_max: int = 0
    processors: int = 1
    listeners: list[Listening] = attrs.Factory(list)
    stop: Callable[[], None] = _nothing
    """Have the node stop."""
    alarms: Callable[[], tuple[str, ...]] = tuple
    """What runs low here, in a cluster."""
    cluster: Callable[[], ClusterStatus | None] = _no_cluster
    """The cluster as the node sees it, if it is in one."""
    refresh: Callable[[], None] = _nothing
    """Ask the other nodes how many messages are in their queues."""
    is_refreshing: Callable[[], bool] = _no
    """Whether some have yet to answer."""
    inquire: Callable[[str, Mapping[str, str]], list[Inquiry]] = _nobody
    """Ask the other nodes for a report of theirs."""
    drain: Callable[[], None] = _nothing
    """Have it serve no clients any more."""
    revive: Callable[[], Awaitable[None]] = _at_once
    """Have it serve clients again; raises `ConfigError` when it cannot."""
    is_drained: Callable[[], bool] = _no
    """Whether it serves none for now."""
    suspend: Callable[[], None] = _nothing
    """Have it take no more clients."""
    resume: Callable[[], Awaitable[None]] = _at_once
    """Have it take clients again; raises `ConfigError` when it cannot."""
    forget: Callable[[str], Awaitable[None]] | None = None
    """Strike another node off the cluster; None: the node is in none."""
    configure: Callable[[Mapping[str, Any]], None] = _ignore
    """Change settings of the node while it runs; raises `ConfigError`."""
