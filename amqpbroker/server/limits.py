"""Amounts in settings as RabbitMQ takes them: octets with a unit, or a share of the memory.

In the file they are tables (``disk_free_limit.absolute = "2GB"``, ``disk_free_limit.relative =
1.5``) or plain values; in flags and the environment text, in rabbitmqctl's words where a plain
value would not do (``mem_relative 1.5``, ``absolute 1073741824``). Of two, the absolute one holds.

``k`` and ``kB`` are 1000, ``Ki`` and ``KiB`` 1024, and so on (RabbitMQ 3.13:
rabbit_resource_monitor_misc); nobody need know which letters are capitals.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import attrs

from amqpbroker.errors import ConfigError

_AMOUNT = re.compile(r"([0-9]{1,18})(?:([kmgtp])(i?)b?)?", re.ASCII | re.IGNORECASE)
_SHARE = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?", re.ASCII)
_POWERS = {letter: power for power, letter in enumerate("kmgtp", 1)}


@attrs.frozen
class Amount:
    """Octets: so many, or ``of_memory`` times what the machine's memory has."""

    octets: int = 0
    of_memory: float | None = None

    def octets_of(self, memory_bytes: int) -> int:
        """How many these are on a machine with so much memory."""
        return self.octets if self.of_memory is None else int(self.of_memory * memory_bytes)


def disk_amount(value: Any) -> Amount:
    """``disk_free_limit``: a plain value is octets. Raises `ConfigError`."""
    hint = (
        "disk_free_limit must be an amount like 50MB, 2GiB or 50000000 (octets),"
        " or a share of the memory like disk_free_limit.relative = 1.5"
    )
    return _amount(value, _octets, hint)


def memory_amount(value: Any) -> Amount:
    """``vm_memory_high_watermark``: a plain number is a share, up to 1. Raises `ConfigError`."""
    hint = (
        "vm_memory_high_watermark must be a share of the memory between 0 and 1, like 0.4,"
        " or an amount like 1GiB or vm_memory_high_watermark.absolute = 1073741824"
    )
    amount = _amount(value, _share_or_octets, hint)
    if amount.of_memory is not None and amount.of_memory > 1:
        raise ConfigError(f"{hint}, not {value!r}")
    return amount


def _amount(value: Any, plain: Callable[[Any], Amount], hint: str) -> Amount:
    forms = {"": plain, "absolute": _octets, "relative": _share, "mem_relative": _share}
    try:
        match value:
            case Amount():
                return value
            case {"absolute": absolute, **rest} if rest.keys() <= {"relative"}:
                return _octets(absolute)
            case {"relative": relative, **rest} if not rest:
                return _share(relative)
            case str():
                form, _, text = value.strip().rpartition(" ")
                return forms[form.strip()](text)
            case _:
                return plain(value)
    except (KeyError, ValueError):
        raise ConfigError(f"{hint}, not {value!r}") from None


def _share_or_octets(value: Any) -> Amount:
    """A number is a share, text with a unit says octets. Raises `ValueError`."""
    has_unit = isinstance(value, str) and not _SHARE.fullmatch(value)
    return _octets(value) if has_unit else _share(value)


def _octets(value: Any) -> Amount:
    """So many octets. Raises `ValueError`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Amount(value)
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(value)
    number, letter, binary = found.groups()
    power = _POWERS[letter.lower()] if letter else 0
    return Amount(int(number) * (1024 if binary else 1000) ** power)


def _share(value: Any) -> Amount:
    """Such a share of the memory. Raises `ValueError`."""
    if isinstance(value, str) and _SHARE.fullmatch(value):
        value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ValueError(value)
    return Amount(of_memory=float(value))
