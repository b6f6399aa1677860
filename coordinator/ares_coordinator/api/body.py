"""Bodies of requests: bounded while they are read, and exactly what the sender signed."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from ares_coordinator.api.access import BODY_SHA256, WORKER
from ares_p2p.errors import BadSignature, Oversize, PayloadMalformed, RequestRefused
from ares_p2p.ids import PeerId, sha256

BODY_TIMEOUT_S = 60.0  # of 768 KiB: at 13 kB/s; nobody holds a connection by sending nothing

B = TypeVar("B", bound=BaseModel)


def worker_of(request: web.Request) -> PeerId:
    """Return who signed the request.

    Raises: BadSignature: nobody did.
    """
    worker: PeerId | None = request.get(WORKER)
    if worker is None:
        raise BadSignature(
            "this address is for peers: an `Authorization: Ares-Worker ...` header expected",
            hint="`ares-peer join --way http` sends it.",
        )
    return worker


async def signed_body(request: web.Request, *, max_bytes: int) -> bytes:
    """Return the body of a request that a worker signed.

    Raises: BadSignature: unsigned, or another body than the signed one. Oversize.
        RequestRefused: it did not come in time.
    """
    worker_of(request)
    if (request.content_length or 0) > max_bytes:
        raise Oversize(f"a body of {request.content_length} bytes, at most {max_bytes}")
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.content.iter_any():
                received += piece
                if len(received) > max_bytes:
                    raise Oversize(f"a body of more than {max_bytes} bytes")
    except TimeoutError as error:
        raise RequestRefused(f"the body did not come within {BODY_TIMEOUT_S:g} s") from error
    body = bytes(received)
    if sha256(body) != request[BODY_SHA256]:
        raise BadSignature("the body is not the one that was signed")
    return body


async def json_body(request: web.Request, cls: type[B], *, max_bytes: int) -> B:
    """Return the model that a signed JSON body holds.

    Raises: as `signed_body`. PayloadMalformed.
    """
    body = await signed_body(request, max_bytes=max_bytes)
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        fields = ", ".join(
            ".".join(str(step) for step in part["loc"]) or "text"
            for part in error.errors(include_url=False, include_input=False)[:5]
        )
        raise PayloadMalformed(f"the body is no {cls.__name__}: {fields}") from error
