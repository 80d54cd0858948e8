"""Nodes of a cluster, as one of them tells of them."""

import pytest
from trio.testing import MockClock

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.members import ClusterStatus, Member
from amqpbroker.definitions import QueueDefinition, put
from amqpbroker.testing.api import Api

OWN, OTHER, LOST = "rabbit@localhost", "rabbit@other", "rabbit@lost"


def status(**changes: object) -> ClusterStatus:
    fields: dict[str, object] = {
        "name": "the cluster",
        "cluster_id": "id",
        "nodes": (LOST, OWN, OTHER),
        "running": {
            OWN: Member(1),
            OTHER: Member(1, v="0.1.0", started=900_000, maintenance=True, alarms=("disk",)),
        },
        "linked": (OTHER,),
        "is_store_away": False,
        **changes,
    }
    return ClusterStatus(**fields)  # type: ignore[arg-type]


@pytest.fixture
def cluster(api: Api) -> Api:
    """The API of a node in a cluster."""
    api.facts.cluster = status
    return api


async def test_all_nodes_of_a_cluster_are_listed(cluster: Api) -> None:
    own, lost, other = await cluster.get("/nodes")

    assert lost == {"name": LOST, "type": "disc", "running": False}
    assert (own["name"], own["running"], own["disk_free_alarm"]) == (OWN, True, False)
    assert (other["name"], other["running"], other["being_drained"]) == (OTHER, True, True)
    assert (other["mem_alarm"], other["disk_free_alarm"]) == (False, True)
    assert other["uptime"] == 100_000
    assert other["partitions"] == []
    assert set(own) == set(other)
    assert await cluster.get(f"/nodes/{OTHER}") == other
    assert (await cluster.call("GET", "/nodes/nope")).status == 404


async def test_a_node_that_cannot_be_reached_is_parted(api: Api) -> None:
    api.facts.cluster = lambda: status(linked=())

    assert (await api.get(f"/nodes/{OTHER}"))["partitions"] == [OWN]


async def test_the_cluster_has_its_name_everywhere(cluster: Api) -> None:
    assert (await cluster.get("/overview"))["cluster_name"] == "the cluster"
    assert (await cluster.get("/cluster-name"))["name"] == "the cluster"
    assert (await cluster.get("/vhosts/%2F"))["cluster_state"] == {OWN: "running", OTHER: "running"}


async def test_a_queue_is_on_the_node_that_leads_it(cluster: Api, broker: Broker) -> None:
    for name, leader in (("a", ""), ("b", OTHER), ("c", LOST)):
        broker.submit(put(QueueDefinition("/", name, leader=leader)))

    queues = await cluster.get("/queues")

    assert [(queue["node"], queue["state"], queue.get("messages")) for queue in queues] == [
        (OWN, "running", 0),
        (OTHER, "running", 0),
        (LOST, "down", None),
    ]
    cluster.facts.cluster = lambda: status(linked=())
    assert (await cluster.get("/queues/%2F/b"))["state"] == "down"


async def test_alarms_are_those_of_the_nodes_that_raise_them(cluster: Api, broker: Broker) -> None:
    broker.set_alarm("disk", is_low=True)  # Here too publishers wait.
    answer = await cluster.call("GET", "/health/checks/alarms")

    assert (answer.status, answer.data["alarms"]) == (503, [{"node": OTHER, "resource": "disk"}])
    assert await cluster.get("/health/checks/local-alarms") == {"status": "ok"}
    assert (await cluster.get(f"/nodes/{OWN}"))["disk_free_alarm"] is False
    cluster.facts.alarms = lambda: ("memory",)
    [own] = (await cluster.call("GET", "/health/checks/local-alarms")).data["alarms"]
    assert own == {"node": OWN, "resource": "memory"}
    assert (await cluster.get(f"/nodes/{OWN}"))["mem_alarm"] is True
    assert await cluster.get("/health/checks/node-is-quorum-critical") == {"status": "ok"}


async def test_a_store_that_is_away_is_an_alarm(api: Api) -> None:
    api.facts.cluster = lambda: status(is_store_away=True)

    [alarm] = (await api.get(f"/nodes/{OWN}"))["amqpbroker_alarms"]
    metrics = await api.call("GET", "/metrics", root="")

    assert "etcd does not answer" in alarm
    assert b"\nrabbitmq_alarms_metadata_store_away 1\n" in metrics.body


async def test_other_nodes_are_asked_for_their_numbers_and_not_waited_for_long(
    cluster: Api, autojump_clock: MockClock
) -> None:
    asked = 0

    def refresh() -> None:
        nonlocal asked
        asked += 1

    answers = iter([True, True, False])
    cluster.facts.refresh = refresh
    cluster.facts.is_refreshing = lambda: next(answers)
    await cluster.get("/queues")
    assert (asked, list(answers)) == (1, [])

    cluster.facts.is_refreshing = lambda: True
    await cluster.get("/queues")
    assert asked == 2
