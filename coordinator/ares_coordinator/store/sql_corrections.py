"""Implements `CorrectionStore` over SQL: looks, alarms, corrections."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from ares_coordinator.store import tables as t
from ares_coordinator.store.alarm_rows import AlarmRow, CorrectionRow, TakenOutRow
from ares_coordinator.store.rows import DrawReason, RoundRow, RoundState
from ares_coordinator.store.sql_base import SqlBase, fetch_one, insert_row, to_row, update_row
from ares_coordinator.store.sql_lottery import order_audit
from ares_p2p.errors import InternalFault, PoisonFound


def _place(row: TakenOutRow) -> tuple[int, str]:
    return row.round, row.peer


class SqlCorrections(SqlBase):
    """Its docstrings are in the protocol."""

    def record_look(
        self,
        cycle: int,
        round_number: int,
        *,
        held_out_loss: float,
        alarm: AlarmRow | None = None,
        corrections: Sequence[CorrectionRow] = (),
    ) -> bool:
        key = {"cycle": cycle, "round": round_number}
        with self._write() as connection:
            row = fetch_one(connection, RoundRow, t.rounds, **key)
            if row is None:
                raise InternalFault(f"there is no round {round_number} of cycle {cycle}")
            if row.held_out_loss is not None:
                return False
            update_row(connection, t.rounds, key, {"held_out_loss": held_out_loss})
            if alarm is not None:
                insert_row(connection, t.alarms, alarm)
            if corrections:
                self._correct(connection, row, corrections)
            return True

    def _correct(
        self, connection: Connection, row: RoundRow, corrections: Sequence[CorrectionRow]
    ) -> None:
        carrier = fetch_one(connection, RoundRow, t.rounds, cycle=row.cycle, round=row.round + 1)
        if carrier is not None and carrier.state == RoundState.AGGREGATED:
            raise InternalFault(f"round {row.round + 1} of cycle {row.cycle} is over")
        listed = sorted(item.commit_sha256 for item in corrections)
        work = t.contributions.c
        query = select(work.commit_sha256).where(work.cycle == row.cycle, work.round == row.round)
        if listed != sorted(connection.execute(query).scalars()):
            raise InternalFault(f"a correction of other contributions than round {row.round} has")
        for item in corrections:
            insert_row(connection, t.corrections, item)
            if item.code == PoisonFound.code:
                order_audit(
                    connection, item.commit_sha256, reason=DrawReason.ALARM, now_ms=item.at_ms
                )

    def alarms(self, cycle: int) -> tuple[AlarmRow, ...]:
        c = t.alarms.c
        return self._rows(AlarmRow, select(t.alarms).where(c.cycle == cycle).order_by(c.round))

    def corrections(self, cycle: int, round_number: int) -> tuple[CorrectionRow, ...]:
        return self._of_round(
            CorrectionRow, t.corrections, cycle, round_number, order="commit_sha256"
        )

    def taken_out(self, cycle: int) -> tuple[TakenOutRow, ...]:
        corrected, at_once = (
            select(table.c.round, table.c.peer, table.c.message).where(
                table.c.cycle == cycle, table.c.code == PoisonFound.code
            )
            for table in (t.corrections, t.contributions)
        )
        with self._read() as connection:
            rows = [*connection.execute(corrected), *connection.execute(at_once)]
        return tuple(sorted((to_row(TakenOutRow, row) for row in rows), key=_place))
