"""Lists: sorted, filtered, cut into pages, reduced to columns; made a slice at a time.

A broker may have tens of thousands of queues, and nobody may wait while they are listed: after
every two milliseconds of work others have the processor. What is listed is what there was when the
request came, less what has gone meanwhile.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
import regex
import trio

from amqpbroker.management.call import Fault, bad_request
from amqpbroker.management.encoding import Pieces, encode
from amqpbroker.world import Clock

PAGE_SIZE = 100
PAGE_SIZE_MAX = 500
_CHUNK_BYTES = 64 * 1024
_SLICE_S = 0.001
_SORTED_AT_ONCE_MAX = 1024
_MATCH_S_MAX = 0.05

Columns = dict[str, Any]
"""Wanted keys; with each those that are wanted of what it holds, or None for all of it."""


@attrs.frozen
class Listing:
    """Things to be listed: ``render`` makes an object of each (None: it has gone meanwhile).

    ``key`` gives what they are ordered by unless something else is asked for, and ends in the name.
    """

    items: Iterable[Any]
    render: Callable[[Any], dict[str, Any] | None]
    key: Callable[[Any], tuple[Any, ...]]
    is_paged: bool = True
    """Whether pages can be asked for."""


@attrs.frozen
class _Page:
    """The part of a list that is asked for."""

    number: int
    size: int
    name: str
    use_regex: bool

    def holds(self, name: str) -> bool:
        """Whether something with this name is on any page at all.

        Raises `Fault` (400) for a pattern that takes too long.
        """
        if not self.use_regex:
            return self.name.lower() in name.lower()
        try:
            return regex.search(self.name, name, regex.I, timeout=_MATCH_S_MAX) is not None
        except regex.error:
            return False
        except TimeoutError:
            raise bad_request("the pattern takes too long") from None


class Breather:
    """Lets others have the processor when a slice of work is done."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_s = clock.monotonic_s()

    async def breathe(self) -> None:
        """To be called after every bit of work."""
        if self._clock.monotonic_s() - self._since_s > _SLICE_S:
            await trio.lowlevel.checkpoint()
            self._since_s = self._clock.monotonic_s()


async def listed(listing: Listing, query: Mapping[str, str], clock: Clock) -> Pieces:
    """The list as JSON, in pieces. Raises `Fault` (400) for a page that makes no sense."""
    breather = Breather(clock)
    page = _page(query) if listing.is_paged else None
    columns = wanted_columns(query)
    if query.get("sort"):
        listing = await _sorted_by(query["sort"], listing, breather)
    is_reversed = query.get("sort_reverse") == "true"
    items: Sequence[Any] = await _in_order(listing.items, listing.key, is_reversed, breather)
    if page is not None:
        items, about = await _cut(items, page, listing, breather)
        yield encode(about)[:-1] + b',"items":'
    gathered, before = bytearray(), b"["
    for item in items:
        rendered = listing.render(item)
        if rendered is not None:
            gathered += before + encode(reduced(rendered, columns))
            before = b","
        if len(gathered) > _CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
        await breather.breathe()
    start = b"[" if before == b"[" else b""
    yield start + bytes(gathered) + (b"]" if page is None else b"]}")


def _page(query: Mapping[str, str]) -> _Page | None:
    """The page that is asked for; None: all."""
    if "page" not in query:
        return None
    try:
        number, size = int(query["page"]), int(query.get("page_size", PAGE_SIZE))
    except ValueError:
        raise bad_request("Pagination parameters are invalid") from None
    if number < 1 or not 1 <= size <= PAGE_SIZE_MAX:
        raise Fault(
            400,
            "invalid_pagination_parameters",
            f"Invalid pagination parameters: page number {number}, page size {size}",
        )
    return _Page(number, size, query.get("name", ""), query.get("use_regex") == "true")


async def _cut(
    items: Sequence[Any], page: _Page, listing: Listing, breather: Breather
) -> tuple[Sequence[Any], dict[str, int]]:
    """The items of a page, and what is said about it."""
    held = items
    if page.name:
        held = []
        for item in items:
            if page.holds(listing.key(item)[-1]):
                held.append(item)
            await breather.breathe()
    start = (page.number - 1) * page.size
    if start > len(held):
        raise Fault(
            400,
            "page_out_of_range",
            f"Page out of range, page: {page.number} page size: {page.size}, len: {len(held)}",
        )
    part = held[start : start + page.size]
    return part, {
        "total_count": len(items),
        "item_count": len(part),
        "filtered_count": len(held),
        "page": page.number,
        "page_size": page.size,
        "page_count": -(-len(held) // page.size),
    }


# -- order ---------------------------------------------------------------------------------------


async def _sorted_by(column: str, listing: Listing, breather: Breather) -> Listing:
    """The same list, ordered by a column first: all of it must be looked at.

    What was looked at is made again where it is wanted. To keep it all would be quicker, but takes
    the memory of the whole answer, and longer than a slice to free.
    """
    path = [part for part in column.split(".") if part]
    looked_at = []
    for item in listing.items:
        rendered = listing.render(item)
        if rendered is not None:
            key = (_rank(_dotted(rendered, path)), *listing.key(item))
            looked_at.append((key, item))
        await breather.breathe()
    return Listing(looked_at, lambda pair: listing.render(pair[1]), lambda pair: pair[0])


async def _in_order(
    items: Iterable[Any], key: Callable[[Any], tuple[Any, ...]], reverse: bool, breather: Breather
) -> list[Any]:
    parts: list[list[Any]] = []
    rest = iter(items)
    while part := list(islice(rest, _SORTED_AT_ONCE_MAX)):
        parts.append(sorted(part, key=key, reverse=reverse))
        await breather.breathe()
    if len(parts) < 2:
        return parts[0] if parts else []
    out = []
    for item in heapq.merge(*parts, key=key, reverse=reverse):
        out.append(item)
        await breather.breathe()
    return out


def _dotted(value: Any, path: Iterable[str]) -> Any:
    """What stands at the end of ``path`` in nested objects; 0, if nothing does (RabbitMQ)."""
    for part in path:
        value = value.get(part, 0) if isinstance(value, dict) else 0
    return value


def _rank(value: Any) -> tuple[int, Any]:
    """What a value is sorted by: Erlang puts numbers before words, and texts last."""
    match value:
        case bool() | None:
            return 1, str(value)
        case int() | float():
            return 0, value
        case str():
            return 4, value
        case dict():
            return 2, len(value)
        case _:
            return 3, str(value)


# -- columns -------------------------------------------------------------------------------------


def wanted_columns(query: Mapping[str, str]) -> Columns | None:
    """The columns that are asked for; None: all."""
    if "columns" not in query:
        return None
    columns: Columns = {}
    for column in query["columns"].split(","):
        *path, last = [part for part in column.split(".") if part] or [""]
        into: Any = columns
        for part in path:
            into = into.setdefault(part, {})
            if into is None:
                break  # All of it is wanted already.
        else:
            into[last] = None
    return columns


def reduced(value: Any, columns: Columns | None) -> Any:
    """The wanted columns of an object, or of each object in a list."""
    if columns is None:
        return value
    if isinstance(value, dict):
        return {
            name: reduced(each, columns[name]) for name, each in value.items() if name in columns
        }
    if isinstance(value, list):
        return [reduced(each, columns) for each in value]
    return value
