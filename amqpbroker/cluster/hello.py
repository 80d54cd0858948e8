"""How two nodes make each other's acquaintance, as octets, without I/O.

    dialler                                   accepter
    MAGIC, HELLO (versions, cluster, node,
    incarnation, nonce)              ------>
                                     <------  CHALLENGE (the same of its own; the version it chose)
    PROOF (MAC)                      ------>
                                     <------  WELCOME (MAC)

Each proves that it has the secret of the cluster by a MAC (HMAC-SHA256) over its role, the octets
of HELLO and those of CHALLENGE. So a proof holds for these two nodes, these two nonces, this
version and this role; a proof that is sent back to its maker proves nothing. The secret itself does
not travel. After the hello nothing is signed: against those who can change octets on their way, use
TLS.

Whoever does not want to go on says why in a REFUSAL, and ends the stream.
"""

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, TypeVar

import attrs
import msgspec

from amqpbroker.cluster.wire import (
    CHALLENGE,
    HELLO,
    PROOF,
    REFUSAL,
    WELCOME,
    Inbox,
    encode_frame,
)
from amqpbroker.errors import LinkFault, LinkRefused

MAGIC = b"amqplink"
VERSIONS = (1,)
"""What this release speaks: its own version and the one before, as soon as there is one."""
HELLO_BYTES_MAX = 4096
"""The payload of a frame before the peer has proved anything."""
NONCE_BYTES = 32
_TEXT_MAX = 500


@attrs.frozen
class Identity:
    """Who a node is; ``secret`` is what only the nodes of the cluster have."""

    cluster: str
    node: str
    incarnation: int
    secret: bytes = attrs.field(repr=False)
    versions: tuple[int, ...] = VERSIONS


class _Introduction(msgspec.Struct, frozen=True, array_like=True):
    """What HELLO and CHALLENGE say. Later versions may append fields, and change nothing else."""

    versions: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=16)]
    cluster: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    node: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    incarnation: Annotated[int, msgspec.Meta(ge=0)]
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class _Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Why not; ``is_passing``: perhaps it goes well in a moment."""

    is_passing: bool
    text: str


_Said = TypeVar("_Said", _Introduction, _Refusal)


class Handshake(ABC):
    """One side of a hello. Feed it with `receive` and send `take_outbox`, until `is_done`.

    After that the frames of the other side are to be had from ``inbox``.
    """

    _role: bytes
    _peer_role: bytes

    def __init__(self, own: Identity, nonce: bytes) -> None:
        assert len(nonce) == NONCE_BYTES, len(nonce)
        self.inbox = Inbox(HELLO_BYTES_MAX)
        self.is_done = False
        self.node = ""
        """The name of the peer; not proved before the end."""
        self.incarnation = 0
        self.version = 0
        self._own = own
        self._nonce = nonce
        self._outbox = b""
        self._hello = b""
        self._challenge = b""

    def take_outbox(self) -> bytes:
        """What is to be sent now; after an error too."""
        data, self._outbox = self._outbox, b""
        return data

    def receive(self, data: bytes) -> None:
        """Take octets of the other side, up to `HELLO_BYTES_MAX` at a time.

        Raises `LinkRefused` when one of both does not want the other, and `LinkFault` when this is
        no hello.
        """
        self.inbox.receive(data)
        while not self.is_done and (frame := self.inbox.next_frame()) is not None:
            kind, payload = frame
            if kind == REFUSAL:
                refusal = _decode(payload, _Refusal)
                text = "".join(c for c in refusal.text[:_TEXT_MAX] if c.isprintable())
                raise LinkRefused(f"refused there: {text}", refusal.is_passing)
            self._take(kind, payload)

    @abstractmethod
    def _take(self, kind: int, payload: bytes) -> None:
        """Take a frame."""

    def _refuse(self, text: str, is_passing: bool = False) -> LinkRefused:
        payload = msgspec.msgpack.encode(_Refusal(is_passing, text))
        self._outbox += encode_frame(REFUSAL, payload)
        return LinkRefused(text, is_passing)

    def _introduce(self, versions: tuple[int, ...]) -> bytes:
        own = self._own
        mine = _Introduction(versions, own.cluster, own.node, own.incarnation, self._nonce)
        return msgspec.msgpack.encode(mine)

    def _meet(self, payload: bytes) -> _Introduction:
        """Take the other's introduction. Raises if it belongs to another cluster."""
        own, peer = self._own, _decode(payload, _Introduction)
        if not (peer.node.isprintable() and peer.cluster.isprintable()):
            raise LinkFault("a hello with unprintable names")
        self.node, self.incarnation = peer.node, peer.incarnation
        if peer.cluster != own.cluster:
            raise self._refuse(
                f"{own.node} belongs to cluster '{own.cluster}', {peer.node} to '{peer.cluster}'"
            )
        return peer

    def _mac(self, role: bytes) -> bytes:
        parts = (role, self._hello, self._challenge)
        text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._own.secret, text, "sha256")

    def _check_mac(self, mac: bytes) -> None:
        if not hmac.compare_digest(mac, self._mac(self._peer_role)):
            raise self._refuse(
                f"the secret of {self.node} is not that of {self._own.node}, although both belong"
                f" to cluster '{self._own.cluster}': nodes read it in etcd when they start, so"
                " restart the one that was started before it was changed there"
            )


