"""The audit lottery over SQL: what it drew, and audits that somebody asked for besides."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from ares_coordinator.store import tables as t
from ares_coordinator.store.rows import AuditRow, DrawReason, LotteryRow
from ares_coordinator.store.sql_base import SqlBase, fetch_one, insert_row, update_row
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest


def save_lottery(
    connection: Connection, rows: Sequence[LotteryRow], *, used: Collection[Digest], now_ms: int
) -> None:
    """Store a round's lottery and its audits inside a transaction of the caller.

    Args:
        used: the commits of the contributions that are not refused.
    Raises: InternalFault: the lottery is about other commits.
    """
    if sorted(row.commit_sha256 for row in rows) != sorted(used):
        raise InternalFault(f"a lottery of {len(rows)} for {len(used)} used contributions")
    for row in rows:
        insert_row(connection, t.lottery, row)
        if row.drawn:
            _save_audit(connection, row, now_ms=now_ms)


def _save_audit(connection: Connection, row: LotteryRow, *, now_ms: int) -> None:
    audit = AuditRow(row.commit_sha256, row.cycle, row.round, row.peer, now_ms)
    insert_row(connection, t.audits, audit)


def order_audit(
    connection: Connection, commit_sha256: Digest, *, reason: DrawReason, now_ms: int
) -> bool:
    """Do what `RoundStore.order_audit` says inside a transaction of the caller."""
    key = {"commit_sha256": commit_sha256}
    if fetch_one(connection, AuditRow, t.audits, **key) is not None:
        return False
    row = fetch_one(connection, LotteryRow, t.lottery, **key)
    if row is None:
        raise InternalFault(f"commit {commit_sha256.hex()[:12]} was in no lottery")
    update_row(connection, t.lottery, key, {"drawn": True, "reason": reason})
    _save_audit(connection, row, now_ms=now_ms)
    return True


class SqlLottery(SqlBase):
    """Implements the lottery of `RoundStore`; its docstrings are there."""

    def lottery(self, cycle: int, round_number: int) -> tuple[LotteryRow, ...]:
        return self._of_round(LotteryRow, t.lottery, cycle, round_number, order="commit_sha256")

    def order_audit(self, commit_sha256: Digest, *, reason: DrawReason, now_ms: int) -> bool:
        with self._write() as connection:
            return order_audit(connection, commit_sha256, reason=reason, now_ms=now_ms)
