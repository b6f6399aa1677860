"""Auditor peers: who replays what of a closed round, and what a report of it may say.

After a round the coordinator signs an AuditPlan: each drawn commit, and the auditor that the
round's seed names for it among those present, never the commit's author. The auditor answers with
an AuditReport: measures, no verdict. A report is taken when it comes from the named auditor, for
the named plan, before the deadline, and with measures that a replay can have.

It cannot refuse two identities of one person, of which one audits the other: that is what the
seed's choice, the coordinator's own spot checks and forged contributions are for.
Pure. Source: docs/adr/0001, "Contribution proofs, audits, credit".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ares_p2p.domain import AuditAssignment, AuditPlan, AuditReport
from ares_p2p.errors import NotAnAuditor, PayloadMalformed, ReportLate, StepsOutOfRange
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.lottery import ranked_auditors

AUDITOR_ROLE = "auditor"
TRAINER_ROLE = "trainer"
MAX_MEASURE = 1000.0  # of rho and norm ratio: whatever is further away is reported as this
MAX_COSINE_DROP = 2.0  # from parallel to opposite
MAX_PROFILE_CHARS = 200
MAX_REPORT_CHARS = 200  # of the message
_CODE = re.compile(r"ARES-E[0-9]{3}")


def assign_audits(
    seed: Digest, drawn: Iterable[tuple[Digest, PeerId]], auditors: Sequence[PeerId]
) -> tuple[AuditAssignment, ...]:
    """Return who audits which commit; a commit whose author is the only auditor is left out.

    Args:
        seed: the round's revealed seed.
        drawn: (commit digest, author) of the commits that the lottery drew.
        auditors: those that may audit and are present, in any order.
    """
    ranked = [
        (commit, ranked_auditors(seed, commit, tuple(peer for peer in auditors if peer != author)))
        for commit, author in sorted(drawn)
    ]
    return tuple(AuditAssignment(commit, peers[0]) for commit, peers in ranked if peers)


def assigned_to(plan: AuditPlan, auditor: PeerId) -> tuple[Digest, ...]:
    """Return the commits that a plan gives to one auditor, in the plan's order."""
    return tuple(item.commit_sha256 for item in plan.assignments if item.auditor == auditor)


def bounded_measure(value: float) -> float:
    """Return rho or a norm ratio as a report carries it: finite, however far away it is."""
    return MAX_MEASURE if not value <= MAX_MEASURE else max(0.0, value)


def bounded_drop(value: float) -> float:
    """Return a cosine drop as a report carries it: a negative one is no drop."""
    return MAX_COSINE_DROP if not value <= MAX_COSINE_DROP else max(0.0, value)


def check_report(
    report: AuditReport,
    *,
    auditor: PeerId,
    plan: AuditPlan,
    plan_sha256: Digest,
    max_tokens: int,
    now_ms: int,
) -> None:
    """Verify everything about a report that its content, the plan and the time decide.

    Args:
        auditor: who signed and sent it.
        max_tokens: that the commit's steps can hold.
    Raises: NotAnAuditor: not asked for this commit, or for another plan. ReportLate.
        StepsOutOfRange: more tokens than the steps hold. PayloadMalformed: measures or texts out
        of their bounds.
    """
    if report.audit_plan_sha256 != plan_sha256 or (
        (report.header.cycle, report.header.round) != (plan.header.cycle, plan.header.round)
    ):
        raise NotAnAuditor(
            f"a report for another audit plan than the one of round {plan.header.round}"
        )
    if report.commit_sha256 not in assigned_to(plan, auditor):
        raise NotAnAuditor(
            f"the audit plan of round {plan.header.round} does not ask this peer to replay "
            f"commit {report.commit_sha256.hex()[:12]}"
        )
    check_in_time(now_ms, deadline_ms=plan.deadline_ms)
    if not 0 <= report.tokens <= max_tokens:
        raise StepsOutOfRange(f"{report.tokens} tokens replayed, the steps hold {max_tokens}")
    drop = max(report.cosine_drop, report.quiet_drop)
    if max(report.rho, report.norm_ratio) > MAX_MEASURE or drop > MAX_COSINE_DROP:
        raise PayloadMalformed(
            f"measures beyond {MAX_MEASURE:g} or a cosine drop beyond {MAX_COSINE_DROP:g}: "
            "report the bound instead"
        )
    if len(report.profile) > MAX_PROFILE_CHARS or len(report.message) > MAX_REPORT_CHARS:
        raise PayloadMalformed(
            f"profile or message longer than {MAX_PROFILE_CHARS} and {MAX_REPORT_CHARS} characters"
        )
    if report.code and not _CODE.fullmatch(report.code):
        raise PayloadMalformed("a reason that is no code of the error list")


def check_in_time(now_ms: int, *, deadline_ms: int) -> None:
    """Refuse a report that nobody waits for any more.

    Raises: ReportLate.
    """
    if now_ms > deadline_ms:
        late_s = (now_ms - deadline_ms) / 1000
        raise ReportLate(f"{late_s:.1f} s after the deadline: it was replayed without you")
