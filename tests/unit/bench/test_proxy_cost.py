"""What a proxied message costs: the script itself."""

import os
import shutil
import time
from pathlib import Path

import pytest

from bench.proxy_cost import WORKS, Options, compare
from bench.subjects import OwnBroker, processor_time_s


def test_the_processor_time_of_a_process_goes_on_while_it_works():
    before_s, own_before_s = processor_time_s(os.getpid()), time.process_time()
    sum(range(1_000_000))
    gone_s, own_s = processor_time_s(os.getpid()) - before_s, time.process_time() - own_before_s
    assert 0 < own_s <= gone_s + 0.001


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("etcd") is None, reason="there is no etcd")
def test_every_work_is_measured_at_its_holder(tmp_path: Path):
    with OwnBroker(tmp_path).broker(clustered=True) as broker:
        for work in WORKS:
            own, proxied, ratio = compare(broker, work, 20, Options(1, 0.02, 0))
            assert own > 0
            assert proxied > 0
            assert ratio == proxied / own
