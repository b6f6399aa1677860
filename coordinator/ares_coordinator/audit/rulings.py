"""What an auditor's report is worth: the ruling about it, and the postings that pay or do not.

A report is measures. Held against the thresholds they say pass, void or fail, and where the
coordinator replayed the same work its own measures say so too. Two honest replays of one work
differ by rounding, so their distances from the same claim differ by no more than that: a report
that reaches the right word with other numbers was not made by replaying.

    the report says   our replay says
    pass              nothing: not drawn for a check   trusted, paid
    pass              pass                             agreed, paid
    pass              fail                             contradicted: forged work was let through
    pass              void                             unusable, not paid
    void or fail      void or fail                     agreed, paid
    fail              pass                             contradicted, not paid
    void              pass                             unusable, not paid
    with other numbers than ours                       unusable, not paid

Letting forged work through, with numbers that no honest replay could give, takes back what was
paid since our replay last confirmed a report of that auditor, and ends its being one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ares_coordinator.audit.reports import AuditorDue
from ares_coordinator.audit.verdicts import Measures, Verdict
from ares_coordinator.ledger.postings import following_posting, posting_key
from ares_coordinator.ledger.rewards import reward_ucredits
from ares_coordinator.store.auditor_rows import PAID_RESULTS, AssignmentRow, AuditResult
from ares_p2p.domain import AuditOutcome, AuditReport, Posting, PostingKind, PostingState
from ares_p2p.errors import AuditForfeit, AuditReportWrong, AuditVoid, ReportLate
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.rounds.lottery import draw

MAX_RHO_GAP = 0.35  # two replays that pass for one work (rho of 0.30, norms within 5 %)
MAX_DROP_GAP = 0.04  # replays at cosine 0.99 of each other see one claim at most 0.14 rad apart
_CHECK_DOMAIN = b"ares/audit-spot-check/v1\0"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of an auditor's task.

    `is_caught`: it let forged work through.
    """

    result: AuditResult
    code: str = ""
    message: str = ""
    is_caught: bool = False


MISSED = Ruling(AuditResult.MISSED, ReportLate.code, "no report came in time")


def is_spot_checked(secret: bytes, commit_sha256: Digest, rate: float) -> bool:
    """Return whether an auditor's pass is replayed by the coordinator as well.

    Args:
        secret: never revealed, so that an auditor cannot know which report is checked.
        rate: by the auditor's own streak, as in the lottery.
    """
    return draw(sha256(_CHECK_DOMAIN, secret), commit_sha256) < rate


def rule_on(
    reported: Verdict | None, own: Verdict | None, *, is_decoy: bool, is_reported: bool = True
) -> Ruling:
    """Return what became of a task.

    Args:
        reported: what the report's measures say; None: it says why nothing was compared.
        own: what the coordinator's replay says; None when there was none.
        is_decoy: the work is a forgery of ours.
        is_reported: whether a report came at all.
    """
    if not is_reported:
        return MISSED
    if reported is None or reported.measures is None:
        return _unusable("nothing was compared")
    passes = reported.outcome is AuditOutcome.PASS
    theirs, ours = reported.measures, None if own is None else own.measures
    if own is None or ours is None:
        if passes and is_decoy:
            return _contradicted("a forged contribution was reported as honest", is_caught=True)
        if passes:
            return Ruling(AuditResult.TRUSTED)
        return _unusable("our own replay could not be made, nothing confirms it")
    if passes and own.outcome is AuditOutcome.FAIL:
        what = "a forged contribution" if is_decoy else "work that fails our replay"
        is_caught = _is_far(theirs, ours)
        return _contradicted(f"{what} was reported as honest", is_caught=is_caught)
    if reported.outcome is AuditOutcome.FAIL and own.outcome is AuditOutcome.PASS:
        return _contradicted("honest work was reported as failed", is_caught=False)
    if theirs.tokens != ours.tokens:
        return _unusable(f"counts {theirs.tokens} tokens, the assignment has {ours.tokens}")
    agrees = passes == (own.outcome is AuditOutcome.PASS)
    if agrees and abs(theirs.rho - ours.rho) <= MAX_RHO_GAP:
        return Ruling(AuditResult.AGREED)
    return _unusable(
        f"says {reported.outcome} at rho {theirs.rho:.3f}, our replay {own.outcome} at "
        f"{ours.rho:.3f}"
    )


