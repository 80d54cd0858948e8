"""Exchange types: direct, fanout and headers; topic has a file of its own."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from typing import Any, ClassVar

from amqpbroker.definitions import Arguments, BindingDefinition, erlang_term, field_type
from amqpbroker.errors import PreconditionFailed

Headers = dict[str, Any] | None


class ExchangeType(ABC):
    """Keeps the bindings of one exchange and finds those that a message follows."""

    cacheable: ClassVar[bool] = True
    """Whether these depend on the routing key alone, and change only when a binding does."""
    uses_key: ClassVar[bool] = True
    """Whether these depend on the routing key: if not, a message with many keys is routed once."""

    def check(self, binding: BindingDefinition) -> None:  # noqa: B027 - most types take any binding
        """Raise `PreconditionFailed` for a binding that makes no sense here."""

    @abstractmethod
    def bind(self, binding: BindingDefinition) -> None:
        """Add a binding; it was checked and is not there yet."""

    @abstractmethod
    def unbind(self, binding: BindingDefinition) -> None:
        """Remove a binding that is there."""

    @abstractmethod
    def route(self, routing_key: str, headers: Headers) -> Iterable[BindingDefinition]:
        """The bindings that match, in a stable order; several may lead to one destination."""


class DirectExchange(ExchangeType):
    """The routing key equals the binding's."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[Hashable, BindingDefinition]] = {}

    def bind(self, binding: BindingDefinition) -> None:
        here = self._by_key.setdefault(binding.routing_key, {})
        here[binding.identity] = binding

    def unbind(self, binding: BindingDefinition) -> None:
        here = self._by_key[binding.routing_key]
        del here[binding.identity]
        if not here:
            del self._by_key[binding.routing_key]

    def route(self, routing_key: str, headers: Headers) -> Iterable[BindingDefinition]:
        return self._by_key.get(routing_key, {}).values()


class FanoutExchange(ExchangeType):
    """Every binding counts."""

    uses_key = False

    def __init__(self) -> None:
        self._bindings: dict[Hashable, BindingDefinition] = {}

    def bind(self, binding: BindingDefinition) -> None:
        self._bindings[binding.identity] = binding

    def unbind(self, binding: BindingDefinition) -> None:
        del self._bindings[binding.identity]

    def route(self, routing_key: str, headers: Headers) -> Iterable[BindingDefinition]:
        return self._bindings.values()


class HeadersExchange(ExchangeType):
    """The message's headers hold those of the binding: all of them, or any (RabbitMQ: ``x-match``).

    Arguments that begin with ``x-`` do not count, unless x-match says ``…-with-x``. An argument
    without value asks for the header's presence only.
    """

    cacheable = False
    uses_key = False

    def __init__(self) -> None:
        self._bindings: dict[Hashable, tuple[BindingDefinition, bool, Arguments]] = {}

    def check(self, binding: BindingDefinition) -> None:
        mode = binding.arguments.get("x-match", "all")
        if not isinstance(mode, str):
            raise PreconditionFailed(
                f"Invalid x-match field type {field_type(mode)} (value {erlang_term(mode)});"
                " expected longstr"
            )
        if mode not in ("all", "any", "all-with-x", "any-with-x"):
            raise PreconditionFailed(
                f"Invalid x-match field value {erlang_term(mode)};"
                " expected all, any, all-with-x, or any-with-x"
            )

    def bind(self, binding: BindingDefinition) -> None:
        mode = binding.arguments.get("x-match", "all")
        wanted = {
            name: value
            for name, value in binding.arguments.items()
            if name != "x-match" and (mode.endswith("-with-x") or not name.startswith("x-"))
        }
        self._bindings[binding.identity] = binding, mode.startswith("all"), wanted

    def unbind(self, binding: BindingDefinition) -> None:
        del self._bindings[binding.identity]

    def route(self, routing_key: str, headers: Headers) -> Iterable[BindingDefinition]:
        present = headers or {}
        for binding, need_all, wanted in self._bindings.values():
            matches = (_matches(present, name, value) for name, value in wanted.items())
            if all(matches) if need_all else any(matches):
                yield binding


def _matches(headers: dict[str, Any], name: str, wanted: Any) -> bool:
    """Whether a header is there with the wanted value; of the same type, so that True is not 1.

    But texts and octets are of one type (RabbitMQ).
    """
    if name not in headers:
        return False
    if wanted is None:
        return True
    value, wanted = _as_octets(headers[name]), _as_octets(wanted)
    return type(value) is type(wanted) and value == wanted


def _as_octets(value: Any) -> Any:
    """Texts as they came; anything else as it is."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return bytes(value) if isinstance(value, bytearray) else value
