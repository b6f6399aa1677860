"""The rules of `ares_coordinator.store.base`, over every implementation.

Another implementation, or another database, joins by a line in `storefixtures.OPENERS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ares_coordinator.store.base import MAX_EVENTS, Store
from ares_coordinator.store.rows import (
    CategoryCount,
    CyclePhase,
    DatasetRow,
    EvaluatedExample,
    EvaluationRow,
    MetaKey,
    Stage,
)
from ares_p2p.errors import ConfigFault, InternalFault
from store_samples import NOW, begin, digest, record
from storefixtures import OPENERS


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[request.param](tmp_path)
    yield opened
    opened.close()


def test_meta_values_are_kept_and_changed(store: Store) -> None:
    assert store.meta(MetaKey.SETTINGS) is None
    store.set_meta(MetaKey.SETTINGS, "{}")
    store.set_meta(MetaKey.SETTINGS, '{"a":1}')
    assert store.meta(MetaKey.SETTINGS) == '{"a":1}'


def test_meta_network_id_is_written_once(store: Store) -> None:
    store.set_meta(MetaKey.NETWORK_ID, "one")
    store.set_meta(MetaKey.NETWORK_ID, "one")
    with pytest.raises(ConfigFault):
        store.set_meta(MetaKey.NETWORK_ID, "two")
    assert store.meta(MetaKey.NETWORK_ID) == "one"


def _begin(store: Store, cycle: int, seed: str = "seed") -> bytes:
    row = store.begin_cycle(
        cycle, now_ms=NOW, secret_seed=digest(seed), assignment_key=digest("key")
    )
    return row.secret_seed


def test_begin_cycle_repeated_keeps_the_first_seed(store: Store) -> None:
    assert _begin(store, 1, "first") == _begin(store, 1, "second") == digest("first")
    assert len(store.cycles()) == 1


def test_begin_cycle_refuses_a_second_unfinished_one_and_gaps(store: Store) -> None:
    with pytest.raises(InternalFault):
        _begin(store, 2)
    _begin(store, 1)
    with pytest.raises(InternalFault):
        _begin(store, 2)
    store.advance_phase(1, CyclePhase.GENERATE, CyclePhase.FAILED, now_ms=NOW, failure="no data")
    assert store.current_cycle() is None
    with pytest.raises(InternalFault):
        _begin(store, 3)
    _begin(store, 2)
    assert [row.cycle for row in store.cycles()] == [1, 2]
    assert store.cycle(1).failure == "no data"  # type: ignore[union-attr]


def test_secrets_stay_out_of_repr(store: Store) -> None:
    _begin(store, 1)
    assert "secret_seed" not in repr(store.cycle(1))


def test_advance_phase_compares_and_sets(store: Store) -> None:
    _begin(store, 1)
    move = (1, CyclePhase.GENERATE, CyclePhase.PREPARE)
    assert store.advance_phase(*move, now_ms=NOW + 1, rank=8)
    assert not store.advance_phase(*move, now_ms=NOW + 2, rank=9)
    row = store.current_cycle()
    assert row is not None
    assert (row.phase, row.rank, row.updated_ms) == (CyclePhase.PREPARE, 8, NOW + 1)
    with pytest.raises(InternalFault):
        store.advance_phase(1, CyclePhase.TRAIN, CyclePhase.STACK, now_ms=NOW)
    with pytest.raises(InternalFault):
        store.advance_phase(2, CyclePhase.TRAIN, CyclePhase.STACK, now_ms=NOW)


def test_advance_phase_saves_records_with_the_move_or_not_at_all(store: Store) -> None:
    _begin(store, 1)
    store.save_record(record("cycle", 1, 0))
    other = replace(record("cycle", 1, 0), envelope=b"other")
    move = (1, CyclePhase.GENERATE, CyclePhase.PREPARE)
    with pytest.raises(InternalFault):
        store.advance_phase(*move, now_ms=NOW, records=[record("dataset", 1, 0), other])
    assert store.cycle(1).phase == CyclePhase.GENERATE  # type: ignore[union-attr]
    assert store.record("dataset", 1, 0) is None


def test_update_cycle_keeps_every_kind_of_value(store: Store) -> None:
    _begin(store, 1)
    fields = {
        "config_envelope": b"\0signed",
        "rounds_total": 5,
        "rank": 8,
        "adapter_parameters": 2**40,
        "adapter_path": "ares-adapters/cycle-1",
        "promoted": True,
        "version": 1,
        "loss_before": 2.75,
        "loss_after": 2.5,
        "loss_change_low": -0.5,
        "loss_change_high": -0.0625,
    }
    store.update_cycle(1, now_ms=NOW + 9, **fields)  # type: ignore[arg-type]
    row = store.cycle(1)
    assert {name: getattr(row, name) for name in fields} == fields
    with pytest.raises(InternalFault):
        store.update_cycle(7, now_ms=NOW, rank=1)


def test_next_seq_grows_per_kind_even_when_the_clock_goes_back(store: Store) -> None:
    first = store.next_seq("plan", NOW)
    assert first == NOW
    assert store.next_seq("plan", NOW - 1000) == NOW + 1
    assert store.next_seq("plan", NOW + 50) == NOW + 50
    assert store.next_seq("commit", 7) == 7


def test_save_record_takes_the_same_bytes_again_and_no_others(store: Store) -> None:
    plan = record("plan", 1, 0)
    store.save_record(plan)
    store.save_record(plan)
    assert store.record("plan", 1, 0) == plan
    assert store.record("plan", 1, 1) is None
    with pytest.raises(InternalFault):
        store.save_record(replace(plan, envelope=b"other"))


def test_replace_record_keeps_the_higher_seq(store: Store) -> None:
    assert store.replace_record(record("network", 0, 0, seq=5))
    assert not store.replace_record(record("network", 0, 0, seq=5))
    assert not store.replace_record(record("network", 0, 0, seq=4))
    assert store.replace_record(record("network", 0, 0, seq=6))
    assert store.record("network", 0, 0) == record("network", 0, 0, seq=6)


def test_latest_record_is_of_the_highest_cycle_and_round(store: Store) -> None:
    assert store.latest_record("plan") is None
    for cycle, number in ((1, 4), (2, 1), (2, 0)):
        store.save_record(record("plan", cycle, number))
    assert store.latest_record("plan") == record("plan", 2, 1)


def test_records_to_publish_are_those_of_the_network_and_the_cycle(store: Store) -> None:
    rows = [
        *(record("network", 0, 0), record("cycle", 1, 0), record("cycle", 2, 0)),
        *(record("plan", 2, 0), record("plan", 2, 1), record("manifest", 2, 0)),
        record("ack", 2, 1, peer="someone"),
    ]
    for row in rows:
        store.save_record(row)
    names = [(row.kind, row.cycle, row.round) for row in store.records_to_publish(2)]
    wanted = [("network", 0, 0), ("cycle", 2, 0), ("plan", 2, 0), ("manifest", 2, 0)]
    assert sorted(names) == sorted([*wanted, ("plan", 2, 1)])
    later = [(row.kind, row.round) for row in store.records_to_publish(2, from_round=1)]
    assert sorted(later) == [("cycle", 0), ("network", 0), ("plan", 1)]


def test_evaluation_is_kept_whole_and_the_first_one_stands(store: Store) -> None:
    begin(store)
    row = EvaluationRow(
        cycle=1,
        stage=Stage.BEFORE,
        at_ms=NOW,
        mean_loss=2.5,
        category_means=(("code", 2.25), ("reasoning", 2.75)),
        examples=(EvaluatedExample("code", 22.5, 10), EvaluatedExample("reasoning", 0.1, 3)),
    )
    assert store.save_evaluation(row)
    assert not store.save_evaluation(replace(row, mean_loss=9.0))
    assert store.evaluation(1, Stage.BEFORE) == row
    assert store.evaluation(1, Stage.AFTER) is None


def test_dataset_statistics_replace_earlier_ones(store: Store) -> None:
    begin(store)
    row = DatasetRow(
        cycle=1,
        teacher="procedural",
        categories=(CategoryCount("code", 90, 10, 5000),),
        rejected=(("duplicate", 3), ("refusal", 1)),
        cost_microusd=0,
        disk_files=3,
        disk_bytes=12345,
        updated_ms=NOW,
    )
    store.save_dataset(replace(row, categories=(CategoryCount("creative", 1, 0, 9),)))
    store.save_dataset(row)
    assert store.dataset(1) == row
    assert store.datasets() == (row,)
    assert store.dataset(2) is None


def test_events_come_in_order_and_are_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ares_coordinator.store.sql_reports.MAX_EVENTS", 5)
    assert MAX_EVENTS > 5
    assert store.newest_event_id() == 0
    ids = [store.add_event("status", f'{{"n":{n}}}', now_ms=NOW + n) for n in range(8)]
    kept = store.events_after(0)
    assert [event.id for event in kept] == ids[-5:]
    assert store.newest_event_id() == ids[-1]
    assert kept[-1].data_json == '{"n":7}'
    assert [event.id for event in store.events_after(ids[5], limit=1)] == [ids[6]]
