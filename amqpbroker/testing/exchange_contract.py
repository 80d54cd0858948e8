"""What every `ExchangeType` keeps, as tests that any of them can run."""

from collections.abc import Iterable
from itertools import permutations
from typing import ClassVar

import pytest

from amqpbroker.definitions import Arguments, BindingDefinition
from amqpbroker.routing.exchange import ExchangeType

HEADERS = {"kind": "invoice", "pages": 2}


def binding(
    destination: str, key: str = "", arguments: Arguments | None = None
) -> BindingDefinition:
    """A binding of the exchange ``x`` in the virtual host ``/``."""
    return BindingDefinition("/", "x", destination, key, arguments or {})


def names(bindings: Iterable[BindingDefinition]) -> list[str]:
    """Where bindings lead, in their order."""
    return [each.destination for each in bindings]


def state_of(thing: object) -> object:
    """Everything that an object holds, to compare."""
    if isinstance(thing, dict):
        return {key: state_of(value) for key, value in thing.items()}
    slots = getattr(thing, "__slots__", None) or getattr(thing, "__dict__", {})
    return {name: state_of(getattr(thing, name)) for name in slots} or thing


class ExchangeContract:
    """The promises of `ExchangeType`.

    ``key`` and ``arguments`` make a binding that matches a message with the key ``a.b`` and
    `HEADERS`; ``others`` makes bindings that are not the same, by whatever the type looks at.
    """

    kind: type[ExchangeType]
    key = "a.b"
    arguments: ClassVar[Arguments] = {}
    others: ClassVar[tuple[tuple[str, Arguments], ...]] = (("a.b", {"x": 1}), ("a.b", {"x": True}))

    @pytest.fixture
    def exchange(self) -> ExchangeType:
        return self.kind()

    def matching(self, destination: str) -> BindingDefinition:
        """A binding that matches."""
        return binding(destination, self.key, self.arguments)

    def route(self, exchange: ExchangeType) -> list[str]:
        """Where the message goes."""
        return names(exchange.route("a.b", HEADERS))

    def test_nothing_is_routed_without_bindings(self, exchange: ExchangeType) -> None:
        assert self.route(exchange) == []
        assert names(exchange.route("", None)) == []

    def test_a_binding_that_matches_routes_to_its_queue(self, exchange: ExchangeType) -> None:
        exchange.check(self.matching("q"))

        exchange.bind(self.matching("q"))

        assert self.route(exchange) == ["q"]

    def test_all_queues_that_match_are_found_in_the_order_of_binding(
        self, exchange: ExchangeType
    ) -> None:
        queues = [f"queue {i * 7 % 50}" for i in range(50)]

        for queue in queues:
            exchange.bind(self.matching(queue))

        assert self.route(exchange) == queues

    def test_an_unbound_queue_gets_nothing_and_the_others_go_on(
        self, exchange: ExchangeType
    ) -> None:
        for name in "pqr":
            exchange.bind(self.matching(name))

        exchange.unbind(self.matching("q"))

        assert self.route(exchange) == ["p", "r"]

    def test_bindings_of_one_queue_are_told_apart_by_key_and_arguments(
        self, exchange: ExchangeType
    ) -> None:
        exchange.bind(self.matching("q"))
        for key, arguments in self.others:
            exchange.bind(binding("q", key, arguments))

        for key, arguments in self.others:
            exchange.unbind(binding("q", key, arguments))

        assert self.route(exchange) == ["q"]

    def test_what_is_bound_again_routes_again(self, exchange: ExchangeType) -> None:
        exchange.bind(self.matching("q"))
        exchange.unbind(self.matching("q"))

        exchange.bind(self.matching("q"))

        assert self.route(exchange) == ["q"]

    def test_unbinding_leaves_nothing_behind_in_whatever_order(self) -> None:
        bindings = [
            self.matching("p"),
            self.matching("q"),
            *(binding("q", key, arguments) for key, arguments in self.others),
        ]
        for order in permutations(bindings):
            exchange = self.kind()
            for each in bindings:
                exchange.bind(each)

            for each in order:
                exchange.unbind(each)

            assert state_of(exchange) == state_of(self.kind())

    def test_a_cacheable_route_does_not_depend_on_headers(self, exchange: ExchangeType) -> None:
        exchange.bind(self.matching("q"))

        if exchange.cacheable:
            assert names(exchange.route("a.b", None)) == self.route(exchange)
        else:
            assert names(exchange.route("a.b", None)) != self.route(exchange)

    def test_only_where_keys_say_nothing_all_have_the_same_route(
        self, exchange: ExchangeType
    ) -> None:
        exchange.bind(self.matching("q"))

        other = names(exchange.route("quite another", HEADERS))

        assert (other == self.route(exchange)) is not exchange.uses_key
