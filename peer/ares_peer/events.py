"""What the trainer tells the supervisor: one JSON object per line on the trainer's stdout.

The trainer calls `claim_stdout()` first, so that a library's stray `print` lands in the log and
not between the events, and then `emit(event)`. The supervisor feeds the bytes to an
`EventReader`: lines are bounded, unknown events are skipped and counted, and so is garbage; no
byte of the trainer can stop the supervisor. Text comes from other peers in the end (a refusal's
message): control characters are removed here, so that none reaches a terminal.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Any, BinaryIO, ClassVar, Final, get_type_hints

from ares_p2p.errors import Oversize, PayloadMalformed

MAX_LINE_BYTES: Final = 16_384  # 8x the longest event; bounds the supervisor's memory
MAX_TEXT_CHARS: Final = 1_000  # per field; the longest message of the error tree is below 300
MAX_INTEGER: Final = 2**63 - 1


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
    FINISHING = "finishing"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The trainer does something else now."""

    kind: ClassVar[str] = "phase"
    phase: Phase
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """Bytes of something that is fetched: `what` is base, dataset or snapshot."""

    kind: ClassVar[str] = "sync"
    what: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class IdentityKnown:
    """Who this peer is, and where."""

    kind: ClassVar[str] = "identity"
    peer_id: str
    network: str
    name: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """A round to train in; `state` is the hex digest it starts from."""

    kind: ClassVar[str] = "round_open"
    cycle: int
    round: int
    rounds: int
    deadline_ms: int
    state: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """One local step."""

    kind: ClassVar[str] = "step"
    step: int
    max_steps: int
    loss: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class CommitSent:
    """The round's work was committed to; `commit` is its hex digest."""

    kind: ClassVar[str] = "commit"
    cycle: int
    round: int
    steps: int
    tokens: int
    commit: str
    accepted: bool
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RoundDone:
    """What the round did with the work: `status` is accepted, clipped, refused or missed."""

    kind: ClassVar[str] = "round_done"
    cycle: int
    round: int
    status: str
    coefficient: float
    code: str
    message: str
    state: str


@dataclass(frozen=True, slots=True)
class CreditSettled:
    """The audits of a round are closed: `outcome` is pass, void or fail."""

    kind: ClassVar[str] = "credit"
    cycle: int
    round: int
    outcome: str
    reward_ucredits: int
    balance_ucredits: int
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes sent and received since the trainer started."""

    kind: ClassVar[str] = "traffic"
    up_bytes: int
    down_bytes: int


@dataclass(frozen=True, slots=True)
class FirstAccepted:
    """The first contribution was accepted, so many seconds after the start."""

    kind: ClassVar[str] = "first_accepted"
    seconds: float


@dataclass(frozen=True, slots=True)
class CycleDone:
    """The cycle's last round is over; `state` is the hex digest of the final state."""

    kind: ClassVar[str] = "cycle_done"
    cycle: int
    state: str


@dataclass(frozen=True, slots=True)
class ErrorRaised:
    """Something went wrong; after a `fatal` one the trainer exits."""

    kind: ClassVar[str] = "error"
    code: str
    message: str
    hint: str = ""
    fatal: bool = False


Event = (
    PhaseChanged
    | SyncProgress
    | IdentityKnown
    | RoundOpened
    | StepDone
    | CommitSent
    | RoundDone
    | CreditSettled
    | Traffic
    | FirstAccepted
    | CycleDone
    | ErrorRaised
)


class UnknownEvent(PayloadMalformed):
    """A well-formed line of a kind that this version does not know."""


def to_json_line(event: Event) -> bytes:
    """Return `event` as one line of ASCII JSON; long text is cut, a NaN becomes null."""
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
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


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
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        raise PayloadMalformed("event line names no event")
    kind: str = record.pop("event")
    known = _schemas().get(kind)
    if known is None:
        raise UnknownEvent(f"event {clean_text(kind)[:40]!r} is not known here")
    cls, types = known
    values = {
        name: _decoded(kind, name, types[name], record[name]) for name in types if name in record
    }
    try:
        return cls(**values)
    except TypeError as error:
        raise PayloadMalformed(f"event {kind!r} lacks a field") from error


def clean_text(text: str) -> str:
    """Return `text` on one line and without control or formatting characters, cut to the bound."""
    shown = "".join(char if char.isprintable() else " " for char in text[:MAX_TEXT_CHARS])
    return shown.strip()


def claim_stdout() -> BinaryIO:
    """Return the real stdout for events; from now on `print` and C libraries write to stderr."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return events


class EventWriter:
    """Writes events from any thread. A supervisor that is gone is not an error here."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Write one line and flush it."""
        with self._lock:
            try:
                self._stream.write(to_json_line(event))
                self._stream.flush()
            except BrokenPipeError:
                return  # `die_with_parent` ends this process; there is nobody left to tell


def emit(event: Event, *, stream: BinaryIO | None = None) -> None:
    """Write one event line to `stream` (by default this process's stdout) and flush it."""
    EventWriter(sys.stdout.buffer if stream is None else stream).emit(event)


class EventReader:
    """Turns a stream of bytes into events, in bounded memory.

    `garbage` and `unknown` count the lines that were dropped.
    """

    def __init__(self) -> None:
        self.garbage = 0
        self.unknown = 0
        self._rest = b""
        self._skipping = False  # inside a line that is already too long

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = []
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line.strip():
                events += self._parsed(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self.garbage += not self._skipping
            self._rest, self._skipping = b"", True
        return events

    def _parsed(self, line: bytes) -> list[Event]:
        try:
            return [parse_event(line)]
        except UnknownEvent:
            self.unknown += 1
        except (PayloadMalformed, Oversize):
            self.garbage += 1
        return []


def _fit(text: str) -> str:
    return text[:MAX_TEXT_CHARS]


@cache
def _schemas() -> dict[str, tuple[type[Event], dict[str, Any]]]:
    """Return kind -> (class, field name -> type)."""
    found = {}
    for cls in Event.__args__:
        hints = get_type_hints(cls)
        found[cls.kind] = (cls, {field.name: hints[field.name] for field in fields(cls)})
    return found


def _decoded(kind: str, name: str, wanted: Any, raw: object) -> object:
    """Return `raw` as the field's type. Raises: PayloadMalformed."""
    if wanted is str and isinstance(raw, str):
        return clean_text(raw)
    if wanted is bool and isinstance(raw, bool):
        return raw
    if wanted is int and type(raw) is int and abs(raw) <= MAX_INTEGER:
        return raw
    if wanted is float and raw is None:
        return math.nan
    if wanted is float and type(raw) in (int, float) and abs(raw) <= sys.float_info.max:
        return float(raw)
    if wanted is Phase and isinstance(raw, str) and raw in Phase.__members__.values():
        return Phase(raw)
    if wanted == tuple[str, ...] and isinstance(raw, list) and len(raw) <= 32:
        return tuple(clean_text(text) for text in raw if isinstance(text, str))
    raise PayloadMalformed(f"event {kind!r}: field {name!r} is not of its type")
