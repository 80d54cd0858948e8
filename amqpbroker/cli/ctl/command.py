"""What a command is, what it is called with, and what it may answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import attrs

from amqpbroker.cli.ctl.api import Api
from amqpbroker.cli.ctl.options import Switches

EXIT_USAGE = 64
EXIT_DATA = 65
EXIT_NO_USER = 67
EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70
EXIT_TEMPORARY = 75
EXIT_CONFIG = 78

CTL = "rabbitmqctl"
DIAGNOSTICS = "rabbitmq-diagnostics"
QUEUES = "rabbitmq-queues"
PLUGINS = "rabbitmq-plugins"
UPGRADE = "rabbitmq-upgrade"

TOOLS = (CTL, DIAGNOSTICS, QUEUES, PLUGINS, UPGRADE)
"""The names of RabbitMQ's tools, each with commands of its own."""
OWN_NAME = "amqpbrokerctl"
"""Has the commands of all tools but rabbitmq-plugins, whose names are too short for that."""

BOTH = (CTL, DIAGNOSTICS)
"""The tools that most commands which only look belong to."""


class CommandFailed(Exception):
    """A command did not do what it was told: what is printed, and the exit status.

    ``message`` is what ``--formatter json`` says instead, where RabbitMQ has such a text.
    """

    def __init__(self, status: int, text: str, message: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.message = message


class InvalidArguments(Exception):
    """The arguments are not what the command takes; printed with its usage."""

    def __init__(self, text: str, status: int = EXIT_USAGE) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


def failed(text: str, status: int = EXIT_UNAVAILABLE, message: str = "") -> CommandFailed:
    """A failure as most commands report it."""
    return CommandFailed(status, f"Error:\n{text}", message)


def no_such_vhost(vhost: str) -> CommandFailed:
    """The failure of whatever is asked of a virtual host that there is not."""
    return CommandFailed(EXIT_DATA, f"Virtual host '{vhost}' does not exist")


@attrs.frozen
class Rows:
    """A listing: pairs of column and value, a list of them per row.

    One that RabbitMQ streams (``streamed``) prints nothing where there is no row; of the others an
    empty line is left.
    """

    rows: Sequence[Mapping[str, Any]]
    streamed: bool = False


@attrs.frozen
class Report:
    """A text for people, and what ``--formatter json`` says instead."""

    lines: Sequence[str]
    data: Any = None


@attrs.frozen
class Raw:
    """A text that is printed as it is, without a line break behind."""

    text: str


Answer = None | str | Rows | Report | Raw
"""What a command says: nothing, a line, a listing, a report, or a file's content."""


@attrs.frozen
class Call:
    """One call of a command."""

    arguments: list[str]
    options: Mapping[str, Any]
    _find_api: Callable[[], Api]
    program: str
    stdin: TextIO
    _asked: dict[str, Any] = attrs.field(factory=dict, repr=False)

    @property
    def api(self) -> Api:
        """The API of the node that is meant, looked for when it is first needed."""
        if "api" not in self._asked:
            self._asked["api"] = self._find_api()
        api: Api = self._asked["api"]
        return api

    @property
    def vhost(self) -> str:
        """The virtual host that the call is about."""
        vhost: str = self.options["vhost"]
        return vhost

    @property
    def overview(self) -> dict[str, Any]:
        """What the node tells of itself and its cluster, asked for once."""
        if "overview" not in self._asked:
            self._asked["overview"] = self.api.get("overview")
        overview: dict[str, Any] = self._asked["overview"]
        return overview

    @property
    def node(self) -> str:
        """The name of the node that answers."""
        name: str = self.overview["node"]
        return name

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be said that was not asked for."""
        return bool(self.options.get("quiet") or self.options.get("silent"))


Banner = str | Callable[[Call], str | None] | None


@attrs.frozen(kw_only=True)
class Command:
    """A command: what it takes, how it is described, and what it does."""

    name: str
    run: Callable[[Call], Answer]
    usage: str = ""
    """What stands behind its name in a usage line."""
    description: str = ""
    section: str = "other"
    """Where the help lists it."""
    details: tuple[tuple[str, str], ...] = ()
    """Arguments and options, each with what it means."""
    least: int = 0
    most: int | None = 0
    """How many arguments there may be; None: any number."""
    switches: Switches = attrs.Factory(dict)
    aliases: Mapping[str, str] = attrs.Factory(dict)
    defaults: Mapping[str, Any] = attrs.Factory(dict)
    banner: Banner = None
    """What is said before: a template of arguments (by number) and options, or a function."""
    check: Callable[[Call], None] | None = None
    """Looks closer at the arguments; raises `InvalidArguments`."""
    tools: tuple[str, ...] = (CTL,)
    formatter: str = "string"

    def banner_of(self, call: Call) -> str | None:
        """What is said before the command is run."""
        if isinstance(self.banner, str):
            return self.banner.format(*call.arguments, **call.options)
        return None if self.banner is None else self.banner(call)


IN_VHOST: Mapping[str, Any] = {"vhost": "/"}
"""The defaults of a command that is about a virtual host."""
TIMED: Switches = {"timeout": int}
"""The switches of a command that says in its usage that it takes a timeout."""
