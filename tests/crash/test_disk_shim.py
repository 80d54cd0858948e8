"""The disk shim does what it says, under small programs that know what they have synced."""

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from amqpbroker.testing.confirm_order import check_confirm_order, mark
from amqpbroker.testing.disk_shim import DiskShim, Kind, ShimError, build

PRELUDE = """
import os, signal, socket, subprocess, sys, array
def die(): os.kill(os.getpid(), signal.SIGKILL)
def new(name): return os.open(name, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
def sync_folder(name="."):
    folder = os.open(name, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
"""


def run(shim: DiskShim, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *arguments],
        cwd=shim.folder,
        env=os.environ | shim.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def content(shim: DiskShim) -> dict[str, bytes]:
    return {
        str(path.relative_to(shim.folder)): path.read_bytes()
        for path in sorted(shim.folder.rglob("*"))
        if path.is_file()
    }


def test_what_was_synced_stays_and_the_rest_goes(shim: DiskShim) -> None:
    ended = run(
        shim,
        """
file = new("log")
os.write(file, b"kept ")
os.fdatasync(file)
sync_folder()
os.write(file, b"lost")
die()
""",
    )
    assert ended.returncode == -9, ended.stderr
    assert content(shim) == {"log": b"kept lost"}
    lost = shim.crash()
    assert (lost.changes, lost.names) == (1, 0)
    assert content(shim) == {"log": b"kept "}


def test_a_name_stays_when_its_folder_was_synced(shim: DiskShim) -> None:
    run(
        shim,
        """
os.mkdir("a"); os.mkdir("b")
for path in "a/1", "b/1":
    file = new(path)
    os.write(file, b"data")
    os.fdatasync(file)
sync_folder("a")
sync_folder("b")
os.mkdir("c")
sync_folder()
os.rmdir("c")
os.unlink("a/1")
new("a/2")
die()
""",
    )
    lost = shim.crash()
    assert lost.names == 3
    assert content(shim) == {"a/1": b"data", "b/1": b"data"}
    assert (shim.folder / "c").is_dir()


def test_a_folder_whose_own_name_was_not_synced_goes_with_all_it_holds(shim: DiskShim) -> None:
    run(
        shim,
        """
os.mkdir("a")
file = new("a/1")
os.fsync(file)
sync_folder("a")
die()
""",
    )
    shim.crash()
    assert list(shim.folder.iterdir()) == []


def test_a_file_that_was_replaced_is_there_again(shim: DiskShim) -> None:
    (shim.folder / "state").write_bytes(b"old")
    shim.begin()
    program = """
file = new("state.new")
os.write(file, b"new")
os.fsync(file)
sync_folder()
os.replace("state.new", "state")
if len(sys.argv) > 1: sync_folder()
die()
"""
    run(shim, program)
    shim.crash()
    assert content(shim) == {"state": b"old", "state.new": b"new"}
    run(shim, program.replace('b"new"', 'b"er"'), "sync")
    shim.crash()
    assert content(shim) == {"state": b"newer"}


def test_cuts_and_overwritten_octets_come_back(shim: DiskShim) -> None:
    (shim.folder / "log").write_bytes(b"0123456789")
    (shim.folder / "other").write_bytes(b"what was there")
    shim.begin()
    run(
        shim,
        """
file = new("log")
os.ftruncate(file, 4)
os.write(file, b"abc")
plain = os.open("log", os.O_RDWR)
os.pwrite(plain, b"xyz", 2)
os.writev(plain, [b"-", b"-"])
os.ftruncate(file, 20)
open("other", "w").write("gone")
die()
""",
    )
    assert content(shim) == {"log": b"--xyzbc" + bytes(13), "other": b"gone"}
    shim.crash()
    assert content(shim) == {"log": b"0123456789", "other": b"what was there"}


