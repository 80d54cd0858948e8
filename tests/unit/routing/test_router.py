"""Exchanges of a virtual host, what is bound to them, and what a change reaches."""

import subprocess
import sys

import pytest

from amqpbroker.definitions import Arguments, BindingDefinition, ExchangeDefinition
from amqpbroker.routing.exchange import DirectExchange
from amqpbroker.routing.router import EXCHANGE_TYPES, Router, predeclared


def binding(source: str, destination: str, key: str = "", **arguments: object) -> BindingDefinition:
    bound: Arguments = dict(arguments)
    return BindingDefinition("/", source, destination, key, bound)


@pytest.fixture
def router() -> Router:
    """With two exchanges, ``x`` and ``y``."""
    router = Router()
    router.add_exchange(ExchangeDefinition("/", "x", "direct"))
    router.add_exchange(ExchangeDefinition("/", "y", "fanout"))
    return router


def route(router: Router, exchange: str, key: str = "") -> tuple[str, ...]:
    return router.exchanges[exchange].route(key, None)


def versions(router: Router) -> dict[str, int]:
    return {name: exchange.version for name, exchange in router.exchanges.items()}


# -- the exchanges that are always there ---------------------------------------------------------


def test_every_virtual_host_has_its_exchanges_from_the_start() -> None:
    exchanges = {each.name: each for each in predeclared("my vhost")}

    assert {name: each.type for name, each in exchanges.items()} == {
        "": "direct",
        "amq.direct": "direct",
        "amq.fanout": "fanout",
        "amq.topic": "topic",
        "amq.headers": "headers",
        "amq.match": "headers",
        "amq.rabbitmq.trace": "topic",
    }
    assert [each.name for each in exchanges.values() if each.internal] == ["amq.rabbitmq.trace"]
    assert all(each.durable and not each.auto_delete for each in exchanges.values())
    assert {each.vhost for each in exchanges.values()} == {"my vhost"}
    assert all(each.arguments == {} for each in exchanges.values())


def test_the_types_of_exchange_are_those_of_amqp() -> None:
    assert set(EXCHANGE_TYPES) == {"direct", "fanout", "topic", "headers"}


@pytest.mark.parametrize("definition", predeclared("/"), ids=lambda each: each.name or "default")
def test_an_exchange_is_what_its_definition_says(definition: ExchangeDefinition) -> None:
    router = Router()

    router.add_exchange(definition)

    exchange = router.exchanges[definition.name]
    assert exchange.definition is definition
    assert type(exchange.type) is EXCHANGE_TYPES[definition.type]
    assert (exchange.version, exchange.bindings) == (0, {})


# -- bindings ------------------------------------------------------------------------------------


def test_a_binding_routes(router: Router) -> None:
    router.bind(binding("x", "q", "key"))

    assert route(router, "x", "key") == ("q",)
    assert route(router, "x", "another") == ()
    assert route(router, "y", "key") == ()


def test_a_binding_that_is_there_already_changes_nothing(router: Router) -> None:
    router.bind(binding("x", "q", "key", a=1))
    before = versions(router)

    router.bind(binding("x", "q", "key", a=1))

    assert versions(router) == before
    assert len(router.exchanges["x"].bindings) == 1
    assert len(router.bindings_to("q")) == 1
    assert router.unbind(binding("x", "q", "key", a=1))
    assert route(router, "x", "key") == ()


def test_bindings_differ_by_their_arguments(router: Router) -> None:
    for value in (1, True, "1", None):
        router.bind(binding("y", "q", "", a=value))

    assert len(router.exchanges["y"].bindings) == 4
    assert route(router, "y") == ("q",)


def test_a_binding_that_is_not_there_may_be_unbound(router: Router) -> None:
    router.bind(binding("x", "q", "key"))
    before = versions(router)

    assert not router.unbind(binding("x", "q", "another"))
    assert not router.unbind(binding("x", "another", "key"))
    assert not router.unbind(binding("y", "q", "key"))

    assert versions(router) == before
    assert route(router, "x", "key") == ("q",)


