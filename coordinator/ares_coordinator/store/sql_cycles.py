"""`CycleStore` over SQL: single values, cycles, sequence numbers, signed records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import Connection, and_, insert, or_, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.base import CycleFields
from ares_coordinator.store.rows import TERMINAL_PHASES, CyclePhase, CycleRow, MetaKey, RecordRow
from ares_coordinator.store.sql_base import (
    SqlBase,
    batches,
    fetch_one,
    insert_all,
    insert_row,
    to_row,
    to_values,
    update_row,
)
from ares_p2p.errors import ConfigFault, InternalFault

WRITE_ONCE = (MetaKey.NETWORK_ID, MetaKey.COORDINATOR)
ROUND_KINDS = ("plan", "commits", "manifest", "audits", "settlement")


def save_records(connection: Connection, records: Sequence[RecordRow]) -> None:
    """Store records inside a transaction of the caller; see `CycleStore.save_record`."""
    c = t.records.c
    known: dict[tuple[str, int, int, str], bytes] = {}
    peers: dict[tuple[str, int, int], list[str]] = {}
    for record in records:
        peers.setdefault((record.kind, record.cycle, record.round), []).append(record.peer)
    for (kind, cycle, round_number), of_place in peers.items():
        same = and_(c.kind == kind, c.cycle == cycle, c.round == round_number)
        for batch in batches(of_place):
            query = select(t.records).where(same, c.peer.in_(batch))
            stored = (to_row(RecordRow, row) for row in connection.execute(query))
            known |= {_place(row): row.envelope for row in stored}
    new = []
    for record in records:
        place = _place(record)
        if place not in known:
            known[place] = record.envelope
            new.append(record)
        elif known[place] != record.envelope:
            raise InternalFault(
                f"record {record.kind} of cycle {record.cycle} round {record.round} is signed "
                "already, with other content"
            )
    insert_all(connection, t.records, new)


def _place(record: RecordRow) -> tuple[str, int, int, str]:
    return (record.kind, record.cycle, record.round, record.peer)


def renew_record(connection: Connection, record: RecordRow) -> bool:
    """Store a record in the place of an older one; see `CycleStore.replace_record`."""
    stored = _stored(connection, record)
    if stored is None:
        insert_row(connection, t.records, record)
        return True
    if stored.seq >= record.seq:
        return False
    update_row(connection, t.records, _record_key(record), to_values(record))
    return True


def _stored(connection: Connection, record: RecordRow) -> RecordRow | None:
    return fetch_one(connection, RecordRow, t.records, **_record_key(record))


def _record_key(record: RecordRow) -> dict[str, Any]:
    return {
        "kind": record.kind,
        "cycle": record.cycle,
        "round": record.round,
        "peer": record.peer,
    }


class SqlCycles(SqlBase):
    """Implements `CycleStore`; its docstrings are there."""

    def meta(self, key: MetaKey) -> str | None:
        with self._read() as connection:
            return _meta(connection, key)

    def set_meta(self, key: MetaKey, value: str) -> None:
        with self._write() as connection:
            stored = _meta(connection, key)
            if stored is None:
                connection.execute(insert(t.meta).values(key=str(key), value=value))
            elif stored != value:
                if key in WRITE_ONCE:
                    raise ConfigFault(
                        f"this database belongs to {key} {stored}, not to {value}",
                        hint="Use another data directory for another network.",
                    )
                update_row(connection, t.meta, {"key": key}, {"value": value})

    def begin_cycle(
        self,
        cycle: int,
        *,
        now_ms: int,
        secret_seed: bytes,
        assignment_key: bytes,
        params_json: str = "{}",
    ) -> CycleRow:
        with self._write() as connection:
            stored = fetch_one(connection, CycleRow, t.cycles, cycle=cycle)
            if stored is not None:
                return stored
            latest = _latest_cycle(connection)
            if latest is not None and latest.phase not in TERMINAL_PHASES:
                raise InternalFault(f"cycle {latest.cycle} is unfinished, in {latest.phase}")
            if cycle != (1 if latest is None else latest.cycle + 1):
                raise InternalFault(f"cycle {cycle} would leave a gap")
            row = CycleRow(
                cycle=cycle,
                phase=CyclePhase.GENERATE,
                created_ms=now_ms,
                updated_ms=now_ms,
                params_json=params_json,
                secret_seed=secret_seed,
                assignment_key=assignment_key,
            )
            insert_row(connection, t.cycles, row)
            return row

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
        with self._write() as connection:
            stored = fetch_one(connection, CycleRow, t.cycles, cycle=cycle)
            if stored is None or stored.phase not in (expected, new):
                phase = "unknown" if stored is None else f"in {stored.phase}"
                raise InternalFault(f"cycle {cycle} is {phase}, {expected} expected")
            if stored.phase == new:
                return False
            values = {**fields, "phase": new, "updated_ms": now_ms}
            update_row(connection, t.cycles, {"cycle": cycle}, values)
            save_records(connection, records)
            return True

    def update_cycle(self, cycle: int, *, now_ms: int, **fields: Unpack[CycleFields]) -> None:
        with self._write() as connection:
            values = {**fields, "updated_ms": now_ms}
            update_row(connection, t.cycles, {"cycle": cycle}, values)

    def current_cycle(self) -> CycleRow | None:
        latest = self.latest_cycle()
        return None if latest is None or latest.phase in TERMINAL_PHASES else latest

    def latest_cycle(self) -> CycleRow | None:
        with self._read() as connection:
            return _latest_cycle(connection)

    def cycle(self, cycle: int) -> CycleRow | None:
        with self._read() as connection:
            return fetch_one(connection, CycleRow, t.cycles, cycle=cycle)

    def cycles(self) -> tuple[CycleRow, ...]:
        with self._read() as connection:
            rows = connection.execute(select(t.cycles).order_by(t.cycles.c.cycle))
            return tuple(to_row(CycleRow, row) for row in rows)

    def next_seq(self, kind: str, now_ms: int) -> int:
        with self._write() as connection:
            wanted = t.sequences.c.kind == kind
            last = connection.execute(select(t.sequences.c.seq).where(wanted)).scalar()
            seq = now_ms if last is None else max(last + 1, now_ms)
            if last is None:
                connection.execute(insert(t.sequences).values(kind=kind, seq=seq))
            else:
                connection.execute(update(t.sequences).where(wanted).values(seq=seq))
            return seq

    def save_record(self, record: RecordRow) -> None:
        with self._write() as connection:
            save_records(connection, (record,))

    def replace_record(self, record: RecordRow) -> bool:
        with self._write() as connection:
            return renew_record(connection, record)

    def record(self, kind: str, cycle: int, round_number: int, peer: str = "") -> RecordRow | None:
        with self._read() as connection:
            key = {"kind": kind, "cycle": cycle, "round": round_number, "peer": peer}
            return fetch_one(connection, RecordRow, t.records, **key)

    def latest_record(self, kind: str) -> RecordRow | None:
        columns = t.records.c
        query = (
            select(t.records)
            .where(columns.kind == kind)
            .order_by(columns.cycle.desc(), columns.round.desc(), columns.seq.desc(), columns.peer)
            .limit(1)
        )
        with self._read() as connection:
            row = connection.execute(query).first()
            return None if row is None else to_row(RecordRow, row)

    def records_to_publish(self, cycle: int, *, from_round: int = 0) -> tuple[RecordRow, ...]:
        columns = t.records.c
        wanted = and_(
            columns.in_dht == 1,
            columns.cycle.in_((0, cycle)),
            or_(columns.kind.not_in(ROUND_KINDS), columns.round >= from_round),
        )
        order = (columns.cycle, columns.round, columns.seq, columns.kind, columns.peer)
        with self._read() as connection:
            rows = connection.execute(select(t.records).where(wanted).order_by(*order))
            return tuple(to_row(RecordRow, row) for row in rows)


def _meta(connection: Connection, key: MetaKey) -> str | None:
    value: str | None = connection.execute(
        select(t.meta.c.value).where(t.meta.c.key == str(key))
    ).scalar()
    return value


def _latest_cycle(connection: Connection) -> CycleRow | None:
    query = select(t.cycles).order_by(t.cycles.c.cycle.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else to_row(CycleRow, row)
