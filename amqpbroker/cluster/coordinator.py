"""Who decides on changes of definitions, and sees to it that they last."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import attrs

from amqpbroker.cluster.catalog import Catalog
from amqpbroker.cluster.records import encode_change
from amqpbroker.definitions import Change
from amqpbroker.queues.queue import Pending
from amqpbroker.storage.wal import Wal


class Coordinator(ABC):
    """Takes changes, one after the other, and has them carried out."""

    @abstractmethod
    def submit(self, change: Change) -> Pending[None] | None:
        """Have a change carried out; it is when this returns.

        The answer comes when it will last, at once (None) if it need not.
        """

    @property
    def is_away(self) -> bool:
        """Whether nothing can be decided for now, as far as it is known."""
        return False

    def catch_up(self) -> Pending[None] | None:
        """Come to know all that was decided before the call, by whomever.

        None if there is nobody else. Else the answer may be an `InternalError`: nobody knows.
        """
        return None


class ForgetfulCoordinator(Coordinator):
    """Nothing outlives the node: changes are ``apply``-ed, and that is all."""

    def __init__(self, apply: Callable[[Change], None]) -> None:
        self._apply = apply

    def submit(self, change: Change) -> None:
        self._apply(change)


class EmbeddedCoordinator(Coordinator):
    """Keeps what outlives the node in its write-ahead log.

    There it stands in one order with the messages: none can be confirmed before its queue is kept.
    """

    def __init__(self, apply: Callable[[Change], None], catalog: Catalog, wal: Wal) -> None:
        self._apply = apply
        self._catalog = catalog
        self._wal = wal

    def submit(self, change: Change) -> Pending[None] | None:
        catalog = self._catalog
        definition = change.definition
        if change.act == "put":
            if not catalog.outlives(definition):
                self._apply(change)
                return None
            change = attrs.evolve(change, definition=catalog.numbered(definition))
        elif definition not in catalog:
            self._apply(change)
            return None
        line = encode_change(change)
        catalog.apply(change, line)
        self._apply(change)
        pending: Pending[None] = Pending()
        self._wal.definitions(line, lambda: pending.resolve(None))
        return pending
