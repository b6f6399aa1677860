"""What the next manifest says about a round that was found to be poisoned, and where it leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ares_coordinator.alarm.past import PastRound
from ares_coordinator.store.alarm_rows import AlarmRow, CorrectionRow
from ares_coordinator.store.base import Store
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import EntryStatus, ManifestEntry, RoundCorrection
from ares_p2p.errors import InternalFault, NormClipped


@dataclass(frozen=True, slots=True)
class StoredCorrection:
    """What the books say of a round that the next one has to correct."""

    alarm: AlarmRow
    rows: tuple[CorrectionRow, ...]


def correction_rows(
    before: Sequence[ManifestEntry],
    after: Sequence[ManifestEntry],
    *,
    cycle: int,
    round_number: int,
    at_ms: int,
) -> tuple[CorrectionRow, ...]:
    """Return what changes when the entries of a round become others, in commit order."""
    return tuple(
        CorrectionRow(
            commit_sha256=old.commit_sha256,
            cycle=cycle,
            round=round_number,
            corrected_in_round=round_number + 1,
            peer=old.peer,
            old_coefficient=old.coefficient,
            new_coefficient=new.coefficient,
            code=new.code,
            message=new.message,
            at_ms=at_ms,
        )
        for old, new in zip(before, after, strict=True)
    )


def stored_correction(store: Store, cycle: int, round_number: int) -> StoredCorrection | None:
    """Return how a round is to be corrected by the one after it, None when it is not.

    Raises: InternalFault: rows without their alarm.
    """
    rows = store.corrections(cycle, round_number)
    if not rows:
        return None
    for alarm in store.alarms(cycle):
        if alarm.round == round_number:
            return StoredCorrection(alarm, rows)
    raise InternalFault(f"round {round_number} of cycle {cycle} is corrected without an alarm")


def build_correction(past: PastRound, stored: StoredCorrection) -> RoundCorrection:
    """Return what the manifest of the next round carries."""
    alarm = stored.alarm
    if alarm.held_out_after is None:
        raise InternalFault(f"the correction of round {alarm.round} without its loss")
    return RoundCorrection(
        round=past.row.round,
        manifest_sha256=past.manifest_sha256,
        entries=tuple(_entry(row) for row in stored.rows),
        held_out_before=alarm.held_out_before,
        held_out_bad=alarm.held_out_bad,
        held_out_after=alarm.held_out_after,
    )


def corrected_vectors(
    past: PastRound, correction: RoundCorrection
) -> list[tuple[Vector | VectorSource, float]]:
    """Return (pseudo-gradient, coefficient) of what still counts, in commit order."""
    used: list[tuple[Vector | VectorSource, float]] = []
    for item, entry in zip(past.judged, correction.entries, strict=True):
        if entry.coefficient:
            assert item.vector is not None
            used.append((item.vector, entry.coefficient))
    return used


def _entry(row: CorrectionRow) -> ManifestEntry:
    status = EntryStatus.ACCEPTED
    if row.new_coefficient == 0.0:
        status = EntryStatus.REFUSED
    elif row.code == NormClipped.code:
        status = EntryStatus.CLIPPED
    return ManifestEntry(
        row.commit_sha256, row.peer, row.new_coefficient, status, row.code, row.message
    )
