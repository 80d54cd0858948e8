"""The topic exchange: a trie of words, walked as an automaton.

A pattern is a path of words, ``*`` (exactly one word) and ``#`` (any number, none included).
Recursion would try every length of every ``#`` and blow up on ``#.a.#.b.#``; instead all nodes that
the words so far may have led to are carried along together, so that a key costs its words times the
nodes that are alive, however many bindings there are.
"""

from collections.abc import Hashable, Iterable

from amqpbroker.definitions import BindingDefinition
from amqpbroker.routing.exchange import ExchangeType, Headers


class _Node:
    """A place in the trie: what is bound here, and where each word leads."""

    __slots__ = ("any_words", "bound", "next")

    def __init__(self, any_words: bool = False) -> None:
        self.any_words = any_words  # Reached by '#': it stays alive whatever word comes.
        self.bound: dict[Hashable, BindingDefinition] = {}
        self.next: dict[str, _Node] = {}


def _words(key: str) -> list[str]:
    """The words between dots; the empty key has none (RabbitMQ)."""
    return key.split(".") if key else []


class TopicExchange(ExchangeType):
    """The routing key matches the binding's pattern."""

    def __init__(self) -> None:
        self._root = _Node()

    def bind(self, binding: BindingDefinition) -> None:
        node = self._root
        for word in _words(binding.routing_key):
            following = node.next.get(word)
            if following is None:
                following = node.next[word] = _Node(any_words=word == "#")
            node = following
        node.bound[binding.identity] = binding

    def unbind(self, binding: BindingDefinition) -> None:
        path = [self._root]
        words = _words(binding.routing_key)
        for word in words:
            path.append(path[-1].next[word])
        del path[-1].bound[binding.identity]
        for word, node, parent in zip(reversed(words), path[:0:-1], path[-2::-1], strict=True):
            if node.bound or node.next:
                break
            del parent.next[word]

    def route(self, routing_key: str, headers: Headers) -> Iterable[BindingDefinition]:
        alive = [self._root]
        staying: set[_Node] = set()
        _add_any_words(alive, staying)
        for word in _words(routing_key):
            # A key may hold the words '*' and '#' too; what they match, '*' and '#' match.
            plain = word not in ("*", "#")
            reached: list[_Node] = []
            for node in alive:
                if node.any_words:
                    reached.append(node)
                steps = node.next
                if plain and (following := steps.get(word)) is not None:
                    reached.append(following)
                if (following := steps.get("*")) is not None:
                    reached.append(following)
            _add_any_words(reached, staying)
            alive = reached
        return [binding for node in alive for binding in node.bound.values()]


def _add_any_words(nodes: list[_Node], staying: set[_Node]) -> None:
    """Add those that ``#`` leads to without taking a word.

    Only they can be reached on two ways, since they stay alive; every other node has one path.
    """
    for node in nodes:
        following = node.next.get("#")
        if following is not None and following not in staying:
            staying.add(following)
            nodes.append(following)
