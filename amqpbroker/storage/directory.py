"""A data directory: whose it is, and whether it is to be used at all.

DIR/node.json     whose it is, and in which format
DIR/lock          locked while a node runs on it
DIR/wal/          the write-ahead log
DIR/queues/ID/    segments of the log with that id

Whoever asks for it is told before anything is touched. What was made on the way to a new one goes
again, if the way does not lead there.
"""

import errno
import json
import posixpath
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs

from amqpbroker.errors import DataError
from amqpbroker.storage.format import FORMAT_VERSION
from amqpbroker.world import Disk, File

ROOM_BYTES_MIN = 1024 * 1024
"""What must be free for a node to start: it says anew what it has, and keeps what is consumed."""

_SIGN = "node.json"
_DRAFT = "node.json.new"
_LOCK = "lock"
_WAL = "wal"
_QUEUES = "queues"
_OF_A_NEW_ONE = {_DRAFT, _LOCK, _WAL, _QUEUES, "lost+found"}
"""What a crash may have left of one that was being made; the last comes with a file system."""
OWN = _OF_A_NEW_ONE | {_SIGN, "ctl.sock"}
"""What may be in a data directory."""
_DEEPEST = "queues/transient-4294967296/00000001.seg"
TRIAL = "trial"
_TRIAL_BYTES = 64 * 1024
_ADVICE = {
    errno.EROFS: "mount it so that it can be written",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EACCES: "let the node's user read and write all of it (chown -R)",
    errno.EPERM: "let the node's user read and write all of it (chown -R, chattr)",
    errno.ENOTDIR: "move away what is there",
    errno.EEXIST: "move away what is there",
    errno.EISDIR: "move away what is there",
}


@attrs.frozen
class Owner:
    """Whose a data directory is, and in which format."""

    name: str
    format: int = FORMAT_VERSION
    uuid: str = ""
    """Tells it from all others; those that were made before there were clusters may have none."""
    cluster: str = ""
    """The id of the cluster that it belongs to; empty: to none."""
    incarnation: int = 0
    """The highest number that a start of the node in its cluster has meant to have."""


def owner_of(disk: Disk, folder: str) -> Owner | None:
    """Whose a data directory is; None if it is yet to be made, there or elsewhere.

    Raises `DataError` if it is none, or one of another format, and `OSError`.
    """
    try:
        names = set(disk.names(folder))
    except FileNotFoundError:
        return None
    if _SIGN in names:
        owner = _read_sign(disk, folder)
        if _WAL not in names:
            raise DataError(
                f"{folder}/{_WAL} is missing, and with it all that was kept: restore it from a"
                f" backup, or move {folder} away to begin anew"
            )
        return owner
    strange = sorted(names - _OF_A_NEW_ONE)
    if strange:
        more = " …" if len(strange) > 3 else ""
        raise DataError(
            f"{folder} is no data directory, and not empty ({', '.join(strange[:3])}{more}):"
            " choose an empty or a new folder with --data-dir"
        )
    for name in sorted(names & {_WAL, _QUEUES}):
        if disk.names(f"{folder}/{name}") not in ([], [TRIAL]):
            raise DataError(
                f"{folder}/{_SIGN} is missing, and there is data in {folder}/{name}: restore it"
                f" from a backup, or move {folder} away to begin anew"
            )
    return None


def _read_sign(disk: Disk, folder: str) -> Owner:
    path = f"{folder}/{_SIGN}"
    file = disk.open(path, read_only=True)
    try:
        said = json.loads(file.read(0, file.size_bytes))
        name, version = said["name"], said["format"]
        uuid, cluster = said.get("uuid", ""), said.get("cluster", "")
        incarnation = said.get("incarnation", 0)
        is_text = all(isinstance(each, str) for each in (name, uuid, cluster))
        is_whole = type(version) is int and type(incarnation) is int
        if not (is_text and is_whole) or version < 1 or incarnation < 0:
            raise ValueError(
                f"name {name!r}, format {version!r}, uuid {uuid!r}, cluster {cluster!r},"
                f" incarnation {incarnation!r}"
            )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read ({_said(error)}): it should say"
            f' {{"name": "rabbit@HOST", "format": {FORMAT_VERSION}}}; restore it, or move'
            f" {folder} away to begin anew"
        ) from error
    finally:
        file.close()
    if version > FORMAT_VERSION:
        raise DataError(
            f"the data directory {folder} has format {version}, and this version reads"
            f" {FORMAT_VERSION}: start it with the version that has written it, or a newer one"
        )
    return Owner(name, version, uuid, cluster, incarnation)


def _said(error: Exception) -> str:
    """What is wrong, in one line."""
    return f"there is no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())


def look(disk: Disk, folder: str, name: str, is_alone: bool) -> Owner | None:
    """As `owner_of`, for the node ``name``, which must be the owner, and have room to write.

    ``is_alone``: it is started without a cluster.
    """
    owner = owner_of(disk, folder)
    if owner is not None and owner.name != name:
        raise DataError(
            f"the data directory {folder} belongs to node {owner.name}, and this one is {name}:"
            " start it with that --name, or choose another with --data-dir"
        )
    if owner is not None and owner.cluster and is_alone:
        raise DataError(
            f"the data directory {folder} belongs to a node of a cluster ({owner.cluster}), which"
            " has its definitions: start it with the --cluster it had, or choose another with"
            " --data-dir"
        )
    try:
        disk.names(f"{folder}/{_DEEPEST}")
    except (FileNotFoundError, NotADirectoryError):
        pass  # Its path is not too long for the system: that is all that was asked.
    free = _free_bytes(disk, folder)
    if free < ROOM_BYTES_MIN:
        raise DataError(
            f"no room for the data directory {folder} (No space left on device: {free} octets are"
            f" free, and {ROOM_BYTES_MIN} are needed to start): make room,"
            " or choose another disk with --data-dir"
        )
    return owner


