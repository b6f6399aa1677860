"""The postings that events of a round lead to.

A contribution that entered the aggregate is posted as pending; its verdict settles or voids it,
and one that is never audited is settled with its round. The key of a posting is made from the
work and the state alone, so that an event that is repeated after a kill makes the same posting
again, which the store skips.

It refuses nothing on its own: what was refused by the aggregate gets no posting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ares_coordinator.ledger.rewards import reward_ucredits
from ares_coordinator.store.rows import ContributionRow
from ares_p2p.domain import AuditOutcome, EntryStatus, Posting, PostingKind, PostingState
from ares_p2p.errors import AuditForfeit
from ares_p2p.ids import Digest, PeerId

_STATE_OF_OUTCOME = {
    AuditOutcome.PASS: PostingState.SETTLED,
    AuditOutcome.VOID: PostingState.VOID,
    AuditOutcome.FAIL: PostingState.VOID,
}


def posting_key(
    worker: PeerId, kind: PostingKind, *, commit_sha256: Digest, state: PostingState
) -> str:
    """Return the idempotency key of a posting."""
    return f"{state}:{kind}:{commit_sha256.hex()}:{worker}"


def training_kind(*, gpu: bool) -> PostingKind:
    """Return the kind of training on a GPU or without one."""
    return PostingKind.GPU_TRAINING if gpu else PostingKind.CPU_TRAINING


def pending_postings(
    contributions: Iterable[ContributionRow], *, reference_tokens_per_hour: int, at_ms: int
) -> tuple[Posting, ...]:
    """Return the pending postings of an aggregated round: one per contribution it used."""
    return tuple(
        _pending_posting(
            work,
            reward_ucredits(work.tokens, reference_tokens_per_hour=reference_tokens_per_hour),
            at_ms=at_ms,
        )
        for work in contributions
        if work.status != EntryStatus.REFUSED
    )


def _pending_posting(work: ContributionRow, amount_ucredits: int, *, at_ms: int) -> Posting:
    kind, state = training_kind(gpu=work.gpu), PostingState.PENDING
    return Posting(
        key=posting_key(work.peer, kind, commit_sha256=work.commit_sha256, state=state),
        worker=work.peer,
        kind=kind,
        state=state,
        amount_ucredits=amount_ucredits,
        cycle=work.cycle,
        round=work.round,
        commit_sha256=work.commit_sha256,
        code="",
        at_ms=at_ms,
    )


def following_posting(posting: Posting, state: PostingState, *, code: str, at_ms: int) -> Posting:
    """Return the posting that moves the work of an earlier one to another state."""
    key = posting_key(
        posting.worker, posting.kind, commit_sha256=posting.commit_sha256, state=state
    )
    return Posting(
        key=key,
        worker=posting.worker,
        kind=posting.kind,
        state=state,
        amount_ucredits=posting.amount_ucredits,
        cycle=posting.cycle,
        round=posting.round,
        commit_sha256=posting.commit_sha256,
        code=code,
        at_ms=at_ms,
    )


@dataclass(frozen=True, slots=True)
class Stakes:
    """What a verdict decides about.

    Attributes:
        work: the posting that decides about the audited contribution so far.
        pending: what of its author nothing has decided yet.
        trusted: what was settled for its author without an audit since the last one that passed.
    """

    work: Posting
    pending: tuple[Posting, ...] = ()
    trusted: tuple[Posting, ...] = ()


def verdict_postings(
    stakes: Stakes, outcome: AuditOutcome, *, code: str, clawback: bool, at_ms: int
) -> tuple[Posting, ...]:
    """Return the postings that follow from a verdict, the audited work's own one first.

    A pass settles the work, a void verdict voids it. A failed one also takes what else was
    pending and, with `clawback`, what was paid on trust. Work that is lost already stays as it
    is: no posting says anything lower than the one before it.

    Args:
        code: the reason that the author reads about this work; "" for a pass.
    """
    postings = _raised(stakes.work, _state_after(stakes.work, outcome), code=code, at_ms=at_ms)
    if outcome is not AuditOutcome.FAIL:
        return postings
    lost = [(posting, PostingState.VOID) for posting in stakes.pending]
    if clawback:
        lost += [(posting, PostingState.CLAWBACK) for posting in stakes.trusted]
    for posting, state in lost:
        if _work_of(posting) != _work_of(stakes.work):
            postings += _raised(posting, state, code=AuditForfeit.code, at_ms=at_ms)
    return postings


def _state_after(work: Posting, outcome: AuditOutcome) -> PostingState:
    if outcome is AuditOutcome.FAIL and work.state is PostingState.SETTLED:
        return PostingState.CLAWBACK  # it had been paid on trust before somebody asked for an audit
    return _STATE_OF_OUTCOME[outcome]


def _work_of(posting: Posting) -> tuple[PeerId, PostingKind, Digest]:
    return posting.worker, posting.kind, posting.commit_sha256


def _raised(posting: Posting, state: PostingState, *, code: str, at_ms: int) -> tuple[Posting, ...]:
    if state.rank <= posting.state.rank:
        return ()
    return (following_posting(posting, state, code=code, at_ms=at_ms),)


def settling_postings(pending: Iterable[Posting], *, at_ms: int) -> tuple[Posting, ...]:
    """Return the postings that settle what is still pending when its round is settled."""
    return tuple(
        following_posting(posting, PostingState.SETTLED, code="", at_ms=at_ms)
        for posting in pending
    )


def deciding_postings(
    postings: Iterable[Posting],
) -> dict[tuple[PeerId, PostingKind, Digest], Posting]:
    """Return the highest posting of every piece of work (worker, kind, commit)."""
    highest: dict[tuple[PeerId, PostingKind, Digest], Posting] = {}
    for posting in postings:
        before = highest.get(_work_of(posting))
        if before is None or posting.state.rank > before.state.rank:
            highest[_work_of(posting)] = posting
    return highest
