"""Which node a call is for, and how it is reached."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from amqpbroker.cli.ctl.api import Target, target_of_url
from amqpbroker.cli.ctl.command import EXIT_CONFIG, EXIT_UNAVAILABLE, CommandFailed

DATA_FOLDER = "amqpbroker-data"
SOCKET_NAME = "ctl.sock"
DEFAULT_URL = "http://127.0.0.1:15672"

HELP = """\
A node is reached by the first of these that is there:

 * --url http://HOST:15672, with --user and --password (or http://USER:PASSWORD@HOST:15672)
 * the environment's AMQPBROKER_URL, written like that
 * the control socket ctl.sock of a node of this machine: in AMQPBROKER_DATA_DIR if that is set,
   else in ./amqpbroker-data/NAME or ./amqpbroker-data/cluster/NAME. If there are several, --node
   says which one; without it, or with a bare 'rabbit', it is the only one, or rabbit@ and this host
 * http://127.0.0.1:15672 as guest, if --node names no other node"""


@attrs.frozen
class LocalNode:
    """A node of this machine."""

    name: str
    socket_path: Path


def find_target(options: Mapping[str, Any], environment: Mapping[str, str]) -> Target:
    """How the node is reached that the options mean. Raises `CommandFailed`."""
    url = options.get("url") or environment.get("AMQPBROKER_URL")
    if url:
        # An option of list_user_limits is called --user too, and means something else.
        try:
            return target_of_url(url, options.get("login"), options.get("password"))
        except ValueError as error:
            raise CommandFailed(EXIT_CONFIG, f"Error: {error}") from error
    nodes, wanted = local_nodes(environment), options.get("node") or "rabbit"
    if not nodes and wanted == "rabbit":
        return target_of_url(DEFAULT_URL, options.get("login"), options.get("password"))
    return Target(socket_path=str(_choose(nodes, options).socket_path))


def local_nodes(environment: Mapping[str, str]) -> list[LocalNode]:
    """The nodes of this machine that have, or had, a control socket."""
    given = environment.get("AMQPBROKER_DATA_DIR")
    root = Path(given or DATA_FOLDER)
    # Of a cluster on one machine, each node has a directory in that of the cluster.
    folders = [root, *sorted(root.glob("*")), *sorted(root.glob("cluster/*"))]
    nodes = []
    for folder in folders:
        path = folder / SOCKET_NAME
        if path.exists():
            nodes.append(LocalNode(_name_of(folder), path))
    return nodes


def _name_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / "node.json").read_text())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def full_name(options: Mapping[str, Any]) -> str:
    """The name of the node that the options mean, as it is before anybody is asked."""
    wanted: str = options.get("node") or "rabbit"
    return wanted if "@" in wanted else f"{wanted}@{socket.gethostname().partition('.')[0]}"


def _choose(nodes: list[LocalNode], options: Mapping[str, Any]) -> LocalNode:
    wanted, full = options.get("node") or "rabbit", full_name(options)
    chosen = [node for node in nodes if node.name == full]
    if not chosen and wanted == "rabbit":
        chosen = nodes
    elif not chosen and "@" not in wanted:
        chosen = [node for node in nodes if node.name.partition("@")[0] == wanted]
    if len(chosen) == 1:
        return chosen[0]
    raise CommandFailed(EXIT_UNAVAILABLE, unreachable(full, _why_not(nodes, chosen)))


def _why_not(nodes: list[LocalNode], chosen: list[LocalNode]) -> str:
    if chosen:
        names = ", ".join(node.name for node in chosen)
        return f"there are several nodes here: {names}; say which one with --node"
    looked = os.path.join(os.getcwd(), DATA_FOLDER, "*", SOCKET_NAME)
    if not nodes:
        return f"no control socket at AMQPBROKER_DATA_DIR or {looked}, and no --url is given"
    return f"the nodes here are {', '.join(node.name for node in nodes)}"


def unreachable(node: str, why: str) -> str:
    """What is said of a node that does not answer."""
    return f"""\
Error: unable to perform an operation on node '{node}'. \
Please see diagnostics information and suggestions below.

Most common reasons for this are:

 * Target node is unreachable (e.g. due to hostname resolution, TCP connection or firewall issues)
 * CLI tool fails to authenticate with the server (e.g. due to a wrong user or password)
 * Target node is not running

DIAGNOSTICS
===========

attempted to contact: [{node}]

{node}:
  * {why}

{HELP}
"""
