"""Faults of a request, their HTTP status, and the one shape in which every fault is answered."""

from __future__ import annotations

from http import HTTPStatus

from ares_p2p.errors import (
    AresError,
    BadSignature,
    BlobUnavailable,
    DiskFull,
    MethodRefused,
    NetworkFault,
    NotYetReleased,
    OperatorRefused,
    Oversize,
    PeerFault,
    RateLimited,
    UnknownPath,
    UnknownWorker,
    WrongMoment,
)

_STATUS: dict[type[AresError], HTTPStatus] = {
    UnknownWorker: HTTPStatus.NOT_FOUND,
    UnknownPath: HTTPStatus.NOT_FOUND,
    MethodRefused: HTTPStatus.METHOD_NOT_ALLOWED,
    BadSignature: HTTPStatus.UNAUTHORIZED,
    NotYetReleased: HTTPStatus.FORBIDDEN,
    OperatorRefused: HTTPStatus.UNAUTHORIZED,
    WrongMoment: HTTPStatus.CONFLICT,
    BlobUnavailable: HTTPStatus.NOT_FOUND,
    Oversize: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    PeerFault: HTTPStatus.BAD_REQUEST,
    NetworkFault: HTTPStatus.SERVICE_UNAVAILABLE,
    DiskFull: HTTPStatus.INSUFFICIENT_STORAGE,
}


def status_of(fault: AresError) -> int:
    """Return the HTTP status of a fault: 4xx is the asker's, 5xx is ours."""
    for cls in type(fault).__mro__:  # the closest class that has a status
        if cls in _STATUS:
            return _STATUS[cls]
    return HTTPStatus.INTERNAL_SERVER_ERROR
