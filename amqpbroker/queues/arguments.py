"""The arguments of queues and consumers: one table of what there is and how it is checked.

The rules, their order and their words are RabbitMQ's (rabbit_amqqueue.erl, 3.13): a value that
breaks a rule is named, with the reason as an Erlang term. An argument that only other types of
queue have is refused; one that nobody knows is its owner's business.
"""

from collections.abc import Callable, Collection, Iterable
from typing import TypeGuard

import attrs

from amqpbroker.definitions import Arguments, QueueDefinition, field_type
from amqpbroker.errors import PreconditionFailed

EXPIRES_MS_MAX = 315_360_000_000
"""Ten years: no queue and no message may ask for longer."""
PRIORITY_MAX = 255

Check = Callable[[object, Arguments], str | None]
"""What is wrong with a value, beside the other arguments; None if nothing is."""


@attrs.frozen
class Argument:
    """An argument, and the types of queues that have it; without a ``check``, any value will do."""

    name: str
    check: Check | None = None
    types: frozenset[str] = frozenset({"classic"})


# -- checks ------------------------------------------------------------------------------------


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(value: object, arguments: Arguments) -> str | None:
    return None if _is_integer(value) else f'"expected integer, got {field_type(value)}"'


def _not_negative(value: object, arguments: Arguments) -> str | None:
    if _is_integer(value) and value < 0:
        return f"{{value_negative,{value}}}"
    return _integer(value, arguments)


def _time_to_live(value: object, arguments: Arguments) -> str | None:
    if _is_integer(value) and value > EXPIRES_MS_MAX:
        return f"{{value_too_large,{value}}}"
    return _not_negative(value, arguments)


def _not_zero(check: Check) -> Check:
    """The ``check`` of a number that must not be zero either."""

    def checked(value: object, arguments: Arguments) -> str | None:
        if _is_integer(value) and value == 0:
            return "{value_zero,0}"
        return check(value, arguments)

    return checked


def _priority_max(value: object, arguments: Arguments) -> str | None:
    if _is_integer(value) and value > PRIORITY_MAX:
        return f"{{max_value_exceeded,{value}}}"
    return _not_negative(value, arguments)


def _queue_version(value: object, arguments: Arguments) -> str | None:
    wrong = _not_negative(value, arguments)
    if wrong is None and value not in (1, 2):
        return _string(f"unsupported queue version '{value}'")
    return wrong


def _boolean(value: object, arguments: Arguments) -> str | None:
    return None if isinstance(value, bool) else _unacceptable(value)


def _text(value: object, arguments: Arguments) -> str | None:
    return None if isinstance(value, str | bytes) else _unacceptable(value)


def _dead_letter_routing_key(value: object, arguments: Arguments) -> str | None:
    if not isinstance(value, str | bytes):
        return _unacceptable(value)
    return None if "x-dead-letter-exchange" in arguments else "routing_key_but_no_dlx_defined"


def _one_of(known: Collection[str], reason: Callable[[str], str]) -> Check:
    """The check that a value is one of the ``known`` words."""

    def check(value: object, arguments: Arguments) -> str | None:
        if not isinstance(value, str | bytes):
            return _unacceptable(value)
        word = value if isinstance(value, str) else value.decode("utf-8", "replace")
        return None if word in known else reason(word)

    return check


def _unacceptable(value: object) -> str:
    return f"{{unacceptable_type,{field_type(value)}}}"


_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\v": "\\v",
    "\f": "\\f",
    "\r": "\\r",
    "\x1b": "\\e",
}


def _string(text: str) -> str:
    """A string as Erlang writes it: quoted, or as numbers if Latin-1 cannot print it."""
    if all(char in _ESCAPES or " " <= char <= "~" or "\xa0" <= char <= "\xff" for char in text):
        return f'"{"".join(_ESCAPES.get(char, char) for char in text)}"'
    return f"[{','.join(str(ord(char)) for char in text)}]"


# -- the tables --------------------------------------------------------------------------------

_CLASSIC = frozenset({"classic"})
_QUORUM = frozenset({"quorum"})
_STREAM = frozenset({"stream"})

