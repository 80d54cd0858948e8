"""Which node is to lead a new queue.

A locator is RabbitMQ's word for the rule: what the queue's arguments say goes before its policy,
and that before the node's setting. RabbitMQ has two kinds of them (``queue-master-locator`` for
classic queues, ``queue-leader-locator`` for others); here both are understood everywhere.
"""

import random
from collections.abc import Mapping, Sequence

CLIENT_LOCAL = "client-local"
NODE = "node:"
"""What begins a locator that names the node itself."""
LOCATORS = (CLIENT_LOCAL, "balanced", "min-masters", "random", "least-leaders")
_KEYS = ("queue-master-locator", "queue-leader-locator")
_MANY = 1000
"""From so many queues on, balanced is at random (rabbit_queue_location)."""


def is_locator(text: str) -> bool:
    """Whether there is such a locator."""
    return text in LOCATORS or (text.startswith(NODE) and text != NODE)


def choose_locator(
    arguments: Mapping[str, object], policy: Mapping[str, object], settings: Sequence[str]
) -> str:
    """The locator that counts: the first that there is; what is none is passed over."""
    said = (
        *(arguments.get(f"x-{key}") for key in _KEYS),
        *(policy.get(key) for key in _KEYS),
        *settings,
    )
    return next((each for each in said if isinstance(each, str) and is_locator(each)), CLIENT_LOCAL)


def place(
    locator: str,
    own: str,
    running: Sequence[str],
    leaders: Mapping[str, int],
    rng: random.Random,
) -> str:
    """The node that a locator chooses among those that are ``running`` and not being drained.

    ``leaders`` is how many queues each node leads. Where there is nobody to choose from it is the
    node's ``own`` name, drained or not: that is where the client is.
    """
    if locator.startswith(NODE):
        wanted = locator.removeprefix(NODE)
        return wanted if wanted in running else own
    if locator == CLIENT_LOCAL or not running:
        return own
    is_free = locator in ("balanced", "least-leaders") and sum(leaders.values()) >= _MANY
    if is_free or locator == "random":
        return rng.choice(sorted(running))
    return min(sorted(running), key=lambda node: leaders.get(node, 0))
