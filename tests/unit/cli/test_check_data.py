"""``amqpbroker check-data`` as a user meets it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "amqpbroker"]
QUEUES = 60


def tree(folder: Path) -> dict[str, str]:
    """All that is there, what it holds, and when it was changed."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        state = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[str(path)] = f"{content} {state.st_mtime_ns} {state.st_mode} {state.st_size}"
    return found


def check_data(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, "check-data", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def serving(folder: Path, end: signal.Signals) -> Iterator[str]:
    """A node on a folder, which gets a signal at last; its URL."""
    own = ["--listen", "127.0.0.1:0", "--http=", "--metrics=", "--name", "rabbit@here"]
    process = subprocess.Popen(
        [*COMMAND, "serve", *own, "--data-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split("amqp=")[1].split()[0]
        finally:
            process.send_signal(end)


@pytest.fixture(scope="module", params=[signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that a node has left."""
    folder = tmp_path_factory.mktemp("left") / "node"
    with serving(folder, request.param) as url:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.confirm_delivery()
        for number in range(QUEUES):
            channel.queue_declare(f"queue {number}", durable=True)
        channel.queue_declare("two\twords", durable=True)
        persistent = pika.BasicProperties(delivery_mode=2)
        for number in range(5):
            channel.basic_publish("", "queue 7", b"message %d" % number, persistent)
        running = check_data(folder)
        connection.close()
    assert running.returncode == 1
    assert running.stdout == ""
    line = f"the data directory {folder} is used by a running node, or being checked: stop it first"
    assert running.stderr == f"amqpbroker: {line}\n"
    return folder


@pytest.fixture
def data(left: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    no_sockets = shutil.ignore_patterns("*.sock")
    return Path(shutil.copytree(left, tmp_path / "node", ignore=no_sockets))


def test_a_sound_directory_gets_status_0_and_stays_as_it_is(left: Path) -> None:
    before = tree(left)

    result = check_data(left)

    assert tree(left) == before
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{left}: node rabbit@here, which ")
    assert lines[1].startswith("definitions: 1 vhost, 1 user, 1 permission, 0 topic permissions")
    assert " 61 queues, " in lines[1]
    assert lines[2].startswith("messages: 5, for the next start; ")
    assert lines[4].split("  ")[0] == "vhost"
    assert lines[5].split()[:5] == ["/", "queue", "7", "5", "5"]
    assert "… and 11 more queues (--all shows them)" in lines
    assert lines[-1] == "It is sound."
    assert "two\\twords" in check_data(left, "--all").stdout


def test_the_same_is_said_as_json(left: Path) -> None:
    before = tree(left)

    result = check_data("--json", left)

    assert tree(left) == before
    assert result.returncode == 0
    said = json.loads(result.stdout)
    assert (said["node"], said["format"], said["sound"]) == ("rabbit@here", 1, True)
    assert (said["messages"], said["messages_lost"]) == (5, 0)
    assert said["definitions"]["queues"] == len(said["queues"]) == QUEUES + 1
    [filled] = [queue for queue in said["queues"] if queue["messages"]]
    assert filled == {
        "vhost": "/",
        "name": "queue 7",
        "messages": 5,
        "messages_transient": 0,
        "messages_lost": 0,
        "in_wal": {"messages": 5, "bytes": filled["in_wal"]["bytes"]},
        "in_segments": {"messages": 0, "bytes": 0},
        "segments": {"files": 0, "bytes": 0},
    }
    assert said["damages"] == said["remarks"] == said["torn"] == said["strange"] == []


def test_damage_gets_status_1_and_says_where_and_whose(data: Path) -> None:
    [path] = (data / "wal").iterdir()
    octets = path.read_bytes()
    path.write_bytes(octets.replace(b"message 3", b"message 4"))
    before = tree(data)

    result = check_data(data)

    assert tree(data) == before
    assert result.returncode == 1
    assert result.stderr == ""
    assert f"{path} at " in result.stdout
    assert "(queue queue 7 in /)" in result.stdout
    assert " lost.\n" in result.stdout
    assert json.loads(check_data(data, "--json").stdout)["sound"] is False


def test_a_torn_end_is_no_damage(data: Path) -> None:
    [path] = (data / "wal").iterdir()
    with path.open("ab") as file:
        file.write(b"\xb2WAL half a batch")

    result = check_data(data)

    assert result.returncode == 0
    assert "cut off by a crash, and no damage:\n" in result.stdout
    assert f"{path} at " in result.stdout


def test_what_others_have_put_there_is_named(data: Path) -> None:
    (data / "letter").write_text("a letter")

    result = check_data(data)

    assert result.returncode == 0
    assert f"put there by others:\n  {data}/letter\n" in result.stdout


def refused(result: "subprocess.CompletedProcess[str]", text: str) -> None:
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


def test_what_is_no_data_directory_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a letter")
    none = f"{tmp_path} is no data directory: there is no node.json in it"

    refused(check_data(tmp_path), none)
    refused(check_data(file), f"cannot read the data directory {file}: Not a directory")
    refused(check_data(file / "a"), f"cannot read the data directory {file}/a: Not a directory")
    refused(
        check_data(tmp_path / "none"),
        f"cannot read the data directory {tmp_path}/none: No such file or directory",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_newer_format_is_told_so(data: Path) -> None:
    (data / "node.json").write_text('{"name": "rabbit@here", "format": 2}')

    refused(check_data(data), "has format 2, and this version reads 1")


def test_a_directory_whose_definitions_are_lost_is_told_so(data: Path) -> None:
    [path] = (data / "wal").iterdir()
    path.write_bytes(b"?" * path.stat().st_size)

    refused(check_data(data), f"the definitions in {data} are lost")


def test_without_a_directory_it_is_a_wrong_use() -> None:
    result = check_data()

    assert result.returncode == 64
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
def test_a_copy_on_a_read_only_medium_can_be_checked(left: Path, tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "--bind", left, tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        result = check_data(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)

    assert result.returncode == 0, result.stderr
