"""The two ways in which clients say name and password (SASL)."""

from amqpbroker.errors import CommandInvalid, FrameError, MalformedSyntax
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
    """RFC 4616: authorization identity, user and password behind zero octets."""
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise MalformedSyntax("response has an invalid format for the PLAIN mechanism")
    return _text(parts[1]), _text(parts[2])


def _amqplain(response: bytes) -> tuple[str, str]:
    """AMQP's own: a table without its length, fields LOGIN and PASSWORD."""
    try:
        table = read_fields(response)
        user, password = table["LOGIN"], table["PASSWORD"]
    except (FrameError, KeyError) as error:
        raise MalformedSyntax("AMQPLAIN auth info needs the fields LOGIN and PASSWORD") from error
    if not isinstance(user, str) or not isinstance(password, str):
        raise MalformedSyntax("AMQPLAIN auth info must be text")
    return user, password


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
