"""Makes ``python -m amqpbroker.cli.ctl`` the command."""

from amqpbroker.cli.ctl.main import entry_point

entry_point()
