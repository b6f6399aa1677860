"""One picture of the peer, folded from events: pure, no I/O.

Credit is *pending* from the round's manifest that accepted the work until its settlement says
what it earned; the settled balance is the one the last settlement named, never our own sum.
Every refusal keeps its code and sentence: credit that silently does not arrive is the
complaint this exists to prevent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

from ares_p2p.errors import AuditReportWrong
from ares_p2p.rounds.audits import TRAINER_ROLE
from ares_peer.events import (
    AuditReported,
    AuditSettled,
    AuditStarted,
    CommitSent,
    CreditSettled,
    CreditTaken,
    CycleDone,
    ErrorRaised,
    Event,
    FirstAccepted,
    IdentityKnown,
    Phase,
    PhaseChanged,
    RoundCorrected,
    RoundDone,
    RoundOpened,
    StepDone,
    SupervisorNote,
    SyncProgress,
    Traffic,
    WayChanged,
)
from ares_peer.wording import sentence

MAX_PENDING: Final = 512  # rounds; bounds the file when settlements stay away for days
MAX_REFUSALS: Final = 32  # distinct codes


@dataclass(frozen=True, slots=True)
class RoundView:
    """The round that runs, or ran last."""

    cycle: int
    round: int
    rounds: int
    deadline_ms: int
    step: int = 0
    max_steps: int = 0
    loss: float | None = None
    tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SyncView:
    """What is being fetched."""

    what: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class RefusalView:
    """Why work was not accepted or not paid: by code, with the newest sentence and round."""

    code: str
    message: str
    count: int
    cycle: int
    round: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class ErrorView:
    """The last error the trainer reported."""

    code: str
    message: str
    hint: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the life of this data directory."""

    rounds_accepted: int = 0  # clipped ones included
    rounds_clipped: int = 0
    rounds_refused: int = 0
    rounds_missed: int = 0
    rounds_void: int = 0
    rounds_failed_audit: int = 0
    audits_reported: int = 0
    audits_paid: int = 0
    audits_contradicted: int = 0
    audits_unpaid: int = 0  # for another reason than a contradiction
    tokens: int = 0
    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """Everything `ares-peer status` shows."""

    pid: int
    started_s: float  # start time of the supervisor's process; pid and this name it for good
    device: str = ""
    role: str = TRAINER_ROLE
    trainer_pid: int | None = None
    restarts: int = 0
    stopping: bool = False  # a person asked for the end
    updated_ms: int = 0
    network: str = ""
    peer_id: str = ""
    name: str = ""
    addresses: tuple[str, ...] = ()
    way: str = ""  # how the network is reached: p2p, relay or http
    phase: Phase = Phase.STARTING
    detail: str = ""
    sync: SyncView | None = None
    round: RoundView | None = None
    state: str = ""  # hex digest of the newest state
    pending: tuple[tuple[int, int], ...] = ()  # (cycle, round), oldest first
    settled_ucredits: int | None = None  # None: no settlement seen yet
    totals: Totals = field(default_factory=Totals)
    trainer_traffic: tuple[int, int] = (0, 0)  # up, down as this trainer counted them
    refusals: tuple[RefusalView, ...] = ()  # newest first
    last_round_done: tuple[int, int] | None = None
    last_event: str = ""
    last_error: ErrorView | None = None
    first_accepted_s: float | None = None


def carried_over(earlier: Status, fresh: Status) -> Status:
    """Return the `fresh` status of a new run with the totals of an `earlier` one."""
    return replace(
        fresh,
        network=earlier.network,
        state=earlier.state,
        pending=earlier.pending,
        settled_ucredits=earlier.settled_ucredits,
        totals=earlier.totals,
        refusals=earlier.refusals,
        last_round_done=earlier.last_round_done,
    )


def advance(status: Status, event: Event, *, now_ms: int) -> Status:
    """Return the status after `event`."""
    status = replace(_folded(status, event, now_ms), updated_ms=now_ms)
    passing = isinstance(event, PhaseChanged | RoundOpened)  # phase and round tell these
    said = "" if passing else sentence(event)
    return replace(status, last_event=said) if said else status


def _folded(status: Status, event: Event, now_ms: int) -> Status:
    match event:
        case PhaseChanged():
            sync = status.sync if event.phase is Phase.SYNCING else None
            return replace(status, phase=event.phase, detail=event.detail, sync=sync)
        case SyncProgress():
            return replace(status, sync=SyncView(event.what, event.done_bytes, event.total_bytes))
        case IdentityKnown():
            return replace(
                status,
                peer_id=event.peer_id,
                network=event.network,
                name=event.name,
                addresses=event.addresses,
            )
        case WayChanged():
            return replace(status, way=event.way)
        case RoundOpened():
            opened = RoundView(event.cycle, event.round, event.rounds, event.deadline_ms)
            return replace(status, round=opened, state=event.state)
        case StepDone():
            return _with_step(status, event)
        case CommitSent():
            return _with_commit(status, event, now_ms)
        case RoundDone():
            return _with_round_done(status, event, now_ms)
        case RoundCorrected():
            return _with_refusal(status, event, now_ms) if event.code else status
        case CreditSettled():
            return _with_credit(status, event, now_ms)
        case CreditTaken():
            return _with_loss(status, event, now_ms)
        case AuditStarted():
            replayed = RoundView(
                event.cycle, event.round, event.rounds, event.deadline_ms, max_steps=event.steps
            )
            return replace(status, round=replayed)
        case AuditReported():
            return _with_report(status, event, now_ms)
        case AuditSettled():
            return _with_audit_pay(status, event, now_ms)
        case Traffic():
            return _with_traffic(status, event)
        case FirstAccepted():
            return replace(status, first_accepted_s=event.seconds)
        case CycleDone():
            return replace(status, state=event.state, round=None)
        case ErrorRaised():
            view = ErrorView(event.code, event.message, event.hint, now_ms)
            return replace(status, last_error=view)
        case SupervisorNote():
            return _with_note(status, event)


