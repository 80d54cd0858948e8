"""Exchanges of a virtual host, what is bound to them, and what a change reaches."""

import subprocess
import sys
from unittest.mock import Mock

import pytest

from amqpbroker.definitions import Arguments, BindingDefinition, ExchangeDefinition
from amqpbroker.routing.exchange import DirectExchange
from amqpbroker.routing.router import EXCHANGE_TYPES, Router, predeclared


def binding(source: str, destination: str, key: str = "", **arguments: object) -> BindingDefinition:
    bound: Arguments = dict(arguments)
    return BindingDefinition("/", source, destination, key, bound)


def link(source: str, destination: str, key: str = "") -> BindingDefinition:
    """A binding from an exchange to an exchange."""
    return BindingDefinition("/", source, destination, key, destination_type="exchange")


@pytest.fixture
def router() -> Router:
    """With two exchanges, ``x`` and ``y``."""
    router = Router()
    router.add_exchange(ExchangeDefinition("/", "x", "direct"))
    router.add_exchange(ExchangeDefinition("/", "y", "fanout"))
    return router


def route(router: Router, exchange: str, *keys: str) -> tuple[str, ...]:
    return router.route(exchange, keys or ("",), None)[0]


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
    assert exchange.bindings == {}


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
    assert len(router.bindings_to_queue("q")) == 1
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
    bindings = [binding("x", "q", "1"), binding("x", "q", "2"), binding("y", "q", "1")]
    for each in bindings:
        router.bind(each)
    router.bind(binding("x", "another", "1"))

    assert router.bindings_to_queue("q") == bindings
    router.unbind(bindings[1])
    assert router.bindings_to_queue("q") == [bindings[0], bindings[2]]
    assert router.bindings_to_queue("nobody") == []


def test_nothing_is_remembered_of_a_queue_that_is_unbound(router: Router) -> None:
    for i in range(10):
        router.bind(binding("x", f"reply {i}", "key"))

    for i in range(10):
        for each in router.bindings_to_queue(f"reply {i}"):
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
    assert router.bindings_to_queue("q") == [binding("y", "q")]
    assert router.bindings_to_queue("r") == []
    assert route(router, "y") == ("q",)


def test_an_exchange_that_is_declared_again_begins_anew(router: Router) -> None:
    router.bind(binding("x", "q", "key"))
    router.remove_exchange("x")

    router.add_exchange(ExchangeDefinition("/", "x", "direct"))

    assert route(router, "x", "key") == ()
    assert isinstance(router.exchanges["x"].type, DirectExchange)


def test_a_queue_that_matches_twice_is_routed_to_once(router: Router) -> None:
    for key in ("a", "b"):
        router.bind(binding("x", "q", key))
        router.bind(binding("y", "q", key))

    assert route(router, "y", "any key") == ("q",)
    assert route(router, "x", "a", "b") == ("q",)


def test_a_message_with_several_keys_goes_wherever_one_of_them_leads(router: Router) -> None:
    for key in ("a", "b", "c"):
        router.bind(binding("x", f"queue of {key}", key))

    assert route(router, "x", "c", "none", "a") == ("queue of c", "queue of a")


@pytest.mark.parametrize("kind", ["fanout", "headers"])
def test_an_exchange_that_heeds_no_key_is_asked_once_however_many_there_are(kind: str) -> None:
    router = Router()
    router.add_exchange(ExchangeDefinition("/", "x", kind))
    router.bind(binding("x", "q"))
    exchange_type = router.exchanges["x"].type
    asked = Mock(wraps=exchange_type.route)
    exchange_type.route = asked  # type: ignore[method-assign]

    assert route(router, "x", "a", "b", "c") == ("q",)

    assert asked.call_count == 1


# -- from exchange to exchange -------------------------------------------------------------------


def test_a_message_follows_bindings_from_exchange_to_exchange(router: Router) -> None:
    router.bind(link("x", "y", "key"))
    router.bind(binding("y", "q"))
    router.bind(binding("x", "r", "key"))

    assert route(router, "x", "key") == ("r", "q")
    assert route(router, "x", "another") == ()


def test_a_queue_and_an_exchange_of_one_name_are_two_destinations(router: Router) -> None:
    router.bind(link("x", "y", "key"))
    router.bind(binding("x", "y", "key"))
    router.bind(binding("y", "q"))

    assert route(router, "x", "key") == ("y", "q")
    assert router.bindings_to_queue("y") == [binding("x", "y", "key")]
    assert router.bindings_to_exchange("y") == [link("x", "y", "key")]

    assert router.unbind(link("x", "y", "key"))

    assert route(router, "x", "key") == ("y",)


def test_bindings_in_a_circle_are_followed_once(router: Router) -> None:
    router.add_exchange(ExchangeDefinition("/", "z", "fanout"))
    for source, destination in (("y", "z"), ("z", "y"), ("y", "y"), ("z", "z")):
        router.bind(link(source, destination))
    router.bind(binding("y", "q"))
    router.bind(binding("z", "q"))

    assert route(router, "y") == ("q",)
    assert route(router, "z") == ("q",)


