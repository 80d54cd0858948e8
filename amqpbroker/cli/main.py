"""The command ``amqpbroker``."""

import importlib
import logging
import os
import resource
import shutil
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import trio

from amqpbroker import __version__
from amqpbroker.cli.check_data import check_data
from amqpbroker.cli.ctl.command import TOOLS
from amqpbroker.cli.local_cluster import NODES_MAX, LocalCluster, NodePorts
from amqpbroker.errors import ConfigError, DataError, DiskFailure
from amqpbroker.server.collector import collect_when_idle, no_collections
from amqpbroker.server.config import Config, load_config
from amqpbroker.server.http import serve_http
from amqpbroker.server.node import Node

EXIT_DATA = 1
EXIT_USAGE = 64
EXIT_DISK = 70
EXIT_CONFIG = 78

CONTROL_COMMAND = "amqpbrokerctl"

_EXITS = {ConfigError: EXIT_CONFIG, DataError: EXIT_DATA, DiskFailure: EXIT_DISK}

log = logging.getLogger("amqpbroker")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="amqpbroker")
def cli() -> None:
    """A RabbitMQ-compatible AMQP 0-9-1 broker."""


@cli.command()
@click.option("--name", help="The node's name.  [default: rabbit@ and this host]")
@click.option("--config", "file", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--memory", is_flag=True, default=None, help="Keep everything in memory.")
@click.option(
    "--data-dir",
    metavar="DIR",
    help="Where definitions and messages are kept.  [default: amqpbroker-data/NAME]",
)
@click.option("--listen", metavar="HOST:PORT", help="AMQP.  [default: 127.0.0.1:5672]")
@click.option(
    "--disk-free-limit",
    metavar="AMOUNT",
    help="Hold publishers back while less is free on the disk: 2GB, 500MiB, or mem_relative 1.5"
    " times the memory.  [default: 50MB]",
)
@click.option(
    "--vm-memory-high-watermark",
    metavar="AMOUNT",
    help="Hold publishers back while the node takes more memory: 0.4 of the machine's, or 1GiB."
    "  [default: 0.4]",
)
@click.option(
    "--http", metavar="HOST:PORT", help='The HTTP API; "": none.  [default: 127.0.0.1:15672]'
)
@click.option(
    "--metrics", metavar="HOST:PORT", help='The metrics; "": none.  [default: 127.0.0.1:15692]'
)
@click.option(
    "--cluster", metavar="URL,…", help="The etcd that the nodes of a cluster share, its members."
)
@click.option("--cluster-name", metavar="NAME", help="The cluster's.  [default: amqpbroker]")
@click.option("--etcd-ca", metavar="FILE", help="Whom to believe that they are etcd.")
@click.option("--etcd-cert", metavar="FILE", help="The certificate that is shown to etcd.")
@click.option("--etcd-key", metavar="FILE", help="The key of that.")
@click.option("--etcd-user", metavar="NAME", help="The user that the node is to etcd.")
@click.option("--etcd-password-file", metavar="FILE", help="The password of that.")
@click.option("--etcd-development", is_flag=True, default=None, hidden=True)
@click.option(
    "--link",
    metavar="HOST:PORT",
    help="Where other nodes of the cluster connect to.  [default: 127.0.0.1:25672]",
)
@click.option("--advertise", metavar="HOST[:PORT]", help="Where they find this host.")
@click.option(
    "--join-discarding-definitions",
    is_flag=True,
    default=None,
    help="Put a data directory with definitions of its own aside to join a cluster.",
)
def serve(file: Path | None, **flags: Any) -> None:
    """Run a node until SIGTERM or ctrl-C.

    Settings come from flags, the environment (AMQPBROKER_LISTEN …), the file, and defaults.
    """
    config = load_config(flags, os.environ, file)
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s [%(levelname)s] %(name)s: %(message)s",
        stream=sys.stderr,
    )
    failure: BaseException | None = None
    try:
        trio.run(_serve, config)
    except* tuple(_EXITS) as group:
        failure = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    if failure is not None:
        raise failure


