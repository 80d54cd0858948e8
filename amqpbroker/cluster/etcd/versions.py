"""Which versions of etcd keep what they confirm."""

import re

from amqpbroker.errors import ConfigError

_ADVICE = "run 3.5.13 or newer, or 3.4.22 or newer of 3.4"


def judge_version(version: str, where: str, development: bool) -> str | None:
    """A warning about a version of etcd, None when it is good.

    Raises `ConfigError` for one that is known to lose committed data (3.5.0 to 3.5.2, etcd #13766)
    or that is too old, unless it is a ``development`` etcd, whose data nobody wants to keep.
    """
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if numbers is None:
        return f"etcd at {where} says that its version is {version!r}: {_ADVICE}"
    number = tuple(map(int, numbers.groups()))
    if number < (3, 4):
        raise ConfigError(f"etcd {version} at {where} is too old: {_ADVICE}")
    if (3, 5, 0) <= number <= (3, 5, 2):
        if development:
            return f"development etcd, not for data you keep: {version} at {where}"
        raise ConfigError(f"etcd {version} at {where} can lose what it has committed: {_ADVICE}")
    if number < (3, 4, 22) or (3, 5) <= number < (3, 5, 13):
        return f"etcd {version} at {where} has faults that newer ones have not: {_ADVICE}"
    return None