def test_two_ways_to_an_exchange_count_once(router: Router) -> None:
    for name in ("left", "right"):
        router.add_exchange(ExchangeDefinition("/", name, "fanout"))
        router.bind(link("y", name))
        router.bind(link(name, "x", ""))
    router.bind(binding("x", "q", "key"))

    assert route(router, "y", "key") == ("q",)


def test_a_change_far_away_raises_the_version_of_every_exchange_that_leads_there(
    router: Router,
) -> None:
    for name in ("far", "elsewhere"):
        router.add_exchange(ExchangeDefinition("/", name, "fanout"))
    router.bind(link("x", "y", "key"))
    router.bind(link("y", "far"))
    router.bind(link("far", "x"))  # A circle ends.
    before = versions(router)

    router.bind(binding("far", "q"))

    after = versions(router)
    assert {name for name in after if after[name] > before[name]} == {"x", "y", "far"}
    router.unbind(link("x", "y", "key"))
    before = versions(router)
    router.unbind(binding("far", "q"))
    after = versions(router)
    assert {name for name in after if after[name] > before[name]} == {"y", "far"}


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic"])
def test_a_route_may_be_kept_unless_it_passes_an_exchange_that_looks_at_headers(kind: str) -> None:
    router = Router()
    router.add_exchange(ExchangeDefinition("/", "start", kind))
    router.add_exchange(ExchangeDefinition("/", "by headers", "headers"))
    router.bind(link("start", "by headers", "key"))

    assert router.route("start", ["another"], None)[1] is (kind != "fanout")
    assert not router.route("start", ["key"], None)[1]
    assert not router.route("by headers", [""], None)[1]


# -- alternate exchanges -------------------------------------------------------------------------


def with_alternate(name: str, kind: str, alternate: object) -> ExchangeDefinition:
    return ExchangeDefinition("/", name, kind, arguments={"alternate-exchange": alternate})


@pytest.fixture
def fallback(router: Router) -> Router:
    """With ``main``, whose alternate exchange is ``y``."""
    router.add_exchange(with_alternate("main", "direct", "y"))
    router.bind(binding("main", "wanted", "key"))
    router.bind(binding("y", "rest"))
    return router


def test_only_what_no_binding_takes_goes_to_the_alternate_exchange(fallback: Router) -> None:
    assert route(fallback, "main", "key") == ("wanted",)
    assert route(fallback, "main", "another") == ("rest",)
    assert route(fallback, "main", "key", "another") == ("wanted",)


def test_a_binding_that_leads_nowhere_takes_a_message_all_the_same(fallback: Router) -> None:
    fallback.bind(link("main", "x", "dead end"))

    assert route(fallback, "main", "dead end") == ()


def test_alternate_exchanges_follow_one_another(fallback: Router) -> None:
    fallback.add_exchange(with_alternate("first", "direct", "main"))

    assert route(fallback, "first", "key") == ("wanted",)
    assert route(fallback, "first", "another") == ("rest",)


def test_alternates_in_a_circle_end(router: Router) -> None:
    router.add_exchange(with_alternate("a", "direct", "b"))
    router.add_exchange(with_alternate("b", "direct", "a"))
    router.add_exchange(with_alternate("self", "direct", "self"))

    assert route(router, "a") == ()
    assert route(router, "self") == ()


def test_an_alternate_exchange_that_is_not_there_takes_nothing_until_it_is(router: Router) -> None:
    router.add_exchange(with_alternate("main", "direct", "later"))
    assert route(router, "main") == ()
    before = versions(router)

    router.add_exchange(ExchangeDefinition("/", "later", "fanout"))
    router.bind(binding("later", "q"))

    assert route(router, "main") == ("q",)
    assert versions(router)["main"] > before["main"]
    router.remove_exchange("later")
    assert route(router, "main") == ()


def test_what_happens_at_the_alternate_exchange_raises_the_version(fallback: Router) -> None:
    before = versions(fallback)

    fallback.bind(binding("y", "another"))

    assert versions(fallback)["main"] > before["main"]
    assert versions(fallback)["x"] == before["x"]


def test_an_exchange_that_is_gone_has_no_alternate_any_more(router: Router) -> None:
    for name in ("a", "b"):
        router.add_exchange(with_alternate(name, "direct", "y"))

    router.remove_exchange("a")
    router.bind(binding("y", "q"))
    assert route(router, "b") == ("q",)
    router.remove_exchange("b")

    assert router._alternate_of == {}


def test_the_default_exchange_takes_nothing_as_an_alternate(router: Router) -> None:
    router.add_exchange(ExchangeDefinition("/", "", "direct"))
    router.add_exchange(with_alternate("main", "direct", ""))

    assert route(router, "main", "q") == ()


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

    assert versions(router) == before | {"z": router.exchanges["z"].version}


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
    print(router.route(exchange.definition.name, ["a.b"], {}))
print(router.bindings_to_queue("queue 7 #"))
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
