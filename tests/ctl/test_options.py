"""The command line: options anywhere, as rabbitmqctl reads them."""

from typing import Any

import pytest

from amqpbroker.cli.ctl.options import parse

SWITCHES = {"vhost": str, "priority": int, "quiet": bool, "silent": bool, "table_headers": bool}
ALIASES = {"p": "vhost", "q": "quiet", "s": "silent"}


@pytest.mark.parametrize(
    ("line", "arguments", "options"),
    [
        ("list_queues -p v1 name", ["list_queues", "name"], {"vhost": "v1"}),
        ("-p v1 list_queues name", ["list_queues", "name"], {"vhost": "v1"}),
        ("list_queues name --vhost=v1", ["list_queues", "name"], {"vhost": "v1"}),
        ("list_queues -p=v1", ["list_queues"], {"vhost": "v1"}),
        ("list_queues -qs", ["list_queues"], {"quiet": True, "silent": True}),
        ("list_queues --no-table-headers", ["list_queues"], {"table_headers": False}),
        ("list_queues --table-headers=false", ["list_queues"], {"table_headers": False}),
        ("x --priority -5", ["x"], {"priority": -5}),
        ("x -5 y", ["x", "-5", "y"], {}),
        ("x - y", ["x", "-", "y"], {}),
        ("x -- --vhost -q", ["x", "--vhost", "-q"], {}),
        ("x -p a -p b", ["x"], {"vhost": "b"}),
    ],
)
def test_options_stand_anywhere(line: str, arguments: list[str], options: Any) -> None:
    parsed = parse(line.split(" "), SWITCHES, ALIASES)

    assert (parsed.arguments, parsed.options, parsed.invalid) == (arguments, options, [])


@pytest.mark.parametrize(
    ("line", "invalid"),
    [
        ("x --bogus", ("--bogus", None)),
        ("x --bogus=1", ("--bogus", "1")),
        ("x -z", ("-z", None)),
        ("x --vhost", ("--vhost", None)),
        ("x --vhost -q", ("--vhost", None)),
        ("x --priority high", ("--priority", "high")),
        ("x --quiet=perhaps", ("--quiet", "perhaps")),
        ("x --no_table_headers", ("--no_table_headers", None)),
        ("x --table_headers", ("--table_headers", None)),
        ("x --no-vhost", ("--no-vhost", None)),
    ],
)
def test_what_is_no_option_is_invalid(line: str, invalid: tuple[str, str | None]) -> None:
    assert parse(line.split(), SWITCHES, ALIASES).invalid == [invalid]