def test_a_sync_by_another_process_that_was_handed_the_descriptor_counts(shim: DiskShim) -> None:
    helper = """
import os, socket, sys
pipe = socket.socket(fileno=0)
data, files, _, _ = socket.recv_fds(pipe, 1, 1)
os.fdatasync(files[0])
pipe.send(b"k")
pipe.recv(1)
"""
    ended = run(
        shim,
        """
ours, theirs = socket.socketpair()
subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=theirs.fileno())
theirs.close()
file = new("log")
sync_folder()
os.write(file, b"kept")
socket.send_fds(ours, [b"s"], [file])
assert ours.recv(1) == b"k"
os.write(file, b"lost")
die()
""",
        helper,
    )
    assert ended.returncode == -9, ended.stderr
    shim.crash()
    assert content(shim) == {"log": b"kept"}


@pytest.mark.slow
def test_a_crash_keeps_a_torn_part_of_what_was_not_synced(shim: DiskShim) -> None:
    seen = set()
    for seed in range(12):
        run(
            shim,
            """
file = new("log")
os.ftruncate(file, 0)
os.fsync(file)
sync_folder()
os.write(file, b"kept")
os.fsync(file)
os.write(file, b"first")
os.write(file, b"second")
die()
""",
        )
        shim.crash(random.Random(seed))
        seen.add((shim.folder / "log").read_bytes())
    assert all(b"keptfirstsecond".startswith(data) for data in seen)
    assert min(map(len, seen)) >= 4
    assert len(seen) > 4
    assert any(4 < len(data) < 9 for data in seen)


def test_a_pretended_sync_keeps_nothing(shim: DiskShim) -> None:
    shim.set_flags(pretend=True)
    run(shim, 'file = new("log"); os.write(file, b"x"); os.fsync(file); sync_folder(); die()')
    shim.crash()
    assert content(shim) == {}
    assert shim.syncs == 2


def test_the_nth_sync_fails_and_what_it_was_to_keep_is_lost_for_good(shim: DiskShim) -> None:
    shim.fail_sync(3)
    ended = run(
        shim,
        """
file = new("log")
sync_folder()
os.write(file, b"kept")
os.fdatasync(file)
os.write(file, b"lost")
try: os.fdatasync(file)
except OSError as error: print(error.errno, flush=True)
os.fdatasync(file)
die()
""",
    )
    assert ended.stdout == "5\n"
    shim.fail_sync(0)
    shim.crash()
    assert content(shim) == {"log": b"kept"}


def test_the_nth_write_fails(shim: DiskShim) -> None:
    shim.fail_write(2)
    ended = run(
        shim,
        """
file = new("log")
os.write(file, b"one")
try: os.write(file, b"two")
except OSError as error: print(error.strerror)
os.write(file, b"three")
""",
    )
    assert ended.stdout == "Input/output error\n"
    assert content(shim) == {"log": b"onethree"}


def test_a_disk_without_room_takes_what_fits_until_there_is_room_again(shim: DiskShim) -> None:
    shim.room_bytes = 6
    ended = run(
        shim,
        """
file = new("log")
print(os.write(file, b"four"), os.write(file, b"four"), os.statvfs(".").f_bavail)
try: os.write(file, b"four")
except OSError as error: print(error.strerror)
os.ftruncate(file, 4)
print(os.write(file, b"four"))
""",
    )
    assert ended.stdout == "4 2 0\nNo space left on device\n2\n", ended.stderr
    shim.room_bytes = -1
    assert run(shim, 'print(os.write(new("log"), b"four"))').stdout == "4\n"