async def _serve(config: Config) -> None:
    _raise_file_limit()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        starting, running = trio.CancelScope(), trio.CancelScope()
        ends = [starting]  # What a signal ends.

        async def heed() -> None:
            async for number in signals:
                log.info("stopping: %s", signal.Signals(number).name)
                ends[-1].cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed)
            with starting:
                async with AsyncExitStack() as stack:
                    with no_collections():
                        node = await stack.enter_async_context(Node(config))
                    http = await stack.enter_async_context(serve_http(node, running.cancel))
                    ends.append(running)
                    nursery.start_soon(collect_when_idle, node.broker.turn, node.world.memory)
                    served = f"amqp={node.url}" if http is None else f"amqp={node.url} http={http}"
                    click.echo(f"amqpbroker ready: {served} name={config.name}")
                    with running:
                        await trio.sleep_forever()
            nursery.cancel_scope.cancel()


def _raise_file_limit() -> None:
    """Every connection is an open file: take as many as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        log.info("the limit of open files could not be raised to %d", most)


@cli.command()
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, NODES_MAX))
@click.option(
    "--base-port",
    default=5672,
    show_default=True,
    type=click.IntRange(1, 45_000),
    help="The first node's for AMQP; the others have those behind it, and HTTP 10000 above.",
)
@click.option("--etcd-members", default="1", show_default=True, type=click.Choice(["1", "3"]))
@click.option(
    "--data-dir",
    metavar="DIR",
    default="amqpbroker-data/cluster",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
)
def cluster(nodes: int, base_port: int, etcd_members: str, data_dir: Path) -> None:
    """Run a cluster on this machine until SIGTERM or ctrl-C, with an etcd of its own.

    To try things out: what one machine loses, such a cluster loses.
    """
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    ports = [NodePorts.from_base(base_port, number) for number in range(nodes)]
    with LocalCluster(data_dir, ports, etcd_members=int(etcd_members)) as running:
        if running.executable.is_development:
            click.echo("development etcd, not for data you keep")
        for node in running.nodes:
            click.echo(f"{node.name}: amqp={node.url} http={node.http_url}")
        click.echo(f"amqpbroker cluster ready: {running.file} says where everything is")
        running.watch(lambda line: click.echo(line, err=True), lambda: bool(signals))


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure this broker, and others beside it (see bench --help)."""
    sys.exit(importlib.import_module("amqpbroker_bench.cli").main(list(arguments)))


@cli.command("install-names")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def install_names(folder: Path) -> None:
    """Make links in DIR by which amqpbrokerctl is rabbitmqctl and its sisters.

    Ansible and other scripts call those names. What already bears one of them is left alone.
    """
    command = _control_command()
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOOLS:
        link = folder / name
        if link.is_symlink() and link.resolve() == command.resolve():
            continue
        try:
            link.symlink_to(command)
        except OSError as error:
            raise ConfigError(f"cannot make the link {link}: {error.strerror}") from error
        click.echo(f"{link} -> {command}")


def _control_command() -> Path:
    """Where amqpbrokerctl is: beside this command, or on the PATH."""
    beside = Path(sys.argv[0]).resolve().with_name(CONTROL_COMMAND)
    found = str(beside) if beside.exists() else shutil.which(CONTROL_COMMAND)
    if found is None:
        raise ConfigError(f"{CONTROL_COMMAND} is not on the PATH; install amqpbroker with pip")
    return Path(found)


cli.add_command(check_data)


def main() -> None:
    """Run a command; what the user can mend gets one line and an exit status."""
    try:
        cli.main(standalone_mode=False)
    except tuple(_EXITS) as error:
        click.echo(f"amqpbroker: {error}", err=True)
        sys.exit(_EXITS[type(error)])
    except click.ClickException as error:
        click.echo(f"amqpbroker: {error.format_message()} (amqpbroker --help says more)", err=True)
        sys.exit(EXIT_USAGE)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
