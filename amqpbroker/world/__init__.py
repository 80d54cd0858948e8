"""The only door to what cannot be replayed: clock, network, disk, random.

A node is handed a `World` and asks nothing else. The real one stands here; its simulated twin, in
which a whole cluster runs in one process from one seed, stands in `amqpbroker.testing`.
"""

from amqpbroker.world.contracts import (
    Clock,
    Disk,
    File,
    Listener,
    Memory,
    Network,
    Stream,
    World,
)
from amqpbroker.world.machine import real_world

__all__ = [
    "Clock",
    "Disk",
    "File",
    "Listener",
    "Memory",
    "Network",
    "Stream",
    "World",
    "real_world",
]
