"""Regular expressions as RabbitMQ's users write them: Perl's (PCRE), found anywhere in a name.

Python's own cannot read all of them, and a careless one can keep it busy for ever: ``^(a+)+$`` on a
name that somebody else has chosen would stop the node. The library used here reads nearly all, and
gives up in time; what takes too long does not match, as where RabbitMQ reaches its match limit.
"""

import logging
import warnings

import regex

from amqpbroker.errors import DefinitionError

log = logging.getLogger(__name__)

_MATCH_S_MAX = 0.05


def check_pattern(pattern: str, what: str) -> None:
    """Raise `DefinitionError` if the ``pattern`` of ``what`` is no regular expression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of what may mean another thing in some later version.
            regex.compile(pattern)
    except regex.error as error:
        raise DefinitionError(
            f"'{pattern}' is no regular expression for {what}: {error}"
        ) from error


def holds(pattern: str, name: str) -> bool:
    """Whether ``name`` holds the pattern somewhere; the empty one matches only the empty name."""
    return is_found(pattern or "^$", name)


def is_found(pattern: str, name: str) -> bool:
    """Whether ``name`` holds the pattern somewhere; the empty one is everywhere."""
    try:
        return regex.search(pattern, name, timeout=_MATCH_S_MAX) is not None
    except TimeoutError:
        log.warning("the pattern '%s' takes too long on '%s': it counts as no match", pattern, name)
        return False
    except regex.error:
        return False  # A user's name that was put into a topic's pattern may spoil it.
