"""A RabbitMQ-compatible AMQP 0-9-1 broker on trio."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("amqpbroker")
except PackageNotFoundError:  # A checkout that is run without being installed.
    __version__ = "0.0.0"
