"""Kill a broker under load: ``python -m tests.crash --kills 100 --messages 200000``."""

import argparse
import sys
import tempfile
from pathlib import Path

import trio

from amqpbroker.testing.disk_shim import DiskShim, build
from tests.crash.broker import Broker
from tests.crash.runs import run_kills, run_recorded

parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
parser.add_argument("--kills", type=int, default=100)
parser.add_argument("--messages", type=int, default=200_000, help="confirmed ones, at least")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--shim", action="store_true", help="undo what was not synced")
parser.add_argument("--torn", action="store_true", help="only a part of it, torn (with --shim)")
parser.add_argument("--pretend", action="store_true", help="syncs do nothing: must turn red")
parser.add_argument("--sync-delay-us", type=int, default=3000, help="a slow disk (with --shim)")
parser.add_argument("--order", action="store_true", help="compare the order of confirms and syncs")
parser.add_argument("--large", type=float, default=0.01, help="share of bodies up to 200 kB")
parser.add_argument("--tiny", action="store_true", help="small files, and much is paged out")
parser.add_argument("--memory", action="store_true", help="a node in memory: must turn red")
parser.add_argument("--folder", type=Path, help="where to work; it is kept")


def main() -> int:
    """What was found, printed; 1 if it is not as it should be."""
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amqpbroker-crash-") as temporary:
        folder = options.folder or Path(temporary)
        (folder / "disk").mkdir(parents=True)
        broker = Broker.on_disk(folder / "disk" / "node", folder / "broker.log")
        if options.memory:
            broker.settings = ("--memory",)
        broker.tiny = options.tiny
        shim = None
        if options.shim or options.pretend or options.order:
            shim = DiskShim(build(folder), folder / "disk", folder / "shim")
            shim.set_flags(record=options.order, pretend=options.pretend)
            shim.delay_syncs(options.sync_delay_us)
            broker.environment = shim.environment
        if options.order:
            order = trio.run(run_recorded, broker, shim, options.messages)
            print(f"{order.confirms} confirms, {len(order.early)} of them before the sync,")
            print(f"{len(order.unkept)} without one")
            return bool(order.early)
        report = trio.run(
            run_kills,
            broker,
            options.kills,
            options.messages,
            options.seed,
            shim,
            options.torn,
            options.large,
        )
        print(report)
        return not report.is_sound


if __name__ == "__main__":
    sys.exit(main())
