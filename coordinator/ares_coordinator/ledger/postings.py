"""The postings that events of a round lead to.

A contribution that entered the aggregate is posted as pending; its verdict settles or voids it.
The key of a posting is made from the work and the state alone, so that an event that is repeated
after a kill makes the same posting again, which the store skips.

It refuses nothing on its own: what was refused by the aggregate gets no posting.
"""

from __future__ import annotations

from collections.abc import Iterable

from ares_coordinator.ledger.rewards import reward_ucredits
from ares_coordinator.store.rows import ContributionRow
from ares_p2p.domain import AuditOutcome, EntryStatus, Posting, PostingKind, PostingState
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


def _training_posting(
    work: ContributionRow,
    state: PostingState,
    *,
    code: str,
    reference_tokens_per_hour: int,
    at_ms: int,
) -> Posting:
    kind = training_kind(gpu=work.gpu)
    return Posting(
        key=posting_key(work.peer, kind, commit_sha256=work.commit_sha256, state=state),
        worker=work.peer,
        kind=kind,
        state=state,
        amount_ucredits=reward_ucredits(
            work.tokens, reference_tokens_per_hour=reference_tokens_per_hour
        ),
        cycle=work.cycle,
        round=work.round,
        commit_sha256=work.commit_sha256,
        code=code,
        at_ms=at_ms,
    )


def pending_postings(
    contributions: Iterable[ContributionRow], *, reference_tokens_per_hour: int, at_ms: int
) -> tuple[Posting, ...]:
    """Return the pending postings of an aggregated round: one per contribution it used."""
    return tuple(
        _training_posting(
            work,
            PostingState.PENDING,
            code="",
            reference_tokens_per_hour=reference_tokens_per_hour,
            at_ms=at_ms,
        )
        for work in contributions
        if work.status != EntryStatus.REFUSED
    )


def verdict_posting(
    work: ContributionRow,
    outcome: AuditOutcome,
    *,
    code: str,
    reference_tokens_per_hour: int,
    at_ms: int,
) -> Posting:
    """Return the posting that a verdict makes of a contribution's pending one.

    Args:
        code: the reason that the worker reads; "" for a pass.
        reference_tokens_per_hour: of the cycle's config, as for the pending posting.
    """
    return _training_posting(
        work,
        _STATE_OF_OUTCOME[outcome],
        code=code,
        reference_tokens_per_hour=reference_tokens_per_hour,
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


def forfeit_postings(pending: Iterable[Posting], *, code: str, at_ms: int) -> tuple[Posting, ...]:
    """Return the postings that void what a worker still had pending when an audit failed.

    A verdict of the forfeited work that comes later changes nothing any more: void overrides
    settled.
    """
    return tuple(
        following_posting(posting, PostingState.VOID, code=code, at_ms=at_ms) for posting in pending
    )
