"""Postings and their fold: no order and no repetition of events changes a balance."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.ledger.balances import balance_of, fold_balances, verify_balances
from ares_coordinator.ledger.postings import (
    Stakes,
    deciding_postings,
    following_posting,
    pending_postings,
    settling_postings,
    verdict_postings,
)
from ares_coordinator.ledger.rewards import reward_ucredits
from ares_coordinator.store.credit_rows import TotalsRow
from ares_coordinator.store.rows import ContributionRow
from ares_p2p.domain import AuditOutcome, Posting, PostingKind, PostingState
from ares_p2p.errors import AuditForfeit, InternalFault
from ares_p2p.ids import PeerId
from store_samples import (
    NOW,
    REASONS,
    TOKENS_PER_HOUR,
    commit,
    contribution,
    peer,
    refused,
)

WORK = tuple(
    contribution(commit(1, number // 3, number % 3), tokens=100 * (number + 1), gpu=number % 2 == 0)
    for number in range(9)
)
VERDICTS = st.lists(
    st.tuples(st.sampled_from(WORK), st.sampled_from(tuple(REASONS))),
    unique_by=lambda pair: pair[0].commit_sha256,
)


def _pending(work: tuple[ContributionRow, ...] = WORK) -> list[Posting]:
    return list(pending_postings(work, reference_tokens_per_hour=TOKENS_PER_HOUR, at_ms=NOW))


def _verdict(work: ContributionRow, outcome: AuditOutcome, at_ms: int = NOW) -> Posting:
    """Return the posting that a verdict makes about its own work."""
    (posting,) = _judged(Stakes(*_pending((work,))), outcome, at_ms=at_ms)
    return posting


def _judged(
    stakes: Stakes, outcome: AuditOutcome, *, clawback: bool = True, at_ms: int = NOW
) -> list[Posting]:
    return list(
        verdict_postings(stakes, outcome, code=REASONS[outcome], clawback=clawback, at_ms=at_ms)
    )


def _what(postings: list[Posting]) -> list[tuple[bytes, PostingState, str]]:
    return [(posting.commit_sha256, posting.state, posting.code) for posting in postings]


def test_pending_postings_are_of_used_contributions_only() -> None:
    work = (WORK[0], refused(WORK[1], code="ARES-E070", message="opposes"))
    (posting,) = _pending(work)
    assert posting.worker == WORK[0].peer
    assert posting.state == PostingState.PENDING
    assert posting.kind == PostingKind.GPU_TRAINING
    assert posting.amount_ucredits == 100_000


def test_keys_tell_every_event_apart_and_repeat() -> None:
    postings = [*_pending(), *(_verdict(work, AuditOutcome.PASS) for work in WORK)]
    postings += [_verdict(work, AuditOutcome.VOID) for work in WORK]
    assert len({posting.key for posting in postings}) == 27
    later = _verdict(WORK[0], AuditOutcome.PASS, at_ms=NOW + 60_000)
    assert later.key == _verdict(WORK[0], AuditOutcome.PASS).key
    (trusted,) = settling_postings(_pending(WORK[:1]), at_ms=NOW)
    assert trusted == _verdict(WORK[0], AuditOutcome.PASS)


@pytest.mark.parametrize(
    ("outcome", "clawback", "lost"),
    [
        (AuditOutcome.PASS, True, []),
        (AuditOutcome.VOID, True, []),
        (AuditOutcome.FAIL, True, [PostingState.VOID, PostingState.CLAWBACK]),
        (AuditOutcome.FAIL, False, [PostingState.VOID]),
    ],
)
def test_only_a_failed_audit_takes_other_work_along(
    outcome: AuditOutcome, clawback: bool, lost: list[PostingState]
) -> None:
    own, pending, paid = _pending(WORK[:3])
    (trusted,) = settling_postings([paid], at_ms=NOW)
    stakes = Stakes(own, pending=(own, pending), trusted=(trusted,))
    first, *others = _judged(stakes, outcome, clawback=clawback)
    assert (first.commit_sha256, first.code) == (own.commit_sha256, REASONS[outcome])
    works = {PostingState.VOID: pending, PostingState.CLAWBACK: trusted}
    assert _what(others) == [
        (works[state].commit_sha256, state, AuditForfeit.code) for state in lost
    ]


def test_verdict_about_lost_work_brings_nothing_back() -> None:
    (lost,) = _judged(Stakes(*_pending(WORK[:1])), AuditOutcome.VOID)
    for outcome in REASONS:
        assert _judged(Stakes(lost), outcome) == []


def test_failed_audit_of_work_that_was_paid_on_trust_takes_it_back_under_its_own_code() -> None:
    (trusted,) = settling_postings(_pending(WORK[:1]), at_ms=NOW)
    stakes = Stakes(trusted, trusted=(trusted,))
    assert _what(_judged(stakes, AuditOutcome.FAIL)) == [
        (trusted.commit_sha256, PostingState.CLAWBACK, REASONS[AuditOutcome.FAIL])
    ]


@given(rng=st.randoms(use_true_random=False))
def test_deciding_posting_is_the_highest_whatever_the_order(rng: random.Random) -> None:
    postings = [*_pending(WORK[:2]), _verdict(WORK[0], AuditOutcome.PASS)]
    postings.append(_verdict(WORK[0], AuditOutcome.VOID))
    rng.shuffle(postings)
    found = deciding_postings(postings)
    assert sorted(_what(list(found.values()))) == sorted(
        [
            (WORK[0].commit_sha256, PostingState.VOID, REASONS[AuditOutcome.VOID]),
            (WORK[1].commit_sha256, PostingState.PENDING, ""),
        ]
    )


@given(
    verdicts=VERDICTS,
    repeats=st.lists(st.integers(0, 17), max_size=12),
    rng=st.randoms(use_true_random=False),
)
def test_order_and_repetition_change_no_balance(
    verdicts: list[tuple[ContributionRow, AuditOutcome]], repeats: list[int], rng: random.Random
) -> None:
    events = [*_pending(), *(_verdict(work, outcome) for work, outcome in verdicts)]
    wanted = fold_balances(events)
    again = [replace(events[n], at_ms=NOW + n) for n in repeats if n < len(events)]
    shuffled = [*events, *again]
    rng.shuffle(shuffled)
    assert fold_balances(shuffled) == wanted


@given(verdicts=VERDICTS)
def test_settled_is_exactly_the_verified_work(
    verdicts: list[tuple[ContributionRow, AuditOutcome]],
) -> None:
    totals = fold_balances([*_pending(), *(_verdict(work, outcome) for work, outcome in verdicts)])
    for number in range(3):
        worker = peer(number)
        balance = balance_of(row for row in totals.values() if row.worker == worker)
        own = [work for work in WORK if work.peer == worker]
        passed = [work for work, out in verdicts if out == AuditOutcome.PASS and work in own]
        assert balance.settled_ucredits == _worth(passed)
        assert balance.settled_ucredits == sum(balance.by_kind.values())
        undecided = [work for work in own if work not in [done for done, _ in verdicts]]
        assert balance.pending_ucredits == _worth(undecided)
        assert balance.settled_ucredits + balance.pending_ucredits + balance.void_ucredits == (
            _worth(own)
        )


def _worth(works: list[ContributionRow]) -> int:
    return sum(
        reward_ucredits(work.tokens, reference_tokens_per_hour=TOKENS_PER_HOUR) for work in works
    )


def test_void_overrides_settled_and_clawback_overrides_both() -> None:
    settled = _verdict(WORK[0], AuditOutcome.PASS)
    void = _verdict(WORK[0], AuditOutcome.VOID)
    back = following_posting(settled, PostingState.CLAWBACK, code="ARES-E071", at_ms=NOW)
    place = (settled.worker, settled.kind)
    amount = settled.amount_ucredits
    assert fold_balances([void, settled])[place] == TotalsRow(*place, 0, 0, amount, 0)
    assert fold_balances([back, void, settled])[place] == TotalsRow(*place, 0, 0, 0, amount)


def test_one_key_with_two_contents_is_a_fault() -> None:
    posting = _pending()[0]
    with pytest.raises(InternalFault):
        fold_balances([posting, replace(posting, amount_ucredits=1)])


class FakeReader:
    """Postings and totals in memory, in pages of two."""

    def __init__(self, postings: list[Posting], totals: list[TotalsRow]) -> None:
        self._postings = [replace(p, id=number) for number, p in enumerate(postings, 1)]
        self._totals = totals

    def postings(self, *, after_id: int = 0, limit: int = 1000) -> tuple[Posting, ...]:
        return tuple(posting for posting in self._postings if posting.id > after_id)[:2]

    def totals(self, worker: PeerId | None = None) -> tuple[TotalsRow, ...]:
        return tuple(self._totals)


def test_verify_balances_finds_every_difference() -> None:
    postings = _pending()
    right = list(fold_balances(postings).values())
    assert verify_balances(FakeReader(postings, right)) == 6
    for wrong in (
        right[1:],
        [replace(right[0], settled_ucredits=1), *right[1:]],
        [*right, TotalsRow(peer(9), PostingKind.AUDIT, 0, 5, 0, 0)],
    ):
        with pytest.raises(InternalFault, match="the postings say"):
            verify_balances(FakeReader(postings, wrong))