def _is_far(theirs: Measures, ours: Measures) -> bool:
    """Whether no honest replay could have measured this; near the thresholds one could."""
    rho_gap, drop_gap = ours.rho - theirs.rho, ours.cosine_drop - theirs.cosine_drop
    return rho_gap > MAX_RHO_GAP or drop_gap > MAX_DROP_GAP


def _contradicted(message: str, *, is_caught: bool) -> Ruling:
    return Ruling(AuditResult.CONTRADICTED, AuditReportWrong.code, message, is_caught)


def _unusable(message: str) -> Ruling:
    return Ruling(AuditResult.UNUSABLE, AuditVoid.code, message)


# --- postings ----------------------------------------------------------------------------------


def pending_pay(
    report: AuditReport, auditor: PeerId, *, reference_tokens_per_hour: int, at_ms: int
) -> tuple[Posting, ...]:
    """Return the pending posting of a report that was taken; none for one that replayed nothing."""
    amount = reward_ucredits(report.tokens, reference_tokens_per_hour=reference_tokens_per_hour)
    if report.code or not amount:
        return ()
    kind, state = PostingKind.AUDIT, PostingState.PENDING
    return (
        Posting(
            key=posting_key(auditor, kind, commit_sha256=report.commit_sha256, state=state),
            worker=auditor,
            kind=kind,
            state=state,
            amount_ucredits=amount,
            cycle=report.header.cycle,
            round=report.header.round,
            commit_sha256=report.commit_sha256,
            code="",
            at_ms=at_ms,
        ),
    )


def ruling_postings(
    ruling: Ruling,
    task: AssignmentRow,
    *,
    pending: Iterable[Posting],
    unconfirmed: Iterable[Posting],
    clawback: bool,
    at_ms: int,
) -> tuple[Posting, ...]:
    """Return what follows from a ruling at once; what is paid is settled with its round.

    Args:
        pending: all of the auditor's pending postings for replays, this one among them.
        unconfirmed: what was settled for it since our replay last confirmed a report.
    """
    if ruling.result in PAID_RESULTS:
        return ()
    postings = []
    for posting in pending:
        is_this = posting.commit_sha256 == task.commit_sha256
        if is_this or ruling.is_caught:
            code = ruling.code if is_this else AuditForfeit.code
            postings.append(following_posting(posting, PostingState.VOID, code=code, at_ms=at_ms))
    if ruling.is_caught and clawback:
        postings += [
            following_posting(one, PostingState.CLAWBACK, code=AuditForfeit.code, at_ms=at_ms)
            for one in unconfirmed
        ]
    return tuple(postings)


def due_of(task: AssignmentRow, pay: Posting | None, *, shadow: bool) -> AuditorDue:
    """Return one decided task's line of its round's settlement.

    Args:
        pay: the posting that decides about the replay's pay so far, None when there is none.
        shadow: rulings are told and have no consequence.
    """
    place = (task.commit_sha256, task.auditor)
    if pay is not None and pay.state in (PostingState.VOID, PostingState.CLAWBACK):
        message = task.message or "lost: another report let forged work through"
        return AuditorDue(*place, task.code or pay.code, message, None)
    if pay is None and not task.code:
        return AuditorDue(*place, AuditVoid.code, "worth less than a micro-credit", None)
    if task.result in PAID_RESULTS:
        return AuditorDue(*place, "", "", pay)
    message = f"recorded only, paid: {task.message}" if shadow and pay else task.message
    return AuditorDue(*place, task.code, message, pay if shadow else None)
