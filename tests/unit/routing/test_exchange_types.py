"""What every exchange type promises, and what direct, fanout and headers add."""

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import pytest

from amqpbroker.definitions import Arguments, BindingDefinition
from amqpbroker.errors import PreconditionFailed
from amqpbroker.routing.exchange import (
    DirectExchange,
    ExchangeType,
    FanoutExchange,
    HeadersExchange,
)
from amqpbroker.routing.topic import TopicExchange

HEADERS = {"kind": "invoice", "pages": 2}


def binding(destination: str, key: str = "", arguments: Arguments | None = None) -> Any:
    return BindingDefinition("/", "x", destination, key, arguments or {})


def names(bindings: Iterable[BindingDefinition]) -> list[str]:
    return [each.destination for each in bindings]


def state_of(thing: object) -> object:
    """Everything that an object holds, to compare."""
    if isinstance(thing, dict):
        return {key: state_of(value) for key, value in thing.items()}
    slots = getattr(thing, "__slots__", None) or getattr(thing, "__dict__", {})
    return {name: state_of(getattr(thing, name)) for name in slots} or thing


class ExchangeContract:
    """Runs for every exchange type.

    ``key`` and ``arguments`` make a binding that matches a message with the key ``a.b`` and
    `HEADERS`; ``others`` makes bindings that are not the same, by whatever the type looks at.
    """

    kind: type[ExchangeType]
    key = "a.b"
    arguments: Arguments = {}  # noqa: RUF012 - never changed
    others: tuple[tuple[str, Arguments], ...] = (("a.b", {"x": 1}), ("a.b", {"x": True}))

    @pytest.fixture
    def exchange(self) -> ExchangeType:
        return self.kind()

    def matching(self, destination: str) -> BindingDefinition:
        return binding(destination, self.key, self.arguments)

    def route(self, exchange: ExchangeType) -> list[str]:
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
        names = [f"queue {i * 7 % 50}" for i in range(50)]

        for name in names:
            exchange.bind(self.matching(name))

        assert self.route(exchange) == names

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


class TestDirectExchange(ExchangeContract):
    kind = DirectExchange

    def test_the_key_must_be_equal(self, exchange: ExchangeType) -> None:
        for key in ("a", "a.b", "a.b.c", "A.B", "#", "*.b", ""):
            exchange.bind(binding(f"queue of {key}", key))

        assert self.route(exchange) == ["queue of a.b"]
        assert names(exchange.route("", None)) == ["queue of "]
        assert names(exchange.route("b", None)) == []


class TestFanoutExchange(ExchangeContract):
    kind = FanoutExchange
    others = (("", {}), ("another key", {}), ("a.b", {"x": 1}))

    def test_keys_and_headers_do_not_matter(self, exchange: ExchangeType) -> None:
        exchange.bind(binding("q", "a key", {"x-match": "nonsense"}))

        assert names(exchange.route("another", {"any": "header"})) == ["q"]


class TestTopicExchange(ExchangeContract):
    kind = TopicExchange
    key = "a.*"
    others = (("#", {}), ("a.b", {}), ("a.*.#", {}), ("a.*", {"x": 1}))


class TestHeadersExchange(ExchangeContract):
    kind = HeadersExchange
    key = ""
    arguments = {"x-match": "all", "kind": "invoice"}  # noqa: RUF012 - never changed
    others = (
        ("", {"x-match": "any", "kind": "invoice"}),
        ("another key", {"x-match": "all", "kind": "invoice"}),
        ("", {"pages": 2}),
    )


# -- headers -------------------------------------------------------------------------------------


def matches(arguments: Arguments, headers: dict[str, Any] | None) -> bool:
    """Whether a message with ``headers`` goes to a queue bound with ``arguments``."""
    exchange = HeadersExchange()
    bound = binding("q", "", arguments)
    exchange.check(bound)
    exchange.bind(bound)
    return names(exchange.route("any key", headers)) == ["q"]


@pytest.mark.parametrize(
    ("headers", "by_all", "by_any"),
    [
        ({"a": 1, "b": "two"}, True, True),
        ({"a": 1, "b": "two", "c": 3}, True, True),
        ({"a": 1}, False, True),
        ({"b": "two"}, False, True),
        ({"a": 2, "b": "two"}, False, True),
        ({"a": 2, "b": 1}, False, False),
        ({"c": 3}, False, False),
        ({}, False, False),
        (None, False, False),
    ],
)
def test_all_or_any_of_the_arguments_must_be_there(
    headers: dict[str, Any] | None, by_all: bool, by_any: bool
) -> None:
    arguments = {"a": 1, "b": "two"}

    for suffix in ("", "-with-x"):
        assert matches({"x-match": "all" + suffix, **arguments}, headers) == by_all
        assert matches({"x-match": "any" + suffix, **arguments}, headers) == by_any


