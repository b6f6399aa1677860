"""The store's protocol: which facts there are, and what may happen to them.

The rules hold for every implementation, and one contract suite checks them:

- A method that writes is one transaction: after a kill all of it is there, or nothing.
- Repeating a call that was completed changes nothing and does not fail.
- A call that contradicts what is stored raises `InternalFault`: that is a bug of the caller.
- The database itself failing raises `StoreFault`, a full disk `DiskFull`.

Methods block; the event loop calls them through `ares_coordinator.store.thread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict, Unpack

from ares_coordinator.store.base_auditors import AuditorStore
from ares_coordinator.store.base_corrections import CorrectionStore
from ares_coordinator.store.base_requests import RequestStore
from ares_coordinator.store.base_work import CreditStore, RoundStore
from ares_coordinator.store.rows import (
    CyclePhase,
    CycleRow,
    DatasetRow,
    EvaluationRow,
    EventRow,
    MetaKey,
    RecordRow,
    Stage,
)

MAX_EVENTS = 10_000  # kept for replay to a client that was away


class CycleFields(TypedDict, total=False):
    """The columns of a cycle that change after it began."""

    config_envelope: bytes
    rounds_total: int
    rank: int
    adapter_parameters: int
    adapter_path: str
    promoted: bool
    version: int
    loss_before: float
    loss_after: float
    loss_change_low: float
    loss_change_high: float
    failure: str


class CycleStore(Protocol):
    """Single values, cycles, sequence numbers and our signed records."""

    def meta(self, key: MetaKey) -> str | None:
        """Return a single value, None when it was never set."""
        ...

    def set_meta(self, key: MetaKey, value: str) -> None:
        """Set a single value.

        Raises: ConfigFault: another network id or coordinator than the one this database has.
        """
        ...

    def begin_cycle(
        self,
        cycle: int,
        *,
        now_ms: int,
        secret_seed: bytes,
        assignment_key: bytes,
        params_json: str = "{}",
    ) -> CycleRow:
        """Begin cycle `cycle` (counted from 1) in phase `generate`, and return what is stored.

        When it exists already the stored row comes back, with its own seed: use that one.
        Raises: InternalFault: an earlier cycle is unfinished, or the number leaves a gap.
        """
        ...

    def advance_phase(
        self,
        cycle: int,
        expected: CyclePhase,
        new: CyclePhase,
        *,
        now_ms: int,
        records: Sequence[RecordRow] = (),
        **fields: Unpack[CycleFields],
    ) -> bool:
        """Move a cycle from `expected` to `new`, and set `fields` and save `records` with it.

        Returns: True; False when it is in `new` already, and then nothing is written.
        Raises: InternalFault: the cycle is in neither phase.
        """
        ...

    def update_cycle(self, cycle: int, *, now_ms: int, **fields: Unpack[CycleFields]) -> None:
        """Set columns of a cycle without moving it."""
        ...

    def current_cycle(self) -> CycleRow | None:
        """Return the cycle that is neither done nor failed, if there is one."""
        ...

    def latest_cycle(self) -> CycleRow | None:
        """Return the newest cycle, whatever its phase."""
        ...

    def cycle(self, cycle: int) -> CycleRow | None:
        """Return one cycle."""
        ...

    def cycles(self) -> tuple[CycleRow, ...]:
        """Return all cycles, oldest first."""
        ...

    def next_seq(self, kind: str, now_ms: int) -> int:
        """Return a number above every earlier one of this kind, and remember it.

        It is at least `now_ms`, so that it also grows when an old backup is restored.
        """
        ...

    def save_record(self, record: RecordRow) -> None:
        """Store a signed envelope under (kind, cycle, round, peer); the same bytes are a no-op.

        Raises: InternalFault: other bytes are stored there. Signing two would be equivocation.
        """
        ...

    def replace_record(self, record: RecordRow) -> bool:
        """Store an envelope of a kind that is renewed; a higher `seq` replaces a lower one.

        Returns: False when the stored one is as new or newer; then nothing is written.
        """
        ...

    def record(self, kind: str, cycle: int, round_number: int, peer: str = "") -> RecordRow | None:
        """Return one record."""
        ...

    def latest_record(self, kind: str) -> RecordRow | None:
        """Return the record of the highest (cycle, round, seq) of a kind."""
        ...

    def records_to_publish(self, cycle: int, *, from_round: int = 0) -> tuple[RecordRow, ...]:
        """Return what must lie in the DHT: records of the network and of this cycle.

        Args:
            from_round: leave out the round records (plan, commits, manifest, settlement) of
                earlier rounds.
        """
        ...


class ReportStore(Protocol):
    """Evaluations, dataset statistics and events."""

    def save_evaluation(self, evaluation: EvaluationRow) -> bool:
        """Store an evaluation. Returns False when the cycle has one of this stage: it stands."""
        ...

    def evaluation(self, cycle: int, stage: Stage) -> EvaluationRow | None:
        """Return an evaluation with its examples."""
        ...

    def save_dataset(self, dataset: DatasetRow) -> None:
        """Store a cycle's dataset statistics in the place of earlier ones."""
        ...

    def dataset(self, cycle: int) -> DatasetRow | None:
        """Return a cycle's dataset statistics."""
        ...

    def datasets(self) -> tuple[DatasetRow, ...]:
        """Return the statistics of all cycles, oldest first."""
        ...

    def add_event(self, kind: str, data_json: str, *, now_ms: int) -> int:
        """Append an event and return its id; only the newest `MAX_EVENTS` are kept."""
        ...

    def events_after(self, event_id: int, limit: int = 100) -> tuple[EventRow, ...]:
        """Return the events after an id, oldest first."""
        ...

    def newest_event_id(self) -> int:
        """Return the id of the newest event; 0 when nothing ever happened."""
        ...


class Store(
    CycleStore,
    RoundStore,
    CorrectionStore,
    AuditorStore,
    CreditStore,
    ReportStore,
    RequestStore,
    Protocol,
):
    """The whole store."""

    def close(self) -> None:
        """Let go of the database."""
        ...