@pytest.mark.slow
def test_killed_at_any_moment_a_process_leaves_no_less_than_it_has_synced(shim: DiskShim) -> None:
    rng = random.Random(1)
    for _ in range(10):
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                PRELUDE
                + """
file = new("log")
sync_folder()
number = os.fstat(file).st_size // 8
while True:
    for _ in range(50):
        os.write(file, b"%07d\\n" % number)
        number += 1
    os.fdatasync(file)
    print(number, flush=True)
""",
            ],
            cwd=shim.folder,
            env=os.environ | shim.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 20)):
                told = int(process.stdout.readline())
            process.kill()
            told = max([told, *(int(line) for line in process.stdout if line.endswith("\n"))])
        shim.crash(rng)
        data = (shim.folder / "log").read_bytes()
        assert len(data) >= told * 8
        synced = b"".join(b"%07d\n" % number for number in range(told))
        assert data[: len(synced)] == synced
        (shim.folder / "log").write_bytes(synced)
        shim.begin()


CONFIRMER = """
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
file = new("log")
sync_folder()
def ack(tag, multiple=0):
    payload = b"\\0\\x3c\\0\\x50" + tag.to_bytes(8, "big") + bytes([multiple])
    frame = b"\\1\\0\\1" + len(payload).to_bytes(4, "big") + payload + b"\\xce"
    peer.send(frame[:9]); peer.send(frame[9:])
def message(number):
    os.write(file, b"<~%08x~> body " % number)
    os.write(file, b"<~%08x~>" % number)
"""


@pytest.fixture
def confirmed(shim: DiskShim):
    """Runs a program that confirms, and gives what was found out about it."""

    def confirm(program: str, **flags: bool):
        shim.set_flags(record=True, **flags)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            ended = run(shim, CONFIRMER + program, str(port))
            assert ended.returncode == 0, ended.stderr
            assert {note.a for note in shim.notes() if note.kind is Kind.SEND} == {port}
        return check_confirm_order(shim, lambda peer, tag: tag + 100 if peer == port else None)

    return confirm


def test_confirms_after_their_sync_are_in_order(confirmed) -> None:
    found = confirmed("""
message(101); message(102)
os.fsync(file)
ack(1)
message(103); message(104)
os.fsync(file)
message(105)
ack(4, 1)
""")
    assert found.confirms == 4
    assert found.early == []


def test_a_confirm_before_its_sync_is_found(confirmed) -> None:
    found = confirmed("""
message(101); message(102)
os.fsync(file)
message(103)
ack(3, 1)
os.fsync(file)
message(104)
ack(4)
""")
    assert found.confirms == 4
    assert found.early == [103, 104]
    assert found.unkept == [104]


def test_a_confirm_of_a_message_in_a_file_whose_name_is_not_kept_is_found(confirmed) -> None:
    found = confirmed("""
file = new("other")
message(101)
os.fsync(file)
ack(1)
sync_folder()
message(102)
os.fsync(file)
ack(2)
""")
    assert found.early == [101]
    assert found.unkept == []


def test_a_confirm_after_a_pretended_or_a_failed_sync_is_found(confirmed, shim: DiskShim) -> None:
    found = confirmed("message(101); os.fsync(file); ack(1)", pretend=True)
    assert found.unkept == [101]
    shim.crash()
    shim.fail_sync(shim.syncs + 2)
    found = confirmed("""
message(101)
try: os.fsync(file)
except OSError: pass
os.fsync(file)
ack(1)
""")
    assert found.unkept == [101]
    assert found.after_failed_sync == 1


def test_a_mark_is_found_where_it_is_cut_in_two(confirmed) -> None:
    assert len(mark(7)) == 12
    found = confirmed("""
data = b"<~%08x~> body <~%08x~>" % (101, 101)
os.write(file, data[:5]); os.write(file, data[5:20]); os.write(file, data[20:])
os.fsync(file)
ack(1)
""")
    assert found.early == []


def test_the_journal_survives_who_closes_all_descriptors(shim: DiskShim) -> None:
    run(shim, 'file = new("log"); os.closerange(3, 2000); new("more"); die()')
    assert [note.first for note in shim.notes()] == [b"log", b"more"]


def test_without_a_compiler_there_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ShimError, match="there is no C compiler: install gcc"):
        build(tmp_path)
