"""Who may do what: each path asks for a tag, and some for a permission in the virtual host."""

import pytest

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.api import Api
from amqpbroker.testing.peer import Peer

USERS = ("management", "policymaker", "monitoring", "administrator")
"""Users by their only tag; all but the administrator may enter ``/``, and nothing else."""
EVERYBODY = set(USERS)

RULES = [
    ("GET", "/overview", EVERYBODY),
    ("GET", "/whoami", EVERYBODY),
    ("GET", "/vhosts", EVERYBODY),
    ("GET", "/cluster-name", EVERYBODY),
    ("GET", "/connections", EVERYBODY),
    ("GET", "/channels", EVERYBODY),
    ("GET", "/consumers", EVERYBODY),
    ("GET", "/health/checks/alarms", EVERYBODY),
    ("GET", "/queues", EVERYBODY),
    ("GET", "/queues/%2F", EVERYBODY),
    ("GET", "/queues/other", {"administrator"}),
    ("GET", "/exchanges/other", {"administrator"}),
    ("GET", "/bindings/other", {"administrator"}),
    ("GET", "/policies/other", {"administrator"}),
    ("GET", "/vhost-limits/other", {"administrator", "monitoring"}),
    ("GET", "/exchanges/%2F/amq.direct", EVERYBODY),
    ("GET", "/exchanges/other/amq.direct", {"administrator"}),
    ("GET", "/nodes", {"monitoring", "administrator"}),
    ("GET", "/nodes/rabbit@localhost", {"monitoring", "administrator"}),
    ("GET", "/parameters", {"policymaker", "administrator"}),
    ("GET", "/global-parameters", {"policymaker", "administrator"}),
    ("PUT", "/policies/%2F/p", {"policymaker", "administrator"}),
    ("PUT", "/policies/other/p", {"administrator"}),
    ("PUT", "/operator-policies/%2F/p", {"administrator"}),
    ("GET", "/vhosts/%2F", {"administrator"}),
    ("PUT", "/vhosts/new", {"administrator"}),
    ("GET", "/users", {"administrator"}),
    ("PUT", "/users/new", {"administrator"}),
    ("GET", "/permissions", {"administrator"}),
    ("GET", "/topic-permissions", {"administrator"}),
    ("GET", "/definitions", {"administrator"}),
    ("POST", "/rebalance/queues", {"administrator"}),
]


@pytest.fixture
async def users(api: Api) -> None:
    await api.put("/vhosts/other")
    for name in USERS:
        await api.put(f"/users/{name}", {"password": "p", "tags": name})
        if name != "administrator":
            rights = {"configure": ".*", "write": ".*", "read": ".*"}
            await api.put(f"/permissions/%2F/{name}", rights)


@pytest.mark.parametrize(("method", "path", "allowed"), RULES)
async def test_a_path_is_for_those_with_the_tag_and_the_permission(
    api: Api, users: None, method: str, path: str, allowed: set[str]
) -> None:
    body = {"tags": "", "pattern": "^", "definition": {"max-length": 1}} if method == "PUT" else {}
    let_in = set()
    for name in USERS:
        answer = await api.call(method, path, body, user=name, password="p")
        if answer.status != 401:
            assert answer.status in (200, 201, 204), answer
            let_in.add(name)

    assert let_in == allowed


@pytest.mark.parametrize(
    ("user", "path", "reason"),
    [
        ("management", "/users", "Not administrator user"),
        ("management", "/nodes", "Not monitor user"),
        ("management", "/queues/other", "User not authorised to access virtual host"),
        ("management", "/parameters", "User not authorised to access object"),
    ],
)
async def test_who_may_not_is_told_why(
    api: Api, users: None, user: str, path: str, reason: str
) -> None:
    answer = await api.call("GET", path, user=user, password="p")

    assert answer.status == 401
    assert answer.data == {"error": "not_authorised", "reason": reason}


async def test_users_see_what_is_in_virtual_hosts_that_they_may_enter(
    api: Api, users: None
) -> None:
    await api.put("/queues/%2F/seen")
    await api.put("/queues/other/unseen", user="guest")

    def names(queues: list[dict[str, str]]) -> list[str]:
        return [queue["name"] for queue in queues]

    assert names(await api.get("/queues", user="management", password="p")) == ["seen"]
    assert names(await api.get("/queues", user="monitoring", password="p")) == ["seen"]
    assert names(await api.get("/queues")) == ["seen", "unseen"]


async def test_monitors_see_all_virtual_hosts_others_their_own(api: Api, users: None) -> None:
    def names(vhosts: list[dict[str, str]]) -> list[str]:
        return [vhost["name"] for vhost in vhosts]

    assert names(await api.get("/vhosts", user="monitoring", password="p")) == ["/", "other"]
    assert names(await api.get("/vhosts", user="management", password="p")) == ["/"]


async def test_a_tag_alone_declares_nothing(api: Api, users: None) -> None:
    await api.put("/permissions/%2F/management", {"configure": "^a", "write": "", "read": ""})
    who = {"user": "management", "password": "p"}

    assert (await api.call("PUT", "/queues/%2F/abc", {}, **who)).status == 201
    answer = await api.call("PUT", "/queues/%2F/bcd", {}, **who)
    assert answer.status == 401
    assert answer.data == {"error": "not_authorised", "reason": "Access refused."}


async def test_connections_are_their_users_or_a_monitors_to_see_and_an_administrators_to_close(
    api: Api, broker: Broker, users: None
) -> None:
    Peer(broker).open(1, user="management", password="p")
    [there] = await api.get("/connections")
    path = f"/connections/{there['name'].replace(' ', '%20').replace('>', '%3E')}"

    async def status(method: str, user: str) -> int:
        return (await api.call(method, path, user=user, password="p")).status

    assert await status("GET", "management") == 200
    assert await status("GET", "monitoring") == 200
    assert await status("GET", "policymaker") == 401
    assert await api.get("/connections", user="policymaker", password="p") == []
    assert await status("DELETE", "monitoring") == 401
    assert await status("DELETE", "management") == 204
    assert await api.get("/connections") == []
