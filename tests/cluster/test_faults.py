"""A cluster keeps its promises whatever befalls it: ``python -m tests.cluster`` does more."""

from pathlib import Path

import pytest

from amqpbroker.cli.etcd_servers import EtcdServers
from tests.cluster.runs import run_faults

pytestmark = pytest.mark.slow

SECONDS = 60


async def test_a_cluster_keeps_its_promises_whatever_befalls_it(
    three_members: EtcdServers, tmp_path: Path
) -> None:
    report = await run_faults(three_members, tmp_path, SECONDS, seed=1)
    assert report.is_sound, report
    assert report.faults.total() >= 8, report
    assert report.confirmed >= 5000, report
