"""The doors beside AMQP: the HTTP API, the metrics, and the control socket in the data directory.

They stand around a running `Node`. The ports are taken at once; what serves them is loaded by a
thread meanwhile, so that nobody waits for it, neither the start nor the first clients of AMQP: who
comes early waits in the line of the listening socket.
"""

import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from amqpbroker.cluster.reports import Reporter
from amqpbroker.errors import ConfigError
from amqpbroker.management.facts import Listening, NodeFacts
from amqpbroker.server.node import Node

log = logging.getLogger(__name__)
log.setLevel(logging.WARNING)  # That a port is open was said already.

CONTROL_SOCKET = "ctl.sock"
_PROTOCOLS = {"http": "http", "metrics": "http/prometheus"}
"""What is served at the ports, by their settings."""
_BACKLOG = 128
_KEEP_ALIVE_S = 60.0
_GRACE_S = 1.0
"""How long requests may take to end when the node stops."""

App = Any


@asynccontextmanager
async def serve_http(node: Node, stop: Callable[[], None]) -> AsyncIterator[str | None]:
    """Serve what the node's configuration asks for; the URL of the API, if it is served.

    ``stop`` has the node stop. Raises `ConfigError` for a port that cannot be had.
    """
    facts = _facts(node, stop)
    sockets: dict[str, socket.socket] = {}
    try:
        for name, protocol in _PROTOCOLS.items():
            address = getattr(node.config, name)
            if address is not None:
                sockets[name] = _listen(name, *address)
                facts.listeners.append(Listening(protocol, *sockets[name].getsockname()[:2]))
        if node.data_dir is not None:
            control = _listen_locally(Path(node.data_dir) / CONTROL_SOCKET)
            if control is not None:
                sockets["control"] = control
        url = None
        if "http" in sockets:
            host, port = sockets["http"].getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            if node.clustering is not None:
                node.clustering.membership.change(http=url.removeprefix("http://"))
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_all, node, facts, sockets, stopping)
            yield url
            stopping.set()
            nursery.cancel_scope.deadline = trio.current_time() + 2 * _GRACE_S
    finally:
        for each in sockets.values():
            each.close()
        if "control" in sockets:
            (Path(node.data_dir or "") / CONTROL_SOCKET).unlink(missing_ok=True)


def _facts(node: Node, stop: Callable[[], None]) -> NodeFacts:
    clock = node.world.clock
    return NodeFacts(
        process_id=os.getpid(),
        started_s=clock.monotonic_s(),
        data_dir=node.data_dir or "",
        processors=os.cpu_count() or 1,
        listeners=[Listening("amqp", *node.address)],
        memory_limit_bytes=lambda: node.memory_limit_bytes,
        disk_free_limit_bytes=lambda: node.disk_free_limit_bytes,
        disk_free_bytes=node.disk_free_bytes,
        files_used=_count_open_files,
        files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        alarms=lambda: node.alarms,
        cluster=node.cluster_status,
        refresh=node.refresh,
        is_refreshing=node.is_refreshing,
        inquire=node.inquire,
        stop=stop,
        drain=node.drain,
        revive=node.revive,
        is_drained=lambda: node.is_drained,
        suspend=node.suspend,
        resume=node.resume,
        forget=None if node.clustering is None else node.clustering.forget,
        configure=node.configure,
    )


def _count_open_files() -> int:
    """How many files the process has open; 0 where the system does not tell."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


# -- listening -----------------------------------------------------------------------------------


def _listen(setting: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        what = "another program uses that port; stop it, or choose another"
        if error.errno != errno.EADDRINUSE:
            what = f"{error.strerror or error}; choose an address of this machine"
        raise ConfigError(
            f"cannot listen on {host}:{port}: {what} with --{setting} HOST:PORT"
            " (port 0 takes a free one)"
        ) from error
    return listener


def _listen_locally(path: Path) -> socket.socket | None:
    """The control socket; None, with a warning, where there cannot be one."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)  # The data directory is locked: nobody serves there any more.
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        log.warning("no control socket at %s: %s", path, error)
        return None
    finally:
        os.umask(mask)
    return listener


# -- serving -------------------------------------------------------------------------------------


async def _serve_all(
    node: Node, facts: NodeFacts, sockets: dict[str, socket.socket], stopping: trio.Event
) -> None:
    if not sockets:
        return
    report, apps = await trio.to_thread.run_sync(_load, node, facts)
    node.answer_by(report)
    async with trio.open_nursery() as nursery:
        for name, listener in sockets.items():
            nursery.start_soon(_serve, apps[name], listener, stopping)


def _load(node: Node, facts: NodeFacts) -> tuple[Reporter, dict[str, App]]:
    """What other nodes are told, and what is served at each door; importing it takes a while."""
    import hypercorn.trio  # noqa: F401 - so that it is there when it is asked for

    from amqpbroker.management.app import management_app
    from amqpbroker.management.call import LOCAL_CALLER, Management
    from amqpbroker.management.rates import Rates
    from amqpbroker.management.reports import reporter
    from amqpbroker.management.resources import RESOURCES

    management = Management(node.broker, facts, Rates(node.world.clock))
    return reporter(management), {
        "http": management_app(management, RESOURCES),
        "metrics": management_app(management, ()),
        "control": management_app(management, RESOURCES, LOCAL_CALLER),
    }


async def _serve(app: App, listener: socket.socket, stopping: trio.Event) -> None:
    import hypercorn.trio

    config = hypercorn.Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]
    config.accesslog, config.errorlog = None, log
    config.include_server_header = False
    config.graceful_timeout = _GRACE_S
    config.keep_alive_timeout = _KEEP_ALIVE_S
    await hypercorn.trio.serve(app, config, shutdown_trigger=stopping.wait, mode="asgi")