def test_the_bindings_of_a_queue_are_known_whatever_their_exchange(router: Router) -> None:
    bindings = [binding("x", "q", "1"), binding("y", "q", "1"), binding("x", "q", "2")]
    for each in bindings:
        router.bind(each)
    router.bind(binding("x", "another", "1"))

    assert router.bindings_to("q") == bindings
    router.unbind(bindings[1])
    assert router.bindings_to("q") == [bindings[0], bindings[2]]
    assert router.bindings_to("nobody") == []


def test_nothing_is_remembered_of_a_queue_that_is_unbound(router: Router) -> None:
    for i in range(10):
        router.bind(binding("x", f"reply {i}", "key"))

    for i in range(10):
        for each in router.bindings_to(f"reply {i}"):
            assert router.unbind(each)

    assert router._bound_to == {}
    assert router.exchanges["x"].bindings == {}
    assert route(router, "x", "key") == ()


def test_an_exchange_goes_with_its_bindings(router: Router) -> None:
    router.bind(binding("x", "q", "1"))
    router.bind(binding("x", "r", "2"))
    router.bind(binding("y", "q"))

    router.remove_exchange("x")

    assert list(router.exchanges) == ["y"]
    assert router.bindings_to("q") == [binding("y", "q")]
    assert router.bindings_to("r") == []
    assert route(router, "y") == ("q",)


def test_an_exchange_that_is_declared_again_begins_anew(router: Router) -> None:
    router.bind(binding("x", "q", "key"))
    router.remove_exchange("x")

    router.add_exchange(ExchangeDefinition("/", "x", "direct"))

    assert route(router, "x", "key") == ()
    assert isinstance(router.exchanges["x"].type, DirectExchange)


# -- versions ------------------------------------------------------------------------------------


def test_a_binding_raises_the_version_of_its_exchange_and_of_no_other(router: Router) -> None:
    before = versions(router)

    router.bind(binding("x", "q", "key"))

    after = versions(router)
    assert after["x"] > before["x"]
    assert after["y"] == before["y"]


def test_unbinding_raises_the_version_of_its_exchange_and_of_no_other(router: Router) -> None:
    router.bind(binding("x", "q", "key"))
    before = versions(router)

    router.unbind(binding("x", "q", "key"))

    after = versions(router)
    assert after["x"] > before["x"]
    assert after["y"] == before["y"]


@pytest.mark.parametrize("bound", [True, False])
def test_who_remembers_a_removed_exchange_sees_another_version(router: Router, bound: bool) -> None:
    if bound:
        router.bind(binding("x", "q", "key"))
    exchange = router.exchanges["x"]
    remembered, other = exchange.version, versions(router)["y"]

    router.remove_exchange("x")

    assert exchange.version > remembered
    assert versions(router)["y"] == other


def test_a_new_exchange_raises_no_version(router: Router) -> None:
    before = versions(router)

    router.add_exchange(ExchangeDefinition("/", "z", "topic"))

    assert versions(router) == before | {"z": 0}


# -- order ---------------------------------------------------------------------------------------


ORDER = """
from amqpbroker.definitions import BindingDefinition, ExchangeDefinition
from amqpbroker.routing.router import Router, predeclared

router = Router()
for definition in predeclared("/"):
    router.add_exchange(definition)
for i in range(40):
    for name, key in (
        ("amq.direct", "a.b"), ("amq.fanout", ""), ("amq.headers", ""), ("amq.topic", "a.*"),
        ("amq.topic", "#"), ("amq.topic", "a.b"), ("amq.topic", "#.b.#"),
    ):
        router.bind(BindingDefinition("/", name, f"queue {i * 7 % 40} {key}", key))
for exchange in router.exchanges.values():
    print(exchange.route("a.b", {}))
print(router.bindings_to("queue 7 #"))
"""


def test_the_order_of_routes_does_not_depend_on_the_hash_seed() -> None:
    def output(seed: str) -> str:
        command = [sys.executable, "-c", ORDER]
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout

    first, second = output("1"), output("2")

    assert first == second
    assert first.count("queue") > 200