def _free_bytes(disk: Disk, folder: str) -> int:
    """What can be written in a folder, be it there or not."""
    path = folder
    while True:
        try:
            return disk.free_bytes(path)
        except FileNotFoundError:
            outer = _outer(path)
            if outer == path:
                raise
            path = outer


def _outer(path: str) -> str:
    """The folder around a path."""
    return posixpath.dirname(path) or "."


async def enter(
    disk: Disk, folder: str, name: str, is_alone: bool, undo: ExitStack
) -> tuple[File, Owner | None]:
    """Lock the data directory of the node ``name``; if it is yet to be made, make all but the sign.

    The lock, and whose it is; None: it is yet to be made. ``undo`` learns how to take back what was
    done. Raises `DataError` and `OSError`.
    """
    if look(disk, folder, name, is_alone) is None:
        _make_folder(disk, folder, undo)
    lock = _lock(disk, folder, undo)
    owner = look(disk, folder, name, is_alone)  # Another may just have made it.
    if owner is None:
        undo.callback(_remove, disk, f"{folder}/{_LOCK}")
        _make_folder(disk, f"{folder}/{_WAL}", undo)
    _make_folder(disk, f"{folder}/{_QUEUES}", undo)
    if owner is None:
        await _sync_names(disk, f"{folder}/{_WAL}")
    for inner in (_WAL, _QUEUES):
        _try_to_write(disk, f"{folder}/{inner}")
    return lock, owner


def _make_folder(disk: Disk, path: str, undo: ExitStack) -> None:
    """Make a folder, and those around it, where there are none."""
    try:
        disk.names(path)
    except FileNotFoundError:
        if _outer(path) != path:
            _make_folder(disk, _outer(path), undo)
        disk.make_folder(path)
        undo.callback(_remove, disk, path)


def _remove(disk: Disk, path: str) -> None:
    """Take back what was made, if nobody has put anything in it."""
    try:
        disk.remove(path)
    except OSError:
        pass  # What has failed before is what is told.


def _lock(disk: Disk, folder: str, undo: ExitStack) -> File:
    lock = disk.open(f"{folder}/{_LOCK}", create=True)
    undo.callback(lock.close)
    take(lock, folder, "stop that one, or choose another with --data-dir")
    return lock


def take(lock: File, folder: str, advice: str) -> None:
    """Lock a data directory by its file for that. Raises `DataError` if it is locked."""
    try:
        lock.lock()
    except BlockingIOError:
        raise DataError(
            f"the data directory {folder} is used by a running node, or being checked: {advice}"
        ) from None


def open_lock(disk: Disk, folder: str) -> File | None:
    """The file by which a data directory is locked, to be read only; None if there is none."""
    try:
        return disk.open(f"{folder}/{_LOCK}", read_only=True)
    except FileNotFoundError:
        return None


async def _sync_names(disk: Disk, path: str) -> None:
    """Make the names last by which a folder is reached.

    An earlier attempt may have made some of them; the folders of others can be no work of ours.
    """
    while (outer := _outer(path)) != path:
        try:
            await disk.sync_folder(outer)
        except PermissionError:
            return
        path = outer


def _try_to_write(disk: Disk, folder: str) -> None:
    """See that files can be made in a folder, and written. Raises `OSError`."""
    path = f"{folder}/{TRIAL}"
    file = disk.open(path, create=True)
    try:
        file.append(bytes(_TRIAL_BYTES))
    finally:
        file.close()
        disk.remove(path)


async def sign(disk: Disk, folder: str, owner: Owner) -> None:
    """Say whose a data directory is: from now on it is. Raises `OSError`."""
    path, draft_path = f"{folder}/{_SIGN}", f"{folder}/{_DRAFT}"
    draft = disk.open(draft_path, create=True)
    try:
        draft.truncate(0)
        said = {name: value for name, value in attrs.asdict(owner).items() if value}
        draft.append(json.dumps(said).encode())
        await draft.sync()
        draft.close()
        disk.rename(draft_path, path)
    except BaseException:
        draft.close()
        _remove(disk, draft_path)
        raise
    await disk.sync_folder(folder)


def unsign(disk: Disk, folder: str) -> None:
    """Take back `sign` of a data directory that was being made, if it came so far."""
    _remove(disk, f"{folder}/{_SIGN}")


@contextmanager
def refusals(disk: Disk, folder: str) -> Iterator[None]:
    """Within, an `OSError` is raised as a `DataError` that says what to do."""
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        if isinstance(error, NotADirectoryError):
            path = _no_folder(disk, str(path))
        where = "" if path == folder else f" {path}:"
        advice = _ADVICE.get(error.errno or 0, "see to its rights and to the disk")
        raise DataError(
            f"cannot use the data directory {folder}:{where} {error.strerror or error}; {advice},"
            " or choose another with --data-dir"
        ) from error


def _no_folder(disk: Disk, path: str) -> str:
    """The part of a path at which there is something else than a folder."""
    while (outer := _outer(path)) != path:
        try:
            disk.names(outer)
        except NotADirectoryError:
            path = outer
            continue
        except OSError:
            pass  # That is not what was asked.
        break
    return path
