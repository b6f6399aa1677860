"""What the API says of a round that made the model worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from api_samples import LIVE
from ares_coordinator.api.present import present_training
from ares_coordinator.api.reads import read_training
from ares_coordinator.store.alarm_rows import AlarmRow, CorrectionRow
from ares_coordinator.store.base import Store
from ares_coordinator.store.sql import open_store
from ares_p2p.errors import PoisonFound
from store_samples import NOW, begin, commit, contribution, open_round, peer, play_round

ALARM = AlarmRow(1, 0, 1, 1.3, 1.7, 1.31, 0.02, 3, "without 1 of 3 contributions it is mended", NOW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "ares.db")
    begin(opened)
    work = [contribution(commit(1, 0, number)) for number in range(3)]
    play_round(opened, 1, 0, work)
    open_round(opened, 1, 1)
    yield opened
    opened.close()


def test_a_corrected_round_shows_who_was_taken_out_and_the_next_one_what_it_corrects(
    store: Store,
) -> None:
    rows = [
        CorrectionRow(
            commit_sha256=work.commit_sha256,
            cycle=1,
            round=0,
            corrected_in_round=1,
            peer=work.peer,
            old_coefficient=work.coefficient,
            new_coefficient=0.0 if work.peer == peer(1) else 0.5,
            code=PoisonFound.code if work.peer == peer(1) else "",
            message="it hurt" if work.peer == peer(1) else "",
            at_ms=NOW,
        )
        for work in store.contributions(1, 0)
    ]
    store.record_look(1, 0, held_out_loss=1.7, alarm=ALARM, corrections=rows)
    first, second = present_training(read_training(store), LIVE).rounds
    assert first.alarm is not None
    assert first.alarm.model_dump() == {
        "held_out_before": 1.3,
        "held_out_bad": 1.7,
        "held_out_after": 1.31,
        "corrected_in_round": 1,
        "evaluations": 3,
        "message": ALARM.message,
        "taken_out": [{"peer": peer(1), "message": "it hurt"}],
    }
    assert (first.corrects, second.corrects) == (None, 0)
    assert second.alarm is None
    assert (first.held_out_loss, first.used, first.refused) == (1.7, 3, 0)


@pytest.mark.parametrize("corrected_in", [None, 0])
def test_an_alarm_without_a_correction_sets_no_round_aside(
    store: Store, corrected_in: int | None
) -> None:
    alarm = replace(ALARM, corrected_in_round=corrected_in, held_out_after=None)
    store.record_look(1, 0, held_out_loss=1.7, alarm=alarm)
    first, second = present_training(read_training(store), LIVE).rounds
    assert first.alarm is not None
    assert (first.alarm.corrected_in_round, first.alarm.taken_out) == (corrected_in, [])
    assert (first.corrects, second.corrects) == (None, None)