def test_all_is_meant_if_nothing_is_said() -> None:
    assert matches({"a": 1, "b": 2}, {"a": 1, "b": 2})
    assert not matches({"a": 1, "b": 2}, {"a": 1})


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("all", True), ("any", False), ("all-with-x", False), ("any-with-x", False)],
)
def test_arguments_with_x_count_only_where_asked_for(mode: str, expected: bool) -> None:
    assert matches({"x-match": mode, "x-death": "expired"}, {"a": 1}) == expected


@pytest.mark.parametrize("mode", ["all-with-x", "any-with-x"])
def test_headers_with_x_match_where_asked_for(mode: str) -> None:
    assert matches({"x-match": mode, "x-death": "expired"}, {"x-death": "expired"})


def test_any_takes_no_notice_of_x() -> None:
    arguments = {"x-match": "any", "x-death": "expired", "a": 1}

    assert not matches(arguments, {"x-death": "expired"})
    assert matches(arguments, {"a": 1})


def test_the_header_x_match_is_never_looked_at() -> None:
    assert matches({"x-match": "all-with-x", "a": 1}, {"a": 1})
    assert not matches({"x-match": "any-with-x", "a": 1}, {"x-match": "any-with-x"})


@pytest.mark.parametrize(("mode", "expected"), [("all", True), ("any", False)])
def test_without_arguments_all_matches_everything_and_any_nothing(
    mode: str, expected: bool
) -> None:
    assert matches({"x-match": mode}, {"a": 1}) == expected
    assert matches({"x-match": mode}, None) == expected


@pytest.mark.parametrize(
    ("wanted", "there", "same"),
    [
        ("text", bytearray(b"text"), True),
        (b"\xff", bytearray(b"\xff"), True),
        ("text", b"other", False),
        (1, bytearray(b"1"), False),
    ],
)
def test_texts_and_octets_are_of_one_type(wanted: object, there: object, same: bool) -> None:
    assert matches({"a": wanted}, {"a": there}) is same
    assert matches({"a": there}, {"a": wanted}) is same


@pytest.mark.parametrize("mode", ["all", "any"])
@pytest.mark.parametrize("value", [None, 0, "", False, "anything"])
def test_an_argument_without_value_asks_for_presence(mode: str, value: object) -> None:
    assert matches({"x-match": mode, "a": None}, {"a": value})
    assert not matches({"x-match": mode, "a": None}, {"b": value})


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (1, True),
        (True, 1),
        (0, False),
        (1, 1.0),
        (1.0, 1),
        (1, "1"),
        (0, None),
        ([1], [2]),
        ({"a": 1}, {"a": 2}),
    ],
)
def test_another_value_or_the_same_of_another_type_does_not_match(
    wanted: object, value: object
) -> None:
    assert not matches({"a": wanted}, {"a": value})


@pytest.mark.parametrize("value", [True, 1, 1.5, "text", b"\xff", [1, [2]], {"a": {"b": 1}}])
def test_values_of_every_type_match_themselves(value: object) -> None:
    assert matches({"a": value}, {"a": value})


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("some", 'value <<"some">>; expected all, any, all-with-x, or any-with-x'),
        ("", "value <<>>; expected all, any, all-with-x, or any-with-x"),
        ("ALL", 'value <<"ALL">>; expected all, any, all-with-x, or any-with-x'),
        (None, "type void (value undefined); expected longstr"),
        (1, "type signedint (value 1); expected longstr"),
        (["all"], 'type array (value [{longstr,<<"all">>}]); expected longstr'),
    ],
)
def test_another_x_match_makes_no_sense(mode: object, text: str) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        HeadersExchange().check(binding("q", "", {"x-match": mode}))

    assert caught.value.code == 406
    assert caught.value.text == f"Invalid x-match field {text}"


def test_the_routing_key_of_a_message_does_not_matter() -> None:
    exchange = HeadersExchange()
    exchange.bind(binding("q", "a key", {"a": 1}))

    assert names(exchange.route("another", {"a": 1})) == ["q"]
