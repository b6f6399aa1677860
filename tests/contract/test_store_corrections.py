"""Looks, alarms and corrections, over every implementation of the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ares_coordinator.store.alarm_rows import AlarmRow, CorrectionRow, TakenOutRow
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import ContributionRow, DrawReason
from ares_p2p.errors import InternalFault, OpposesOthers, PoisonFound
from store_samples import (
    NOW,
    begin,
    commit,
    contribution,
    finish_round,
    open_round,
    play_round,
    refused,
)
from storefixtures import OPENERS

ALARM = AlarmRow(
    cycle=1,
    round=0,
    corrected_in_round=1,
    held_out_before=1.3,
    held_out_bad=1.7,
    held_out_after=1.31,
    standard_error=0.02,
    evaluations=3,
    message="without 1 of 3 contributions it is mended",
    at_ms=NOW + 7,
)


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[request.param](tmp_path)
    begin(opened)
    yield opened
    opened.close()


def round_of(number: int, peers: int = 3) -> list[ContributionRow]:
    work = [contribution(commit(1, number, peer)) for peer in range(peers)]
    return sorted(work, key=lambda row: row.commit_sha256)


def correction(
    work: Sequence[ContributionRow], *culprits: int, corrected_in: int = 1
) -> list[CorrectionRow]:
    return [
        CorrectionRow(
            commit_sha256=row.commit_sha256,
            cycle=1,
            round=row.round,
            corrected_in_round=corrected_in,
            peer=row.peer,
            old_coefficient=row.coefficient,
            new_coefficient=0.0 if number in culprits else 0.5,
            code=PoisonFound.code if number in culprits else "",
            message="it hurt" if number in culprits else "",
            at_ms=NOW + 7,
        )
        for number, row in enumerate(work)
    ]


def trust_all(store: Store, number: int) -> list[ContributionRow]:
    """Play a round in which the lottery draws nobody."""
    work = round_of(number)
    play_round(store, 1, number, work, undrawn=work)
    return work


def test_a_look_notes_the_loss_once(store: Store) -> None:
    play_round(store, 1, 0, round_of(0))
    assert store.record_look(1, 0, held_out_loss=1.5)
    assert not store.record_look(1, 0, held_out_loss=9.9, alarm=ALARM)
    assert [row.held_out_loss for row in store.rounds(1)] == [1.5]
    assert store.alarms(1) == ()
    with pytest.raises(InternalFault):
        store.record_look(1, 1, held_out_loss=1.5)


def test_an_alarm_that_changes_nothing_is_kept(store: Store) -> None:
    play_round(store, 1, 0, round_of(0))
    quiet = replace(
        ALARM, corrected_in_round=None, held_out_after=None, message="no few explain it"
    )
    assert store.record_look(1, 0, held_out_loss=1.7, alarm=quiet)
    assert store.alarms(1) == (quiet,)
    assert store.corrections(1, 0) == ()
    assert store.taken_out(1) == ()


def test_a_correction_comes_with_its_alarm_and_audits_of_the_culprits(store: Store) -> None:
    work = trust_all(store, 0)
    open_round(store, 1, 1)
    rows = correction(work, 1)
    assert store.audits(1, 0) == ()
    assert store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=rows)
    assert store.alarms(1) == (ALARM,)
    assert store.corrections(1, 0) == tuple(rows)
    assert store.taken_out(1) == (TakenOutRow(0, work[1].peer, "it hurt"),)
    (audit,) = store.audits(1, 0)
    assert (audit.commit_sha256, audit.outcome) == (work[1].commit_sha256, None)
    drawn = {row.commit_sha256: (row.drawn, row.reason) for row in store.lottery(1, 0)}
    assert drawn.pop(work[1].commit_sha256) == (True, DrawReason.ALARM)
    assert set(drawn.values()) == {(False, DrawReason.LOTTERY)}


def test_a_correction_touches_nobodys_credit(store: Store) -> None:
    work = trust_all(store, 0)
    before = store.postings(), store.totals(), store.contributions(1, 0)
    store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=correction(work, 0, 1))
    assert (store.postings(), store.totals(), store.contributions(1, 0)) == before


def test_a_culprit_that_the_lottery_drew_is_audited_once(store: Store) -> None:
    work = round_of(0)
    play_round(store, 1, 0, work)
    before = store.audits(1, 0), store.lottery(1, 0)
    assert store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=correction(work, 2))
    assert (store.audits(1, 0), store.lottery(1, 0)) == before


def test_a_correction_that_no_manifest_can_carry_any_more_is_refused_whole(store: Store) -> None:
    work = trust_all(store, 0)
    play_round(store, 1, 1, round_of(1))
    with pytest.raises(InternalFault, match="is over"):
        store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=correction(work, 1))
    assert store.rounds(1)[0].held_out_loss is None
    assert store.alarms(1) == ()
    assert store.audits(1, 0) == ()


def test_a_correction_of_other_contributions_is_refused_whole(store: Store) -> None:
    work = trust_all(store, 0)
    for rows in (correction(work[:2], 1), correction([*work[:2], *round_of(7)[:1]], 1)):
        with pytest.raises(InternalFault, match="other contributions"):
            store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=rows)
    assert store.rounds(1)[0].held_out_loss is None
    assert store.corrections(1, 0) == ()


def test_what_the_last_round_left_out_is_listed_with_what_was_corrected(store: Store) -> None:
    work = trust_all(store, 0)
    store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=correction(work, 1))
    last = round_of(1)
    last[0] = replace(last[0], coefficient=0.0, code=PoisonFound.code, message="it hurt, too")
    play_round(store, 1, 1, last)
    assert store.taken_out(1) == (
        TakenOutRow(0, work[1].peer, "it hurt"),
        TakenOutRow(1, last[0].peer, "it hurt, too"),
    )


def test_a_refused_contribution_is_listed_and_not_audited(store: Store) -> None:
    work = round_of(0)
    work[0] = refused(work[0], code=OpposesOthers.code, message="against the others")
    open_round(store, 1, 0)
    for row in work:
        store.add_commit(replace(commit(1, 0, 0), commit_sha256=row.commit_sha256, peer=row.peer))
    finish_round(store, work, 1, 0)
    rows = correction(work, 1)
    rows[0] = replace(rows[0], new_coefficient=0.0, code=OpposesOthers.code)
    assert store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=rows)
    assert work[0].commit_sha256 not in {audit.commit_sha256 for audit in store.audits(1, 0)}
