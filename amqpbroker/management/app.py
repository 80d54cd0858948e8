"""The API as an ASGI application: who asks, what for, and the answer as JSON.

The rules that all resources share, in the order of RabbitMQ's own (cowboy_rest): the path (404),
the method (405), the user (401), whether the thing is there (404), and then what the resource does.
"""

import inspect
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from amqpbroker.errors import (
    AccessRefused,
    AmqpError,
    DefinitionError,
    InternalError,
    NotAllowed,
    NotFound,
)
from amqpbroker.management import metrics
from amqpbroker.management.access import REALM, authenticate
from amqpbroker.management.call import (
    Call,
    Caller,
    Fault,
    Management,
    Reply,
    bad_request,
    not_authorised,
    not_found,
)
from amqpbroker.management.encoding import Pieces, encode
from amqpbroker.management.listing import Listing, listed, reduced, wanted_columns
from amqpbroker.management.resource import Resource
from amqpbroker.queues.queue import Pending

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 20_000_000
_SILENT = ("PUT", "DELETE")
"""Methods that are answered by a status alone."""


def management_app(
    management: Management, resources: tuple[Resource, ...], caller: Caller | None = None
) -> ASGIApp:
    """The application; ``caller`` is who asks unless the request says who, with a password.

    None: every request must say it.
    """
    routes = [
        Route(f"/api{resource.path}", _Endpoint(management, resource, caller))
        for resource in resources
    ]
    routes += [
        Route("/metrics", _text(lambda query: metrics.aggregated(management))),
        Route("/metrics/per-object", _text(lambda query: metrics.per_object(management))),
        Route("/metrics/detailed", _text(lambda query: _detailed(management, query))),
    ]
    app = Starlette(routes=routes, exception_handlers={404: _no_path})

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # Names are parts of the path, and may hold slashes: they are decoded one by one.
            raw = scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")
            scope["path"] = raw.rstrip("/")
        await app(scope, receive, send)

    return serve


def _text(make: Callable[[QueryParams], Pieces]) -> Callable[[Request], Any]:
    """An endpoint for what is written in one go; anybody may read it, as in RabbitMQ."""

    async def serve(request: Request) -> Response:
        return _Stream(make(request.query_params), metrics.CONTENT_TYPE)

    return serve


def _detailed(management: Management, query: QueryParams) -> Pieces:
    return metrics.detailed(management, query.getlist("family"), query.getlist("vhost"))


async def _no_path(request: Request, error: Exception) -> Response:
    return _fault_response(not_found())


class _Endpoint:
    """Serves one resource."""

    def __init__(self, management: Management, resource: Resource, caller: Caller | None) -> None:
        self._management = management
        self._resource = resource
        self._methods = resource.methods
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Fault as fault:
            response = _fault_response(fault)
        except (NotFound, AccessRefused, NotAllowed) as error:
            response = _fault_response(_refused(error))
        except InternalError as error:
            response = _fault_response(Fault(503, "service_unavailable", error.text))
        except AmqpError as error:
            response = _fault_response(bad_request(error.text))
        except DefinitionError as error:
            response = _fault_response(bad_request(str(error)))
        except Exception:
            log.exception("a bug: %s %s", request.method, scope["path"])
            response = _fault_response(Fault(500, "Internal Server Error", "the log says more"))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method, broker = request.method, self._management.broker
        if method == "OPTIONS":
            return Response(headers={"allow": self._allowed()})
        if method not in self._methods:
            return Response(status_code=405, headers={"allow": self._allowed()})
        path = {name: unquote(value) for name, value in request.path_params.items()}
        body = await _body_of(request)
        call = Call(self._management, method, path, request.query_params, body, request.headers)
        authorization = request.headers.get("authorization", "")
        if self._caller is not None:
            host = self._caller.host
        else:
            host = request.client.host if request.client is not None else ""
        if self._caller is not None and not authorization:
            call.caller = self._caller
        else:
            call.caller = authenticate(broker, authorization, host)
        self._resource.guard(call)
        found = self._resource.exists(call)
        is_there = bool(await found if inspect.isawaitable(found) else found)
        if not is_there and method != "PUT":
            raise not_found()
        try:
            answer = self._methods[method](call)
            if isinstance(answer, Pending):
                await call.settled(answer)
                answer = None
            elif inspect.isawaitable(answer):
                answer = await answer
        finally:
            broker.turn.end_batch()
        if answer is None or (method in _SILENT and not isinstance(answer, Reply)):
            return Response(status_code=204 if is_there else 201)
        return await self._response(call, answer)

    async def _response(self, call: Call, answer: Any) -> Response:
        if isinstance(answer, Listing):
            clock = self._management.broker.world.clock
            return await _list_response(listed(answer, call.query, clock))
        if not isinstance(answer, Reply):
            answer = Reply(200, answer)
        headers = {} if answer.location is None else {"location": answer.location}
        if answer.data is None:
            return Response(status_code=answer.status, headers=headers)
        data = answer.data
        if isinstance(data, bytes):
            return Response(data, answer.status, headers, "text/plain; version=0.0.4")
        return _json(encode(reduced(data, wanted_columns(call.query))), answer.status, headers)

    def _allowed(self) -> str:
        return ", ".join([*self._methods, "OPTIONS"])


async def _body_of(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise bad_request("Exceeded HTTP request body size limit")
    return bytes(body)


class _Stream(Response):
    """An answer that goes piece by piece; ``pieces`` are closed whatever happens."""

    def __init__(self, pieces: Pieces, media_type: str) -> None:
        super().__init__(headers={"cache-control": "no-cache"}, media_type=media_type)
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _list_response(pieces: Pieces) -> Response:
    """A short list goes in one piece, a long one as it is made."""
    first = [await anext(pieces)]
    async for piece in pieces:
        first.append(piece)
        if len(first) > 2:
            return _Stream(_resumed(first, pieces), "application/json")
    return _json(b"".join(first), 200, {})


async def _resumed(first: list[bytes], rest: Pieces) -> Pieces:
    async with aclosing(rest):
        for piece in first:
            yield piece
        async for piece in rest:
            yield piece


def _refused(error: AmqpError) -> Fault:
    """What the broker's rules have against it, as RabbitMQ says it over HTTP."""
    if isinstance(error, NotFound):
        return Fault(404, "not_found", error.text)
    return not_authorised("Access refused.")


def _json(data: bytes, status: int, headers: dict[str, str]) -> Response:
    return Response(data, status, {"cache-control": "no-cache", **headers}, "application/json")


def _fault_response(fault: Fault) -> Response:
    headers = {}
    if fault.status == 401 and fault.error in ("", "not_authorized"):
        headers["www-authenticate"] = f'Basic realm="{REALM}"'
    if not fault.error:
        return Response(status_code=fault.status, headers=headers)
    data = encode({"error": fault.error, "reason": fault.reason})
    return Response(data, fault.status, headers, "application/json")
