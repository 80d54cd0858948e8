"""Whether a node is there, and waiting until it is."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from amqpbroker.cli.ctl.api import ApiRefused, ApiTimeout, ApiUnreachable
from amqpbroker.cli.ctl.command import (
    BOTH,
    EXIT_DATA,
    EXIT_SOFTWARE,
    EXIT_UNAVAILABLE,
    TIMED,
    UPGRADE,
    Answer,
    Call,
    Command,
    CommandFailed,
    InvalidArguments,
    Report,
    failed,
)
from amqpbroker.cli.ctl.reports import asking, passed
from amqpbroker.cli.ctl.where import full_name

_POLL_S = 0.5
_UNAVAILABLE = 503
SINGLE = "seems to be the only one in a single node cluster"
"""What is said of most checks that need a cluster."""
MIRRORS_CHECK = "node-is-mirror-sync-critical"


def wanted_node(call: Call) -> str:
    """The name of the node that is asked, as far as it is known without it."""
    try:
        return call.node
    except (ApiUnreachable, ApiTimeout, ApiRefused, CommandFailed):
        return full_name(call.options)


def timeout_ms(call: Call, default_s: int) -> int:
    """How long the command may take."""
    return 1000 * int(call.options.get("timeout") or default_s)


def _ping(call: Call) -> str:
    try:
        call.api.get("overview", columns="node")
    except (ApiUnreachable, ApiTimeout) as error:
        text = f"Failed to connect and authenticate to {wanted_node(call)}"
        raise failed(f"{text} in {timeout_ms(call, 60)} ms") from error
    return "Ping succeeded"


def _ping_banner(call: Call) -> str:
    return (
        f"Will ping {wanted_node(call)}. This only checks if the OS process is running and"
        f" registered with epmd. Timeout: {timeout_ms(call, 60)} ms."
    )


def poll(call: Call, default_s: int, is_done: Callable[[], bool]) -> bool:
    """Look again and again until it is so; False if the time is up before."""
    end_s = time.monotonic() + timeout_ms(call, default_s) / 1000
    while True:
        try:
            if is_done():
                return True
        except (ApiUnreachable, ApiTimeout):
            pass
        except CommandFailed as failure:
            # Its socket is not there yet.
            if failure.status != EXIT_UNAVAILABLE:
                raise
        if time.monotonic() >= end_s:
            return False
        time.sleep(_POLL_S)


def _await_startup(call: Call) -> None:
    if not poll(call, 300, lambda: bool(call.api.get("overview", columns="node"))):
        raise ApiTimeout


def _await_online_nodes(call: Call) -> None:
    wanted = int(call.arguments[0])

    def is_enough() -> bool:
        nodes = call.api.get("nodes", columns="name,running")
        return sum(bool(node.get("running")) for node in nodes) >= wanted

    if not poll(call, 300, is_enough):
        text = f"Error: timed out while waiting. Not enough nodes joined {call.node}'s cluster."
        raise failed(text, EXIT_SOFTWARE)


def check_positive(call: Call) -> None:
    """The one argument is a number above 0."""
    if not call.arguments[0].isdecimal() or int(call.arguments[0]) < 1:
        text = "Bad argument: Argument must be a positive integer"
        raise InvalidArguments(text, EXIT_DATA)


def _await_mirrors(call: Call) -> Answer:
    """Wait until no queue would lose its messages with this node."""

    def is_safe() -> bool:
        try:
            call.api.get("health", "checks", MIRRORS_CHECK)
        except ApiRefused as refusal:
            if refusal.status != _UNAVAILABLE:
                raise
            return False
        return True

    if len(call.api.get("nodes", columns="name")) == 1:
        return passed(call, f"Target node {SINGLE}, the command does not apply")
    if not poll(call, 120, is_safe):
        raise failed(
            "time is up, no synchronised mirror came online for at least some classic"
            " mirrored queues"
        )
    return None


def _await_quorum(call: Call) -> Answer:
    """There are no queues here that need a majority."""
    if len(call.api.get("nodes", columns="name")) == 1:
        return passed(call, f"Target node {SINGLE}, the command does not apply")
    return None


def _wait(call: Call) -> Report:
    """Wait until the node answers whose process is the one given, as long as that is there."""
    steps = []
    process_id = call.options.get("pid")
    if process_id is None:
        (file,) = call.arguments
        steps.append(f"Waiting for pid file '{file}' to appear")
        if not poll(call, 10, lambda: bool(read_pid(file))):
            raise ApiTimeout
        process_id = read_pid(file)
        steps.append(f"pid is {process_id}")

    def is_up() -> bool:
        if not is_alive(int(process_id)):
            raise CommandFailed(EXIT_SOFTWARE, "Error: process is not running.")
        return bool(call.api.get("overview", columns="node"))

    if not poll(call, 10, is_up):
        raise ApiTimeout
    apps, node = "rabbit_and_plugins", call.node
    steps += [
        f"Waiting for erlang distribution on node '{node}' while OS process '{process_id}'"
        " is running",
        f"Waiting for applications '{apps}' to start on node '{node}'",
        f"Applications '{apps}' are running on node '{node}'",
    ]
    return Report([] if call.is_quiet else steps, {"node": node, "result": "ok"})


def read_pid(file: str) -> int:
    """The number in a pid file; 0 while it is not there."""
    try:
        text = Path(file).read_text().strip()
    except FileNotFoundError:
        return 0
    if text and not text.isdecimal():
        raise CommandFailed(EXIT_SOFTWARE, "Error: garbage in pid file.")
    return int(text or 0)


def is_alive(process_id: int) -> bool:
    """Whether there is a process with that number."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is there, and somebody else's.
    return True


