"""Rounds, commits, audits and credit, over every implementation of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ares_coordinator.ledger.balances import balance_of, verify_balances
from ares_coordinator.ledger.postings import following_posting
from ares_coordinator.store.base import Store
from ares_coordinator.store.base_work import MAX_REFUSALS_PER_PEER
from ares_coordinator.store.credit_rows import CountsRow
from ares_coordinator.store.rows import CommitResult, RoundCounts, RoundState
from ares_p2p.domain import AuditOutcome, EntryStatus, PostingKind, PostingState
from ares_p2p.errors import (
    AuditFailed,
    AuditForfeit,
    CommitLate,
    CommitReplayed,
    Equivocation,
    InternalFault,
    OpposesOthers,
    UnknownRound,
)
from store_samples import (
    NOW,
    REASONS,
    begin,
    commit,
    contribution,
    digest,
    finish_round,
    judge,
    open_round,
    peer,
    play_round,
    record,
    refused,
    state,
)
from storefixtures import OPENERS


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[request.param](tmp_path)
    begin(opened)
    yield opened
    opened.close()


def test_round_opens_once_and_saves_its_plan(store: Store) -> None:
    open_round(store, 1, 0)
    open_round(store, 1, 0)
    row = store.current_round(1)
    assert row is not None
    assert (row.round, row.state, row.state_digest) == (0, RoundState.OPEN, state(0))
    assert store.record("plan", 1, 0) == record("plan", 1, 0)
    with pytest.raises(InternalFault):
        store.open_round(1, 0, plan_sha256=digest("another"), state_digest=state(0), now_ms=NOW)


def test_round_follows_the_state_of_the_one_before(store: Store) -> None:
    with pytest.raises(InternalFault):
        open_round(store, 1, 1)
    open_round(store, 1, 0)
    with pytest.raises(InternalFault):
        open_round(store, 1, 1)
    finish_round(store, [], 1, 0)
    assert store.current_round(1) is None
    with pytest.raises(InternalFault):
        store.open_round(1, 1, plan_sha256=digest("plan"), state_digest=digest("x"), now_ms=NOW)
    open_round(store, 1, 1)
    assert [row.round for row in store.rounds(1)] == [0, 1]
    assert store.latest_round(1) == store.current_round(1)


def test_round_is_opened_anew_with_a_later_plan_while_nobody_committed(store: Store) -> None:
    open_round(store, 1, 0)
    later = record("plan", 1, 0, seq=2)
    row = store.reopen_round(1, 0, plan_sha256=digest("later"), now_ms=NOW + 99, plan=later)
    assert (row.plan_sha256, row.opened_ms, row.state) == (
        digest("later"),
        NOW + 99,
        RoundState.OPEN,
    )
    assert store.record("plan", 1, 0) == later
    store.add_commit(commit(1, 0, 1))
    with pytest.raises(InternalFault):
        store.reopen_round(1, 0, plan_sha256=digest("last"), now_ms=NOW, plan=later)


def test_commit_is_new_then_duplicate_and_brings_its_ack(store: Store) -> None:
    open_round(store, 1, 0)
    ack = record("ack", 1, 0, peer=peer(1))
    assert store.add_commit(commit(1, 0, 1), ack=ack) == CommitResult.NEW
    assert store.add_commit(commit(1, 0, 1), ack=ack) == CommitResult.DUPLICATE
    assert store.record("ack", 1, 0, peer(1)) == ack
    assert store.commits(1, 0) == (commit(1, 0, 1),)
    worker = store.worker(peer(1))
    assert worker is not None
    assert worker.last_seen_ms == NOW


def test_second_commit_is_equivocation_and_both_are_kept(store: Store) -> None:
    open_round(store, 1, 0)
    store.add_commit(commit(1, 0, 1))
    other = commit(1, 0, 1, text="another")
    for _ in range(2):
        with pytest.raises(Equivocation):
            store.add_commit(other)
    (evidence,) = store.equivocations(1, 0)
    assert (evidence.first_envelope, evidence.second_envelope) == (
        commit(1, 0, 1).envelope,
        other.envelope,
    )
    assert store.commits(1, 0) == (commit(1, 0, 1),)


def test_commit_of_another_peer_is_refused(store: Store) -> None:
    open_round(store, 1, 0)
    store.add_commit(commit(1, 0, 1))
    with pytest.raises(CommitReplayed):
        store.add_commit(replace(commit(1, 0, 1), peer=peer(2)))


def test_commit_needs_an_open_round(store: Store) -> None:
    with pytest.raises(UnknownRound):
        store.add_commit(commit(1, 0, 1))
    open_round(store, 1, 0)
    store.add_commit(commit(1, 0, 1))
    assert store.close_round(1, 0, now_ms=NOW)
    assert not store.close_round(1, 0, now_ms=NOW + 1)
    with pytest.raises(CommitLate):
        store.add_commit(commit(1, 0, 2))
    assert store.add_commit(commit(1, 0, 1)) == CommitResult.DUPLICATE
    assert store.worker(peer(2)) is None


def test_many_commits_at_once_end_as_one_by_one(store: Store) -> None:
    """One that is refused keeps no other one out, and the order within the batch counts."""
    open_round(store, 1, 0)
    store.add_commit(commit(1, 0, 1))
    new, second = commit(1, 0, 2), commit(1, 0, 2, text="another")
    ack = record("ack", 1, 0, peer=peer(2))
    found = store.add_commits(
        [
            (commit(1, 0, 1), None),
            (new, ack),
            (new, ack),
            (second, None),
            (replace(new, peer=peer(3)), None),
            (commit(1, 9, 4), None),
            (replace(commit(1, 0, 5), received_ms=NOW + 7), None),
        ]
    )
    assert [one if isinstance(one, CommitResult) else type(one) for one in found] == [
        CommitResult.DUPLICATE,
        CommitResult.NEW,
        CommitResult.DUPLICATE,
        Equivocation,
        CommitReplayed,
        UnknownRound,
        CommitResult.NEW,
    ]
    assert {row.peer for row in store.commits(1, 0)} == {peer(1), peer(2), peer(5)}
    assert store.record("ack", 1, 0, peer(2)) == ack
    (evidence,) = store.equivocations(1, 0)
    assert evidence.second_envelope == second.envelope
    assert {row.peer: row.last_seen_ms - NOW for row in store.workers()} == {
        peer(1): 0,
        peer(2): 0,
        peer(5): 7,
    }
    store.close_round(1, 0, now_ms=NOW)
    (late,) = store.add_commits([(commit(1, 0, 6), None)])
    assert isinstance(late, CommitLate)
    assert store.add_commits([]) == ()


def test_finish_round_needs_a_closed_round_and_is_done_once(store: Store) -> None:
    work = [contribution(commit(1, 0, n)) for n in (1, 2)]
    open_round(store, 1, 0)
    for n in (1, 2):
        store.add_commit(commit(1, 0, n))
    nothing = {"contributions": (), "postings": (), "lottery": ()}
    arguments = {"mean_loss": None, "now_ms": NOW, **nothing}
    with pytest.raises(InternalFault):
        store.finish_round(1, 0, next_state_digest=state(1), **arguments)  # type: ignore[arg-type]
    assert finish_round(store, work, 1, 0)
    assert not finish_round(store, work, 1, 0)
    with pytest.raises(InternalFault):
        store.finish_round(1, 0, next_state_digest=state(9), **arguments)  # type: ignore[arg-type]
    (row,) = store.rounds(1)
    assert (row.state, row.next_state_digest, row.blob_bytes) == (
        RoundState.AGGREGATED,
        state(1),
        8192,
    )
    assert len(store.postings()) == 2
    assert set(store.contributions(1, 0)) == set(work)
    store.record_look(1, 0, held_out_loss=2.25)
    assert store.rounds(1)[0].held_out_loss == 2.25


def test_finish_round_is_all_or_nothing(store: Store) -> None:
    open_round(store, 1, 0)
    store.add_commit(commit(1, 0, 1))
    store.save_record(replace(record("manifest", 1, 0), envelope=b"signed before"))
    with pytest.raises(InternalFault):
        finish_round(store, [contribution(commit(1, 0, 1))], 1, 0)
    assert store.rounds(1)[0].state == RoundState.CLOSED
    assert store.contributions(1, 0) == store.postings() == store.totals() == ()


def test_refused_contributions_get_neither_audit_nor_credit(store: Store) -> None:
    good, bad = (contribution(commit(1, 0, n)) for n in (1, 2))
    clipped = replace(contribution(commit(1, 0, 3)), status=EntryStatus.CLIPPED)
    bad = refused(bad, code=OpposesOthers.code, message="opposes")
    play_round(store, 1, 0, [good, bad, clipped])
    audited = {audit.commit_sha256 for audit in store.pending_audits(1)}
    assert audited == {good.commit_sha256, clipped.commit_sha256}
    assert {posting.worker for posting in store.postings()} == {peer(1), peer(3)}
    (seen,) = store.recent_work(peer(2), 5)
    assert (seen.status, seen.code, seen.message, seen.credit_state) == (
        EntryStatus.REFUSED,
        OpposesOthers.code,
        "opposes",
        None,
    )


@pytest.mark.parametrize(
    ("outcome", "state_after"),
    [
        (AuditOutcome.PASS, PostingState.SETTLED),
        (AuditOutcome.VOID, PostingState.VOID),
        (AuditOutcome.FAIL, PostingState.VOID),
    ],
)
def test_verdict_moves_the_credit_once(
    store: Store, outcome: AuditOutcome, state_after: PostingState
) -> None:
    work = contribution(commit(1, 0, 1), gpu=True)
    play_round(store, 1, 0, [work])
    assert balance_of(store.totals(peer(1))).pending_ucredits == 1_000_000
    assert judge(store, work, outcome)
    for repeated in REASONS:  # the first verdict stands
        assert not judge(store, work, repeated)
    balance = balance_of(store.totals(peer(1)))
    assert balance.pending_ucredits == 0
    assert getattr(balance, f"{state_after}_ucredits") == 1_000_000
    assert store.pending_audits(1, 0) == ()
    (audit,) = store.audits(1, 0)
    assert (audit.outcome, audit.rho, audit.norm_ratio, audit.cosine_drop) == (
        outcome,
        0.01,
        1.0,
        0.0005,
    )
    assert store.worker(peer(1)).gpu_passes == int(outcome == AuditOutcome.PASS)  # type: ignore[union-attr]
    (seen,) = store.recent_work(peer(1), 5)
    assert (seen.outcome, seen.credit_state, seen.amount_ucredits) == (
        outcome,
        state_after,
        1_000_000,
    )
    assert verify_balances(store) == 1


def test_verdict_needs_an_audit(store: Store) -> None:
    with pytest.raises(InternalFault):
        judge(store, contribution(commit(1, 0, 1)))


def test_failed_audit_forfeits_what_was_pending(store: Store) -> None:
    works = [contribution(commit(1, n, 1), tokens=100 * (n + 1)) for n in range(3)]
    for number, work in enumerate(works):
        play_round(store, 1, number, [work])
    judge(store, works[0])
    judge(store, works[1], AuditOutcome.FAIL)
    (left,) = store.pending_postings(peer(1))
    assert left.commit_sha256 == works[2].commit_sha256
    forfeited = following_posting(left, PostingState.VOID, code=AuditForfeit.code, at_ms=NOW + 9)
    assert store.add_postings([forfeited]) == 1
    assert store.add_postings([forfeited]) == 0
    judge(store, works[2])  # comes too late to earn
    balance = balance_of(store.totals(peer(1)))
    assert (balance.settled_ucredits, balance.void_ucredits) == (100_000, 500_000)
    assert store.recent_work(peer(1), 1)[0].code == AuditForfeit.code
    verify_balances(store)


def test_clawback_takes_settled_credit(store: Store) -> None:
    work = contribution(commit(1, 0, 1))
    play_round(store, 1, 0, [work])
    judge(store, work)
    settled = store.postings()[-1]
    back = following_posting(settled, PostingState.CLAWBACK, code=AuditFailed.code, at_ms=NOW)
    store.add_postings([back])
    balance = balance_of(store.totals(peer(1)))
    assert (balance.settled_ucredits, balance.clawback_ucredits) == (0, 1_000_000)
    verify_balances(store)


def test_posting_key_with_other_content_is_refused(store: Store) -> None:
    play_round(store, 1, 0, [contribution(commit(1, 0, 1))])
    (posting,) = store.postings()
    assert store.add_postings([replace(posting, at_ms=NOW + 99)]) == 0
    with pytest.raises(InternalFault):
        store.add_postings([replace(posting, amount_ucredits=7)])


def test_postings_are_paged_by_id(store: Store) -> None:
    play_round(store, 1, 0, [contribution(commit(1, 0, n)) for n in range(5)])
    first = store.postings(limit=2)
    rest = store.postings(after_id=first[-1].id)
    assert [posting.id for posting in (*first, *rest)] == [1, 2, 3, 4, 5]


def test_refusals_are_counted_and_bounded(store: Store) -> None:
    for n in range(MAX_REFUSALS_PER_PEER + 3):
        store.add_refusal(1, 0, peer(1), code=f"C{n}", message="m" * 9999, now_ms=NOW + n)
    store.add_refusal(1, 0, peer(1), code="C0", message="again", now_ms=NOW + 100)
    rows = store.refusals(1, 0)
    assert len(rows) == MAX_REFUSALS_PER_PEER
    newest = store.refusals_of(peer(1), 1)[0]
    assert (newest.code, newest.count, newest.first_ms, newest.last_ms) == (
        "C0",
        2,
        NOW,
        NOW + 100,
    )
    assert len(newest.message) == 512
    assert store.refusals_of(peer(2), 9) == ()


def test_refusals_of_a_round_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ares_coordinator.store.sql_refusals.MAX_REFUSALS_PER_ROUND", 3)
    for n in range(5):
        store.add_refusal(1, 0, peer(n), code="C", message="", now_ms=NOW)
    assert len(store.refusals(1, 0)) == 3
    store.add_refusal(1, 1, peer(9), code="C", message="", now_ms=NOW)
    assert len(store.refusals(1, 1)) == 1


def test_refusals_of_a_cycle_are_those_at_the_door_and_in_the_aggregate(store: Store) -> None:
    work = contribution(commit(1, 0, 1))
    play_round(store, 1, 0, [refused(work, code=OpposesOthers.code, message="opposes")])
    store.add_refusal(1, 0, peer(2), code="C", message="late", now_ms=NOW)
    store.add_refusal(2, 0, peer(2), code="D", message="another cycle", now_ms=NOW)
    found = {(row.peer, row.code, row.count) for row in store.refusals_of_cycle(1, 10)}
    assert found == {(peer(1), OpposesOthers.code, 1), (peer(2), "C", 1)}


def test_rounds_and_workers_are_counted(store: Store) -> None:
    works = [contribution(commit(1, 0, n)) for n in (1, 2)]
    play_round(store, 1, 0, [works[0], refused(works[1], code="C", message="")])
    open_round(store, 1, 1)
    store.add_commit(commit(1, 1, 1))
    store.touch_worker(peer(3), now_ms=NOW - 1, device="cuda", gpu=True, software="")
    assert store.round_counts(1) == (RoundCounts(0, 2, 1, 1), RoundCounts(1, 1, 0, 0))
    assert store.counts() == CountsRow(workers=3, gpu_workers=1, contributions=1)
    active = {row.peer: row.tasks_completed for row in store.active_workers(10)}
    assert active == {peer(1): 1, peer(2): 0, peer(3): 0}
    assert [row.peer for row in store.active_workers(1)] == [peer(1)]


def test_worker_is_seen_and_never_in_the_past(store: Store) -> None:
    store.touch_worker(peer(1), now_ms=NOW, device="cuda: A", gpu=True, software="0.1")
    store.touch_worker(peer(1), now_ms=NOW - 5, device="cpu", gpu=False, software="0.2")
    row = store.worker(peer(1))
    assert row is not None
    assert (row.first_seen_ms, row.last_seen_ms, row.device, row.gpu, row.software) == (
        NOW,
        NOW,
        "cpu",
        False,
        "0.2",
    )
    assert store.workers() == (row,)
    assert store.worker(peer(2)) is None


def test_leaderboard_orders_by_settled_credit_then_by_who_came_first(store: Store) -> None:
    for n in (3, 1, 2):
        store.touch_worker(peer(n), now_ms=NOW - n, device="", gpu=False, software="")
    tokens = {1: 500, 2: 500, 3: 900, 4: 100}
    works = [contribution(commit(1, 0, n), tokens=tokens[n], gpu=n == 3) for n in tokens]
    play_round(store, 1, 0, works)
    for work in works[:3]:
        judge(store, work)
    board = store.leaderboard(10)
    assert [row.peer for row in board] == [peer(3), peer(2), peer(1)]
    assert (board[0].settled_ucredits, board[0].gpu_passes) == (900_000, 1)
    assert len(store.leaderboard(1)) == 1
    counted = store.tier_counts([0, 500_000, 700_000, 5_000_000])
    assert {(row.minimum_ucredits, row.audited_gpu): row.workers for row in counted} == {
        (0, False): 1,
        (500_000, False): 2,
        (700_000, True): 1,
    }
    assert [row.workers for row in store.tier_counts([0])] == [4]
    assert store.settled_by_kind() == (
        (PostingKind.CPU_TRAINING, 1_000_000),
        (PostingKind.GPU_TRAINING, 900_000),
    )


def test_recent_work_shows_rounds_that_are_not_decided(store: Store) -> None:
    play_round(store, 1, 0, [contribution(commit(1, 0, 1))])
    open_round(store, 1, 1)
    store.add_commit(commit(1, 1, 1))
    newest, older = store.recent_work(peer(1), 9)
    assert (newest.round, newest.status, newest.credit_state) == (1, None, None)
    assert (older.round, older.credit_state, older.outcome) == (0, PostingState.PENDING, None)
