"""Tasks of auditors, their reports, who may audit, and decoys, over every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ares_coordinator.ledger.balances import verify_balances
from ares_coordinator.ledger.postings import following_posting, posting_key
from ares_coordinator.store.auditor_rows import (
    AssignmentRow,
    AuditorRow,
    AuditResult,
    DecoyRow,
    ReportResult,
    RulingRow,
)
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import ContributionRow
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.errors import Equivocation, InternalFault, ReportLate
from ares_p2p.ids import Digest, PeerId
from store_samples import (
    NOW,
    begin,
    commit,
    contribution,
    digest,
    open_round,
    peer,
    play_round,
    record,
)
from storefixtures import OPENERS

AUDITOR, OTHER = peer(8), peer(9)
AUDITS = 4  # contributions, one a round


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[request.param](tmp_path)
    begin(opened)
    for auditor in (AUDITOR, OTHER):
        opened.touch_worker(auditor, now_ms=NOW, device="cpu", gpu=False, software="1")
    for number in range(AUDITS):
        play_round(opened, 1, number, [work_of(number)])
    yield opened
    opened.close()


def work_of(number: int) -> ContributionRow:
    return contribution(commit(1, number, 1))


def task_of(number: int, *, auditor: PeerId = AUDITOR) -> AssignmentRow:
    asked_ms = NOW + number
    commit_sha256 = work_of(number).commit_sha256
    return AssignmentRow(commit_sha256, auditor, 1, number, asked_ms, asked_ms + 60)


def pay(commit_sha256: Digest, number: int, state: PostingState = PostingState.PENDING) -> Posting:
    kind = PostingKind.AUDIT
    return Posting(
        key=posting_key(AUDITOR, kind, commit_sha256=commit_sha256, state=state),
        worker=AUDITOR,
        kind=kind,
        state=state,
        amount_ucredits=1_000,
        cycle=1,
        round=number,
        commit_sha256=commit_sha256,
        code="",
        at_ms=NOW,
    )


def ask(store: Store, number: int) -> AssignmentRow:
    task = task_of(number)
    store.assign_audits(record("audits", 1, number), [task])
    return task


def report(store: Store, number: int, *, text: bytes = b"report") -> AssignmentRow:
    """Ask, and take a report with its pending pay."""
    task = ask(store, number)
    store.take_report(
        task.commit_sha256,
        AUDITOR,
        envelope=text,
        received_ms=NOW + number,
        postings=[pay(task.commit_sha256, number)],
    )
    return task


def settle(store: Store, task: AssignmentRow, result: AuditResult) -> None:
    store.rule(RulingRow(task.commit_sha256, AUDITOR, result))
    store.add_postings([pay(task.commit_sha256, task.round, PostingState.SETTLED)])


def test_plan_and_tasks_are_stored_once(store: Store) -> None:
    task = task_of(0)
    assert store.assign_audits(record("audits", 1, 0), [task])
    assert not store.assign_audits(record("audits", 1, 0, seq=2), [task_of(0, auditor=OTHER)])
    assert store.assignments(1, 0) == (task,)
    assert store.assignment_of(task.commit_sha256) == task
    assert store.assignment_of(work_of(1).commit_sha256) is None
    stored = store.record("audits", 1, 0)
    assert stored is not None
    assert stored.seq == 1


def test_report_is_stored_with_its_pending_pay(store: Store) -> None:
    task = report(store, 0)
    stored = store.assignment_of(task.commit_sha256)
    assert stored is not None
    assert (stored.report_envelope, stored.received_ms, stored.result) == (b"report", NOW, None)
    assert store.audit_state(task.commit_sha256, AUDITOR) is PostingState.PENDING
    assert store.audit_state(task.commit_sha256, OTHER) is None
    verify_balances(store)


def test_report_twice_is_a_duplicate_and_another_one_is_refused(store: Store) -> None:
    task = report(store, 0)

    def again(text: bytes) -> ReportResult:
        commit_sha256, postings = task.commit_sha256, [pay(task.commit_sha256, 0)]
        return store.take_report(
            commit_sha256, AUDITOR, envelope=text, received_ms=NOW + 9, postings=postings
        )

    assert again(b"report") is ReportResult.DUPLICATE
    with pytest.raises(Equivocation):
        again(b"other")
    stored = store.assignment_of(task.commit_sha256)
    assert stored is not None
    assert stored.report_envelope == b"report"


def test_report_of_a_task_that_is_decided_or_was_never_given_is_refused(store: Store) -> None:
    task = ask(store, 0)
    store.rule(RulingRow(task.commit_sha256, AUDITOR, AuditResult.MISSED, "ARES-E086", "late"))
    late = pay(task.commit_sha256, 0)
    with pytest.raises(ReportLate):
        store.take_report(
            task.commit_sha256, AUDITOR, envelope=b"late", received_ms=NOW, postings=[late]
        )
    with pytest.raises(InternalFault):
        store.take_report(task.commit_sha256, OTHER, envelope=b"mine", received_ms=NOW, postings=())
    assert store.audit_state(task.commit_sha256, AUDITOR) is None


def test_first_ruling_stands_and_its_postings_come_with_it(store: Store) -> None:
    task = report(store, 0)
    lost = following_posting(
        pay(task.commit_sha256, 0), PostingState.VOID, code="ARES-E078", at_ms=NOW
    )
    wrong = RulingRow(task.commit_sha256, AUDITOR, AuditResult.CONTRADICTED, "ARES-E078", "no")
    assert store.rule(wrong, [lost])
    assert not store.rule(RulingRow(task.commit_sha256, AUDITOR, AuditResult.AGREED))
    stored = store.assignment_of(task.commit_sha256)
    assert stored is not None
    assert (stored.result, stored.code) == (AuditResult.CONTRADICTED, "ARES-E078")
    assert store.audit_state(task.commit_sha256, AUDITOR) is PostingState.VOID
    with pytest.raises(InternalFault):
        store.rule(RulingRow(work_of(1).commit_sha256, AUDITOR, AuditResult.AGREED))


def test_streak_counts_paid_replays_since_the_last_one_that_was_not(store: Store) -> None:
    assert store.audit_streak(AUDITOR) == 0
    for number in (0, 1):
        settle(store, report(store, number), AuditResult.TRUSTED)
    assert store.audit_streak(AUDITOR) == 2
    task = report(store, 2)
    store.add_postings([pay(task.commit_sha256, 2, PostingState.VOID)])
    assert store.audit_streak(AUDITOR) == 0
    settle(store, report(store, 3), AuditResult.AGREED)
    assert store.audit_streak(AUDITOR) == 1
    assert store.audit_streak(OTHER) == 0


def test_unconfirmed_is_what_was_paid_since_our_replay_last_agreed(store: Store) -> None:
    settle(store, report(store, 0), AuditResult.TRUSTED)
    settle(store, report(store, 1), AuditResult.AGREED)
    third, fourth = report(store, 2), report(store, 3)
    settle(store, third, AuditResult.TRUSTED)
    settle(store, fourth, AuditResult.TRUSTED)
    found = store.unconfirmed_audits(AUDITOR)
    assert {one.commit_sha256 for one in found} == {third.commit_sha256, fourth.commit_sha256}
    taken = [following_posting(one, PostingState.CLAWBACK, code="X", at_ms=NOW) for one in found]
    store.add_postings(taken)
    assert store.unconfirmed_audits(AUDITOR) == ()
    verify_balances(store)


def test_pay_for_a_replay_is_not_taken_for_the_pay_of_the_work(store: Store) -> None:
    settle(store, report(store, 0), AuditResult.TRUSTED)
    of_the_work = store.posting_of(work_of(0).commit_sha256)
    assert of_the_work is not None
    assert (of_the_work.worker, of_the_work.state) == (peer(1), PostingState.PENDING)


def test_newest_decided_tasks_come_first(store: Store) -> None:
    for number in (0, 1, 2):
        task = ask(store, number)
        if number < 2:
            store.rule(RulingRow(task.commit_sha256, AUDITOR, AuditResult.MISSED))
    found = store.newest_assignments(AUDITOR, 5)
    assert [task.round for task in found] == [1, 0]
    assert [task.round for task in store.newest_assignments(AUDITOR, 1)] == [1]


def test_dismissed_auditor_is_one_again_when_it_is_named(store: Store) -> None:
    assert store.auditor(AUDITOR) is None
    task = report(store, 0)
    wrong = RulingRow(task.commit_sha256, AUDITOR, AuditResult.CONTRADICTED, "ARES-E078", "why")
    store.rule(wrong, dismissed_ms=NOW + 1)
    assert store.auditor(AUDITOR) == AuditorRow(AUDITOR, None, NOW + 1, "why")
    store.name_auditor(AUDITOR, now_ms=NOW + 2)
    store.name_auditor(AUDITOR, now_ms=NOW + 2)
    assert store.auditor(AUDITOR) == AuditorRow(AUDITOR, NOW + 2, None, "")
    store.name_auditor(OTHER, now_ms=NOW)
    assert [row.peer for row in store.auditors()] == sorted([AUDITOR, OTHER])


def test_decoy_keeps_its_first_identity(store: Store) -> None:
    first = DecoyRow(1, 0, peer(5), digest("key"), forgery="half")
    assert store.begin_decoy(first) == first
    assert store.begin_decoy(DecoyRow(1, 0, peer(6), digest("another"))) == first
    assert store.decoy(1, 0) == first
    assert store.decoy(1, 1) is None
    assert not store.is_decoy(digest("commit"))
    store.commit_decoy(1, 0, commit_sha256=digest("commit"))
    assert store.is_decoy(digest("commit"))
    with pytest.raises(InternalFault):
        store.commit_decoy(1, 1, commit_sha256=digest("commit"))


def test_audit_plans_of_earlier_rounds_are_not_published_again(store: Store) -> None:
    ask(store, 0)
    ask(store, 3)
    open_round(store, 1, AUDITS)
    kinds = {(row.kind, row.round) for row in store.records_to_publish(1, from_round=2)}
    assert ("audits", 3) in kinds
    assert ("audits", 0) not in kinds
