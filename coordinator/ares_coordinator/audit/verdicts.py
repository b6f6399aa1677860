"""What a replay means, and what it does to the books.

The measures of a replay come from our own worker or from an auditor peer's report; the thresholds
are applied here, to both. A verdict and all that follows from it (the credit of the work, what its
author forfeits, what is taken back) are one transaction. In shadow mode a verdict is recorded and
the work is paid as if it had passed.

It does not decide who replays what, nor how often before a fail counts: that is `queue`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ares_coordinator.ledger.postings import (
    Stakes,
    deciding_postings,
    verdict_postings,
)
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import AuditRow, VerdictRow
from ares_p2p.domain import (
    AuditOutcome,
    Commit,
    CycleConfig,
    Posting,
    PostingKind,
    PostingState,
)
from ares_p2p.errors import AuditFailed, AuditForfeit, AuditVoid, InternalFault
from ares_p2p.ids import PeerId
from ares_p2p.proofs.profile import relation_of
from ares_p2p.proofs.sketch import AuditThresholds, ReplayComparison, judge
from ares_p2p.proofs.thresholds import Calibration
from ares_p2p.rounds.commits import reason_text

MAX_MESSAGE_CHARS = 120  # of a settlement's entry: a hundred of them fit a DHT record
NOBODY = PeerId("")


@dataclass(frozen=True, slots=True)
class Measures:
    """What one replay measured; see `ares_p2p.proofs.sketch.ReplayComparison`."""

    tokens: int  # that the assignment holds for the committed steps
    rho: float
    norm_ratio: float
    cosine_drop: float
    quiet_drop: float | None = None  # None: not measured, and not judged
    profile: str = ""  # of the process that replayed

    @property
    def text(self) -> str:
        """The numbers, for people."""
        return (
            f"cosine drop {self.cosine_drop:.4f}, norm ratio {self.norm_ratio:.3f}, "
            f"rho {self.rho:.3f}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit says, and the numbers behind it; None when nothing could be compared."""

    outcome: AuditOutcome
    code: str
    message: str
    measures: Measures | None = None


@dataclass(frozen=True, slots=True)
class Consequences:
    """What the settings say about verdicts."""

    shadow: bool  # none at all: recorded, and paid as a pass
    clawback: bool  # a fail also takes back what was paid on trust

    @classmethod
    def of(cls, settings: CoordinatorSettings) -> Consequences:
        """Return what the settings say."""
        return cls(settings.audit.mode == "shadow", settings.credit.clawback)


def judge_replay(
    measures: Measures,
    commit: Commit,
    config: CycleConfig,
    *,
    calibration: Calibration | None = None,
) -> Verdict:
    """Return what a replay's measures mean.

    Args:
        calibration: the network's; without it, the bounds of one device class in float32.
    """
    if commit.tokens != measures.tokens:
        text = f"claims {commit.tokens} tokens, the assignment has {measures.tokens}"
        return Verdict(AuditOutcome.FAIL, AuditFailed.code, text, measures)
    bounds = _bounds(measures.profile, commit, config, calibration)
    match _outcome(measures, bounds):
        case AuditOutcome.FAIL as outcome:
            text = f"the replay gives another update: {measures.text}"
            return Verdict(outcome, AuditFailed.code, text, measures)
        case AuditOutcome.VOID as outcome:
            text = f"the replay is neither close nor far: {measures.text}"
            return Verdict(outcome, AuditVoid.code, text, measures)
        case outcome:
            return Verdict(outcome, "", f"replayed: {measures.text}", measures)


def _outcome(measures: Measures, bounds: AuditThresholds) -> AuditOutcome:
    comparison = ReplayComparison(
        rho=measures.rho,
        norm_ratio=measures.norm_ratio,
        cosine=math.nan,  # not judged
        cosine_drop=measures.cosine_drop,
        quiet_drop=measures.quiet_drop,
    )
    return AuditOutcome(judge(comparison, bounds))


def _bounds(
    profile: str, commit: Commit, config: CycleConfig, calibration: Calibration | None
) -> AuditThresholds:
    """Return the bounds for the profiles of a claim and of its replay, and the cycle's codec."""
    if calibration is None:
        return AuditThresholds()
    training = config.training
    relation = relation_of(commit.profile, profile, compute_dtype=training.compute_dtype)
    return calibration.thresholds_for(training.codec_bits, relation)


def not_comparable(why: str) -> Verdict:
    """Return the verdict on work that could not be replayed: not paid, and not punished."""
    return Verdict(AuditOutcome.VOID, AuditVoid.code, f"could not be replayed: {why}")


def not_audited() -> Verdict:
    """Return the verdict on everything in a network that does not audit."""
    text = "this network does not audit: no work is verified, and none is paid"
    return Verdict(AuditOutcome.VOID, AuditVoid.code, text)


def record_verdict(
    store: Store,
    audit: AuditRow,
    verdict: Verdict,
    *,
    consequences: Consequences,
    auditor: PeerId = NOBODY,
    postings: Sequence[Posting] = (),
    at_ms: int,
) -> bool:
    """Record a verdict with what follows from it. To be called in the store's thread.

    Args:
        auditor: the peer whose replay the verdict rests on; nobody: our own.
        postings: of the auditor's pay, to be made in the same transaction.
    Returns: False when the audit had a verdict: nothing is changed.
    Raises: InternalFault: there is no such audit or no credit that it could decide about.
    """
    own = _own_postings(store, audit, verdict, consequences=consequences, at_ms=at_ms)
    others = sum(posting.code == AuditForfeit.code for posting in own)
    message = f"{verdict.message}; {others} other rounds are lost" if others else verdict.message
    measures = verdict.measures
    row = VerdictRow(
        commit_sha256=audit.commit_sha256,
        outcome=verdict.outcome,
        rho=None if measures is None else measures.rho,
        norm_ratio=None if measures is None else measures.norm_ratio,
        cosine_drop=None if measures is None else measures.cosine_drop,
        code=verdict.code,
        message=reason_text(message, limit=MAX_MESSAGE_CHARS),
        done_ms=at_ms,
        shadow=consequences.shadow,
        auditor=auditor,
    )
    return store.record_verdict(row, [*own, *postings])


def _own_postings(
    store: Store,
    audit: AuditRow,
    verdict: Verdict,
    *,
    consequences: Consequences,
    at_ms: int,
) -> tuple[Posting, ...]:
    """Return what a verdict does to the credit of the audited work's author."""
    work = _deciding_posting(store, audit)
    if verdict.measures is None and work.state is PostingState.SETTLED:
        return ()  # it was paid on trust; that we cannot replay it later is not its author's fault
    if consequences.shadow:
        return verdict_postings(
            Stakes(work), AuditOutcome.PASS, code="", clawback=False, at_ms=at_ms
        )
    stakes = Stakes(work)
    if verdict.outcome is AuditOutcome.FAIL:
        stakes = replace(
            stakes,
            pending=store.pending_postings(audit.peer),
            trusted=store.trusted_since_last_pass(audit.peer),
        )
    return verdict_postings(
        stakes,
        verdict.outcome,
        code=verdict.code,
        clawback=consequences.clawback,
        at_ms=at_ms,
    )


def _deciding_posting(store: Store, audit: AuditRow) -> Posting:
    for posting in deciding_postings(store.postings_of_round(audit.cycle, audit.round)).values():
        of_author = posting.worker == audit.peer and posting.kind is not PostingKind.AUDIT
        if of_author and posting.commit_sha256 == audit.commit_sha256:
            return posting
    raise InternalFault(f"an audit of {audit.commit_sha256.hex()[:12]} without credit")
