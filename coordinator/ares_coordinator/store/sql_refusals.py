"""What was refused, over SQL: messages at the door, and contributions in the aggregate."""

from __future__ import annotations

from sqlalchemy import and_, func, insert, literal, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.base_work import (
    MAX_REFUSAL_CHARS,
    MAX_REFUSALS_PER_PEER,
    MAX_REFUSALS_PER_ROUND,
)
from ares_coordinator.store.rows import RefusalRow
from ares_coordinator.store.sql_base import SqlBase
from ares_p2p.domain import EntryStatus
from ares_p2p.ids import PeerId


class SqlRefusals(SqlBase):
    """Implements the refusals of `RoundStore`; its docstrings are there."""

    def add_refusal(
        self, cycle: int, round_number: int, peer: PeerId, *, code: str, message: str, now_ms: int
    ) -> None:
        c = t.refusals.c
        here = (c.cycle == cycle, c.round == round_number)
        with self._write() as connection:
            counted = connection.execute(
                update(t.refusals)
                .where(*here, c.peer == peer, c.code == code)
                .values(count=c.count + 1, last_ms=now_ms)
            )
            if counted.rowcount:
                return
            rows = select(func.count()).select_from(t.refusals).where(*here)
            of_peer = connection.execute(rows.where(c.peer == peer)).scalar_one()
            if of_peer >= MAX_REFUSALS_PER_PEER:
                return
            if connection.execute(rows).scalar_one() >= MAX_REFUSALS_PER_ROUND:
                return
            connection.execute(
                insert(t.refusals).values(
                    cycle=cycle,
                    round=round_number,
                    peer=peer,
                    code=code,
                    message=message[:MAX_REFUSAL_CHARS],
                    count=1,
                    first_ms=now_ms,
                    last_ms=now_ms,
                )
            )

    def refusals(self, cycle: int, round_number: int) -> tuple[RefusalRow, ...]:
        return self._of_round(RefusalRow, t.refusals, cycle, round_number, order="peer")

    def refusals_of_cycle(self, cycle: int, limit: int) -> tuple[RefusalRow, ...]:
        c = t.refusals.c
        query = select(t.refusals).where(c.cycle == cycle)
        newest = (c.last_ms.desc(), c.code, c.round.desc(), c.peer)
        found = self._rows(RefusalRow, query.order_by(*newest).limit(limit))
        work, r = t.contributions.c, t.rounds.c
        by_aggregate = (
            select(
                work.cycle,
                work.round,
                work.peer,
                work.code,
                work.message,
                literal(1).label("count"),
                r.finished_ms.label("first_ms"),
                r.finished_ms.label("last_ms"),
            )
            .join_from(
                t.contributions, t.rounds, and_(work.cycle == r.cycle, work.round == r.round)
            )
            .where(work.cycle == cycle, work.status == str(EntryStatus.REFUSED))
            .order_by(work.round.desc(), work.peer)
            .limit(limit)
        )
        return (*found, *self._rows(RefusalRow, by_aggregate))

    def refusals_of(self, peer: PeerId, limit: int) -> tuple[RefusalRow, ...]:
        c = t.refusals.c
        query = select(t.refusals).where(c.peer == peer)
        newest = (c.last_ms.desc(), c.code, c.cycle.desc(), c.round.desc())
        query = query.order_by(*newest).limit(limit)
        return self._rows(RefusalRow, query)
