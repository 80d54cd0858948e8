"""A real disk that loses what a real one may lose, under a real process.

The page cache outlives a process that is killed, so a kill alone shows nothing about syncs. With
`DiskShim` a library (disk_shim.c, built on the spot) is loaded before the process's own and notes
what is done to a folder. When the process is dead, `DiskShim.crash` undoes what no sync has
covered, or a part of it: a file goes back to how it was synced last, perhaps with a torn piece of
what came after; a name that was made, replaced or removed goes back unless its folder was synced.

A file whose sync has failed keeps nothing more, whatever later syncs say.
"""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

import attrs

_SOURCE = Path(__file__).with_suffix(".c")
_NOTE = struct.Struct("<4I6Q2I")
_MARK = 0xA5D15C07
_END = struct.Struct("<I")
_CONTROL = struct.Struct("<5Qq2Q")
_RECORD, _PRETEND = 1, 2
_PAGE_BYTES = 4096
_PATIENCE_S = 20


class ShimError(Exception):
    """The shim cannot be used here; the text says why."""


def build(folder: Path) -> Path:
    """Build the library in ``folder``. Raises `ShimError` where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise ShimError("there is no C compiler: install gcc")
    library = folder / "disk_shim.so"
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise ShimError(f"the shim cannot be built: {built.stderr}")
    return library


class Kind(IntEnum):
    """What a note is about; disk_shim.c says what its numbers mean."""

    WRITE = 1
    CUT = 2
    DONE = 3
    CREATE = 4
    REMOVE = 5
    RENAME = 6
    SYNC = 7
    SEND = 8


_KINDS = frozenset(Kind)


@attrs.frozen
class Note:
    """One note of the journal; the fields are explained in disk_shim.c."""

    kind: Kind
    pid: int
    id: int
    inode: int
    a: int
    b: int
    c: int
    first: bytes
    second: bytes


def read_notes(journal: Path) -> Iterator[Note]:
    """The notes in order; what a kill has left unfinished is overlooked."""
    data = journal.read_bytes()
    mark = _MARK.to_bytes(4, "little")
    position = 0
    while (position := data.find(mark, position)) >= 0:
        if position + _NOTE.size > len(data):
            return
        _, size, kind, pid, id_, _, inode, a, b, c, first, second = _NOTE.unpack_from(
            data, position
        )
        end = position + size
        if (
            size != _NOTE.size + first + second + _END.size
            or data[end - _END.size : end] != _END.pack(size ^ 0xFFFFFFFF)
            or kind not in _KINDS
        ):
            position += 1
            continue
        middle = position + _NOTE.size + first
        yield Note(
            Kind(kind),
            pid,
            id_,
            inode,
            a,
            b,
            c,
            data[position + _NOTE.size : middle],
            data[middle : middle + second],
        )
        position = end


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


# -- what is on the disk, and what would be there after a crash ---------------------------------


@attrs.define(eq=False)
class _Change:
    """A change of a file or of a folder, by its note; ``done`` when the call has returned."""

    note: Note
    done: bool = False
    octets: int = 0
    """Of a write: what was written."""


@attrs.define(eq=False)
class FileState:
    """A file: the changes that no sync has covered yet."""

    inode: int
    unsynced: list[_Change] = attrs.Factory(list)
    sync_failed: bool = False
    kept: list[Note] = attrs.Factory(list)
    """Changes that a sync has covered since `take_kept`."""

    def keep(self, changes: list[_Change]) -> None:
        """A sync has covered these changes."""
        if self.sync_failed:
            return
        covered = set(map(id, changes))
        self.kept += [change.note for change in self.unsynced if id(change) in covered]
        self.unsynced = [change for change in self.unsynced if id(change) not in covered]

    def take_kept(self) -> list[Note]:
        """What was kept since the last call."""
        kept, self.kept = self.kept, []
        return kept

    def lose(self, path: Path, rng: random.Random | None) -> int:
        """Undo what no sync has covered, with ``rng`` a part of it only; how many changes."""
        if not self.unsynced:
            return 0
        stay = rng.randint(0, len(self.unsynced)) if rng else 0
        with path.open("r+b", buffering=0) as file:
            for place in range(len(self.unsynced) - 1, stay - 1, -1):
                _undo(file, self.unsynced[place], rng if place == stay else None)
        return len(self.unsynced) - stay


def _undo(file: BinaryIO, change: _Change, rng: random.Random | None) -> None:
    """Undo one change of a file; with ``rng`` a torn piece of it stays."""
    note = change.note
    if note.kind is Kind.CUT:
        os.pwrite(file.fileno(), note.first, note.b)
        file.truncate(note.a)
        return
    stays = rng.randint(0, change.octets) if rng and change.done else 0
    start, size_before = note.a, note.b
    os.pwrite(file.fileno(), note.first[stays:], start + stays)
    file.truncate(max(size_before, start + stays))
    if rng and stays > _PAGE_BYTES and rng.random() < 0.3:
        # Pages are written in any order: one of them did not make it.
        hole = rng.randrange(max(start, size_before), start + stays)
        octets = min(_PAGE_BYTES - hole % _PAGE_BYTES, start + stays - hole)
        os.pwrite(file.fileno(), bytes(octets), hole)


Entries = dict[str, "FileState | FolderState"]


@attrs.define(eq=False)
class FolderState:
    """A folder: its entries as a crash would leave them, and the changes of names since."""

    inode: int
    entries: Entries = attrs.Factory(dict)
    unsynced: list[tuple[_Change, dict[str, "FileState | FolderState | None"]]] = attrs.Factory(
        list
    )
    sync_failed: bool = False

    def keep(self, changes: list[_Change]) -> None:
        """A sync has covered these changes."""
        if self.sync_failed:
            return
        covered = set(map(id, changes))
        rest = []
        for change, names in self.unsynced:
            if id(change) in covered:
                _apply(self.entries, names)
            else:
                rest.append((change, names))
        self.unsynced = rest

    def lose(self, rng: random.Random | None) -> tuple[Entries, int]:
        """The entries after a crash, and how many changes of names are lost."""
        entries, lost = dict(self.entries), 0
        for _, names in self.unsynced:
            if rng is not None and rng.random() < 0.5:
                _apply(entries, names)
            else:
                lost += 1
        return entries, lost

    def files(self) -> Iterator[FileState]:
        """The files that are there after a crash, whatever it takes."""
        for entry in self.entries.values():
            if isinstance(entry, FolderState):
                yield from entry.files()
            else:
                yield entry


def _apply(entries: Entries, names: dict[str, FileState | FolderState | None]) -> None:
    for name, entry in names.items():
        if entry is None:
            entries.pop(name, None)
        else:
            entries[name] = entry


class DiskState:
    """What is in a folder, followed note by note from how it was at the start."""

    def __init__(self, folder: Path) -> None:
        self._nodes: dict[int, FileState | FolderState] = {}
        self.root = self._scan(folder)
        self._changes: dict[int, tuple[FileState | FolderState, _Change]] = {}
        self._syncs: dict[int, tuple[FileState | FolderState, list[_Change], bool]] = {}
        self.failed_syncs = 0

    def _scan(self, folder: Path) -> FolderState:
        state = FolderState(folder.stat().st_ino)
        self._nodes[state.inode] = state
        for path in folder.iterdir():
            if path.is_dir():
                state.entries[path.name] = self._scan(path)
            else:
                inode = path.stat().st_ino
                file = self._nodes.setdefault(inode, FileState(inode))
                state.entries[path.name] = file
        return state

    def follow(self, note: Note) -> bool:
        """Take the next note; whether more is kept than before."""
        match note.kind:
            case Kind.WRITE | Kind.CUT:
                file = self._nodes[note.inode]
                assert isinstance(file, FileState)
                change = _Change(note, octets=note.c)
                file.unsynced.append(change)
                self._changes[note.id] = file, change
            case Kind.CREATE:
                entry = FolderState(note.a) if note.b else FileState(note.a)
                self._nodes[note.a] = entry
                self._name(note, {note.first.decode(): entry}).done = True
            case Kind.REMOVE:
                self._name(note, {note.first.decode(): None})
            case Kind.RENAME:
                assert note.inode == note.b, "a file moves to another folder"
                moved = self._nodes[note.a]
                self._name(note, {note.first.decode(): None, note.second.decode(): moved})
            case Kind.SYNC:
                self._begin_sync(note)
            case Kind.DONE if note.id in self._syncs:
                return self._end_sync(note)
            case Kind.DONE if note.id in self._changes:
                self._end_change(note)
        return False

    def _name(self, note: Note, names: dict[str, FileState | FolderState | None]) -> _Change:
        folder = self._nodes[note.inode]
        assert isinstance(folder, FolderState)
        change = _Change(note)
        folder.unsynced.append((change, names))
        self._changes[note.id] = folder, change
        return change

    def _end_change(self, note: Note) -> None:
        node, change = self._changes.pop(note.id)
        result = _signed(note.a)
        change.done = True
        if change.note.kind is Kind.WRITE:
            change.octets = max(0, result)
        if result >= 0:
            return
        if isinstance(node, FolderState):
            node.unsynced = [pair for pair in node.unsynced if pair[0] is not change]
        else:
            node.unsynced.remove(change)

    def _begin_sync(self, note: Note) -> None:
        node = self._nodes.get(note.inode)
        if isinstance(node, FolderState):
            done = [change for change, _ in node.unsynced if change.done]
        elif node is not None:
            done = [change for change in node.unsynced if change.done]
        else:
            return
        self._syncs[note.id] = node, done, bool(note.a)

    def _end_sync(self, note: Note) -> bool:
        node, done, is_pretended = self._syncs.pop(note.id)
        if _signed(note.a):
            node.sync_failed = True
            self.failed_syncs += 1
        elif not is_pretended:
            node.keep(done)
            return True
        return False


@attrs.define
class Lost:
    """What a crash has undone."""

    changes: int = 0
    """Writes to files, and cuts."""
    names: int = 0
    """Names that were made, replaced or removed."""

    def __bool__(self) -> bool:
        return bool(self.changes or self.names)


class DiskShim:
    """Watches ``folder`` by ``library``, which `build` has made; ``state`` is its own folder.

    Both lie on one file system. What the control attributes say holds for running processes too.
    """

    def __init__(self, library: Path, folder: Path, state: Path) -> None:
        self.folder = folder.resolve()
        self.state = state.resolve()
        self._library = library.resolve()
        self._inodes = self.state / "inodes"
        self._inodes.mkdir(parents=True)
        self.folder.mkdir(exist_ok=True)
        assert self.folder.stat().st_dev == self.state.stat().st_dev
        self._control = self.state / "control"
        self._control.write_bytes(_CONTROL.pack(0, 0, 0, 0, 0, -1, 0, 0))
        self.begin()

    @property
    def environment(self) -> dict[str, str]:
        """What a process to be watched needs in its environment."""
        return {
            "LD_PRELOAD": str(self._library),
            "AMQPBROKER_SHIM_FOLDER": str(self.folder),
            "AMQPBROKER_SHIM_STATE": str(self.state),
        }

    # -- control -------------------------------------------------------------------------------

    def _get(self, place: int) -> int:
        number: int = _CONTROL.unpack(self._control.read_bytes())[place]
        return number

    def _set(self, place: int, number: int) -> None:
        with self._control.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), struct.pack("<q", number), 8 * place)

    @property
    def syncs(self) -> int:
        """Syncs so far, of files and folders."""
        return self._get(1)

    @property
    def writes(self) -> int:
        """Writes to files so far."""
        return self._get(3)

    def fail_sync(self, number: int) -> None:
        """Have the sync with that number, counted from 1 on, fail with EIO."""
        self._set(2, number)

    def fail_write(self, number: int) -> None:
        """Have the write with that number, counted from 1 on, fail with EIO."""
        self._set(4, number)

    @property
    def room_bytes(self) -> int:
        """What can still be written; negative: there is no end."""
        return self._get(5)

    @room_bytes.setter
    def room_bytes(self, number: int) -> None:
        self._set(5, number)

    def set_flags(self, *, record: bool = False, pretend: bool = False) -> None:
        """Whether contents and sends are recorded; whether syncs are pretended only."""
        self._set(6, _RECORD * record + _PRETEND * pretend)

    def delay_syncs(self, delay_us: int) -> None:
        """Have each sync take that much longer, as a slow disk would."""
        self._set(7, delay_us)

    # -- the journal ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Take what is in the folder as synced, and begin a new journal; nobody may run."""
        for path in self._inodes.iterdir():
            path.unlink()
        for path in self.folder.rglob("*"):
            if not path.is_dir():
                os.link(path, self._inodes / str(path.stat().st_ino))
        self._journal.write_bytes(b"")
        self._at_start = DiskState(self.folder)

    @property
    def _journal(self) -> Path:
        return self.state / "journal"

    def notes(self) -> Iterator[Note]:
        """The notes since `begin`."""
        return read_notes(self._journal)

    def follow(self) -> tuple[DiskState, Iterator[Note]]:
        """The state at `begin`, and the notes to be followed since; once only after `begin`."""
        return self._at_start, self.notes()

    def wait_for_end(self) -> None:
        """Wait until all processes that were watched have ended."""
        give_up_s = time.monotonic() + _PATIENCE_S
        with (self.state / "alive").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    assert time.monotonic() < give_up_s, "a process outlives the one that is dead"
                    time.sleep(0.01)
                else:
                    return

    # -- the crash -----------------------------------------------------------------------------

    def crash(self, rng: random.Random | None = None) -> Lost:
        """Wait for the end of all, undo what no sync has covered, and `begin` anew.

        All of it, or with ``rng`` a part only, torn somewhere.
        """
        self.wait_for_end()
        disk, notes = self.follow()
        for note in notes:
            disk.follow(note)
        lost = Lost()
        self._put_back(self.folder, disk.root, rng, lost)
        self.begin()
        return lost

    def _put_back(
        self, folder: Path, state: FolderState, rng: random.Random | None, lost: Lost
    ) -> None:
        entries, names = state.lose(rng)
        lost.names += names
        for path in list(folder.iterdir()):
            entry = entries.get(path.name)
            if path.is_dir():
                if not isinstance(entry, FolderState):
                    shutil.rmtree(path)
            elif not isinstance(entry, FileState) or path.stat().st_ino != entry.inode:
                path.unlink()
        for name, entry in entries.items():
            path = folder / name
            if isinstance(entry, FolderState):
                path.mkdir(exist_ok=True)
                self._put_back(path, entry, rng, lost)
                continue
            if not path.exists():
                os.link(self._inodes / str(entry.inode), path)
            lost.changes += entry.lose(path, rng)
            entry.unsynced.clear()
