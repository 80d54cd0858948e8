"""Settings of a node that change while it runs."""

from typing import Any

from amqpbroker.cli.ctl.command import (
    EXIT_DATA,
    Call,
    Command,
    InvalidArguments,
    failed,
)

_LEVELS = {
    "debug": "debug",
    "info": "info",
    "notice": "info",
    "warning": "warning",
    "error": "error",
    "critical": "error",
    "alert": "error",
    "emergency": "error",
    "none": "error",
}
"""RabbitMQ's levels of the log, each with the one that comes closest here."""


def _configure(call: Call, settings: dict[str, Any]) -> None:
    call.api.post("amqpbroker", "nodes", call.node, "settings", body=settings)


def _set_watermark(call: Call) -> None:
    _configure(call, {"vm_memory_high_watermark": " ".join(call.arguments)})


def _check_watermark(call: Call) -> None:
    if call.arguments == ["absolute"]:
        raise InvalidArguments("not enough arguments.")
    if len(call.arguments) == 1:
        try:
            share = float(call.arguments[0])
        except ValueError as error:
            raise InvalidArguments("Bad argument.", EXIT_DATA) from error
        if not 0 <= share <= 1:
            text = "Bad argument: The threshold should be a fraction between 0.0 and 1.0"
            raise InvalidArguments(text, EXIT_DATA)
    elif call.arguments[0] != "absolute":
        raise InvalidArguments("too many arguments.")


def _watermark_banner(call: Call) -> str:
    *absolute, amount = call.arguments
    return f"Setting memory threshold on {call.node} to {amount}{' bytes' if absolute else ''} ..."


def _set_disk_limit(call: Call) -> None:
    _configure(call, {"disk_free_limit": " ".join(call.arguments)})


def _check_disk_limit(call: Call) -> None:
    if call.arguments == ["mem_relative"]:
        raise InvalidArguments("not enough arguments.")
    if len(call.arguments) == 2 and call.arguments[0] != "mem_relative":
        raise InvalidArguments("too many arguments.")


def _disk_limit_banner(call: Call) -> str:
    *relative, amount = call.arguments
    unit = "times the total RAM" if relative else "bytes"
    return f"Setting disk free limit on {call.node} to {amount} {unit} ..."


def _set_log_level(call: Call) -> None:
    _configure(call, {"log_level": _LEVELS[call.arguments[0]]})


def _check_level(call: Call) -> None:
    level = call.arguments[0]
    if level not in _LEVELS:
        known = "debug, info, warning, error, critical, none"
        raise failed(f"level {level} is not supported. Try one of {known}")


COMMANDS = (
    Command(
        name="set_vm_memory_high_watermark",
        run=_set_watermark,
        usage="<fraction> | absolute <value>",
        description="Sets the vm_memory_high_watermark setting",
        section="configuration",
        details=(
            ("<fraction>", "New limit as a fraction of total memory reported by the OS"),
            ("absolute <value>", "New limit as an absolute value with units, e.g. 1GB"),
        ),
        least=1,
        most=2,
        banner=_watermark_banner,
        check=_check_watermark,
    ),
    Command(
        name="set_disk_free_limit",
        run=_set_disk_limit,
        usage="<disk_limit> | mem_relative <fraction>",
        description="Sets the disk_free_limit setting",
        section="configuration",
        details=(
            ("<disk_limit>", "New limit as an absolute value with units, e.g. 1GB"),
            (
                "mem_relative <fraction>",
                "New limit as a fraction of total memory reported by the OS",
            ),
        ),
        least=1,
        most=2,
        banner=_disk_limit_banner,
        check=_check_disk_limit,
    ),
    Command(
        name="set_log_level",
        run=_set_log_level,
        usage="<log_level>",
        description="Sets log level in the running node",
        section="configuration",
        details=(("<log_level>", "new log level"),),
        least=1,
        most=1,
        banner='Setting log level to "{0}" ...',
        check=_check_level,
    ),
)
