"""The two ways in which clients say name and password (SASL)."""

from amqpbroker.errors import CommandInvalid, MalformedSyntax
from amqpbroker.protocol.fields import read_fields

MECHANISMS = "PLAIN AMQPLAIN"


def credentials(mechanism: str, response: bytes) -> tuple[str, str]:
    """User and password out of a start-ok's response.

    Raises `CommandInvalid` for a mechanism that was not offered, `MalformedSyntax` for a response
    that it cannot read.
    """
    if mechanism == "PLAIN":
        return _plain(response)
    if mechanism == "AMQPLAIN":
        return _amqplain(response)
    raise CommandInvalid(f"unknown authentication mechanism '{mechanism}'")


def _plain(response: bytes) -> tuple[str, str]:
    """RFC 4616: user and password behind zero octets.

    RabbitMQ takes no authorization identity before them.
    """
    parts = response.split(b"\0")
    if len(parts) != 3 or parts[0]:
        raise MalformedSyntax("response has an invalid format for the PLAIN mechanism")
    user, password = (part.decode("utf-8", "surrogateescape") for part in parts[1:])
    return user, password


def _amqplain(response: bytes) -> tuple[str, str]:
    """AMQP's own: a table without its length, fields LOGIN and PASSWORD."""
    table = read_fields(response)
    user, password = _text(table.get("LOGIN")), _text(table.get("PASSWORD"))
    if user is None or password is None:
        raise MalformedSyntax("AMQPLAIN auth info needs the fields LOGIN and PASSWORD")
    return user, password


def _text(value: object) -> str | None:
    """Text or octets of any kind as text; None if it is neither."""
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else None
