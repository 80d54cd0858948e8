"""A cluster of processes for tests: nodes that can be killed, and kept from each other."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from amqpbroker.cli.etcd_servers import free_ports
from amqpbroker.cli.local_cluster import LocalCluster, LocalNode, NodePorts
from amqpbroker.testing.link_relay import LinkRelay


class ClusterForTest:
    """``n`` nodes on free ports of this machine, over an etcd of their own, as a context.

    ``flags`` are those of ``amqpbroker serve`` that all nodes have besides.
    """

    def __init__(self, n: int = 3, etcd_members: int = 1, flags: Sequence[str] = ()) -> None:
        self._flags = flags
        self._undo = ExitStack()
        free = [(each.client, each.peer) for each in free_ports(2 * n)]
        ports = [NodePorts(*free[2 * i], *free[2 * i + 1]) for i in range(n)]
        self._relays = [LinkRelay(("127.0.0.1", each.link)) for each in ports]
        self.folder = Path(tempfile.mkdtemp(prefix="amqp_cluster"))
        self.cluster = LocalCluster(
            self.folder, ports, etcd_members=etcd_members, options=self._options
        )

    def _options(self, number: int) -> list[str]:
        return [f"--advertise=127.0.0.1:{self._relays[number].port}", *self._flags]

    @property
    def nodes(self) -> list[LocalNode]:
        """The nodes: ``.name``, ``.url``, ``.http_url``, ``.log``."""
        return self.cluster.nodes

    def kill(self, i: int) -> None:
        """Kill a node (SIGKILL)."""
        self.cluster.kill_node(i)
        self._relays[i].refuse()

    def stop(self, i: int) -> None:
        """Stop a node in good order."""
        self.cluster.stop_node(i)
        self._relays[i].refuse()

    def start(self, i: int) -> None:
        """Start a node that was killed or stopped; done when it serves clients."""
        self._relays[i].listen()
        self.cluster.start_node(i)

    def partition(self, a: int, b: int) -> None:
        """Keep two nodes from reaching each other; both reach etcd, and all others."""
        self._relays[a].severed.add(self.nodes[b].name)
        self._relays[b].severed.add(self.nodes[a].name)

    def heal(self) -> None:
        """Let all nodes reach each other again."""
        for relay in self._relays:
            relay.heal()

    def __enter__(self) -> Self:
        self._undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        with ExitStack() as undo:
            for relay in self._relays:
                undo.enter_context(relay)
            undo.enter_context(self.cluster)
            self._undo.push(undo.pop_all())
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def logs(self) -> str:
        """What the nodes have logged."""
        return "\n".join(
            f"{node.name}:\n{node.log.read_text(errors='replace')}"
            for node in self.nodes
            if node.log.exists()
        )
