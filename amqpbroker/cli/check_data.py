"""``amqpbroker check-data``: what is in a data directory, for people and for programs."""

import json
import sys
from collections.abc import Iterator, Sequence

import click

from amqpbroker.server.checkup import DirectoryReport, QueueReport, check_directory
from amqpbroker.storage.faults import Damage
from amqpbroker.world import real_world

_QUEUES_SHOWN = 50
_COLUMNS = ("vhost", "queue", "messages", "in the log", "in segments", "on disk", "lost")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command("check-data")
@click.argument("folder", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
@click.option("--all", "show_all", is_flag=True, help=f"Show more than {_QUEUES_SHOWN} queues.")
def check_data(folder: str, as_json: bool, show_all: bool) -> None:
    """Say what is in a node's data directory, and whether it is sound.

    Everything is read and nothing is changed; no node may run on it. Exit status 0: a node would
    find no damage. 1: it is damaged, in use, of a newer format, or no data directory.
    """
    report = check_directory(real_world().disk, folder)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        for line in _lines(report, show_all):
            click.echo(line)
    sys.exit(0 if report.is_sound else 1)


def _lines(report: DirectoryReport, show_all: bool) -> Iterator[str]:
    """The report for people."""
    owner = report.owner
    ended = "has stopped in good order" if report.is_clean else "was cut off"
    yield f"{report.folder}: node {owner.name}, which {ended}; format {owner.format}"
    if owner.cluster:
        yield f"cluster: {owner.cluster}; it has the definitions, queues are called by their logs"
    counts = (_count(number, _singular(kind)) for kind, number in report.definitions.items())
    yield f"definitions: {', '.join(counts).replace('_', ' ')}"
    yield (
        f"messages: {report.messages}, for the next start; {_size(report.wal_files.octets)} in"
        f" {_count(report.wal_files.count, 'file')} of the log,"
        f" {_size(report.segments.octets)} in {_count(report.segments.count, 'segment')}"
    )
    if report.queues:
        yield ""
        yield from _table(report.queues, show_all)
    yield from _places("damaged", report.damages, report)
    yield from _places("cut off by a crash, and no damage", report.torn, report)
    yield from _places("not as it was written, and not needed", report.remarks, report)
    if report.strange:
        yield ""
        yield "put there by others:"
        yield from (f"  {_plain(path)}" for path in report.strange)
    if report.not_needed.octets:
        yield ""
        not_needed = report.not_needed
        yield (
            f"not needed, and cleared away in time: {_count(not_needed.count, 'chunk')} in"
            f" segments, {_size(not_needed.octets)}"
        )
    yield ""
    if report.is_sound:
        yield "It is sound."
    else:
        lost = (
            f"{_count(report.lost, 'message')} at most {'is' if report.lost == 1 else 'are'} lost"
        )
        yield f"It is damaged in {_count(len(report.damages), 'place')}; {lost}."


def _table(queues: Sequence[QueueReport], show_all: bool) -> Iterator[str]:
    """A line for each queue: first those that have lost something, then the longest."""
    ordered = sorted(queues, key=lambda queue: (-queue.log.lost, -queue.log.messages))
    shown = ordered if show_all else ordered[:_QUEUES_SHOWN]
    rows = [_COLUMNS, *map(_row, shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    if len(shown) < len(ordered):
        yield f"… and {_count(len(ordered) - len(shown), 'more queue')} (--all shows them)"


def _row(queue: QueueReport) -> tuple[str, ...]:
    log = queue.log
    return (
        _plain(queue.vhost),
        _plain(queue.name),
        str(log.messages),
        str(log.in_wal.count),
        str(log.in_segments.count - log.transient),
        _size(log.in_wal.octets + log.segments.octets),
        str(log.lost or ""),
    )


def _places(title: str, damages: Sequence[Damage], report: DirectoryReport) -> Iterator[str]:
    """What there is to say of places in files."""
    if not damages:
        return
    yield ""
    yield f"{title}:"
    for damage in damages:
        queue = report.queue_of(damage)
        whose = "" if queue is None else f" (queue {_plain(queue.name)} in {_plain(queue.vhost)})"
        lost = f"; {_count(damage.messages, 'message')} at most" if damage.messages else ""
        yield f"  {_plain(damage.path)} at {damage.offset}: {damage.what}{whose}{lost}"


def _count(number: int, thing: str) -> str:
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing.removesuffix('y')}ies" if thing[-1] == "y" else f"{number} {thing}s"


def _singular(things: str) -> str:
    return f"{things[:-3]}y" if things.endswith("ies") else things[:-1]


def _size(octets: int) -> str:
    size, unit = float(octets), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{octets} B"


def _plain(name: str) -> str:
    """A name on one line, whatever is in it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)