QUEUE_ARGUMENTS = (
    Argument("x-expires", _not_zero(_time_to_live), _CLASSIC | _QUORUM),
    Argument("x-message-ttl", _time_to_live, _CLASSIC | _QUORUM),
    Argument("x-dead-letter-exchange", _text, _CLASSIC | _QUORUM),
    Argument("x-dead-letter-routing-key", _dead_letter_routing_key, _CLASSIC | _QUORUM),
    Argument(
        "x-dead-letter-strategy",
        _one_of(("at-most-once", "at-least-once"), lambda word: "invalid_dlx_strategy"),
        _QUORUM,
    ),
    Argument("x-max-length", _not_negative, _CLASSIC | _QUORUM),
    Argument("x-max-length-bytes", _not_negative, _CLASSIC | _QUORUM | _STREAM),
    Argument("x-max-in-memory-length", _not_negative, _QUORUM),
    Argument("x-max-in-memory-bytes", _not_negative, _QUORUM),
    Argument("x-max-priority", _priority_max),
    Argument(
        "x-overflow",
        _one_of(
            ("drop-head", "reject-publish", "reject-publish-dlx"), lambda word: "invalid_overflow"
        ),
        _CLASSIC | _QUORUM,
    ),
    Argument(
        "x-queue-mode",
        _one_of(("default", "lazy"), lambda word: _string(f"unsupported queue mode '{word}'")),
    ),
    Argument("x-queue-version", _queue_version),
    Argument("x-single-active-consumer", _boolean, _CLASSIC | _QUORUM),
    Argument("x-queue-type", types=_CLASSIC | _QUORUM | _STREAM),
    Argument("x-quorum-initial-group-size", _not_zero(_not_negative), _QUORUM),
    Argument("x-max-age", types=_STREAM),
    Argument("x-stream-max-segment-size-bytes", types=_STREAM),
    Argument("x-initial-cluster-size", types=_STREAM),
    Argument(
        "x-queue-leader-locator",
        _one_of(
            ("client-local", "balanced", "random", "least-leaders"),
            lambda word: "invalid_queue_locator_arg",
        ),
        _QUORUM | _STREAM,
    ),
    Argument("x-delivery-limit", types=_QUORUM),
    Argument("x-queue-master-locator"),
    Argument("x-flush", _one_of(("sync", "async"), lambda word: "invalid_flush")),
)
"""The arguments of queue.declare, in the order in which they are checked."""

CONSUME_ARGUMENTS = (
    Argument("x-priority", _integer, _CLASSIC | _QUORUM),
    Argument("x-cancel-on-ha-failover", _boolean),
    Argument("x-credit", types=_CLASSIC | _QUORUM | _STREAM),
    Argument("x-stream-offset", types=_STREAM),
)
"""The arguments of basic.consume, in the order in which they are checked."""


# -- what is asked of the tables ---------------------------------------------------------------


def check_queue_type(definition: QueueDefinition, known: Iterable[str]) -> None:
    """See that the type of queue that is asked for is one of the ``known``.

    It comes before all other arguments. Raises `PreconditionFailed`.
    """
    check = _one_of(tuple(known), lambda word: _string(f"unsupported queue type '{word}'"))
    wrong = check(definition.type, definition.arguments)
    if wrong is not None:
        raise _invalid("x-queue-type", definition, wrong)


def check_declare(definition: QueueDefinition) -> None:
    """See that a queue may have its arguments. Raises `PreconditionFailed`."""
    _check(definition, definition.arguments, QUEUE_ARGUMENTS)


def check_consume(definition: QueueDefinition, arguments: Arguments) -> None:
    """See that a consumer of a queue may have ``arguments``. Raises `PreconditionFailed`."""
    _check(definition, arguments, CONSUME_ARGUMENTS)


def compared_arguments(definition: QueueDefinition) -> list[str]:
    """The names of what is compared when the queue is declared again, in this order."""
    kind = _kind(definition)
    return [argument.name for argument in QUEUE_ARGUMENTS if kind in argument.types]


def _kind(definition: QueueDefinition) -> str:
    """The type whose arguments count: one that RabbitMQ does not have takes the classic queue's."""
    return definition.type if definition.type in ("quorum", "stream") else "classic"


def _check(definition: QueueDefinition, arguments: Arguments, table: Iterable[Argument]) -> None:
    if not arguments:
        return
    kind = _kind(definition)
    others = set()
    for argument in table:
        name = argument.name
        if kind not in argument.types:
            others.add(name)
        elif name in arguments and argument.check is not None:
            wrong = argument.check(arguments[name], arguments)
            if wrong is not None:
                raise _invalid(name, definition, wrong)
    for name in arguments:
        if name in others:
            raise PreconditionFailed(
                f"invalid arg '{name}' for {definition.title} of queue type rabbit_{kind}_queue"
            )


def _invalid(name: str, definition: QueueDefinition, wrong: str) -> PreconditionFailed:
    return PreconditionFailed(f"invalid arg '{name}' for {definition.title}: {wrong}")
