"""Middlewares: one error shape, CORS, security headers; and replies with an ETag.

Every fault leaves as `{"error": {"code", "message", "hint"}}`. What went wrong inside is logged,
not told: the asker gets the code only.
"""

from __future__ import annotations

from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, TypeAdapter

from ares_coordinator.api.errors import status_of
from ares_coordinator.api.schemas_base import ErrorBody, ErrorReply
from ares_p2p.errors import AresError, InternalFault, MethodRefused, RequestRefused, UnknownPath
from ares_p2p.ids import sha256

JSON_TYPE = "application/json"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "cross-origin",  # public data, read from anywhere
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # JSON loads nothing
}
READS = (hdrs.METH_GET, hdrs.METH_HEAD)

log = structlog.get_logger(__name__)


def json_reply(request: web.Request, reply: BaseModel) -> web.Response:
    """Return a reply as JSON, or 304 when the asker has it already."""
    return _tagged(request, reply.model_dump_json(by_alias=True).encode())


def json_list_reply(request: web.Request, replies: list[BaseModel]) -> web.Response:
    """Return a bare JSON array, or 304."""
    encode = TypeAdapter(list[BaseModel]).dump_json
    return _tagged(request, encode(replies, by_alias=True, serialize_as_any=True))


def _tagged(request: web.Request, body: bytes) -> web.Response:
    tag = sha256(body).hex()[:32]
    known = request.if_none_match or ()
    if any(one.value in (tag, "*") for one in known):
        response = web.Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        response = web.Response(body=body, content_type=JSON_TYPE, charset="utf-8")
    response.etag = tag
    response.headers[hdrs.CACHE_CONTROL] = "no-cache"  # keep it, but ask before using it again
    return response


def error_response(fault: AresError) -> web.Response:
    """Return a fault in the one shape."""
    status = status_of(fault)
    message = fault.message
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        message = "the coordinator could not answer; its log says why"
    body = ErrorReply(error=ErrorBody(code=fault.code, message=message, hint=fault.hint))
    response = web.Response(
        status=status, body=body.model_dump_json().encode(), content_type=JSON_TYPE, charset="utf-8"
    )
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


@web.middleware
async def shape_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every fault in the one shape."""
    try:
        return await handler(request)
    except AresError as fault:
        if status_of(fault) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("request_failed", path=request.path, code=fault.code, why=fault.message)
        return error_response(fault)
    except web.HTTPException as refused:
        return _shaped(request, refused)
    except Exception:
        log.exception("request_crashed", path=request.path)
        return error_response(InternalFault("an unexpected fault"))


def _shaped(request: web.Request, refused: web.HTTPException) -> web.StreamResponse:
    if refused.status < HTTPStatus.BAD_REQUEST:
        raise refused
    if refused.status == HTTPStatus.NOT_FOUND:
        return error_response(UnknownPath(f"there is nothing at {request.path[:100]}"))
    if isinstance(refused, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(refused.allowed_methods))
        response = error_response(
            MethodRefused(f"{request.method[:20]} expected to be one of {allowed}")
        )
        response.headers[hdrs.ALLOW] = allowed
        return response
    response = error_response(RequestRefused(refused.reason))
    response.set_status(refused.status)
    return response


@web.middleware
async def add_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let any page read what is public, and nothing more."""
    response = await handler(request)
    if not response.prepared:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        if request.method in READS:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = f"{hdrs.ETAG}, {hdrs.LINK}"
    return response
