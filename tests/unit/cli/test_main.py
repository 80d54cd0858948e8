"""The command as a user meets it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest

COMMAND = [sys.executable, "-m", "amqpbroker"]
FREE_PORTS = [f"--{door}=127.0.0.1:0" for door in ("listen", "http", "metrics")]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving process and the line that it says when it is ready."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--memory", *FREE_PORTS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_says_one_line_serves_and_stops_with_status_0(number: signal.Signals) -> None:
    with serving("--name", "rabbit@test") as (process, line):
        assert line.startswith("amqpbroker ready: amqp=amqp://127.0.0.1:")
        assert " http=http://127.0.0.1:" in line
        assert line.endswith(" name=rabbit@test\n")
        url = line.split("amqp=")[1].split()[0]
        connection = pika.BlockingConnection(pika.URLParameters(url))
        connection.channel().queue_declare("q")
        connection.close()

        process.send_signal(number)

        assert process.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("door", ["listen", "http", "metrics"])
def test_a_port_in_use_gets_one_line_and_status_78(door: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        result = run("serve", "--memory", *FREE_PORTS, f"--{door}", address)

    assert result.returncode == 78
    assert "another program uses that port" in one_line(result.stderr)


@pytest.mark.slow
def test_a_wrong_flag_gets_one_line_and_status_64() -> None:
    result = run("serve", "--memmory")

    assert result.returncode == 64
    assert "--memory" in one_line(result.stderr)


@pytest.mark.slow
def test_a_wrong_command_gets_one_line_and_status_64() -> None:
    result = run("sreve")

    assert result.returncode == 64
    assert "sreve" in one_line(result.stderr)


@pytest.mark.slow
def test_a_wrong_key_in_the_file_gets_one_line_and_status_78(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("lisen = 'x'")

    result = run("serve", "--config", os.fspath(file))

    assert result.returncode == 78
    assert "no setting 'lisen'" in one_line(result.stderr)


@pytest.mark.slow
def test_a_wrong_amount_gets_one_line_and_status_78() -> None:
    result = run("serve", "--memory", "--vm-memory-high-watermark", "40%")

    assert result.returncode == 78
    assert "like 0.4, or an amount like 1GiB" in one_line(result.stderr)


@pytest.mark.slow
def test_without_a_command_the_help_is_shown() -> None:
    result = run("--help")

    assert result.returncode == 0
    assert "serve" in result.stdout


@pytest.mark.slow
def test_names_are_installed_once_and_take_nothing_away(tmp_path: Path) -> None:
    taken = tmp_path / "rabbitmq-queues"
    command = tmp_path / "bin" / "amqpbrokerctl"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nfrom amqpbroker.cli.ctl.main import entry_point\nentry_point()\n"
    )
    command.chmod(0o755)
    environment = {**os.environ, "PATH": str(command.parent)}
    names = [*COMMAND, "install-names", os.fspath(tmp_path)]

    made = subprocess.run(names, capture_output=True, text=True, check=True, env=environment)
    again = subprocess.run(names, capture_output=True, text=True, check=True, env=environment)

    assert made.stdout.count(" -> ") == 5
    assert again.stdout == ""
    for name, word in (("rabbitmqctl", "list_queues"), ("rabbitmq-diagnostics", "check_running")):
        shown = subprocess.run(
            [tmp_path / name, "help"], capture_output=True, text=True, check=True
        )
        assert f"Use '{name} help <command>'" in shown.stdout
        assert word in shown.stdout
    taken.unlink()
    taken.write_text("another program")
    refused = subprocess.run(names, capture_output=True, text=True, check=False, env=environment)
    assert refused.returncode == 78
    assert "rabbitmq-queues: File exists" in one_line(refused.stderr)
