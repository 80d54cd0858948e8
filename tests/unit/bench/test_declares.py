"""What many queues cost a cluster: the script itself."""

import shutil
from pathlib import Path

import pytest
from rich.table import Table

from bench.client import BrokerError, Client
from bench.declares import Declarer, measure
from bench.subjects import OwnBroker


@pytest.mark.slow
def test_every_queue_is_declared_and_every_wait_noted(tmp_path: Path):
    names = [f"q{number}" for number in range(50)]
    with OwnBroker(tmp_path).broker() as broker, Client(broker.url) as client:
        declarer = Declarer(client, 8)
        assert declarer.declare(names) > 0
        assert len(declarer.waits_s) == 50
        for name in names:
            client.declare_queue(name, passive=True)


@pytest.mark.slow
def test_who_refuses_a_queue_is_no_answer(tmp_path: Path):
    with (
        OwnBroker(tmp_path).broker() as broker,
        Client(broker.url) as client,
        pytest.raises(BrokerError, match="403"),
    ):
        Declarer(client, 2).declare(["amq.mine"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("etcd") is None, reason="there is no etcd")
def test_a_cluster_is_measured_with_its_starts(tmp_path: Path):
    table = Table("", "")
    measure(tmp_path, 20, 4, 1, table)
    assert table.row_count == 9
