"""What the trainer tells the supervisor: one JSON object per line on the trainer's stdout.

The trainer calls `claim_stdout()` first, so that a library's stray `print` lands in the log and
not between the events, and hands the stream to an `EventWriter`. The supervisor reads with an
`EventReader`: lines are bounded, unknown events are skipped and counted, and so is garbage; no
byte of the trainer can stop the supervisor. Text comes from other peers in the end (a refusal's
message): control characters are removed here, so that none reaches a terminal.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Annotated, BinaryIO, ClassVar, Final

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from ares_p2p.errors import Oversize, PayloadMalformed

MAX_LINE_BYTES: Final = 16_384  # 8x the longest event; bounds the supervisor's memory
MAX_TEXT_CHARS: Final = 1_000  # per field; the longest message of the error tree is below 300


def clean_text(text: str) -> str:
    """Return `text` on one line, without control or formatting characters, cut to the bound."""
    shown = "".join(char if char.isprintable() else " " for char in text[:MAX_TEXT_CHARS])
    return shown.strip()


Text = Annotated[str, AfterValidator(clean_text)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Amount = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]  # micro-credits
Measure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Phase(StrEnum):
    """What the trainer is busy with."""

    STARTING = "starting"
    CONNECTING = "connecting"
    SYNCING = "syncing"
    WAITING = "waiting"
    TRAINING = "training"
    UPLOADING = "uploading"
    EXCHANGING = "exchanging"
    AGGREGATING = "aggregating"
    AUDITING = "auditing"
    FINISHING = "finishing"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The trainer does something else now."""

    kind: ClassVar[str] = "phase"
    phase: Phase
    detail: Text = ""


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """Bytes of something that is fetched: `what` is base, adapter, merge, dataset or snapshot."""

    kind: ClassVar[str] = "sync"
    what: Text
    done_bytes: Count
    total_bytes: Count


@dataclass(frozen=True, slots=True)
class IdentityKnown:
    """Who this peer is, and where."""

    kind: ClassVar[str] = "identity"
    peer_id: Text
    network: Text
    name: Text = ""
    addresses: Annotated[tuple[Text, ...], Field(max_length=32)] = ()


@dataclass(frozen=True, slots=True)
class WayChanged:
    """How the network is reached from now on: p2p, relay or http; `why` is "" for the first."""

    kind: ClassVar[str] = "way"
    way: Text
    why: Text = ""


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """A round to train in; `state` is the hex digest it starts from."""

    kind: ClassVar[str] = "round_open"
    cycle: Count
    round: Count
    rounds: Count
    deadline_ms: Count
    state: Text


@dataclass(frozen=True, slots=True)
class StepDone:
    """One local step."""

    kind: ClassVar[str] = "step"
    step: Count
    max_steps: Count
    loss: Measure
    tokens_per_s: Measure


@dataclass(frozen=True, slots=True)
class CommitSent:
    """The round's work was committed to; `commit` is its hex digest."""

    kind: ClassVar[str] = "commit"
    cycle: Count
    round: Count
    steps: Count
    tokens: Count
    commit: Text
    accepted: bool
    code: Text = ""
    message: Text = ""


@dataclass(frozen=True, slots=True)
class RoundDone:
    """What the round did with the work: `status` is accepted, clipped, refused or missed."""

    kind: ClassVar[str] = "round_done"
    cycle: Count
    round: Count
    status: Text
    coefficient: Measure
    code: Text
    message: Text
    state: Text


@dataclass(frozen=True, slots=True)
class RoundCorrected:
    """An earlier round was made anew without what made the model worse; `in_round` says so.

    `taken_out` are peer ids; when this peer is one of them, `code` and `message` say why. Losses
    are held-out ones: at the round's start, after it as it was, after it as it is now.
    """

    kind: ClassVar[str] = "round_corrected"
    cycle: Count
    round: Count
    in_round: Count
    taken_out: Annotated[tuple[Text, ...], Field(max_length=128)]
    held_out_before: Measure
    held_out_bad: Measure
    held_out_after: Measure
    code: Text = ""
    message: Text = ""


@dataclass(frozen=True, slots=True)
class CreditSettled:
    """The audits of a round are closed: `outcome` is pass, void, fail or not_drawn."""

    kind: ClassVar[str] = "credit"
    cycle: Count
    round: Count
    outcome: Text
    reward_ucredits: Amount
    balance_ucredits: Amount
    code: Text = ""
    message: Text = ""

    @property
    def is_paid(self) -> bool:
        """Whether it earned what the work is worth; a recorded fault may stand beside it."""
        return self.reward_ucredits > 0 or not self.code


