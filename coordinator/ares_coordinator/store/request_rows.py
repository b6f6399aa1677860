"""Rows of the ledger of paid requests, as frozen dataclasses. Free of SQL.

A request is a row before it leaves this machine. Its key is the hash of its canonical parameters
and its purpose, so the same question after a restart finds its answer and is not asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RequestState(StrEnum):
    """Where a request stands.

    SENT: reserved at its worst case, and on its way or about to be. DONE: the reply is stored,
    its real cost counted. RELEASED: certainly not billed; may be asked again. LOST: was sent when
    the process died: counted as spent in full, and never asked again unless the operator says so.
    """

    SENT = "sent"
    DONE = "done"
    RELEASED = "released"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the reply counts them. Thinking is among the output."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What is spent or reserved in the scopes that a new request falls into."""

    run_microusd: int = 0
    day_microusd: int = 0
    cycle_microusd: int = 0
    category_microusd: int = 0


@dataclass(frozen=True, slots=True)
class RequestPlace:
    """What a request is for; its caps follow from it. `day` counts days since the epoch, UTC."""

    run_id: str
    day: int
    cycle: int
    category: str
    purpose: str  # "example", "judge", ...


@dataclass(frozen=True, slots=True)
class StoredReply:
    """What came back: the joined text, and why it ended."""

    text: str
    stop_reason: str
    refusal: str  # the provider's category of a refusal, "" when it is none
    model: str  # that answered; an alias may stand for another name
    usage: Usage
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """The answer to a reservation: go and ask, or here is what was answered before."""

    state: RequestState  # SENT: ours to send now; DONE: `reply` is there; LOST: leave it
    permission_ref: str  # the permission under which it was sent
    reply: StoredReply | None = None


@dataclass(frozen=True, slots=True)
class RequestTotals:
    """Sums over the ledger."""

    category: str
    state: RequestState
    requests: int
    cost_microusd: int  # of `sent` and `lost`: the reservation
    usage: Usage