def _with_note(status: Status, event: SupervisorNote) -> Status:
    match event.what:
        case "started":
            return replace(status, phase=Phase.STARTING, detail="", way="", trainer_traffic=(0, 0))
        case "restarting":
            return replace(status, phase=Phase.WAITING, detail="for the trainer's next start")
        case "stopping":
            return replace(status, stopping=True)
        case _:
            return status


def _with_step(status: Status, event: StepDone) -> Status:
    if status.round is None:
        return status
    stepped = replace(
        status.round,
        step=event.step,
        max_steps=event.max_steps,
        loss=event.loss if math.isfinite(event.loss) else None,
        tokens_per_s=event.tokens_per_s if math.isfinite(event.tokens_per_s) else 0.0,
    )
    return replace(status, round=stepped)


def _with_commit(status: Status, event: CommitSent, now_ms: int) -> Status:
    if event.accepted:
        totals = replace(status.totals, tokens=status.totals.tokens + event.tokens)
        return replace(status, totals=totals)
    return _with_refusal(status, event, now_ms)


def _with_round_done(status: Status, event: RoundDone, now_ms: int) -> Status:
    done = (event.cycle, event.round)
    if status.last_round_done == done:  # told again after a restart of the trainer
        return status
    status = replace(status, last_round_done=done, state=event.state or status.state)
    totals = status.totals
    if event.status in ("accepted", "clipped"):
        totals = replace(
            totals,
            rounds_accepted=totals.rounds_accepted + 1,
            rounds_clipped=totals.rounds_clipped + (event.status == "clipped"),
        )
        pending = (*(key for key in status.pending if key != done), done)[-MAX_PENDING:]
        return replace(status, totals=totals, pending=pending)
    if event.status == "refused":
        totals = replace(totals, rounds_refused=totals.rounds_refused + 1)
        return _with_refusal(replace(status, totals=totals), event, now_ms)
    return replace(status, totals=replace(totals, rounds_missed=totals.rounds_missed + 1))


def _with_credit(status: Status, event: CreditSettled, now_ms: int) -> Status:
    settled = (event.cycle, event.round)
    totals = replace(
        status.totals,
        rounds_void=status.totals.rounds_void + (not event.is_paid and event.outcome != "fail"),
        rounds_failed_audit=status.totals.rounds_failed_audit
        + (not event.is_paid and event.outcome == "fail"),
    )
    status = replace(
        status,
        totals=totals,
        pending=tuple(key for key in status.pending if key != settled),
        settled_ucredits=event.balance_ucredits,
    )
    return status if event.is_paid else _with_refusal(status, event, now_ms)


def _with_loss(status: Status, event: CreditTaken, now_ms: int) -> Status:
    if status.settled_ucredits is not None:
        left = max(0, status.settled_ucredits - event.ucredits)
        status = replace(status, settled_ucredits=left)
    told = CreditSettled(event.cycle, event.round, "void", 0, 0, event.code, sentence(event))
    return _with_refusal(status, told, now_ms)


def _with_report(status: Status, event: AuditReported, now_ms: int) -> Status:
    if not event.accepted:
        return _with_refusal(status, event, now_ms)
    place = (event.cycle, event.round)
    totals = replace(status.totals, audits_reported=status.totals.audits_reported + 1)
    pending = (*(key for key in status.pending if key != place), place)[-MAX_PENDING:]
    return replace(status, totals=totals, pending=pending)


def _with_audit_pay(status: Status, event: AuditSettled, now_ms: int) -> Status:
    totals, contradicted = status.totals, event.code == AuditReportWrong.code
    paid = event.reward_ucredits > 0
    totals = replace(
        totals,
        audits_paid=totals.audits_paid + paid,
        audits_contradicted=totals.audits_contradicted + contradicted,
        audits_unpaid=totals.audits_unpaid + (not paid and not contradicted),
    )
    status = replace(
        status,
        totals=totals,
        pending=tuple(key for key in status.pending if key != (event.cycle, event.round)),
        settled_ucredits=event.balance_ucredits,
    )
    return _with_refusal(status, event, now_ms) if event.code else status


def _with_traffic(status: Status, event: Traffic) -> Status:
    up, down = status.trainer_traffic
    totals = replace(
        status.totals,
        up_bytes=status.totals.up_bytes + max(0, event.up_bytes - up),
        down_bytes=status.totals.down_bytes + max(0, event.down_bytes - down),
    )
    return replace(status, totals=totals, trainer_traffic=(event.up_bytes, event.down_bytes))


def _with_refusal(
    status: Status,
    event: CommitSent | RoundDone | RoundCorrected | CreditSettled | AuditReported | AuditSettled,
    now_ms: int,
) -> Status:
    before = next((one.count for one in status.refusals if one.code == event.code), 0)
    newest = RefusalView(event.code, event.message, before + 1, event.cycle, event.round, now_ms)
    others = tuple(one for one in status.refusals if one.code != event.code)
    return replace(status, refusals=(newest, *others)[:MAX_REFUSALS])
