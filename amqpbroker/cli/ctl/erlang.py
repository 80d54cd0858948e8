"""Values as rabbitmqctl shows them: Erlang's terms, made from the API's JSON."""

import json
from typing import Any

from amqpbroker.definitions import field_type


class FieldTable(dict[str, Any]):
    """A table of AMQP: the arguments of a queue, or a client's properties."""


class Properties(dict[str, Any]):
    """A list of pairs whose names are atoms: the states of a virtual host by node."""


class Settings(dict[str, Any]):
    """A list of pairs whose names are binaries: a policy's definition."""


def shown(value: Any) -> str:
    """A value in a column of a table (``format_info_item`` of rabbitmqctl)."""
    match value:
        case None:
            return ""
        case str():
            return value
        case FieldTable():
            return field_table(value)
        case Properties():
            return f"[{', '.join(f'{{{name}, {shown(each)}}}' for name, each in value.items())}]"
        case Settings():
            pairs = (f'{{<<"{name}">>, {shown(each)}}}' for name, each in value.items())
            return f"[{', '.join(pairs)}]"
        case dict():
            return f"#{{{', '.join(f'{name} => {shown(value[name])}' for name in sorted(value))}}}"
        case list():
            return f"[{', '.join(map(shown, value))}]"
        case tuple():
            return f"{{{','.join(map(shown, value))}}}"
    return number(value)


def number(value: Any) -> str:
    """A number or boolean."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def field_table(table: dict[str, Any]) -> str:
    """An AMQP table, as Erlang prints a list of pairs: ``[{"x-max-length",10}]``."""
    pairs = (f"{{{char_list(name)},{_field(value)}}}" for name, value in table.items())
    return f"[{','.join(pairs)}]"


def _field(value: Any) -> str:
    match value:
        case None:
            return "undefined"
        case str():
            return char_list(value)
        case dict():
            return field_table(value)
        case list():
            return f"[{','.join(map(_field, value))}]"
    return number(value)


_ESCAPES = {"\\": "\\\\", '"': '\\"'} | dict(
    zip("\b\t\n\v\f\r\x1b", ("\\b", "\\t", "\\n", "\\v", "\\f", "\\r", "\\e"), strict=True)
)


def char_list(text: str) -> str:
    """A list of characters: quoted if all can be printed in Latin-1, else their numbers."""
    if not text:
        return "[]"
    if all(_is_printable(letter) for letter in text):
        return f'"{_escaped(text)}"'
    return f"[{','.join(str(ord(letter)) for letter in text)}]"


def _is_printable(letter: str) -> bool:
    return " " <= letter <= "~" or "\xa0" <= letter <= "\xff" or letter in _ESCAPES


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def inspected(text: str) -> str:
    """A string as Elixir's ``inspect`` shows it."""
    return f'"{_escaped(text).replace("#{", chr(92) + "#{")}"'


def term(value: Any) -> str:
    """A value as ``--formatter erlang`` prints it, without its line breaks."""
    match value:
        case None:
            return "''"
        case str():
            return _binary(value.encode("utf-8", "surrogateescape"))
        case FieldTable():
            return f"[{','.join(_typed_term(name, each) for name, each in value.items())}]"
        case dict():
            return f"[{','.join(f'{{{term(name)},{term(each)}}}' for name, each in value.items())}]"
        case list():
            return f"[{','.join(map(term, value))}]"
        case tuple():
            return f"{{{','.join(map(term, value))}}}"
    return number(value)


def _binary(octets: bytes) -> str:
    """A binary: quoted if its octets can be printed in Latin-1, else their numbers."""
    text = octets.decode("latin-1")
    if all(map(_is_printable, text)):
        return f'<<"{_escaped(text)}">>' if text else "<<>>"
    return f"<<{','.join(map(str, octets))}>>"


def _typed_term(name: str, value: Any) -> str:
    return f"{{{term(name)},{field_type(value)},{term(_nested(value))}}}"


def _nested(value: Any) -> Any:
    return FieldTable(value) if isinstance(value, dict) else value


def as_json(value: Any) -> Any:
    """A value as ``--formatter json`` has it."""
    match value:
        case None:
            return ""
        case FieldTable():
            return [[name, field_type(each), _field_json(each)] for name, each in value.items()]
        case Settings():
            return [[name, as_json(each)] for name, each in value.items()]
        case dict():
            return {name: as_json(each) for name, each in value.items()}
        case list() | tuple():
            return [as_json(each) for each in value]
    return value


def _field_json(value: Any) -> Any:
    match value:
        case None:
            return "undefined"
        case dict():
            return as_json(FieldTable(value))
        case list():
            # RabbitMQ's pairs of type and value become an object: of one type, the last stays.
            return {field_type(each): _field_json(each) for each in value}
    return value


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """JSON as rabbitmqctl writes it: without spaces, in Unicode."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
