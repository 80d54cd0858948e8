"""Clusters in a simulated world full of faults keep their promises, one for each seed.

``SIM_CLUSTER_SEEDS`` says how many, ``SIM_CLUSTER_FIRST_SEED`` from which on. What a seed has is in
`cluster_load`.
"""

import os

import pytest

from amqpbroker.testing.world import simulate
from tests.simulation.cluster_load import scenario

SEEDS = int(os.environ.get("SIM_CLUSTER_SEEDS", "300"))
FIRST_SEED = int(os.environ.get("SIM_CLUSTER_FIRST_SEED", "1000"))
PARTS = 30


def run(seeds: range) -> None:
    confirmed = deliveries = 0
    for seed in seeds:
        found = simulate(seed, scenario)
        confirmed, deliveries = confirmed + found[0], deliveries + found[1]
    assert confirmed > 500 * len(seeds)
    assert deliveries > 500 * len(seeds)


def test_a_few_clusters_keep_their_promises_whatever_happens() -> None:
    run(range(2))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_clusters_keep_their_promises_whatever_happens(part: int) -> None:
    run(range(FIRST_SEED + part, FIRST_SEED + SEEDS, PARTS))
