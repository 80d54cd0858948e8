"""The command beside a node, both as processes, over the control socket."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("AMQPBROKER_")
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A node with its data in ``tmp_path``, and no port for HTTP."""
    settings = ("--name", "rabbit@test", "--listen", "127.0.0.1:0", "--http=", "--metrics=")
    process = subprocess.Popen(
        [sys.executable, "-m", "amqpbroker", "serve", "--data-dir", tmp_path / "d", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("amqpbroker ready:")
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def ctl(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "amqpbroker.cli.ctl", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**ENVIRONMENT, "AMQPBROKER_DATA_DIR": os.fspath(tmp_path / "d")},
    )


@pytest.mark.slow
def test_a_node_is_administered_and_stopped_by_its_socket(
    served: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert ctl(tmp_path, "ping", "-n", "rabbit@test").stdout.endswith("\nPing succeeded\n")
    assert ctl(tmp_path, "delete_user", "guest").returncode == 0
    assert ctl(tmp_path, "add_user", "joe", "secret").returncode == 0
    assert ctl(tmp_path, "list_users", "-s").stdout == "joe\t[]\n"
    assert ctl(tmp_path, "authenticate_user", "joe", "secret").returncode == 0
    assert ctl(tmp_path, "authenticate_user", "joe", "wrong").returncode == 65

    stopped = ctl(tmp_path, "shutdown", "-n", "rabbit@test")

    assert stopped.stdout.endswith("RabbitMQ node rabbit@test successfully shut down\n")
    assert served.wait(timeout=30) == 0
    assert ctl(tmp_path, "list_users", "-n", "rabbit@test").returncode == 69


@pytest.mark.slow
def test_whoever_reads_may_stop_reading(tmp_path: Path) -> None:
    line = f"{sys.executable} -m amqpbroker.cli.ctl help | head -1"

    result = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)

    assert result.stderr == ""
