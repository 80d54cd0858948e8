"""The doors beside AMQP, over real sockets."""

import http.client
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from amqpbroker.definitions import QueueDefinition, put
from amqpbroker.errors import ConfigError
from amqpbroker.server.config import Config
from amqpbroker.server.http import CONTROL_SOCKET, serve_http
from amqpbroker.server.node import Node

GUEST = {"authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="}

pytestmark = pytest.mark.slow


def config(**more: Any) -> Config:
    settings = {"memory": True, "listen": "127.0.0.1:0", "shutdown_timeout_s": 0.2, **more}
    return Config(**settings)


def nothing() -> None:
    """Nobody stops the node."""


def request(url: str, path: str, headers: dict[str, str] = GUEST) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


class LocalConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(os.fspath(self._path))


async def in_thread(call: Any, *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(call, *arguments)


async def test_the_api_is_served_where_it_is_asked_for() -> None:
    async with Node(config(http="127.0.0.1:0")) as node, serve_http(node, nothing) as url:
        assert url is not None
        status, body = await in_thread(request, url, "/api/overview")
        metrics_status, metrics = await in_thread(request, url, "/metrics")

    assert status == 200
    overview = json.loads(body)
    protocols = {listener["protocol"]: listener["port"] for listener in overview["listeners"]}
    assert protocols == {"amqp": node.address[1], "http": int(url.rpartition(":")[2])}
    assert (metrics_status, metrics[:6]) == (200, b"# TYPE")


async def test_nothing_is_served_where_nothing_is_asked_for() -> None:
    async with Node(config()) as node, serve_http(node, nothing) as url:
        assert url is None


async def test_the_metrics_have_a_port_of_their_own() -> None:
    settings = config(http="127.0.0.1:0", metrics="127.0.0.1:0")
    async with Node(settings) as node, serve_http(node, nothing) as url:
        assert url is not None
        _, body = await in_thread(request, url, "/api/overview")
        listeners = json.loads(body)["listeners"]
        [port] = [each["port"] for each in listeners if each["protocol"] == "http/prometheus"]
        status, metrics = await in_thread(request, f"http://127.0.0.1:{port}", "/metrics", {})
        api_status, _ = await in_thread(request, f"http://127.0.0.1:{port}", "/api/overview")

    assert (status, metrics[:6]) == (200, b"# TYPE")
    assert api_status == 404


async def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BaseExceptionGroup) as caught:
            async with (
                Node(config(http=f"127.0.0.1:{port}")) as node,
                serve_http(node, nothing),
            ):
                pass

    error = caught.value.exceptions[0]
    assert isinstance(error, ConfigError)
    assert "another program uses that port" in str(error)


async def test_a_long_list_comes_in_pieces_and_whole() -> None:
    async with Node(config(http="127.0.0.1:0")) as node, serve_http(node, nothing) as url:
        assert url is not None
        for number in range(1000):
            node.broker.submit(put(QueueDefinition("/", f"q{number}")))
        _, body = await in_thread(request, url, "/api/queues")

    assert len(json.loads(body)) == 1000


async def test_the_control_socket_is_the_owners_alone_and_asks_for_no_password(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data" / CONTROL_SOCKET
    settings = config(memory=False, data_dir=os.fspath(tmp_path / "data"))
    async with Node(settings) as node, serve_http(node, nothing):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        def whoami() -> Any:
            connection = LocalConnection(path)
            connection.request("GET", "/api/whoami")
            answer = json.loads(connection.getresponse().read())
            connection.close()
            return answer

        assert (await in_thread(whoami))["tags"] == ["administrator"]
    assert not path.exists()


async def test_a_socket_that_a_dead_node_has_left_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    settings = config(memory=False, data_dir=os.fspath(folder))
    async with Node(settings):
        pass
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(folder / CONTROL_SOCKET))

    async with Node(settings) as node, serve_http(node, nothing):
        assert (folder / CONTROL_SOCKET).exists()


async def test_a_path_that_is_too_long_for_a_socket_stops_no_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ("x" * 120)
    settings = config(memory=False, data_dir=os.fspath(folder), http="127.0.0.1:0")
    async with Node(settings) as node, serve_http(node, nothing) as url:
        assert url is not None

    assert "no control socket" in caplog.text


async def test_the_node_stops_while_somebody_keeps_a_connection_open() -> None:
    with trio.fail_after(8):
        async with Node(config(http="127.0.0.1:0")) as node, serve_http(node, nothing) as url:
            assert url is not None
            host, _, port = url.removeprefix("http://").rpartition(":")
            idle = await trio.open_tcp_stream(host, int(port))
            await in_thread(request, url, "/api/overview")
        await idle.aclose()
