"""The part of `RoundStore` over SQL that takes commits: one, or many with one look and one write."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, case, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.credit_rows import WorkerRow
from ares_coordinator.store.rows import (
    CommitResult,
    CommitRow,
    EquivocationRow,
    RecordRow,
    RoundRow,
    RoundState,
)
from ares_coordinator.store.sql_base import (
    SqlBase,
    batches,
    fetch_one,
    insert_all,
    insert_row,
    to_row,
)
from ares_coordinator.store.sql_cycles import save_records
from ares_p2p.errors import CommitLate, CommitReplayed, Equivocation, PeerFault, UnknownRound
from ares_p2p.ids import Digest, PeerId

Seat = tuple[int, int, PeerId]  # cycle, round, peer: room for one commit
Place = tuple[int, int]


class SqlCommits(SqlBase):
    """Implements the commits of `RoundStore`; its docstrings are there."""

    def add_commit(self, commit: CommitRow, *, ack: RecordRow | None = None) -> CommitResult:
        (result,) = self.add_commits([(commit, ack)])
        if isinstance(result, PeerFault):  # raised after the transaction, which keeps the evidence
            raise result
        return result

    def add_commits(
        self, commits: Sequence[tuple[CommitRow, RecordRow | None]]
    ) -> tuple[CommitResult | PeerFault, ...]:
        with self._write() as connection:
            intake = _Intake(
                seats=_seats(connection, {_seat(commit) for commit, _ in commits}),
                digests=_digests(connection, {commit.commit_sha256 for commit, _ in commits}),
                rounds=_rounds(connection, {(one.cycle, one.round) for one, _ in commits}),
            )
            results = tuple(intake.take(commit, ack) for commit, ack in commits)
            _see_workers(connection, intake.new)
            insert_all(connection, t.commits, intake.new)
            _keep(connection, intake.evidence)
            save_records(connection, intake.acks)
            return results


@dataclass(slots=True)
class _Intake:
    """What is stored about some commits, and what is to be stored. Mutable, for one transaction."""

    seats: dict[Seat, CommitRow]
    digests: set[Digest]
    rounds: dict[Place, RoundRow]
    new: list[CommitRow] = field(default_factory=list)
    acks: list[RecordRow] = field(default_factory=list)
    evidence: dict[Seat, EquivocationRow] = field(default_factory=dict)

    def take(self, commit: CommitRow, ack: RecordRow | None) -> CommitResult | PeerFault:
        """Decide about one commit, after those that came before it."""
        stored = self.seats.get(_seat(commit))
        if stored is not None and stored.commit_sha256 == commit.commit_sha256:
            return CommitResult.DUPLICATE
        if stored is not None:
            evidence = EquivocationRow(
                *_seat(commit),
                first_envelope=stored.envelope,
                second_envelope=commit.envelope,
                seen_ms=commit.received_ms,
            )
            self.evidence.setdefault(_seat(commit), evidence)
            return Equivocation(
                f"{commit.peer} committed to something else in round {commit.round} "
                f"of cycle {commit.cycle}"
            )
        if commit.commit_sha256 in self.digests:
            return CommitReplayed(f"commit {commit.commit_sha256.hex()[:12]} is another peer's")
        target = self.rounds.get((commit.cycle, commit.round))
        if target is None:
            return UnknownRound(f"there is no round {commit.round} of cycle {commit.cycle}")
        if target.state != RoundState.OPEN:
            return CommitLate(f"round {commit.round} of cycle {commit.cycle} is closed")
        self.seats[_seat(commit)] = commit
        self.digests.add(commit.commit_sha256)
        self.new.append(commit)
        self.acks += [] if ack is None else [ack]
        return CommitResult.NEW


def _seat(commit: CommitRow) -> Seat:
    return (commit.cycle, commit.round, commit.peer)


def _seats(connection: Connection, wanted: Collection[Seat]) -> dict[Seat, CommitRow]:
    c, found = t.commits.c, dict[Seat, CommitRow]()
    peers: dict[Place, list[PeerId]] = {}
    for cycle, round_number, peer in wanted:
        peers.setdefault((cycle, round_number), []).append(peer)
    for (cycle, round_number), of_round in peers.items():
        here = select(t.commits).where(c.cycle == cycle, c.round == round_number)
        for batch in batches(of_round):
            rows = connection.execute(here.where(c.peer.in_(batch)))
            stored = (to_row(CommitRow, row) for row in rows)
            found |= {_seat(row): row for row in stored}
    return found


def _digests(connection: Connection, wanted: Collection[Digest]) -> set[Digest]:
    c, found = t.commits.c, set[Digest]()
    for batch in batches(wanted):
        query = select(c.commit_sha256).where(c.commit_sha256.in_(batch))
        found.update(connection.execute(query).scalars())
    return found


def _rounds(connection: Connection, wanted: Collection[Place]) -> dict[Place, RoundRow]:
    found = {}
    for cycle, round_number in wanted:  # as a rule, of one round
        row = fetch_one(connection, RoundRow, t.rounds, cycle=cycle, round=round_number)
        if row is not None:
            found[cycle, round_number] = row
    return found


def _keep(connection: Connection, evidence: Mapping[Seat, EquivocationRow]) -> None:
    """Store two commits of one seat; the first pair that proves it stays."""
    for (cycle, round_number, peer), row in evidence.items():  # rare
        key = {"cycle": cycle, "round": round_number, "peer": peer}
        if fetch_one(connection, EquivocationRow, t.equivocations, **key) is None:
            insert_row(connection, t.equivocations, row)


def _see_workers(connection: Connection, commits: Sequence[CommitRow]) -> None:
    """Note that the authors were there; one that is new becomes a worker."""
    c = t.workers.c
    first_ms: dict[PeerId, int] = {}
    last_ms: dict[PeerId, int] = {}
    for commit in commits:
        at_ms = commit.received_ms
        first_ms[commit.peer] = min(at_ms, first_ms.get(commit.peer, at_ms))
        last_ms[commit.peer] = max(at_ms, last_ms.get(commit.peer, at_ms))
    known = set[PeerId]()
    for batch in batches(last_ms):
        known.update(connection.execute(select(c.peer).where(c.peer.in_(batch))).scalars())
    if known:
        now_ms = bindparam("now_ms", type_=c.last_seen_ms.type)
        later = case((c.last_seen_ms > now_ms, c.last_seen_ms), else_=now_ms)
        query = update(t.workers).where(c.peer == bindparam("seen")).values(last_seen_ms=later)
        connection.execute(query, [{"seen": one, "now_ms": last_ms[one]} for one in known])
    new = [
        WorkerRow(one, first_ms[one], last_ms[one], device="", gpu=False, software="")
        for one in last_ms
        if one not in known
    ]
    insert_all(connection, t.workers, new)
