"""What a data directory holds, by the names that people know: the report of ``check-data``."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

from amqpbroker.cluster.catalog import Catalog
from amqpbroker.definitions import (
    BindingDefinition,
    Definition,
    ExchangeDefinition,
    GlobalParameterDefinition,
    ParameterDefinition,
    PermissionDefinition,
    PolicyDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
)
from amqpbroker.server.keeping import read_definitions
from amqpbroker.storage.check import Amount, LogReport, checking
from amqpbroker.storage.directory import Owner
from amqpbroker.storage.faults import Damage
from amqpbroker.world import Disk

KINDS: dict[type[Definition], str] = {
    VHostDefinition: "vhosts",
    UserDefinition: "users",
    PermissionDefinition: "permissions",
    TopicPermissionDefinition: "topic_permissions",
    PolicyDefinition: "policies",
    ParameterDefinition: "parameters",
    GlobalParameterDefinition: "global_parameters",
    ExchangeDefinition: "exchanges",
    QueueDefinition: "queues",
    BindingDefinition: "bindings",
}
"""What is counted of definitions, by the words of the report."""


@attrs.frozen
class QueueReport:
    """A durable queue, and what there is of its log.

    In the directory of a node of a cluster its name is that of its log, ``log 7``: there are no
    definitions.
    """

    vhost: str
    name: str
    log: LogReport


@attrs.frozen
class DirectoryReport:
    """A data directory that can be read; it ``is_sound`` if nothing that a node needs is damaged.

    ``remarks`` are about what is not as it was written, and not needed; ``torn`` about what a crash
    has cut off, which is as it should be. ``strange`` are things that no node has put there.
    """

    folder: str
    owner: Owner
    is_clean: bool
    """Whether the node has stopped in good order."""
    definitions: dict[str, int]
    queues: list[QueueReport]
    ownerless: list[LogReport]
    """Logs of queues that are deleted: a start clears them away."""
    wal_files: Amount
    damages: list[Damage]
    remarks: list[Damage]
    torn: list[Damage]
    strange: list[str]

    @property
    def is_sound(self) -> bool:
        """Whether a node would find no damage."""
        return not self.damages

    @property
    def messages(self) -> int:
        """Those that are there after the next start."""
        return sum(queue.log.messages for queue in self.queues)

    @property
    def lost(self) -> int:
        """Messages that are damaged, at most."""
        return sum(queue.log.lost for queue in self.queues)

    @property
    def segments(self) -> Amount:
        """The files of all queues' segments."""
        return _sum(report.segments for report in self._logs())

    @property
    def not_needed(self) -> Amount:
        """Chunks in segments without any message that is still there."""
        return _sum(report.not_needed for report in self._logs())

    def _logs(self) -> Iterator[LogReport]:
        yield from (queue.log for queue in self.queues)
        yield from self.ownerless

    def queue_of(self, damage: Damage) -> QueueReport | None:
        """The queue whose messages a damage concerns."""
        return next((each for each in self.queues if each.log.log_id == damage.log_id), None)

    def as_json(self) -> dict[str, Any]:
        """The same for programs; keys may be added, but none goes or changes its meaning."""
        return {
            "directory": self.folder,
            "node": self.owner.name,
            "cluster": self.owner.cluster or None,
            "format": self.owner.format,
            "sound": self.is_sound,
            "stopped_in_good_order": self.is_clean,
            "definitions": self.definitions,
            "messages": self.messages,
            "messages_lost": self.lost,
            "queues": [_queue_as_json(queue) for queue in self.queues],
            "wal": _as_json(self.wal_files, "files"),
            "segments": _as_json(self.segments, "files"),
            "not_needed": _as_json(self.not_needed, "chunks"),
            "damages": [self._damage_as_json(damage) for damage in self.damages],
            "remarks": [_place_as_json(damage) for damage in self.remarks],
            "torn": [_place_as_json(damage) for damage in self.torn],
            "strange": self.strange,
        }

    def _damage_as_json(self, damage: Damage) -> dict[str, Any]:
        queue = self.queue_of(damage)
        name = None if queue is None else {"vhost": queue.vhost, "name": queue.name}
        return _place_as_json(damage) | {"queue": name, "messages_lost": damage.messages}


def _sum(amounts: Iterator[Amount]) -> Amount:
    total = Amount()
    for amount in amounts:
        total.add(amount.octets, amount.count)
    return total


def _as_json(amount: Amount, things: str) -> dict[str, int]:
    return {things: amount.count, "bytes": amount.octets}


def _place_as_json(damage: Damage) -> dict[str, Any]:
    return {"file": damage.path, "position": damage.offset, "what": damage.what}


def _queue_as_json(queue: QueueReport) -> dict[str, Any]:
    log = queue.log
    return {
        "vhost": queue.vhost,
        "name": queue.name,
        "messages": log.messages,
        "messages_transient": log.transient,
        "messages_lost": log.lost,
        "in_wal": _as_json(log.in_wal, "messages"),
        "in_segments": _as_json(log.in_segments, "messages"),
        "segments": _as_json(log.segments, "files"),
    }


def check_directory(disk: Disk, folder: str) -> DirectoryReport:
    """Read all of a data directory, and change nothing.

    Raises `DataError` if it is none, a node runs on it, or none of this version would start.
    """
    with checking(disk, folder) as check:
        catalog = Catalog()
        read_definitions(catalog, folder, check.definitions)
        definitions = [change.definition for change in catalog.changes()]
        counts = Counter(KINDS[type(definition)] for definition in definitions)
        queues = [
            QueueReport(definition.vhost, definition.name, check.log(definition.log_id))
            for definition in definitions
            if isinstance(definition, QueueDefinition)
        ]
        known = {queue.log.log_id for queue in queues}
        if check.owner.cluster:
            ids = check.log_ids() - known
            queues += [QueueReport("", f"log {each}", check.log(each)) for each in sorted(ids)]
            known |= ids
        ownerless = check.others(known)
        return DirectoryReport(
            folder,
            check.owner,
            check.is_clean,
            {kind: counts[kind] for kind in KINDS.values()},
            queues,
            ownerless,
            check.wal_files(),
            check.damages,
            check.remarks,
            check.torn(),
            check.strange(),
        )