def _check_wait(call: Call) -> None:
    is_pid = "pid" in call.options
    if is_pid and call.arguments:
        raise InvalidArguments('"Cannot specify both pid and pidfile"')
    if not is_pid and not call.arguments:
        raise InvalidArguments('"No pid or pidfile specified"')


COMMANDS = (
    Command(
        name="ping",
        run=_ping,
        description="Checks that the node OS process is up, registered with EPMD"
        " and CLI tools can authenticate with it",
        section="observability_and_health_checks",
        switches=TIMED,
        banner=_ping_banner,
        tools=BOTH,
    ),
    Command(
        name="await_startup",
        run=_await_startup,
        description="Waits for the RabbitMQ application to start on the target node",
        section="node_management",
    ),
    Command(
        name="await_online_nodes",
        run=_await_online_nodes,
        usage="<count>",
        description="Waits for <count> nodes to join the cluster",
        section="cluster_management",
        details=(("<count>", "how many cluster members must be up"),),
        least=1,
        most=1,
        switches=TIMED,
        banner=lambda call: (
            f"Will wait for at least {call.arguments[0]} nodes to join the cluster"
            f" of {call.node}. Timeout: {timeout_ms(call, 300) // 1000} seconds."
        ),
        check=check_positive,
    ),
    asking(
        "wait",
        _wait,
        "",
        "Waits for RabbitMQ node startup by monitoring a local PID file."
        " See also 'rabbitmqctl await_online_nodes'",
        usage="[<pidfile>] [--pid|-P <pid>]",
        section="node_management",
        details=(
            ("<pidfile>", "PID file path"),
            ("--pid <pid>", "operating system PID to monitor"),
        ),
        most=1,
        switches={"pid": int, **TIMED},
        aliases={"P": "pid"},
        banner=None,
        check=_check_wait,
        tools=BOTH,
    ),
    asking(
        "await_online_synchronized_mirror",
        _await_mirrors,
        "",
        "Waits for all classic mirrored queues hosted on the target node to have at least one"
        " synchronized mirror online. This makes sure that if target node is shut down, there will"
        " be an up-to-date mirror to promote.",
        section="upgrade",
        switches={},
        banner=lambda call: (
            "Will wait for a synchronised mirror be online for all classic mirrored"
            f" queues for {timeout_ms(call, 120) // 1000} seconds..."
        ),
        tools=(UPGRADE,),
    ),
    asking(
        "await_online_quorum_plus_one",
        _await_quorum,
        "",
        "Waits for all quorum queues to have an above minimum online quorum."
        " This makes sure that no queues would lose their quorum if the target node is shut down",
        section="upgrade",
        switches={},
        banner=lambda call: (
            "Will wait for a quorum + 1 of nodes to be online for all quorum queues"
            f" for {timeout_ms(call, 120) // 1000} seconds..."
        ),
        tools=(UPGRADE,),
    ),
)
