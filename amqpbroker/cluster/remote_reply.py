"""Direct replies to channels of other nodes.

The address of such a channel names its node by a few letters that are made of the node's name: an
address has to have room in a routing key, and a name may be long.
"""

import base64
import hashlib
import logging
from typing import TYPE_CHECKING

from amqpbroker.message import Origin
from amqpbroker.queues.queue import Pending, ReplyAddress

if TYPE_CHECKING:
    from amqpbroker.cluster.remote_node import RemoteNode

REPLY_TO = "amq.rabbitmq.reply-to"
"""The pseudo-queue that those consume from who wait for direct replies."""
BACKLOG_BYTES_MAX = 16 * 1024 * 1024
"""Replies are lost while more than this waits on the stream to their node."""
ADDRESS_MAX = 255
"""No address is longer; what is, was never given."""
_MARK_BYTES = 6

log = logging.getLogger(__name__)


def address_prefix(node: str) -> str:
    """What the addresses of channels of ``node`` begin with."""
    name = node.encode("utf-8", "surrogateescape")
    mark = base64.urlsafe_b64encode(hashlib.sha256(name).digest()[:_MARK_BYTES]).decode()
    return f"{REPLY_TO}.{mark}."


class RemoteReply(ReplyAddress):
    """The channel of ``node`` that waits for direct replies at ``address``, or did once."""

    def __init__(self, node: "RemoteNode", address: str) -> None:
        self.version = 0
        self._node = node
        self._address = address
        self._published = 0

    @property
    def committed(self) -> int:
        return self._published

    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        self._published += len(raws)
        if not self._node.reply(self._address, origin, raws):
            log.warning("%d replies to node %s are lost", len(raws), self._node.name)
        return self._published

    def is_there(self) -> bool | Pending[bool]:
        return self._node.has_reply_address(self._address)
