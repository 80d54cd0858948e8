"""Do harm to a cluster under load: ``python -m tests.cluster --seconds 600 --seed 1``."""

import argparse
import sys
import tempfile
from pathlib import Path

import trio

from amqpbroker.cli.etcd_servers import EtcdServers, find_etcd, free_ports
from tests.cluster.runs import run_faults

parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
parser.add_argument("--seconds", type=float, default=600, help="how long there are faults")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--folder", type=Path, help="where to work; it is kept")


def main() -> int:
    """What was found, printed; 1 if it is not as it should be."""
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amqpbroker-cluster-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        executable = find_etcd()
        more = ["--unsafe-no-fsync"] if executable.can_skip_sync else []
        with EtcdServers(executable, folder / "etcd", free_ports(3), options=more) as etcd:
            report = trio.run(run_faults, etcd, folder, options.seconds, options.seed)
        print("\n".join(report.log))
        print(report)
        return not report.is_sound


if __name__ == "__main__":
    sys.exit(main())
