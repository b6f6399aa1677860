"""The lottery, audits on request, and rounds to settle, over every implementation of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import BacklogRow, DrawReason, RoundState
from ares_p2p.domain import AuditOutcome
from ares_p2p.errors import InternalFault
from ledger_samples import seal_round
from store_samples import (
    NOW,
    begin,
    commit,
    contribution,
    finish_round,
    judge,
    lottery,
    open_round,
    peer,
    play_round,
    refused,
    state,
    verdict,
)
from storefixtures import OPENERS


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[request.param](tmp_path)
    begin(opened)
    yield opened
    opened.close()


def test_only_drawn_contributions_are_audited(store: Store) -> None:
    works = [contribution(commit(1, 0, n)) for n in range(3)]
    works[1] = refused(works[1], code="ARES-E070", message="opposes")
    play_round(store, 1, 0, works, undrawn=works[:1])
    rows = {row.commit_sha256: row for row in store.lottery(1, 0)}
    assert set(rows) == {works[0].commit_sha256, works[2].commit_sha256}
    left_out = rows[works[0].commit_sha256]
    assert (left_out.peer, left_out.drawn, left_out.reason) == (
        peer(0),
        False,
        DrawReason.LOTTERY,
    )
    assert (left_out.streak, left_out.rate) == (0, 1.0)
    (audit,) = store.pending_audits(1)
    assert audit.commit_sha256 == works[2].commit_sha256
    assert audit.created_ms == NOW


@pytest.mark.parametrize("wrong", ["missing", "doubled", "refused"])
def test_lottery_of_other_contributions_is_refused(store: Store, wrong: str) -> None:
    works = [contribution(commit(1, 0, n)) for n in range(2)]
    open_round(store, 1, 0)
    for n in range(2):
        store.add_commit(commit(1, 0, n))
    store.close_round(1, 0, now_ms=NOW)
    rows = lottery(works)
    if wrong == "refused":
        works[0] = refused(works[0], code="C", message="")
    drawn = {"missing": rows[:1], "doubled": [*rows, rows[0]], "refused": rows}[wrong]
    with pytest.raises(InternalFault):
        store.finish_round(
            1,
            0,
            next_state_digest=state(1),
            mean_loss=None,
            contributions=works,
            postings=(),
            lottery=drawn,
            now_ms=NOW,
        )
    assert store.rounds(1)[0].state is RoundState.CLOSED
    assert store.lottery(1, 0) == store.audits(1, 0) == ()


def test_audit_on_request_is_ordered_once(store: Store) -> None:
    works = [contribution(commit(1, 0, n)) for n in range(2)]
    play_round(store, 1, 0, works, undrawn=works[:1])
    order = works[0].commit_sha256
    assert store.order_audit(order, reason=DrawReason.ALARM, now_ms=NOW + 7)
    assert not store.order_audit(order, reason=DrawReason.OPERATOR, now_ms=NOW + 8)
    assert not store.order_audit(works[1].commit_sha256, reason=DrawReason.ALARM, now_ms=NOW + 8)
    rows = {row.commit_sha256: (row.drawn, row.reason) for row in store.lottery(1, 0)}
    assert rows[order] == (True, DrawReason.ALARM)
    assert rows[works[1].commit_sha256] == (True, DrawReason.LOTTERY)
    audits = {audit.commit_sha256: audit.created_ms for audit in store.pending_audits(1)}
    assert audits == {order: NOW + 7, works[1].commit_sha256: NOW}
    with pytest.raises(InternalFault):
        store.order_audit(commit(1, 5, 5).commit_sha256, reason=DrawReason.ALARM, now_ms=NOW)


def test_open_audits_are_paged_oldest_round_first_and_counted(store: Store) -> None:
    assert store.audit_backlog() == BacklogRow(0, None)
    rounds = [[contribution(commit(1, number, n)) for n in range(2)] for number in range(3)]
    for number, works in enumerate(rounds):
        play_round(store, 1, number, works)
    assert [audit.round for audit in store.pending_audits(1)] == [0, 0, 1, 1, 2, 2]
    assert [audit.round for audit in store.pending_audits(1, limit=3)] == [0, 0, 1]
    assert {audit.round for audit in store.pending_audits(1, 2)} == {2}
    assert store.audit_backlog() == BacklogRow(6, NOW)
    for work in rounds[0]:
        judge(store, work)
    assert store.audit_backlog() == BacklogRow(4, NOW + 1)


def test_failed_audit_is_the_last_one_that_counted(store: Store) -> None:
    works = [contribution(commit(1, number, 1)) for number in range(4)]
    for number, work in enumerate(works):
        play_round(store, 1, number, [work])
    outcomes = (AuditOutcome.FAIL, AuditOutcome.VOID, AuditOutcome.FAIL, AuditOutcome.FAIL)
    for number, (work, outcome) in enumerate(zip(works, outcomes, strict=True)):
        row = replace(verdict(work, outcome), done_ms=NOW + number, shadow=number == 3)
        store.record_verdict(row, ())
    found = [store.failed_audit(peer(1), at_ms=NOW + at) for at in range(-1, 5)]
    assert [None if audit is None else audit.round for audit in found] == [None, 0, 0, 2, 2, 2]
    assert store.failed_audit(peer(2), at_ms=NOW + 9) is None


def test_verdict_keeps_whose_replay_it_was_and_whether_it_counts(store: Store) -> None:
    work = contribution(commit(1, 0, 1))
    play_round(store, 1, 0, [work])
    store.record_verdict(replace(verdict(work), shadow=True, auditor=peer(7)), ())
    (audit,) = store.audits(1, 0)
    assert (audit.shadow, audit.auditor) == (True, peer(7))


def test_unsettled_round_is_the_oldest_aggregated_one_without_a_settlement(store: Store) -> None:
    assert store.unsettled_round(1) is None
    open_round(store, 1, 0)
    assert store.unsettled_round(1) is None  # not aggregated
    finish_round(store, [], 1, 0)
    play_round(store, 1, 1, [])
    for number in range(2):
        row = store.unsettled_round(1)
        assert row is not None
        assert row.round == number
        seal_round(store, 1, number)
    assert store.unsettled_round(1) is None
    assert store.unsettled_round(2) is None
