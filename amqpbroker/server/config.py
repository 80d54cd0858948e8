"""What a node is told at its start.

Flags beat the environment, that beats the file, that beats the defaults.
"""

import ipaddress
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from amqpbroker.cluster.placement import LOCATORS, is_locator
from amqpbroker.cluster.wire import FRAME_BYTES_MAX
from amqpbroker.errors import ConfigError
from amqpbroker.server.limits import Amount, disk_amount, memory_amount

_PORT_MAX = 65535
_IPV6 = re.compile(r"\[([^]]*)\](?::(\d+))?|[^\[\].]*:[^\[\]]*:[^\[\]]*")
_NAMED = re.compile(r"([^:\[\]\s\0]+)(?::(\d+))?")
ENVIRONMENT_PREFIX = "AMQPBROKER_"
_CLUSTER_MESSAGE_BYTES_MAX = FRAME_BYTES_MAX - (1 << 20)
"""Beside a message, a frame between nodes carries what else is known of it."""


def _default_name() -> str:
    return f"rabbit@{socket.gethostname().partition('.')[0]}"


def parse_address(text: str, setting: str) -> tuple[str, int]:
    """``HOST:PORT`` (an IPv6 host in brackets). Raises `ConfigError`."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{setting} is '{text}', but must be HOST:PORT, like 127.0.0.1:5672")
    return host, int(port)


def _address(value: Any, setting: str) -> tuple[str, int]:
    match value:
        case str():
            return parse_address(value, setting)
        case (str(host), int(port)):  # It has been read already.
            return host, port
    raise ConfigError(f"{setting} must be text like 127.0.0.1:5672, not {value!r}")


def _listen(value: Any) -> tuple[str, int]:
    return _address(value, "listen")


def _http(value: Any) -> tuple[str, int] | None:
    return _address(value, "http") if value else None


def _metrics(value: Any) -> tuple[str, int] | None:
    return _address(value, "metrics") if value else None


def _link(value: Any) -> tuple[str, int]:
    return _address(value, "link")


def _endpoints(value: Any) -> tuple[str, ...]:
    """URLs, in a list or separated by commas."""
    each = value.split(",") if isinstance(value, str) else value
    if not isinstance(each, list | tuple) or not all(isinstance(url, str) for url in each):
        raise ConfigError(f"cluster must be URLs like http://127.0.0.1:2379, not {value!r}")
    return tuple(url.strip() for url in each if url.strip())


def _locator(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    if value and not (isinstance(value, str) and is_locator(value)):
        raise ConfigError(f"{field.name} must be {', '.join(LOCATORS)} or node:NAME, not {value!r}")


def _whole(least: int, most: int | None = None) -> Callable[[Any, Any, Any], None]:
    """A validator of whole numbers."""
    bounds = f"{least} or more" if most is None else f"between {least} and {most}"

    def check(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < least or (most is not None and value > most):
            raise ConfigError(f"{field.name} must be a whole number, {bounds}, not {value!r}")

    return check


def _seconds(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ConfigError(f"{field.name} must be a number above 0, not {value!r}")


def _text(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{field.name} must be text, not {value!r}")


def _path(what: str) -> Callable[[Any, Any, Any], None]:
    """A validator of paths."""

    def check(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{field.name} must be the path of a {what}, not {value!r}")

    return check


def _any_text(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{field.name} must be text, not {value!r}")


def _host(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """HOST, HOST:PORT, an IPv6 address, one in brackets with a port, or nothing."""
    if not isinstance(value, str) or (value and not _is_host(value)):
        raise ConfigError(f"{field.name} must be HOST or HOST:PORT, not {value!r}")


def _is_host(text: str) -> bool:
    """Whether it says where a node may be, as far as can be told by looking at it."""
    try:
        if (literal := _IPV6.fullmatch(text)) is not None:
            ipaddress.IPv6Address(literal[1] or literal[0])
            return int(literal[2] or 0) <= _PORT_MAX
        named = _NAMED.fullmatch(text)
        return (
            named is not None and bool(named[1].encode("idna")) and int(named[2] or 0) <= _PORT_MAX
        )
    except ValueError:  # No address, or no name that can be asked for.
        return False


def _flag(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{field.name} must be true or false, not {value!r}")


@attrs.frozen
class Config:
    """The settings of a node.

    Their names are the keys of the file and, in capitals behind ``AMQPBROKER_``, of the
    environment.
    """

    name: str = attrs.field(factory=_default_name, validator=_text)
    """The node's name, ``rabbit@HOST``."""
    listen: tuple[str, int] = attrs.field(
        default="127.0.0.1:5672",  # type: ignore[assignment]  # what the converter takes
        converter=_listen,
    )
    """Where AMQP is served; port 0 takes a free one."""
    http: tuple[str, int] | None = attrs.field(default=None, converter=_http)
    """Where the HTTP API is served; nowhere, unless the node is started by the command."""
    metrics: tuple[str, int] | None = attrs.field(default=None, converter=_metrics)
    """Where the metrics are served; nowhere, unless the node is started by the command."""
    memory: bool = attrs.field(default=False, validator=_flag)
    """Keep everything in memory, touch no disk."""
    data_dir: str = attrs.field(default="", validator=_path("folder"))
    """Where definitions and messages are kept; empty: ``amqpbroker-data/NAME`` right here."""
    cluster: tuple[str, ...] = attrs.field(default=(), converter=_endpoints)
    """The members of the etcd that the nodes of a cluster share, as URLs; none: no cluster."""
    cluster_name: str = attrs.field(default="amqpbroker", validator=_text)
    """What tells the cluster from others in the same etcd."""
    etcd_ca: str = attrs.field(default="", validator=_path("file"))
    """Certificates of those whom to believe that they are etcd; empty: the system's."""
    etcd_cert: str = attrs.field(default="", validator=_path("file"))
    etcd_key: str = attrs.field(default="", validator=_path("file"))
    etcd_user: str = attrs.field(default="", validator=_any_text)
    etcd_password_file: str = attrs.field(default="", validator=_path("file"))
    etcd_development: bool = attrs.field(default=False, validator=_flag)
    """Take an etcd of a version that can lose what it has committed."""
    link: tuple[str, int] = attrs.field(
        default="127.0.0.1:25672",  # type: ignore[assignment]  # what the converter takes
        converter=_link,
    )
    """Where the other nodes of the cluster connect to."""
    link_ca: str = attrs.field(default="", validator=_path("file"))
    """With the next two, streams between nodes are under TLS: who has no certificate of these is
    none of them. The name in a node's certificate is the host under which others reach it."""
    link_cert: str = attrs.field(default="", validator=_path("file"))
    link_key: str = attrs.field(default="", validator=_path("file"))
    advertise: str = attrs.field(default="", validator=_host)
    """The host, or HOST:PORT, where others reach this one; empty: where it listens."""
    link_refused_means_dead: bool = attrs.field(default=True, validator=_flag)
    """Take a node for gone at once when its host refuses connections where it was linked: not for
    networks with virtual IPs, proxies or firewalls that refuse in the name of nodes that live."""
    queue_leader_locator: str = attrs.field(default="", validator=_locator)
    """Where new queues come to be; empty: where they are declared (client-local)."""
    queue_master_locator: str = attrs.field(default="", validator=_locator)
    """The same, in RabbitMQ's word for classic queues; it goes before the other."""
    join_discarding_definitions: bool = attrs.field(default=False, validator=_flag)
    """Put a data directory with definitions of its own aside when the cluster has others."""
    disk_free_limit: Amount = attrs.field(default=Amount(50_000_000), converter=disk_amount)
    """Free room on the disk under which publishers are held back."""
    default_user: str = attrs.field(default="guest", validator=_text)
    default_pass: str = attrs.field(default="guest", validator=_text)
    heartbeat_s: int = attrs.field(default=60, validator=_whole(0, 65535))
    """The interval that is proposed to clients; 0: none."""
    frame_max: int = attrs.field(default=131072, validator=_whole(4096, 1 << 27))
    channel_max: int = attrs.field(default=2047, validator=_whole(1, 65535))
    connections_max: int = attrs.field(default=20_000, validator=_whole(1))
    message_bytes_max: int = attrs.field(default=128 * 1024 * 1024, validator=_whole(1))
    vm_memory_high_watermark: Amount = attrs.field(
        default=Amount(of_memory=0.4), converter=memory_amount
    )
    """Memory of this process over which publishers are held back; no more than there is."""
    shutdown_timeout_s: float = attrs.field(default=10.0, validator=_seconds)
    log_level: str = attrs.field(
        default="info", validator=attrs.validators.in_(("debug", "info", "warning", "error"))
    )

    def __attrs_post_init__(self) -> None:
        if self.memory and self.cluster:
            raise ConfigError(
                "a node that keeps everything in memory cannot be in a cluster:"
                " leave out --memory, or --cluster"
            )
        if self.cluster and self.message_bytes_max > _CLUSTER_MESSAGE_BYTES_MAX:
            raise ConfigError(
                f"message_bytes_max can be {_CLUSTER_MESSAGE_BYTES_MAX} at most in a cluster,"
                " as a message goes from node to node in one frame"
            )
        if bool(self.etcd_cert) != bool(self.etcd_key):
            raise ConfigError("etcd_cert and etcd_key go together: give both, or none")
        if len({bool(self.link_ca), bool(self.link_cert), bool(self.link_key)}) > 1:
            raise ConfigError("link_ca, link_cert and link_key go together: give all, or none")
        if bool(self.etcd_user) != bool(self.etcd_password_file):
            raise ConfigError("etcd_user and etcd_password_file go together: give both, or none")

    @property
    def host(self) -> str:
        """The host under which other nodes, and their clients, reach this one."""
        return self._advertised()[0]

    def link_address(self, listened: int) -> tuple[str, int]:
        """Where other nodes reach this one, which has ``listened`` for them at that port."""
        host, port = self._advertised()
        return host, port or listened

    def _advertised(self) -> tuple[str, int]:
        """The host and the port (0: not said) that others are told."""
        host, _, port = self.advertise.rpartition(":")
        if host and port.isdecimal() and (":" not in host or host.endswith("]")):
            return host.removeprefix("[").removesuffix("]"), int(port)
        listened = self.link[0]
        is_any = listened in ("0.0.0.0", "::")  # noqa: S104 - it is asked, not bound
        return self.advertise or (self.name.partition("@")[2] if is_any else listened), 0


