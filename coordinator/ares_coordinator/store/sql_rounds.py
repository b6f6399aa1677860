"""The first part of `RoundStore` over SQL: rounds, commits, contributions."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    Connection,
    func,
    select,
)

from ares_coordinator.store import tables as t
from ares_coordinator.store.rows import (
    CommitRow,
    ContributionRow,
    EquivocationRow,
    LotteryRow,
    RecordRow,
    RoundCounts,
    RoundRow,
    RoundState,
)
from ares_coordinator.store.sql_base import SqlBase, fetch_one, insert_row, to_row, update_row
from ares_coordinator.store.sql_credit import append_postings
from ares_coordinator.store.sql_cycles import renew_record, save_records
from ares_coordinator.store.sql_lottery import save_lottery
from ares_p2p.domain import EntryStatus, Posting
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest

SETTLEMENT_KIND = "settlement"  # of the records


def _round(connection: Connection, cycle: int, round_number: int) -> RoundRow | None:
    return fetch_one(connection, RoundRow, t.rounds, cycle=cycle, round=round_number)


def _known_round(connection: Connection, cycle: int, round_number: int) -> RoundRow:
    row = _round(connection, cycle, round_number)
    if row is None:
        raise InternalFault(f"there is no round {round_number} of cycle {cycle}")
    return row


def _check_chain(
    connection: Connection, cycle: int, round_number: int, state_digest: Digest
) -> None:
    latest = connection.execute(
        select(func.max(t.rounds.c.round)).where(t.rounds.c.cycle == cycle)
    ).scalar()
    if round_number != (0 if latest is None else latest + 1):
        raise InternalFault(f"round {round_number} of cycle {cycle} does not follow round {latest}")
    if latest is not None:
        before = _known_round(connection, cycle, latest)
        if before.state != RoundState.AGGREGATED or before.next_state_digest != state_digest:
            raise InternalFault(
                f"round {latest} of cycle {cycle} is {before.state} and did not lead to the "
                f"state {state_digest.hex()[:12]}"
            )


class SqlRounds(SqlBase):
    """Implements `RoundStore` but for lottery, audits and refusals; its docstrings are there."""

    def open_round(
        self,
        cycle: int,
        round_number: int,
        *,
        plan_sha256: Digest,
        state_digest: Digest,
        now_ms: int,
        records: Sequence[RecordRow] = (),
    ) -> RoundRow:
        with self._write() as connection:
            stored = _round(connection, cycle, round_number)
            if stored is not None:
                if (stored.plan_sha256, stored.state_digest) != (plan_sha256, state_digest):
                    raise InternalFault(f"round {round_number} of cycle {cycle} has another plan")
                return stored
            _check_chain(connection, cycle, round_number, state_digest)
            row = RoundRow(cycle, round_number, RoundState.OPEN, plan_sha256, state_digest, now_ms)
            insert_row(connection, t.rounds, row)
            save_records(connection, records)
            return row

    def reopen_round(
        self, cycle: int, round_number: int, *, plan_sha256: Digest, now_ms: int, plan: RecordRow
    ) -> RoundRow:
        key = {"cycle": cycle, "round": round_number}
        with self._write() as connection:
            stored = _known_round(connection, cycle, round_number)
            if stored.state != RoundState.OPEN or fetch_one(
                connection, CommitRow, t.commits, **key
            ):
                raise InternalFault(f"round {round_number} of cycle {cycle} has begun for somebody")
            update_row(connection, t.rounds, key, {"plan_sha256": plan_sha256, "opened_ms": now_ms})
            renew_record(connection, plan)
            return _known_round(connection, cycle, round_number)

    def close_round(
        self, cycle: int, round_number: int, *, now_ms: int, records: Sequence[RecordRow] = ()
    ) -> bool:
        with self._write() as connection:
            if _known_round(connection, cycle, round_number).state != RoundState.OPEN:
                return False
            values = {"state": RoundState.CLOSED, "closed_ms": now_ms}
            update_row(connection, t.rounds, {"cycle": cycle, "round": round_number}, values)
            save_records(connection, records)
            return True

    def finish_round(
        self,
        cycle: int,
        round_number: int,
        *,
        next_state_digest: Digest,
        mean_loss: float | None,
        contributions: Sequence[ContributionRow],
        postings: Sequence[Posting],
        lottery: Sequence[LotteryRow],
        now_ms: int,
        records: Sequence[RecordRow] = (),
    ) -> bool:
        with self._write() as connection:
            stored = _known_round(connection, cycle, round_number)
            if stored.state == RoundState.AGGREGATED:
                if stored.next_state_digest != next_state_digest:
                    raise InternalFault(
                        f"round {round_number} of cycle {cycle} led to another state"
                    )
                return False
            if stored.state != RoundState.CLOSED:
                raise InternalFault(f"round {round_number} of cycle {cycle} is still open")
            used = [row for row in contributions if row.status != EntryStatus.REFUSED]
            values = {
                "state": RoundState.AGGREGATED,
                "next_state_digest": next_state_digest,
                "finished_ms": now_ms,
                "mean_loss": mean_loss,
                "blob_bytes": sum(row.blob_bytes for row in used),
            }
            update_row(connection, t.rounds, {"cycle": cycle, "round": round_number}, values)
            for row in contributions:
                insert_row(connection, t.contributions, row)
            paid = [row.commit_sha256 for row in used]
            save_lottery(connection, lottery, used=paid, now_ms=now_ms)
            append_postings(connection, postings)
            save_records(connection, records)
            return True

    def current_round(self, cycle: int) -> RoundRow | None:
        latest = self.latest_round(cycle)
        return None if latest is None or latest.state == RoundState.AGGREGATED else latest

    def latest_round(self, cycle: int) -> RoundRow | None:
        query = select(t.rounds).where(t.rounds.c.cycle == cycle)
        query = query.order_by(t.rounds.c.round.desc()).limit(1)
        return next(iter(self._rows(RoundRow, query)), None)

    def rounds(self, cycle: int) -> tuple[RoundRow, ...]:
        query = select(t.rounds).where(t.rounds.c.cycle == cycle).order_by(t.rounds.c.round)
        return self._rows(RoundRow, query)

    def unsettled_round(self, cycle: int) -> RoundRow | None:
        c, r = t.rounds.c, t.records.c
        settled = select(r.round).where(
            r.kind == SETTLEMENT_KIND, r.cycle == c.cycle, r.round == c.round, r.peer == ""
        )
        query = select(t.rounds).where(
            c.cycle == cycle, c.state == str(RoundState.AGGREGATED), ~settled.exists()
        )
        return next(iter(self._rows(RoundRow, query.order_by(c.round).limit(1))), None)

    def round_counts(self, cycle: int) -> tuple[RoundCounts, ...]:
        c, work = t.commits.c, t.contributions.c
        refused = func.count().filter(work.status == str(EntryStatus.REFUSED))
        judged = func.count(work.commit_sha256)
        query = (
            select(
                c.round,
                func.count().label("commits"),
                (judged - refused).label("used"),
                refused.label("refused"),
            )
            .join_from(
                t.commits, t.contributions, work.commit_sha256 == c.commit_sha256, isouter=True
            )
            .where(c.cycle == cycle)
            .group_by(c.round)
            .order_by(c.round)
        )
        with self._read() as connection:
            return tuple(to_row(RoundCounts, row) for row in connection.execute(query))

    def commits(self, cycle: int, round_number: int) -> tuple[CommitRow, ...]:
        return self._of_round(CommitRow, t.commits, cycle, round_number, order="commit_sha256")

    def equivocations(self, cycle: int, round_number: int) -> tuple[EquivocationRow, ...]:
        return self._of_round(EquivocationRow, t.equivocations, cycle, round_number, order="peer")

    def contributions(self, cycle: int, round_number: int) -> tuple[ContributionRow, ...]:
        return self._of_round(
            ContributionRow, t.contributions, cycle, round_number, order="commit_sha256"
        )
