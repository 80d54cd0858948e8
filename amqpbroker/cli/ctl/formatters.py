"""How answers are printed: ``table``, ``json``, ``csv``, ``pretty_table`` and ``erlang``."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amqpbroker.cli.ctl.command import Answer, Call, Raw, Report, Rows
from amqpbroker.cli.ctl.erlang import as_json, json_text, shown, term

MACHINE_READABLE = {"json", "csv"}
"""Formats before which no banner is printed."""

_WIDE = 80


def format_answer(answer: Answer, call: Call, formatter: str) -> str:
    """What is printed, line breaks included."""
    if isinstance(answer, Raw):
        return answer.text
    if isinstance(answer, Rows):
        return "".join(f"{line}\n" for line in _LISTINGS[formatter](answer, call.options))
    if formatter == "json":
        # Elixir's small maps are sorted by their keys.
        return f"{json_text(_json_of(answer, call), sort_keys=True)}\n"
    if answer is None:
        return ""
    lines = answer.lines if isinstance(answer, Report) else [answer]
    return "".join(f"{line}\n" for line in lines)


def _json_of(answer: str | Report | None, call: Call) -> Any:
    if answer is None:
        return {"node": call.node, "result": "ok"}
    return {"message": answer} if isinstance(answer, str) else answer.data


def _table(listing: Rows, options: Mapping[str, Any]) -> list[str]:
    rows = listing.rows
    if not rows:
        return [] if listing.streamed else [""]
    lines = ["\t".join(shown(value) for value in row.values()) for row in rows]
    if options.get("silent") or not options.get("table_headers", True):
        return lines
    return ["\t".join(rows[0]), *lines]


def _json(listing: Rows, options: Mapping[str, Any]) -> list[str]:
    if not listing.rows and not listing.streamed:
        return ["[]"]
    texts = [json_text({name: as_json(each) for name, each in row.items()}) for row in listing.rows]
    return ["[", *(f",{text}" if place else text for place, text in enumerate(texts)), "]"]


def _csv(listing: Rows, options: Mapping[str, Any]) -> list[str]:
    if not listing.rows:
        return [] if listing.streamed else ["\r\n\r\n"]
    lines = [list(listing.rows[0])]
    lines += [[shown(value) for value in row.values()] for row in listing.rows]
    return [",".join(_quoted(text) for text in line) for line in lines]


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""'))


def _erlang(listing: Rows, options: Mapping[str, Any]) -> list[str]:
    rows = [
        "[" + ",".join(f"{{{name},{term(value)}}}" for name, value in row.items()) + "]"
        for row in listing.rows
    ]
    whole = f"[{','.join(rows)}]"
    return [whole if len(whole) <= _WIDE else "[" + ",\n ".join(rows) + "]"]


_LINE = "\x1b(0{}\x1b(B"
"""Letters that a terminal shows as lines (DEC Special Graphics), as RabbitMQ's tables are drawn."""
_BAR = _LINE.format("x")


def pretty_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table with lines around its cells; at least one row."""
    titles = list(rows[0])
    cells = [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(_width, column)) for column in zip(titles, *cells, strict=True)]
    between = _rule("t", "n", "u", widths)
    bold = (f"\x1b[1m{title}\x1b[0m" for title in titles)
    lines = [_rule("l", "w", "k", widths), _drawn(titles, bold, widths)]
    for row in cells:
        lines += [between, _drawn(row, row, widths)]
    return [*lines, _rule("m", "v", "j", widths)]


def _cell(value: Any) -> str:
    match value:
        case float():
            return f"{value:.6f}"
        case list():
            return "".join(_cell(each) for each in value)
        case dict():
            return "".join(f"{{{name},{_cell(each)}}}" for name, each in value.items())
    # A tab leads to the next column of eight.
    return shown(value).expandtabs(8)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _rule(first: str, middle: str, last: str, widths: list[int]) -> str:
    return _LINE.format(first + middle.join("q" * (width + 2) for width in widths) + last)


def _drawn(plain: Sequence[str], drawn: Any, widths: list[int]) -> str:
    """A row of cells, each with its padding behind."""
    padded = (
        f" {text}{' ' * (width - _width(bare))} "
        for bare, text, width in zip(plain, drawn, widths, strict=True)
    )
    return _BAR + _BAR.join(padded) + _BAR


def _pretty(listing: Rows, options: Mapping[str, Any]) -> list[str]:
    if listing.rows:
        return pretty_table(listing.rows)
    return [] if listing.streamed else pretty_table([{"Output": "[]"}])


_LISTINGS: dict[str, Callable[[Rows, Mapping[str, Any]], list[str]]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
    "erlang": _erlang,
    "pretty_table": _pretty,
}

FORMATTERS = tuple(_LISTINGS)
