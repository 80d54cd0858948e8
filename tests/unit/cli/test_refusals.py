"""A data directory that is not to be used: one line says which and what to do, status 1, no harm.

Rights do not bind root, who may run these tests: where a thing is refused for want of them, the
file system is made to refuse (a mount that is read-only or tiny, a file that may not be changed).
"""

import fcntl
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import pytest

from amqpbroker.storage.format import (
    FORMAT_VERSION,
    Kind,
    encode_batch,
    encode_file_head,
    encode_record,
)
from amqpbroker.storage.wal import FILE_MARK

pytestmark = pytest.mark.slow

NAME = "rabbit@here"
CHOOSE = "choose another with --data-dir"
FOR_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="only root mounts file systems"
)


def tree(folder: Path) -> dict[str, str]:
    """All that is there, and what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = "folder"
        if path.is_symlink():
            what = f"link to {os.readlink(path)}"
        elif path.is_file():
            what = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        found[str(path.relative_to(folder))] = what
    return found


def command(folder: Path | str, name: str = NAME) -> list[str]:
    own = [
        "--listen",
        "127.0.0.1:0",
        "--http=",
        "--metrics=",
        "--name",
        name,
        "--data-dir",
        str(folder),
    ]
    return [sys.executable, "-m", "amqpbroker", "serve", *own]


def serve(
    folder: Path | str, name: str = NAME, before: Sequence[str] = (), cwd: str | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*before, *command(folder, name)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=cwd,
    )


def refused(folder: Path | str, *words: str, around: Path, name: str = NAME) -> str:
    """See that a node is refused the folder, and nothing changes ``around`` it; what it is told."""
    before = tree(around)

    result = serve(folder, name)

    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("amqpbroker: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert str(folder) in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert tree(around) == before
    assert result.stdout == ""
    return result.stderr


def starts(folder: Path) -> None:
    """See that a node starts there, and ends."""
    process = subprocess.Popen(
        command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that a node has left in good order."""
    folder = tmp_path_factory.mktemp("made") / "node"
    starts(folder)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "node"))


def test_a_directory_of_another_node(data: Path) -> None:
    refused(
        data, "belongs to node rabbit@here", "with that --name", around=data, name="rabbit@there"
    )


def test_a_directory_of_a_cluster(data: Path) -> None:
    sign = json.loads((data / "node.json").read_text())
    assert len(sign["uuid"]) == 32
    (data / "node.json").write_text(json.dumps(sign | {"cluster": "0123"}))

    refused(data, "belongs to a node of a cluster (0123)", "--cluster it had", around=data)


def test_a_directory_of_a_newer_format(data: Path) -> None:
    (data / "node.json").write_text(json.dumps({"name": NAME, "format": FORMAT_VERSION + 1}))

    refused(data, "has format 2, and this version reads 1", "a newer one", around=data)


def test_a_log_of_a_newer_format(data: Path) -> None:
    head = struct.pack("<4sII", FILE_MARK, FORMAT_VERSION + 1, 0)
    newest = data / "wal" / "99999999.wal"
    newest.write_bytes(head + struct.pack("<I", crc32(head)))

    refused(data, f"{newest} has format 2", "a newer one", around=data)


def test_definitions_that_only_a_newer_version_knows(data: Path) -> None:
    newest = data / "wal" / "99999999.wal"
    record = encode_record(Kind.DEFINITIONS, 0, 0, [b'{"put":{"hologram":{"name":"h"}}}\n'])
    newest.write_bytes(encode_file_head(FILE_MARK) + encode_batch(1000, 0, [], [record]))

    refused(data, f"the definitions in {data} cannot be read", "hologram", around=data)


