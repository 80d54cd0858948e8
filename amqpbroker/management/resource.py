"""A resource: a path, who may use it, and what its methods do."""

from collections.abc import Callable
from typing import Any

import attrs

from amqpbroker.management.access import Guard
from amqpbroker.management.call import Call

Handler = Callable[[Call], Any]
"""Does what is asked, and gives the answer, or something to wait for.

Data becomes JSON (200), a `Listing` is sorted and paged first, a `Reply` goes as it is. Nothing
(None) is said with the fitting status: 201 for what was made, 204 for what changed or is gone. A
`Pending` is waited for, and then nothing is said; so is whatever else can be awaited, and its
answer is the answer.
"""


def _always(call: Call) -> bool:
    return True


@attrs.frozen
class Resource:
    """What stands behind one path.

    ``exists`` decides, at once or later, between 404 and an answer, and for PUT between 201 and
    204.
    """

    path: str
    guard: Guard
    get: Handler | None = None
    put: Handler | None = None
    post: Handler | None = None
    delete: Handler | None = None
    exists: Callable[[Call], object] = _always

    @property
    def methods(self) -> dict[str, Handler]:
        """What is done for each method, in RabbitMQ's order."""
        handlers = {
            "HEAD": self.get,
            "GET": self.get,
            "PUT": self.put,
            "POST": self.post,
            "DELETE": self.delete,
        }
        return {method: handler for method, handler in handlers.items() if handler is not None}
