"""How things are said to a person: numbers, durations, and a sentence per event. Pure."""

from __future__ import annotations

import math
from typing import Final

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
    SupervisorNote,
    WayChanged,
)

UCREDITS_PER_CREDIT: Final = 1_000_000
SHORT_PEER_CHARS: Final = 16  # of a peer id: all begin with the same eight
MAX_NAMES: Final = 4  # on one line

_PHASES: Final = {
    Phase.STARTING: "starting",
    Phase.CONNECTING: "connecting to the network",
    Phase.SYNCING: "fetching what the cycle needs",
    Phase.WAITING: "waiting for the next round",
    Phase.TRAINING: "training",
    Phase.UPLOADING: "committing the work",
    Phase.EXCHANGING: "exchanging with other peers",
    Phase.AGGREGATING: "averaging",
    Phase.AUDITING: "replaying another peer's work",
    Phase.FINISHING: "finishing this round",
    Phase.STOPPED: "stopped",
}


_WAYS: Final = {
    "p2p": "peer to peer",
    "relay": "peer to peer, through a relay",
    "http": "over HTTPS, through the coordinator",
}


def way_text(way: str) -> str:
    """Return how the network is reached."""
    return _WAYS.get(way, way)


def phase_text(phase: Phase, detail: str = "") -> str:
    """Return what the peer does now."""
    return f"{phase}: {detail}" if detail else _PHASES[phase]


def credits_text(ucredits: int) -> str:
    """Return micro-credits as credits; rounded down, so that nobody reads more than there is."""
    hundredths = ucredits * 100 // UCREDITS_PER_CREDIT
    sign = "-" if hundredths < 0 else ""
    return f"{sign}{abs(hundredths) // 100:,}.{abs(hundredths) % 100:02d}"


def exact_credits_text(ucredits: int) -> str:
    """Return micro-credits as credits, to the last digit: small networks pay small amounts."""
    whole, rest = divmod(abs(ucredits), UCREDITS_PER_CREDIT)
    digits = f"{rest:06}".rstrip("0").ljust(2, "0")
    return f"{'-' if ucredits < 0 else ''}{whole:,}.{digits}"


def bytes_text(size_bytes: int) -> str:
    """Return a size with three digits: 512 B, 1.50 kB, 23.4 MB (powers of 1000)."""
    value, units = float(size_bytes), ("B", "kB", "MB", "GB", "TB")
    unit = 0
    while value >= 999.5 and unit < len(units) - 1:  # what would round to 1000
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{size_bytes} B"
    digits = max(0, 2 - int(math.log10(max(1.0, value))))
    return f"{value:.{digits}f} {units[unit]}"


def duration_text(seconds: float) -> str:
    """Return a duration as 0:42, 12:05 or 3:12:05."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"


def count_text(count: int, noun: str) -> str:
    """Return "1 round" or "3 rounds"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def reason_text(code: str, message: str) -> str:
    """Return why something was refused: the sentence and its code."""
    return f"{message or 'no reason given'} [{code}]" if code else message or "no reason given"


def sentence(event: Event) -> str:
    """Return `event` in one line, or nothing for those that only move a number."""
    match event:
        case PhaseChanged():
            return phase_text(event.phase, event.detail)
        case IdentityKnown():
            return f"this peer is {event.peer_id} on {event.network}"
        case WayChanged():
            why = f": {event.why}" if event.why else ""
            return f"connected {way_text(event.way)}{why}"
        case RoundOpened():
            return f"round {event.round + 1}/{event.rounds} of cycle {event.cycle} opened"
        case CommitSent() if event.accepted:
            work = f"{count_text(event.steps, 'step')}, {count_text(event.tokens, 'token')}"
            return f"round {event.round + 1}: {work} committed"
        case CommitSent():
            why = reason_text(event.code, event.message)
            return f"round {event.round + 1}: commit refused: {why}"
        case RoundDone():
            return _round_done(event)
        case RoundCorrected():
            return _corrected(event)
        case CreditSettled():
            return _credit(event)
        case CreditTaken():
            lost = credits_text(event.ucredits)
            return f"round {event.round + 1}: {lost} of credit are lost again [{event.code}]"
        case AuditStarted():
            work = f"{count_text(event.steps, 'step')} of {event.author[-8:]}"
            return f"round {event.round + 1}: replaying {work}"
        case AuditReported() if event.accepted:
            tokens = count_text(event.tokens, "token")
            return f"round {event.round + 1}: replay of {event.commit[:12]} reported, {tokens}"
        case AuditReported():
            why = reason_text(event.code, event.message)
            return f"round {event.round + 1}: report on {event.commit[:12]} not taken: {why}"
        case AuditSettled():
            return _audit_pay(event)
        case FirstAccepted():
            return f"first contribution accepted {duration_text(event.seconds)} after the start"
        case CycleDone():
            return f"cycle {event.cycle} is complete"
        case ErrorRaised():
            hint = f" ({event.hint})" if event.hint else ""
            return f"error {reason_text(event.code, event.message)}{hint}"
        case SupervisorNote():
            return event.detail
        case _:
            return ""


def _round_done(event: RoundDone) -> str:
    head = f"round {event.round + 1}"
    match event.status:
        case "accepted" if event.code:
            why = reason_text(event.code, event.message)
            return f"{head} accepted as work, but not used: {why}"
        case "accepted":
            return f"{head} accepted"
        case "clipped":
            return f"{head} accepted, scaled down: {reason_text(event.code, event.message)}"
        case "refused":
            return f"{head} refused: {reason_text(event.code, event.message)}"
        case _:
            return f"{head} missed" + (f": {event.message}" if event.message else "")


def _corrected(event: RoundCorrected) -> str:
    losses = (
        f"held-out loss {event.held_out_before:.3f} before it, {event.held_out_bad:.3f} after it, "
        f"{event.held_out_after:.3f} now"
    )
    if event.code:
        text = f"round {event.round + 1}: this peer's contribution was taken out again"
        why = reason_text(event.code, event.message)
        return f"{text}: {why}; its credit depends on its audit alone"
    names = ", ".join(peer[:SHORT_PEER_CHARS] for peer in event.taken_out[:MAX_NAMES])
    if len(event.taken_out) > MAX_NAMES:
        names += f" and {len(event.taken_out) - MAX_NAMES} more"
    return (
        f"round {event.round + 1} is corrected, without {names}: {losses}; the work of "
        f"round {event.in_round + 1} is audited and paid, but not used"
    )


def _credit(event: CreditSettled) -> str:
    head = f"round {event.round + 1}"
    why = reason_text(event.code, event.message)
    if event.is_paid:
        earned, balance = credits_text(event.reward_ucredits), credits_text(event.balance_ucredits)
        remark = f" ({why})" if event.code else ""
        return f"{head} settled: +{earned}, balance {balance}{remark}"
    outcome = "failed its audit" if event.outcome == "fail" else "void, no credit"
    return f"{head} {outcome}: {why}"


def _audit_pay(event: AuditSettled) -> str:
    head = f"round {event.round + 1}: replay of {event.commit[:12]}"
    balance = credits_text(event.balance_ucredits)
    why = f": {reason_text(event.code, event.message)}" if event.code else ""
    if event.reward_ucredits:
        return f"{head} paid: +{credits_text(event.reward_ucredits)}, balance {balance}{why}"
    return f"{head} not paid, balance {balance}{why}"
