"""Syncs by processes of their own.

fdatasync waits for the disk, so it must not run where the event loop does. A thread that comes back
from it wants the interpreter's lock, and beside a busy loop gets it many switch intervals later:
seconds were seen. A process needs no such lock, and its answer is one more descriptor to wait for.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import weakref

import trio

from amqpbroker.world import sync_helper

_PROCESSES = 2
"""One for the journal, where clients wait for the sync, and one for everything beside it."""


class _Process:
    """A helper process; it does one sync at a time, so no answer can be taken for another's.

    Whoever asks it gets `ConnectionError` when it has ended.
    """

    def __init__(self, executable: str) -> None:
        self.busy = False
        self._executable = executable
        self._answered = False
        ours, theirs = socket.socketpair()
        # The helper has its signals blocked from its first instruction on: ctrl-C and the signals
        # of a supervisor reach the whole group, and the node has a last sync to do.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [executable, "-I", "-S", sync_helper.__file__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        ours.setblocking(False)
        self._socket = ours
        weakref.finalize(self, _end, ours, self._process, os.getpid())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def sync(self, request: bytes, descriptor: int) -> int:
        """The errno, or 0."""
        while not self.send(request, descriptor):
            await trio.lowlevel.wait_writable(self._socket)
        await trio.lowlevel.wait_readable(self._socket)
        answer = self._socket.recv(1)
        if not answer:
            raise ConnectionResetError
        self._answered = True
        return answer[0]

    def send(self, request: bytes, *descriptors: int) -> bool:
        """Whether there was room for the request."""
        try:
            socket.send_fds(self._socket, [request], descriptors)
        except BlockingIOError:
            return False
        return True

    def obituary(self) -> str:
        """How the process ended, as it has, and what to do."""
        status = self._process.wait()
        if not self._answered:
            return (
                f"the process that syncs files ended before its first answer (status {status}): "
                f"see what it wrote to standard error, and that {self._executable!r} is the "
                f"Python that runs the node"
            )
        if status < 0:
            how = f"was killed by signal {-status}"
        else:
            how = f"ended with status {status}"
        return f"the process that syncs files {how}: nothing lasts any more, restart the node"


def _end(ours: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    """Let a helper end, and wait until it has: it does nothing but perhaps a last sync."""
    if os.getpid() != owner:
        return  # A fork has nothing to end.
    try:
        ours.shutdown(socket.SHUT_RDWR)  # A fork may have the socket too.
    except OSError:
        pass  # The helper has ended already.
    ours.close()
    process.wait()


class Syncer:
    """Makes open files last, and frees large ones, while the event loop goes on.

    Its processes start when they are first needed, and end with it. When one has ended before,
    nobody is served any more. Those of one event loop share it.
    """

    def __init__(self, executable: str = sys.executable) -> None:
        self._executable = executable
        self._processes: list[_Process] = []
        self._waiting = trio.lowlevel.ParkingLot()
        self._fault: str | None = None

    @property
    def pids(self) -> list[int]:
        """The processes, none before they are needed."""
        return [process.pid for process in self._processes]

    async def sync_content(self, descriptor: int) -> None:
        """Make the content of a file last; it is not cancelled.

        Raises `OSError` when the system could not do it, or (EIO) when there is nobody to ask.
        """
        await self._sync(sync_helper.SYNC_CONTENT, descriptor)

    async def sync_names(self, descriptor: int) -> None:
        """Make the names in a folder last, likewise."""
        await self._sync(sync_helper.SYNC_NAMES, descriptor)

    async def _sync(self, request: bytes, descriptor: int) -> None:
        with trio.CancelScope(shield=True):
            process = await self._idle_process()
            try:
                code = await process.sync(request, descriptor)
            except ConnectionError:
                self._fail(process.obituary())
                raise self._refusal() from None
            except BaseException:
                # Its answer may be under way, and the next to ask must not take it for theirs.
                self._fail("a sync was broken off before its answer came: restart the node")
                raise
        process.busy = False
        self._waiting.unpark()
        if code:
            raise OSError(code, os.strerror(code))

    async def _idle_process(self) -> _Process:
        while True:
            self._start()
            for process in self._processes:
                if not process.busy:
                    process.busy = True
                    return process
            await self._waiting.park()

    def close_elsewhere(self, descriptor: int) -> None:
        """Close a descriptor, and let the work that this may be be done by another process.

        The last one of a large file that has no name frees its blocks, which takes milliseconds.
        """
        process = None
        try:
            self._start()
            if self._processes[-1].send(sync_helper.HOLD, descriptor):
                process = self._processes[-1]
        except OSError:
            pass  # Nobody is there: whoever next wants a sync is told.
        os.close(descriptor)
        # Only now may the other close it, for the last has the work.
        if process is not None:
            try:
                process.send(sync_helper.DROP)
            except OSError:
                pass  # It has ended, and closed everything.

    def _start(self) -> None:
        """See that the processes are there; raises `OSError` (EIO) when they cannot be."""
        if self._fault is not None:
            raise self._refusal()
        if self._processes:
            return
        try:
            self._processes = [_Process(self._executable) for _ in range(_PROCESSES)]
        except OSError as error:
            self._fail(
                f"the process that syncs files cannot be started: {error}: {self._executable!r} "
                f"must be the Python that runs the node, and the limits of processes, open files "
                f"and memory must have room for {_PROCESSES} more"
            )
            raise self._refusal() from error

    def _fail(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._waiting.unpark_all()

    def _refusal(self) -> OSError:
        return OSError(errno.EIO, self._fault)