def test_a_directory_that_a_running_node_has_locked(data: Path) -> None:
    with (data / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        refused(data, "is used by a running node", "stop that one", CHOOSE, around=data)


def test_a_file_in_its_place(tmp_path: Path) -> None:
    place = tmp_path / "node"
    place.write_text("a letter")

    refused(place, "Not a directory", "move away what is there", CHOOSE, around=tmp_path)


def test_a_file_in_the_place_of_a_folder_above(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("a letter")

    text = refused(tmp_path / "letter" / "a" / "b", "Not a directory", CHOOSE, around=tmp_path)

    assert f" {tmp_path}/letter: Not a directory" in text


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "node").symlink_to(tmp_path / "none" / "at" / "all")

    refused(tmp_path / "node", "File exists", "move away what is there", around=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"rabbit@here"',
        b"{}",
        b'{"name": "rabbit@here"}',
        b'{"name": 5, "format": 1}',
        b'{"name": "rabbit@here", "format": "1"}',
        b'{"name": "rabbit@here", "format": true}',
        b'{"name": "rabbit@here", "format": 1.5}',
        b'{"name": "rabbit@here", "format": 0}',
        b'{"name": "rabbit@h\xff", "format": 1}',
        b"\xff\xfe{\x00}\x00",
        b"\0" * 40,
        b"[" * 100_000,
        b'{"a\\nb": }',
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_sign_that_cannot_be_read(data: Path, content: bytes) -> None:
    (data / "node.json").write_bytes(content)

    refused(
        data,
        f"{data}/node.json cannot be read",
        'it should say {"name": "rabbit@HOST", "format": 1}',
        "restore it, or move",
        around=data,
    )


def test_a_folder_in_the_place_of_the_sign(data: Path) -> None:
    (data / "node.json").unlink()
    (data / "node.json").mkdir()

    refused(data, f"{data}/node.json: Is a directory", around=data)


def test_a_sign_that_is_missing_where_there_is_data(data: Path) -> None:
    (data / "node.json").unlink()

    refused(data, f"{data}/node.json is missing", "restore it", around=data)


@pytest.mark.parametrize("inner", ["wal", "queues"])
def test_a_file_in_the_place_of_a_folder_within(data: Path, inner: str) -> None:
    shutil.rmtree(data / inner)
    (data / inner).write_text("a letter")

    refused(data, f"{data}/{inner}: Not a directory", "move away what is there", around=data)


def test_a_log_that_is_missing(data: Path) -> None:
    shutil.rmtree(data / "wal")

    refused(data, f"{data}/wal is missing", "restore it from a backup", around=data)


def test_a_log_that_cannot_be_read_at_all(data: Path) -> None:
    for path in (data / "wal").iterdir():
        path.write_bytes(b"?" * path.stat().st_size)

    refused(data, f"the definitions in {data} are lost", "from a backup", around=data)


def test_a_log_without_files_where_queues_have_some(data: Path) -> None:
    for path in (data / "wal").iterdir():
        path.unlink()
    (data / "queues" / "7").mkdir()
    (data / "queues" / "7" / "00000001.seg").write_bytes(encode_file_head(b"\xb2SEG"))

    refused(data, f"the definitions in {data} are lost", "from a backup", around=data)


def test_a_folder_of_someone_else(tmp_path: Path) -> None:
    for name in ("photos", "letters", "thesis.txt", "todo"):
        (tmp_path / name).write_text(name)

    refused(
        tmp_path,
        f"{tmp_path} is no data directory, and not empty (letters, photos, thesis.txt …)",
        "choose an empty or a new folder",
        around=tmp_path,
    )


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 300)

    refused(place, "File name too long", "choose a shorter path", around=tmp_path)


@pytest.mark.parametrize("length", [4060, 5000])
def test_a_path_that_is_too_long(tmp_path: Path, length: int) -> None:
    """For the system, or for what would come to lie in the folder."""
    place = str(tmp_path)
    while len(place) < length - 101:
        place += "/" + "x" * 99
    place += "/" + "x" * (length - len(place) - 1)

    refused(place, "File name too long", "choose a shorter path", around=tmp_path)


def test_a_folder_above_that_cannot_be_made() -> None:
    result = serve("/proc/none/node")

    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "cannot use the data directory /proc/none/node: /proc/none: " in result.stderr
    assert CHOOSE in result.stderr


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a file system of its own."""
    mounted = []

    def mount(*options: str) -> Path:
        place = tmp_path / "mounted"
        place.mkdir()
        done = subprocess.run(["mount", *options, place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("this root may not mount")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


@FOR_ROOT
@pytest.mark.parametrize("is_new", [True, False])
def test_a_disk_that_is_read_only(data: Path, mount: Callable[..., Path], is_new: bool) -> None:
    place = mount("-t", "tmpfs", "tmpfs")
    if not is_new:
        shutil.copytree(data, place / "node")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)

    refused(place / "node", "Read-only file system", "mount it", CHOOSE, around=place)


@FOR_ROOT
@pytest.mark.parametrize("is_new", [True, False])
def test_a_disk_that_is_full(data: Path, mount: Callable[..., Path], is_new: bool) -> None:
    place = mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    if not is_new:
        shutil.copytree(data, place / "node")
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        file.writelines([bytes(4096)] * 1000)

    text = refused(place / "node", "No space left on device: 0 octets are free", around=place)

    assert "1048576 are needed to start): make room" in text
    filler.unlink()
    starts(place / "node")


@FOR_ROOT
@pytest.mark.parametrize("is_new", [True, False])
def test_a_disk_without_room_for_more_names(
    data: Path, mount: Callable[..., Path], is_new: bool
) -> None:
    """There are octets, but nothing can be made: what was made on the way goes again."""
    place = mount("-t", "tmpfs", "-o", "size=5m,nr_inodes=20", "tmpfs")
    if not is_new:
        shutil.copytree(data, place / "node")
    spare: list[Path] = []
    with suppress(OSError):
        while True:
            (place / f"{len(spare)}").touch()
            spare.append(place / f"{len(spare)}")
    for path in spare[-3:] if is_new else []:
        path.unlink()

    refused(place / "node", "No space left on device", "make room", around=place)

    for path in spare:
        path.unlink(missing_ok=True)
    starts(place / "node")


@pytest.fixture
def open_data(made: Path) -> Iterator[Path]:
    """A copy to which another user finds the way; pytest's own folders are closed to all others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copytree(made, Path(folder) / "node"))


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs another user")
@FOR_ROOT
@pytest.mark.parametrize("what", ["", "lock", "node.json", "wal"])
def test_a_folder_without_rights_to_it(open_data: Path, what: str) -> None:
    """As another user, who is let into all of it but one thing."""
    data = open_data
    for path in [data, *data.rglob("*")]:
        os.chown(path, 65534, 65534)
    os.chown(data / what, 0, 0)
    before = tree(data)
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    result = serve(data, before=stranger, cwd="/")
    if "No module" in result.stderr or "failed to execute" in result.stderr:
        pytest.skip("another user cannot reach the program")

    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1
    assert f"cannot use the data directory {data}: " in result.stderr
    assert "Permission denied; let the node's user read and write all of it" in result.stderr
    assert what in result.stderr
    assert tree(data) == before


@pytest.mark.parametrize("there", [(), ("lost+found",), ("wal", "queues"), ("lock",)])
def test_what_is_empty_or_was_begun_is_taken(tmp_path: Path, there: tuple[str, ...]) -> None:
    """An empty folder, a file system of its own, what a crash has left half made."""
    for name in there:
        if name == "lock":
            (tmp_path / name).touch()
        else:
            (tmp_path / name).mkdir()

    starts(tmp_path)

    assert {"node.json", "lock", "wal", "queues", *there} == {
        path.name for path in tmp_path.iterdir()
    }


def test_a_stranger_in_a_data_directory_stays_and_does_no_harm(data: Path) -> None:
    (data / "letter").write_text("a letter")
    (data / "wal" / "letter").write_text("a letter")
    (data / "queues" / "letters").mkdir()
    (data / "queues" / "letters" / "first").write_text("a letter")

    starts(data)

    for path in ("letter", "wal/letter", "queues/letters/first"):
        assert (data / path).read_text() == "a letter"
