"""Direct, fanout and headers exchanges: what they promise, and what each of them adds."""

from typing import Any, ClassVar

import pytest

from amqpbroker.definitions import Arguments
from amqpbroker.errors import PreconditionFailed
from amqpbroker.routing.exchange import (
    DirectExchange,
    ExchangeType,
    FanoutExchange,
    HeadersExchange,
)
from amqpbroker.routing.topic import TopicExchange
from amqpbroker.testing.exchange_contract import ExchangeContract, binding, names


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
    arguments: ClassVar[Arguments] = {"x-match": "all", "kind": "invoice"}
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