@dataclass(frozen=True, slots=True)
class CreditTaken:
    """Credit of a round that was settled is lost again; `code` says why."""

    kind: ClassVar[str] = "credit_taken"
    cycle: Count
    round: Count
    ucredits: Amount
    code: Text


@dataclass(frozen=True, slots=True)
class AuditStarted:
    """Another peer's commit is trained again; `commit` is its hex digest."""

    kind: ClassVar[str] = "audit_start"
    cycle: Count
    round: Count
    rounds: Count
    commit: Text
    author: Text
    steps: Count
    deadline_ms: Count


@dataclass(frozen=True, slots=True)
class AuditReported:
    """What was measured went to the coordinator, or why it did not."""

    kind: ClassVar[str] = "audit_report"
    cycle: Count
    round: Count
    commit: Text
    tokens: Count
    accepted: bool
    code: Text = ""
    message: Text = ""


@dataclass(frozen=True, slots=True)
class AuditSettled:
    """What a round paid for one replay; `code` says why nothing."""

    kind: ClassVar[str] = "audit_credit"
    cycle: Count
    round: Count
    commit: Text
    reward_ucredits: Amount
    balance_ucredits: Amount
    code: Text = ""
    message: Text = ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes sent and received since the trainer started."""

    kind: ClassVar[str] = "traffic"
    up_bytes: Count
    down_bytes: Count


@dataclass(frozen=True, slots=True)
class FirstAccepted:
    """The first contribution was accepted, so many seconds after the start."""

    kind: ClassVar[str] = "first_accepted"
    seconds: Measure


@dataclass(frozen=True, slots=True)
class CycleDone:
    """The cycle's last round is over; `state` is the hex digest of the final state."""

    kind: ClassVar[str] = "cycle_done"
    cycle: Count
    state: Text


@dataclass(frozen=True, slots=True)
class ErrorRaised:
    """Something went wrong; after a `fatal` one the trainer exits."""

    kind: ClassVar[str] = "error"
    code: Text
    message: Text
    hint: Text = ""
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class SupervisorNote:
    """What the supervisor did itself: started, ended, restarting, stopping, aborting, leftovers."""

    kind: ClassVar[str] = "supervisor"
    what: Text
    detail: Text = ""


Event = (
    PhaseChanged
    | SyncProgress
    | IdentityKnown
    | WayChanged
    | RoundOpened
    | StepDone
    | CommitSent
    | RoundDone
    | RoundCorrected
    | CreditSettled
    | CreditTaken
    | AuditStarted
    | AuditReported
    | AuditSettled
    | Traffic
    | FirstAccepted
    | CycleDone
    | ErrorRaised
    | SupervisorNote
)


class UnknownEvent(PayloadMalformed):
    """A well-formed line of a kind that this version does not know."""


def to_json_line(event: Event) -> bytes:
    """Return `event` as one line of JSON; long text is cut, a NaN becomes null."""
    record: dict[str, object] = {"event": event.kind}
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        elif isinstance(value, tuple):
            value = [_fit(text) for text in value]
        elif isinstance(value, str):
            value = _fit(value)
        record[field.name] = value
    text = json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="replace") + b"\n"


def parse_event(line: bytes | str) -> Event:
    """Return the event that `line` holds.

    Raises: Oversize: a longer line than any event. UnknownEvent: a kind of another version.
        PayloadMalformed: no JSON object, or a field is missing or of another type.
    """
    if len(line) > MAX_LINE_BYTES:
        raise Oversize(f"event line of {len(line)} bytes, at most {MAX_LINE_BYTES} expected")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PayloadMalformed("event line is no JSON") from error
    kind = record.get("event") if isinstance(record, dict) else None
    if not isinstance(kind, str):
        raise PayloadMalformed("event line names no event")
    adapter = _adapters().get(kind)
    if adapter is None:
        raise UnknownEvent(f"event {clean_text(kind)[:40]!r} is not known here")
    try:
        return adapter.validate_json(line, strict=True)
    except ValidationError as error:
        wrong = ", ".join(str(part["loc"][0]) for part in error.errors() if part["loc"])
        raise PayloadMalformed(f"event {kind!r}: not as expected: {wrong}") from error


def claim_stdout() -> BinaryIO:
    """Return the real stdout for events; from now on `print` and C libraries write to stderr."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return events


class EventWriter:
    """Writes events to `stream`, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Write one event line and flush it.

        A supervisor that is gone is not an error: `die_with_parent` ends this process, and there
        is nobody left to tell.
        """
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._stream.write(to_json_line(event))
            self._stream.flush()


def _fit(text: str) -> str:
    return text[:MAX_TEXT_CHARS]


@cache
def _adapters() -> dict[str, TypeAdapter[Event]]:
    """Return kind -> what checks and builds its event."""
    return {cls.kind: TypeAdapter[Event](cls) for cls in Event.__args__}
