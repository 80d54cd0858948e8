"""Faults of the framing, in RabbitMQ's words.

RabbitMQ says which frame was at fault by its first octets, in the notation of Erlang: as text if
they are printable, else as numbers.
"""

from amqpbroker.errors import FrameError, UnexpectedFrame

_SHOWN_BYTES_MAX = 16
_ESCAPES = {
    ord(letter): f"\\{name}"
    for letter, name in zip('\b\t\n\v\f\r\x1b"\\', 'btnvfre"\\', strict=True)
}
_PRINTABLE = frozenset(range(32, 127)) | frozenset(_ESCAPES)
_DECODED_BYTES_MAX = 128
"""More than a reply text can hold: it is cut there."""


def unexpected_frame(kind: int, payload: bytes) -> UnexpectedFrame:
    """A sound frame that is not due."""
    return UnexpectedFrame(f"type {kind}, {_shown(payload)}")


def frame_error(kind: int, payload: bytes, why: str = "unknown_frame") -> FrameError:
    """Octets that are no frame; ``why`` is an Erlang term."""
    return FrameError(f"type {kind}, {_shown(payload)}: {why}")


def cannot_decode(index: int, payload: bytes) -> FrameError:
    """A method (class and method number: ``index``) whose arguments are cut off, or too many."""
    return FrameError(f"cannot decode <<{_numbers(payload[4 : 4 + _DECODED_BYTES_MAX])}>>", index)


def malformed_utf8(index: int = 0) -> FrameError:
    """A name that is no UTF-8."""
    return FrameError("Malformed UTF-8 in shortstr", index)


def _shown(payload: bytes) -> str:
    head = payload[:_SHOWN_BYTES_MAX]
    which = "all" if len(payload) <= _SHOWN_BYTES_MAX else f"first {_SHOWN_BYTES_MAX}"
    if head and _PRINTABLE.issuperset(head):
        return f'{which} octets = <<"{head.decode().translate(_ESCAPES)}">>'
    return f"{which} octets = <<{_numbers(head)}>>"


def _numbers(octets: bytes) -> str:
    return ",".join(map(str, octets))
