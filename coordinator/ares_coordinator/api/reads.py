"""Everything a reply needs from the store, read in one call to its thread.

One call sees one moment: nothing is written in between. Bounded: a page of workers, a page of a
worker's rounds; cycles and rounds are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ares_coordinator.foundation import merged_after, newest_config
from ares_coordinator.ledger.tiers import TierRule
from ares_coordinator.store.alarm_rows import AlarmRow, TakenOutRow
from ares_coordinator.store.base import Store
from ares_coordinator.store.credit_rows import (
    ActiveWorkerRow,
    CountsRow,
    StandingsRow,
    TierCountRow,
    TotalsRow,
    WorkerRow,
    WorkRow,
)
from ares_coordinator.store.rows import (
    BacklogRow,
    CycleRow,
    DatasetRow,
    MetaKey,
    RefusalRow,
    RoundCounts,
    RoundRow,
)
from ares_coordinator.teacherstate import TeacherState, load_teacher_state
from ares_p2p.domain import PostingKind
from ares_p2p.ids import PeerId

MAX_WORKERS = 100  # in a reply: a page shows no more, and each costs a query
MAX_REFUSALS = 500  # of a cycle; the newest
MAX_RECENT = 50  # rounds of one worker


@dataclass(frozen=True, slots=True)
class TrainingRead:
    """The newest cycle, its rounds, and who works."""

    cycle: CycleRow | None
    rounds: tuple[RoundRow, ...]
    round_counts: tuple[RoundCounts, ...]
    refusals: tuple[RefusalRow, ...]
    counts: CountsRow
    workers: tuple[ActiveWorkerRow, ...]
    audits: BacklogRow
    alarms: tuple[AlarmRow, ...] = ()
    taken_out: tuple[TakenOutRow, ...] = ()


@dataclass(frozen=True, slots=True)
class DataRead:
    """All datasets, and how the teacher is."""

    datasets: tuple[DatasetRow, ...]
    teacher: TeacherState | None  # None: none was asked yet


@dataclass(frozen=True, slots=True)
class CreditsRead:
    """Credit of the whole network."""

    tier_counts: tuple[TierCountRow, ...]
    settled_by_kind: tuple[tuple[PostingKind, int], ...]


@dataclass(frozen=True, slots=True)
class WorkerRead:
    """One worker with all that can be said."""

    worker: WorkerRow
    standing: StandingsRow | None  # None: nothing was posted yet
    totals: tuple[TotalsRow, ...]
    work: tuple[WorkRow, ...]
    refusals: tuple[RefusalRow, ...]


@dataclass(frozen=True, slots=True)
class StatusRead:
    """Everything at a glance."""

    name: str
    network_id: str
    cycles: tuple[CycleRow, ...]
    merged_after: int  # the newest cycle whose adapter is merged into the base; 0: none is
    training: TrainingRead
    data: DataRead
    credits: CreditsRead


def read_model(store: Store) -> tuple[tuple[CycleRow, ...], int]:
    """Return all cycles, and the newest one whose adapter is merged into the base."""
    return store.cycles(), merged_after(newest_config(store))


def read_training(store: Store) -> TrainingRead:
    """Return the newest cycle's training."""
    cycle = store.latest_cycle()
    number = 0 if cycle is None else cycle.cycle
    return TrainingRead(
        cycle=cycle,
        rounds=store.rounds(number),
        round_counts=store.round_counts(number),
        refusals=store.refusals_of_cycle(number, MAX_REFUSALS),
        counts=store.counts(),
        workers=store.active_workers(MAX_WORKERS),
        audits=store.audit_backlog(),
        alarms=store.alarms(number),
        taken_out=store.taken_out(number),
    )


def read_data(store: Store) -> DataRead:
    """Return the datasets and the teacher."""
    return DataRead(store.datasets(), load_teacher_state(store))


def read_credits(store: Store, tiers: Sequence[TierRule]) -> CreditsRead:
    """Return the network's credit."""
    minimums = [rule.minimum_ucredits for rule in tiers]
    return CreditsRead(store.tier_counts(minimums), store.settled_by_kind())


def read_worker(store: Store, peer: PeerId) -> WorkerRead | None:
    """Return one worker, None when nobody has this id."""
    worker = store.worker(peer)
    if worker is None:
        return None
    return WorkerRead(
        worker=worker,
        standing=store.standing(peer),
        totals=store.totals(peer),
        work=store.recent_work(peer, MAX_RECENT),
        refusals=store.refusals_of(peer, MAX_RECENT),
    )


def read_status(store: Store, tiers: Sequence[TierRule]) -> StatusRead:
    """Return everything at a glance."""
    return StatusRead(
        name=store.meta(MetaKey.NETWORK_NAME) or "",
        network_id=store.meta(MetaKey.NETWORK_ID) or "",
        cycles=store.cycles(),
        merged_after=merged_after(newest_config(store)),
        training=read_training(store),
        data=read_data(store),
        credits=read_credits(store, tiers),
    )
