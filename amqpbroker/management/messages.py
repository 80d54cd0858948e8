"""Messages that are published, got and purged over HTTP."""

import base64
import binascii
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pamqp import commands, header
from pamqp import frame as pamqp_frame

from amqpbroker.broker.declaring import queue_to_read
from amqpbroker.broker.inner import InnerPublisher
from amqpbroker.broker.session import Ends
from amqpbroker.errors import AccessRefused, AmqpError, NotFound
from amqpbroker.management.call import Call, Fault, Reply, bad_request, not_authorised
from amqpbroker.management.encoding import table
from amqpbroker.management.listing import Breather
from amqpbroker.protocol.frames import FRAME_HEAD_BYTES, FRAME_HEADER, FRAME_OVERHEAD_BYTES
from amqpbroker.queues.queue import Got, Outcome, Pending, Queue

_NUMBERS = ("delivery_mode", "priority", "timestamp")
_TEXTS = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "message_type",
    "user_id",
    "app_id",
)
_NAMES = {"message_type": "type"}
"""What RabbitMQ calls a property, where pamqp has another name for it."""
_OUTCOMES = {
    "ack_requeue_true": Outcome.REQUEUE,
    "reject_requeue_true": Outcome.REQUEUE,
    "ack_requeue_false": Outcome.ACK,
    "reject_requeue_false": Outcome.REJECT,
}


# -- publish -------------------------------------------------------------------------------------


def exchange_is_there(call: Call) -> bool:
    """Whether the exchange of the path is there. Raises `Fault` (404), which says what is not."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    if vhost is None:
        raise Fault(404, "not_found", "vhost_not_found")
    if call.path["exchange"] not in vhost.router.exchanges:
        raise Fault(404, "not_found", "exchange_not_found")
    return True


async def publish(call: Call) -> Any:
    """Publish a message, and say whether it went to any queue."""
    routing_key, properties, payload, encoding = call.fields(
        "routing_key", "properties", "payload", "payload_encoding"
    )
    if not isinstance(payload, str):
        raise bad_request("payload_not_string")
    if not isinstance(routing_key, str):
        raise bad_request("routing_key_not_string")
    body = _decoded(payload, encoding)
    vhost = call.vhost
    ends = Ends((call.caller.host, 0), ("", 0))
    access = call.access(vhost.name)
    publisher = InnerPublisher(call.broker, vhost, call.user, access, ends)
    try:
        wanted = _properties(properties)
        safe = publisher.publish(call.path["exchange"], routing_key, wanted, body)
        if not await call.settled(safe):
            raise bad_request("rejected Unable to publish message. Check queue limits.")
        return {"routed": publisher.is_routed}
    except AmqpError as error:
        raise _as_channel_error(error) from error
    finally:
        publisher.close()


def _decoded(payload: str, encoding: Any) -> bytes:
    if encoding == "string":
        return payload.encode("utf-8", "surrogatepass")
    if encoding != "base64":
        raise bad_request(["unsupported_encoding", encoding])
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request(["not_base64", payload]) from None


def _properties(given: Any) -> commands.Basic.Properties:
    """Properties as an object of JSON says them; what nobody knows is of no account."""
    given = given or {}
    if not isinstance(given, dict):
        raise bad_request("properties must be an object")
    fields: dict[str, Any] = {}
    for name in _NUMBERS:
        value = given.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise bad_request(["not_int", name])
        fields[name] = value
    for name in _TEXTS:
        value = given.get(_NAMES.get(name, name))
        if value is not None and not isinstance(value, str):
            raise bad_request(["not_string", _NAMES.get(name, name)])
        fields[name] = value
    if fields["timestamp"] is not None:
        fields["timestamp"] = datetime.fromtimestamp(fields["timestamp"], UTC)
    headers = given.get("headers")
    if headers is not None and not isinstance(headers, dict):
        raise bad_request(["not_table", "headers"])
    try:
        properties = commands.Basic.Properties(headers=headers, **fields)
        properties.marshal()
    except (ValueError, TypeError, OverflowError) as error:
        raise bad_request(f"invalid properties: {error}") from None
    return properties


def _as_channel_error(error: AmqpError) -> Fault:
    """An error that closes a channel, as RabbitMQ tells it over HTTP."""
    text = f"{error.name} - {error.text}"
    if isinstance(error, NotFound):
        return Fault(404, "not_found", text)
    if isinstance(error, AccessRefused):
        return not_authorised(text)
    return bad_request(f"{error.code} {text}")


# -- get -----------------------------------------------------------------------------------------


def queue_is_there(call: Call) -> bool:
    """Whether the queue of the path is there. Raises `Fault` (404), which says what is not."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    if vhost is None:
        raise Fault(404, "not_found", "vhost_not_found")
    if call.path["queue"] not in vhost.queues:
        raise Fault(404, "not_found", "queue_not_found")
    return True


