"""A command line, read as rabbitmqctl reads it.

Its rules are those of Elixir's ``OptionParser``: options may stand before, between or behind the
arguments; ``--name value`` or ``--name=value``; a flag is switched off by ``--no-name``; ``--``
ends the options.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

Switches = Mapping[str, type]
"""What a switch holds, by its name with ``_`` for ``-``: ``str``, ``int`` or ``bool`` (a flag)."""


@attrs.frozen
class Parsed:
    """A command line, apart: ``invalid`` are options that are unknown or whose value is none."""

    arguments: list[str] = attrs.Factory(list)
    options: dict[str, Any] = attrs.Factory(dict)
    invalid: list[tuple[str, str | None]] = attrs.Factory(list)


def parse(words: Sequence[str], switches: Switches, aliases: Mapping[str, str]) -> Parsed:
    """Take ``words`` apart by ``switches`` and ``aliases`` (short names)."""
    parsed = Parsed()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            parsed.arguments.extend(rest)
            break
        if not word.startswith("-") or word == "-" or _is_negative_number(word):
            parsed.arguments.append(word)
        elif not word.startswith("--") and len(word) > 2 and "=" not in word:
            # -qs is -q -s.
            rest[:0] = [f"-{letter}" for letter in word[1:]]
        else:
            _take(word, rest, parsed, switches, aliases)
    return parsed


def _take(
    word: str, rest: list[str], parsed: Parsed, switches: Switches, aliases: Mapping[str, str]
) -> None:
    """Take one option, and its value from ``rest``."""
    shown, separator, text = word.partition("=")
    value = text if separator else None
    name = _long_name(shown) if shown.startswith("--") else aliases.get(shown[1:], "")
    if switches.get(name) is None and switches.get(name.removeprefix("no_")) is bool:
        name, value = name.removeprefix("no_"), "false" if value is None else value
    kind = switches.get(name)
    if kind is None:
        parsed.invalid.append((shown, value))
        return
    if value is None and kind is not bool and rest and _is_value(rest[0]):
        value = rest.pop(0)
    try:
        parsed.options[name] = _READ[kind](value)
    except (KeyError, ValueError, TypeError):
        parsed.invalid.append((shown, value))


def _long_name(shown: str) -> str:
    """The name of a long switch; those with an underscore are not known."""
    return "" if "_" in shown else shown[2:].replace("-", "_")


def _is_value(word: str) -> bool:
    return not word.startswith("-") or word == "-" or _is_negative_number(word)


def _is_negative_number(word: str) -> bool:
    return word[1:].replace(".", "", 1).isdecimal() and word.startswith("-")


def _text(value: str | None) -> str:
    if value is None:
        raise ValueError
    return value


_READ: dict[type, Callable[[Any], Any]] = {
    bool: {None: True, "true": True, "false": False}.__getitem__,
    int: int,
    str: _text,
}
