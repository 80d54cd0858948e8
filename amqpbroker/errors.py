"""One tree of errors; every class knows the reply code that AMQP gives it.

A `SoftError` closes the channel, a `HardError` the connection (AMQP 0-9-1, section 1.1.2 and the
table of reply codes). They are raised where the fault is known and turned into frames at the doors
only. The text is part of the contract: clients match on RabbitMQ's words.
"""

from typing import ClassVar


class AmqpError(Exception):
    """A fault that AMQP has a reply code for.

    ``text`` says what is wrong, without the name of the code. ``index`` is the method at fault
    (class and method number), 0 if none is, or if it is known where the fault is answered.
    """

    code: ClassVar[int]
    name: ClassVar[str]

    def __init__(self, text: str, index: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.index = index

    @property
    def reply_text(self) -> str:
        """What the peer reads, in RabbitMQ's form: ``NOT_FOUND - no queue 'q' in vhost '/'``."""
        return f"{self.name} - {self.text}"


class SoftError(AmqpError):
    """Closes the channel on which it happened; the connection goes on."""


class HardError(AmqpError):
    """Closes the connection."""


class AccessRefused(SoftError):
    """The user, or the nature of the thing, does not allow it."""

    code = 403
    name = "ACCESS_REFUSED"


class NotFound(SoftError):
    """The queue or exchange does not exist."""

    code = 404
    name = "NOT_FOUND"


class NotKnown(NotFound):
    """There is no such queue or exchange as far as this node knows: others may know more."""


class ResourceLocked(SoftError):
    """The queue is another connection's own."""

    code = 405
    name = "RESOURCE_LOCKED"


class PreconditionFailed(SoftError):
    """What exists, or the state of it, contradicts what was asked."""

    code = 406
    name = "PRECONDITION_FAILED"


class ConnectionForced(HardError):
    """An operator, or the end of the node, closes the connection."""

    code = 320
    name = "CONNECTION_FORCED"


class LoginRefused(HardError):
    """Wrong user, wrong password, or a user that may not come from there (code 403)."""

    code = 403
    name = "ACCESS_REFUSED"


class FrameError(HardError):
    """The peer sent bytes that are no frame, or a frame over the agreed size."""

    code = 501
    name = "FRAME_ERROR"


class MalformedSyntax(HardError):
    """A frame holds a value that cannot be decoded."""

    code = 502
    name = "SYNTAX_ERROR"


class CommandInvalid(HardError):
    """The method is unknown, or makes no sense in this state."""

    code = 503
    name = "COMMAND_INVALID"


class ChannelError(HardError):
    """The method came on a channel that is not open, or is open already."""

    code = 504
    name = "CHANNEL_ERROR"


class UnexpectedFrame(HardError):
    """A content frame came where a method was due, or the other way round."""

    code = 505
    name = "UNEXPECTED_FRAME"


class ResourceExhausted(HardError):
    """A limit is reached whose breach the peer can do nothing about (AMQP: resource-error)."""

    code = 506
    name = "RESOURCE_ERROR"


class NotAllowed(HardError):
    """The peer did what the agreed limits or its rights forbid."""

    code = 530
    name = "NOT_ALLOWED"


class Unimplemented(HardError):
    """A part of AMQP that RabbitMQ does not have either, or that this version does not have yet."""

    code = 540
    name = "NOT_IMPLEMENTED"


class InternalError(HardError):
    """A fault of the broker's own; the log has the traceback."""

    code = 541
    name = "INTERNAL_ERROR"


class ConfigError(Exception):
    """A setting that the node cannot start with; the text says which, and what would do."""


class DataError(Exception):
    """A data directory that is not to be used; the text says why, and what to do."""


class DiskFailure(Exception):
    """The disk has failed under a running node, which must stop."""


class DefinitionError(Exception):
    """A definition that makes no sense; the text says why. Nothing was changed."""


class LinkFault(Exception):
    """A stream between nodes that cannot go on; the text says why."""


class LinkRefused(LinkFault):
    """One of two nodes does not want the other; ``is_passing``: perhaps it will in a moment."""

    def __init__(self, text: str, is_passing: bool) -> None:
        super().__init__(text)
        self.is_passing = is_passing


class Overtaken(Exception):
    """Something else was decided first: what the change was about is not as it was any more."""


class StoreError(Exception):
    """The store that the nodes of a cluster share did not do what it was asked."""


class StoreUnavailable(StoreError):
    """Nobody could be asked, or nobody answered a read: nothing was changed."""


class OutcomeUnknown(StoreError):
    """A change was sent and not answered: perhaps it was carried out, perhaps it still will be."""


class StoreRefused(StoreError):
    """The store will not do it; ``code`` is gRPC's, ``text`` the store's own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class LeaseNotFound(StoreRefused):
    """The lease is not there, or not any more."""


class LeaseExists(StoreRefused):
    """A lease of this id is there already."""


class StoreLost(StoreError):
    """The store does not have what it had, and nobody has deleted it piece by piece."""


class Compacted(StoreError):
    """The store has not kept the history that was asked for: it begins at ``compact_revision``."""

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"the store has kept nothing from before revision {compact_revision}")
        self.compact_revision = compact_revision
