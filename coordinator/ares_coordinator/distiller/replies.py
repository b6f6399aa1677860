"""What comes back from a teacher's API, free of the SDK: a reply, or what a failed call means.

What matters about a failure is the money, so there are two kinds of it for one request, beside the
TeacherFault that ends a run: certainly not billed, or nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ares_coordinator.store.request_rows import Usage

PROVIDER_URL: Final = "https://api.anthropic.com"  # said, so that no variable can send us elsewhere


class Why(StrEnum):
    """Why a request has no answer and no bill."""

    OVERLOADED = "overloaded"  # 429, 529: everybody should slow down
    FAILED = "failed"  # 5xx of the provider's own: try again
    UNREACHABLE = "unreachable"  # it never left: no connection
    BAD_REQUEST = "bad_request"  # 400, 413, 422: this request is wrong, or too large


class NotAnswered(Exception):
    """A request that was certainly not billed.

    Args:
        why: what to do about it.
        detail: what the provider said, for people.
        headers: of the refusal, in lower case: how long to wait is in them.
    """

    def __init__(self, why: Why, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail
        self.headers = headers or {}


class MaybeBilled(Exception):
    """A request that was sent and whose answer did not come, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        text: the text blocks, joined; "" when there are none.
        refusal: category of a refusal; "unnamed" for one without, "" for no refusal.
        model: who answered.
        request_id: the provider's name of the request, for asking them about it.
        headers: of the answer, in lower case: the state of the rate limits is in them.
    """

    text: str
    stop_reason: str
    refusal: str
    explanation: str
    model: str
    usage: Usage
    request_id: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the API says of the model; the careful guess where it says nothing."""

    model: str
    structured_outputs: bool = False
    thinks: bool = False  # thinking comes out of max_tokens, so leave room for it
    effort: bool = False
    max_tokens: int | None = None
    notice: str = ""  # for the operator: when the model will go