_SERVED = {"http": "127.0.0.1:15672", "metrics": "127.0.0.1:15692"}
"""What a node serves beside AMQP when it is started by the command."""
_FIELDS = {field.name: field for field in attrs.fields(Config)}


def load_config(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> Config:
    """The configuration of the command: ``flags`` (None: not given), ``environment``, ``file``.

    Raises `ConfigError`.
    """
    settings: dict[str, Any] = dict(_SERVED)
    if file is not None:
        settings |= _read_file(file)
    settings |= _read_environment(environment)
    settings |= {name: value for name, value in flags.items() if value is not None}
    try:
        return Config(**settings)
    except ValueError as error:
        # attrs' own validators: the first argument is the sentence.
        raise ConfigError(str(error.args[0])) from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    for name in settings:
        if name not in _FIELDS:
            raise ConfigError(f"{file}: there is no setting '{name}'; there are {_names()}")
    return settings


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for variable, text in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and name in _FIELDS:
            settings[name] = _read_text(variable, text, _FIELDS[name].type)
    return settings


def _read_text(variable: str, text: str, kind: Any) -> Any:
    """A setting that is written as text."""
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is int or kind is float:
            return kind(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{variable} is '{text}', but must be a {kind.__name__}") from None
    return text


def _names() -> str:
    return ", ".join(sorted(_FIELDS))
