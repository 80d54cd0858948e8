"""A node's HTTP API, as the command asks it: one request after another."""

import base64
import copy
import html
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote, unquote, urlencode, urlsplit

import attrs

DEFAULT_TIMEOUT_S = 300.0
"""How long an answer is waited for when nobody says: no command hangs for ever."""

_PORTS = {"http": 15672, "https": 15671}


class ApiUnreachable(Exception):
    """No answer came from the node, or none that it could have given."""


class ApiTimeout(Exception):
    """The node did not answer in time."""


class ApiRefused(Exception):
    """The node answered with an error; ``reason`` is its text."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@attrs.frozen
class Target:
    """Where a node is reached: a socket of this machine (``socket_path``), or a ``url``.

    ``user`` is empty where the socket itself says who comes.
    """

    url: str = ""
    socket_path: str = ""
    user: str = ""
    password: str = ""

    @property
    def title(self) -> str:
        """What diagnostics call it."""
        return self.socket_path or self.url


def target_of_url(url: str, user: str | None = None, password: str | None = None) -> Target:
    """The target that ``url`` names, which may hold a user. Raises `ValueError`."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"'{url}' is no URL of a node; one is http://HOST:15672")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port or _PORTS[parts.scheme]
    return Target(
        url=f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/').removesuffix('/api')}",
        user=user or unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest") if password is None else password,
    )


class Api:
    """The HTTP API of one node. Whatever fails raises one of this module's exceptions."""

    def __init__(self, target: Target, timeout_s: float | None = None) -> None:
        self.target = target
        self.timeout_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s

    def as_user(self, user: str, password: str) -> Self:
        """The same API, asked by that user."""
        there = copy.copy(self)
        there.target = attrs.evolve(self.target, user=user, password=password)
        return there

    def get(self, *path: str, **query: str) -> Any:
        """What is at ``path``."""
        return self.request("GET", path, query=query)

    def find(self, *path: str) -> Any:
        """What is at ``path``, None if nothing is."""
        try:
            return self.get(*path)
        except ApiRefused as refusal:
            if refusal.status != http.client.NOT_FOUND:
                raise
            return None

    def put(self, *path: str, body: Any) -> Any:
        """Put ``body`` there."""
        return self.request("PUT", path, body)

    def post(self, *path: str, body: Any) -> Any:
        """Send ``body`` there."""
        return self.request("POST", path, body)

    def delete(self, *path: str, headers: Mapping[str, str] | None = None) -> Any:
        """Delete what is there."""
        return self.request("DELETE", path, headers=headers)

    def request(
        self,
        method: str,
        path: tuple[str, ...],
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask, and return what the answer's JSON says."""
        address = "/".join(("/api", *(quote(part, safe="") for part in path)))
        if query:
            address += f"?{urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        status, answer = self.exchange(method, address, data, headers or {})
        if status >= 400:
            raise ApiRefused(status, _reason(status, answer))
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise ApiUnreachable(f"{self.target.title} does not answer in JSON") from error

    def exchange(
        self, method: str, address: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """One request; the status and body of its answer."""
        connection, prefix = self._connect()
        sent = {"Content-Type": "application/json", **headers}
        if self.target.user:
            login = f"{self.target.user}:{self.target.password}".encode()
            sent["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        try:
            connection.request(method, prefix + address, data, sent)
            response = connection.getresponse()
            return response.status, response.read()
        except TimeoutError as error:
            raise ApiTimeout from error
        except (OSError, http.client.HTTPException) as error:
            raise ApiUnreachable(str(error) or type(error).__name__) from error
        finally:
            connection.close()

    def _connect(self) -> tuple[http.client.HTTPConnection, str]:
        """A connection, and what stands before every path."""
        if self.target.socket_path:
            return _SocketConnection(self.target.socket_path, self.timeout_s), ""
        parts = urlsplit(self.target.url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = ssl.create_default_context()
            secure = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=self.timeout_s, context=context
            )
            return secure, parts.path
        plain = http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.timeout_s)
        return plain, parts.path


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _reason(status: int, answer: bytes) -> str:
    """What an error says: RabbitMQ's API escapes it for HTML."""
    try:
        reason = json.loads(answer)["reason"]
    except (ValueError, KeyError, TypeError):
        return http.client.responses.get(status, str(status))
    return html.unescape(reason) if isinstance(reason, str) else json.dumps(reason)