class Dialling(Handshake):
    """The side that dialled, and wants to find ``node`` there, in this ``incarnation``."""

    _role, _peer_role = b"dialler", b"accepter"

    def __init__(self, own: Identity, nonce: bytes, node: str, incarnation: int) -> None:
        super().__init__(own, nonce)
        self._wanted = node, incarnation
        self._hello = self._introduce(own.versions)
        self._outbox = MAGIC + encode_frame(HELLO, self._hello)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == CHALLENGE and not self._challenge:
            self._take_challenge(payload)
        elif kind == WELCOME and self._challenge:
            self._check_mac(payload)
            self.is_done = True
        else:
            raise LinkFault(f"a frame of kind {kind} in the hello")

    def _take_challenge(self, payload: bytes) -> None:
        peer = self._meet(payload)
        self._challenge = payload
        own, (node, incarnation) = self._own, self._wanted
        if peer.node != node:
            raise self._refuse(f"{own.node} looks for {node}, and this is {peer.node}", True)
        if peer.incarnation != incarnation:
            raise self._refuse(_other_life(own.node, node, incarnation, peer.incarnation), True)
        self.version = peer.versions[0]
        if self.version not in own.versions:
            raise LinkFault(f"version {self.version} was chosen, which nobody offered")
        self._outbox += encode_frame(PROOF, self._mac(self._role))


class Accepting(Handshake):
    """The side that was dialled.

    ``incarnation_of`` knows the members of the cluster: None for a node that is none.
    """

    _role, _peer_role = b"accepter", b"dialler"

    def __init__(
        self, own: Identity, nonce: bytes, incarnation_of: Callable[[str], int | None]
    ) -> None:
        super().__init__(own, nonce)
        self.is_later_life = False
        """Whether the peer has proved to be a member in a later life than is known of it."""
        self._incarnation_of = incarnation_of
        self._magic = b""

    def receive(self, data: bytes) -> None:
        missing = len(MAGIC) - len(self._magic)
        self._magic += data[:missing]
        if not MAGIC.startswith(self._magic):
            raise LinkFault(f"no node, it began with {self._magic!r}")
        super().receive(data[missing:])

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == HELLO and not self._hello:
            self._take_hello(payload)
        elif kind == PROOF and self._hello:
            self._check_mac(payload)
            self._check_membership()
            self._outbox += encode_frame(WELCOME, self._mac(self._role))
            self.is_done = True
        else:
            raise LinkFault(f"a frame of kind {kind} in the hello")

    def _take_hello(self, payload: bytes) -> None:
        peer = self._meet(payload)
        own = self._own
        if peer.node == own.node:
            raise self._refuse(f"there are two nodes named {own.node}")
        common = set(own.versions) & set(peer.versions)
        if not common:
            raise self._refuse(
                f"{own.node} speaks {_listed(own.versions)} of the protocol between nodes,"
                f" {peer.node} {_listed(peer.versions)}"
            )
        self.version = max(common)
        self._hello = payload
        self._challenge = self._introduce((self.version,))
        self._outbox += encode_frame(CHALLENGE, self._challenge)

    def _check_membership(self) -> None:
        own = self._own
        known = self._incarnation_of(self.node)
        if known is None:
            raise self._refuse(
                f"{own.node} knows no node {self.node} in cluster '{own.cluster}'", True
            )
        if known != self.incarnation:
            self.is_later_life = self.incarnation > known
            raise self._refuse(_other_life(own.node, self.node, known, self.incarnation), True)


def _decode(payload: bytes, kind: type[_Said]) -> _Said:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkFault(f"a hello that cannot be read: {error}") from error


def _listed(versions: tuple[int, ...]) -> str:
    return ("versions " if len(versions) > 1 else "version ") + " and ".join(map(str, versions))


def _other_life(own: str, node: str, known: int, found: int) -> str:
    return (
        f"{own} knows {node} in its incarnation {known}, and this is {found}:"
        " it has been restarted, or another node has its name"
    )
