"""The topic exchange against a matcher that tries everything."""

import gc
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpbroker.definitions import BindingDefinition
from amqpbroker.routing.topic import TopicExchange, _Node
from amqpbroker.testing.exchange_contract import names

property_test = settings(max_examples=300, derandomize=True, deadline=None)

WORDS = st.sampled_from(["a", "a", "b", "b", "c", "", "*", "#"])
PATTERN_WORDS = st.sampled_from(["a", "b", "", "*", "*", "#", "#"])
KEYS = st.lists(WORDS, max_size=6).map(".".join)
PATTERNS = st.lists(PATTERN_WORDS, max_size=6).map(".".join)


def binding(pattern: str, destination: str | None = None) -> BindingDefinition:
    return BindingDefinition("/", "amq.topic", destination or f"[{pattern}]", pattern)


def exchange_with(*patterns: str) -> TopicExchange:
    exchange = TopicExchange()
    for pattern in patterns:
        exchange.bind(binding(pattern))
    return exchange


def matches(pattern: str, key: str) -> bool:
    return names(exchange_with(pattern).route(key, None)) == [f"[{pattern}]"]


def should_match(pattern: list[str], words: list[str]) -> bool:
    """The rule itself: '*' takes one word, '#' any number, every other word is equal."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(should_match(pattern[1:], words[i:]) for i in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and should_match(pattern[1:], words[1:])


def words_of(key: str) -> list[str]:
    return key.split(".") if key else []


@property_test
@given(st.lists(PATTERNS, max_size=12, unique=True), KEYS)
def test_the_trie_finds_what_a_search_through_all_patterns_finds(
    patterns: list[str], key: str
) -> None:
    expected = [each for each in patterns if should_match(words_of(each), words_of(key))]

    found = names(exchange_with(*patterns).route(key, None))

    assert sorted(found) == sorted(f"[{each}]" for each in expected)


@property_test
@given(st.lists(PATTERNS, max_size=12, unique=True), st.data())
def test_unbinding_takes_away_its_own_pattern_only(
    patterns: list[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.sampled_from(patterns))) if patterns else set()
    key = data.draw(KEYS)
    exchange = exchange_with(*patterns)

    for pattern in gone:
        exchange.unbind(binding(pattern))

    left = [pattern for pattern in patterns if pattern not in gone]
    assert names(exchange.route(key, None)) == names(exchange_with(*left).route(key, None))
    assert nodes_of(exchange) == nodes_of(exchange_with(*left))


def nodes_of(exchange: TopicExchange) -> int:
    """The places in the trie."""
    seen = [exchange._root]
    for node in seen:
        seen += node.next.values()
    return len(seen)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("", "", True),
        ("", "a", False),
        ("", ".", False),
        ("#", "", True),
        ("#", "a", True),
        ("#", "a.b.c", True),
        ("*", "", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("*.*", ".", True),
        ("*.*", "a.", True),
        ("a.", "a.", True),
        ("a.", "a", False),
        (".a", "a", False),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        ("a.#.b", "a.b", True),
        ("a.#.b", "a.x.y.b", True),
        ("a.#.b", "a.b.x", False),
        ("#.#", "", True),
        ("#.#.#", "a", True),
        ("#.*.#", "", False),
        ("#.*.#", "a.b", True),
        ("#.a.#", "b.a.c", True),
        ("#.a.#.b.#", "x.b.a", False),
        ("#.a.#.b.#", "x.a.y.b.z", True),
        ("a.b", "A.B", False),
        ("stock.*.nyse", "stock.usd.nyse", True),
        ("a*", "ab", False),
        ("a#", "a#", True),
    ],
)
def test_a_pattern_matches_by_words(pattern: str, key: str, expected: bool) -> None:
    assert matches(pattern, key) == expected


@pytest.mark.parametrize("word", ["*", "#"])
def test_star_and_hash_in_a_key_are_words_like_others(word: str) -> None:
    assert matches("*", word)
    assert matches("#", word)
    assert matches("a.*", f"a.{word}")
    assert not matches("a", word)
    assert not matches("*", f"{word}.{word}")
    assert not matches("*.a", word)


def test_a_pattern_matches_once_however_often_its_hashes_can() -> None:
    assert names(exchange_with("#.#.#", "#.a.#").route("a.a.a.a", None)) == ["[#.#.#]", "[#.a.#]"]


# -- how much is looked at -----------------------------------------------------------------------


class CountedSteps(dict):  # type: ignore[type-arg]
    """A node's ways on, that count how often they are asked for."""

    taken = 0

    def get(self, *arguments: object) -> object:
        CountedSteps.taken += 1
        return super().get(*arguments)


def steps_to_route(exchange: TopicExchange, key: str) -> int:
    """How many looks from a node to a next one it takes to route ``key``."""
    nodes = [exchange._root]
    for node in nodes:
        nodes += node.next.values()
        node.next = CountedSteps(node.next)
    CountedSteps.taken = 0
    names(exchange.route(key, None))
    return CountedSteps.taken


def test_ten_thousand_bindings_are_not_walked() -> None:
    patterns = [f"sensor.{i}.{place}" for i in range(2500) for place in ("*", "#", "in", "out")]
    exchange = exchange_with(*patterns)

    assert steps_to_route(exchange, "sensor.77.in") < 50
    assert len(names(exchange.route("sensor.77.in", None))) == 3
    assert steps_to_route(exchange, "elsewhere.77.in") < 10


def test_many_hashes_do_not_multiply() -> None:
    exchange = exchange_with("#" + ".a.#" * 10)
    words = 60

    steps = steps_to_route(exchange, ".".join("a" * words))

    assert steps < words * 100
    assert names(exchange.route(".".join("a" * 9), None)) == []


class ComparedNode(_Node):
    """A node that counts how often it is compared with another one."""

    __slots__ = ()
    __hash__ = object.__hash__
    times = 0

    def __eq__(self, other: object) -> bool:
        ComparedNode.times += 1
        return self is other


def test_nodes_that_are_alive_together_are_not_compared_with_one_another() -> None:
    exchange = exchange_with(*(".".join(words) + ".#" for words in product("a*", repeat=8)))
    nodes = [exchange._root]
    for node in nodes:
        node.__class__ = ComparedNode
        nodes += node.next.values()
    ComparedNode.times = 0

    found = names(exchange.route("a.a.a.a.a.a.a.a.a", None))

    assert len(found) == 256
    assert ComparedNode.times < 256


def test_nothing_is_left_of_bindings_that_came_and_went() -> None:
    exchange = exchange_with("a.b")
    patterns = [f"reply.{i}.#" for i in range(1000)]
    before = len(gc.get_referents(exchange._root.next))
    for pattern in patterns:
        exchange.bind(binding(pattern))

    for pattern in patterns:
        exchange.unbind(binding(pattern))

    assert nodes_of(exchange) == 3
    assert len(gc.get_referents(exchange._root.next)) == before
