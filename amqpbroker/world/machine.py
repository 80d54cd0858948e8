"""The machine as it is: its clocks, its memory, and with network and disk the real world."""

import ctypes
import os
import random
import time

from amqpbroker.world.contracts import Clock, Memory, World
from amqpbroker.world.files import SystemDisk
from amqpbroker.world.sockets import SocketNetwork


class _SystemClock(Clock):
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class _SystemMemory(Memory):
    """Memory as Linux and macOS tell it, cgroup limits included."""

    _page_bytes = os.sysconf("SC_PAGE_SIZE")

    def total_bytes(self) -> int:
        total = self._page_bytes * os.sysconf("SC_PHYS_PAGES")
        for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            try:
                with open(path) as file:
                    total = min(total, int(file.read()))
            except (OSError, ValueError):
                continue  # No such control group, or one without a limit ("max").
        return total

    def used_bytes(self) -> int:
        try:
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * self._page_bytes
        except OSError:
            import resource  # Where there is no /proc: the peak stands in for the present.

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def give_back(self) -> None:
        # glibc keeps what was freed between live blocks, and the process looks full for ever.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def real_world() -> World:
    """The world as it is."""
    return World(
        clock=_SystemClock(),
        network=SocketNetwork(),
        disk=SystemDisk(),
        memory=_SystemMemory(),
        random=random.SystemRandom(),
    )