async def get(call: Call) -> Any:
    """Messages from the front of a queue, which may go back when all are read."""
    ackmode, count, encoding = call.fields("ackmode", "count", "encoding")
    outcome = _OUTCOMES.get(ackmode) if isinstance(ackmode, str) else None
    if outcome is None:
        raise bad_request(["unknown_ackmode", ackmode])
    wanted = _integer(count)
    if encoding not in ("auto", "base64"):
        raise bad_request("Unsupported encoding. Please use auto or base64.")
    bytes_max = None if call.body.get("truncate") is None else _integer(call.body["truncate"])
    try:
        return Reply(200, await _take(call, outcome, wanted, encoding, bytes_max))
    except AmqpError as error:
        raise _as_channel_error(error) from error


async def _take(
    call: Call, outcome: Outcome, wanted: int, encoding: str, bytes_max: int | None
) -> list[dict[str, Any]]:
    queue = queue_to_read(call.asker, call.path["queue"])
    breather = Breather(call.broker.world.clock)
    messages: list[dict[str, Any]] = []
    indexes: list[int] = []
    try:
        while len(messages) < wanted:
            got = await call.settled(queue.get(no_ack=outcome is Outcome.ACK))
            if got is None:
                break
            indexes.append(got.index)
            messages.append(_message(got, encoding, bytes_max))
            await breather.breathe()
    finally:
        if outcome is not Outcome.ACK:
            _settle(queue, indexes, outcome)
    return messages


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (ValueError, TypeError):
        raise bad_request(["not_integer", value]) from None


def _settle(queue: Queue, indexes: list[int], outcome: Outcome) -> None:
    for index in indexes:
        queue.settle(range(index, index + 1), outcome)


def _message(got: Got, encoding: str, bytes_max: int | None) -> dict[str, Any]:
    pieces = list(_frames(got.raw))
    _, _, content = pamqp_frame.unmarshal(pieces[0])
    assert isinstance(content, header.ContentHeader)
    payload = b"".join(piece[FRAME_HEAD_BYTES:-1] for piece in pieces[1:])
    shown = payload if bytes_max is None else payload[:bytes_max]
    text = None
    if encoding == "auto":
        try:
            text = shown.decode()
        except UnicodeDecodeError:
            pass  # Octets, then.
    return {
        "payload_bytes": len(payload),
        "redelivered": got.redelivered,
        "exchange": got.origin.exchange,
        "routing_key": got.origin.routing_key,
        "message_count": got.ready,
        "properties": _shown_properties(content.properties),
        "payload": base64.b64encode(shown).decode() if text is None else text,
        "payload_encoding": "base64" if text is None else "string",
    }


def _frames(raw: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        _, _, size = FRAME_HEADER.unpack_from(raw, start)
        end = start + size + FRAME_OVERHEAD_BYTES
        yield raw[start:end]
        start = end


def _shown_properties(properties: commands.Basic.Properties) -> dict[str, Any]:
    there = {
        _NAMES.get(name, name): getattr(properties, name)
        for name in (*_NUMBERS, *_TEXTS, "headers")
        if getattr(properties, name) is not None
    }
    return table(there)


# -- purge, and what else is done to queues ------------------------------------------------------


def purge(call: Call) -> int | Pending[int]:
    """Drop all ready messages of a queue."""
    return queue_to_read(call.asker, call.path["queue"]).purge()


def act(call: Call) -> None:
    """Synchronise the mirrors of a queue, or stop that: without mirrors there is nothing to do."""
    [action] = call.fields("action")
    if action not in ("sync", "cancel_sync"):
        raise bad_request(["unknown", action])
