"""Books in which everything is signed: what `ledger verify` holds the rows against.

`audit_books` plays lottery, audits and settlements; here the config, the commit sets and the
manifests are signed too, and one peer audits. `played_books` is a history with every way in which
work can end: paid after an audit or on trust, void, failed, forfeited, taken back, refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ares_coordinator.audit.lottery import draw_lottery
from ares_coordinator.audit.reports import AuditorDue, NoReports
from ares_coordinator.audit.rulings import due_of, pending_pay
from ares_coordinator.audit.verdicts import Verdict
from ares_coordinator.ledger.postings import deciding_postings, pending_postings
from ares_coordinator.store.auditor_rows import AssignmentRow, AuditResult, RulingRow
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import AuditRow, CommitRow, ContributionRow, MetaKey, RecordRow
from ares_p2p.crypto.keys import Identity
from ares_p2p.crypto.merkle import tree_root
from ares_p2p.domain import (
    AuditAssignment,
    AuditPlan,
    AuditReport,
    Commit,
    CommitSet,
    EntryStatus,
    Header,
    ManifestEntry,
    Posting,
    PostingKind,
    RoundManifest,
)
from ares_p2p.ids import Digest, sha256
from ares_p2p.rounds.manifest import build_manifest
from ares_p2p.wire.codec import decode_envelope, decode_payload, encode_envelope, seal
from payloads import identity
from sim.audit_books import PEOPLE, TOKENS, TOKENS_PER_HOUR, Books
from sim.samples import COORDINATOR, CYCLE, START_MS, open_round
from sim.session_world import NETWORK

ANNA, BEN, CLEO, DORA = PEOPLE
AUDITOR = identity(24)
ROUNDS = 20
SLOW = 15  # round after which nothing is audited until the next one is over


class OneAuditor(NoReports):
    """A peer that audits one contribution in every fourth round; its reports are trusted."""

    def judged(
        self, store: Store, audit: AuditRow, verdict: Verdict, *, replayed_here: bool, at_ms: int
    ) -> Sequence[Posting]:
        task = store.assignment_of(audit.commit_sha256)
        if task is not None:
            ruling = RulingRow(task.commit_sha256, task.auditor, AuditResult.AGREED)
            store.rule(ruling)
        return ()

    def dues(self, store: Store, cycle: int, round_number: int) -> Sequence[AuditorDue]:
        deciding = deciding_postings(store.postings_of_round(cycle, round_number))
        return tuple(
            due_of(
                task,
                deciding.get((task.auditor, PostingKind.AUDIT, task.commit_sha256)),
                shadow=False,
            )
            for task in store.assignments(cycle, round_number)
        )


class SignedBooks(Books):
    """Books whose every fact is signed."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__(folder, reports=OneAuditor(), **changes)

    def header(self, number: int, *, seq: int = 1) -> Header:
        """The header of something that belongs to a round."""
        return Header(NETWORK.network_id, CYCLE, number, seq, START_MS + seq)

    def _begin_cycle(self) -> None:
        super()._begin_cycle()
        self.config = dataclasses.replace(self.config, header=self.header(0))
        envelope = encode_envelope(seal(COORDINATOR, self.config))
        self.store.update_cycle(CYCLE, now_ms=START_MS, config_envelope=envelope)

    def _commit(self, number: int, plan_sha256: Digest, who: Identity) -> CommitRow:
        blob = self.blobs.store.put(b"work of %d by " % number + who.public_key)
        commit: Commit = dataclasses.replace(
            open_round(number, rounds=self.config.rounds).commit(
                who, plan_sha256=plan_sha256, blob_id=blob, tokens=TOKENS
            ),
            header=self.header(number),
            device="cuda: test" if who == ANNA else "cpu",
        )
        envelope = seal(who, commit)
        return CommitRow(
            commit_sha256=envelope.payload_sha256,
            cycle=CYCLE,
            round=number,
            peer=who.peer_id,
            envelope=encode_envelope(envelope),
            received_ms=self.clock.now_ms(),
        )

    def play(self, number: int, *people: Identity, refused: Sequence[Identity] = ()) -> None:
        """Open, fill, close and finish a round, with all that is signed about it."""
        plan, now_ms = self._plan(number), self.clock.now_ms()
        for state in (number, number + 1):
            self.blobs.store.put(b"state %d" % state)
        self.store.open_round(
            CYCLE,
            number,
            plan_sha256=plan.payload_sha256,
            state_digest=self._state(number),
            now_ms=now_ms,
            records=[plan],
        )
        rows = sorted(
            (self._commit(number, plan.payload_sha256, who) for who in people),
            key=lambda row: row.commit_sha256,
        )
        for row in rows:
            self.store.add_commit(row)
        closed = self._commit_set(number, plan, rows)
        self.store.close_round(CYCLE, number, now_ms=now_ms, records=[closed])
        gone = {who.peer_id for who in refused}
        work = [self._work(row, is_refused=row.peer in gone) for row in rows]
        self.store.finish_round(
            CYCLE,
            number,
            next_state_digest=self._state(number + 1),
            mean_loss=2.5,
            contributions=work,
            postings=pending_postings(
                work, reference_tokens_per_hour=TOKENS_PER_HOUR, at_ms=now_ms
            ),
            lottery=draw_lottery(
                work,
                seed=self.seed(number),
                streaks=self.store.streaks([row.peer for row in rows]),
            ),
            now_ms=now_ms,
            records=[self._manifest(number, plan, closed, work)],
        )

    def _commit_set(self, number: int, plan: RecordRow, rows: Sequence[CommitRow]) -> RecordRow:
        return self.herald.signed(
            CommitSet(
                self.header(number),
                plan.payload_sha256,
                root=tree_root([row.commit_sha256 for row in rows]),
                revealed_seed=self.seed(number),
                commits=tuple(row.envelope for row in rows),
                refusals=(),
            )
        )

    def _work(self, row: CommitRow, *, is_refused: bool) -> ContributionRow:
        is_gpu = row.peer == ANNA.peer_id
        made = self._contribution(row, is_refused=is_refused)
        commit = _commit_in(row)
        return dataclasses.replace(
            made, device=commit.device, gpu=is_gpu, blob_bytes=commit.blob_size_bytes
        )

    def _manifest(
        self, number: int, plan: RecordRow, closed: RecordRow, work: Sequence[ContributionRow]
    ) -> RecordRow:
        manifest: RoundManifest = build_manifest(
            header=self.header(number),
            plan_sha256=plan.payload_sha256,
            commit_set_sha256=closed.payload_sha256,
            entries=[
                ManifestEntry(
                    row.commit_sha256,
                    row.peer,
                    row.coefficient,
                    EntryStatus(row.status),
                    row.code,
                    row.message,
                )
                for row in work
            ],
            next_state=self._state(number + 1),
            next_state_size_bytes=9,
            final=number + 1 == self.config.rounds,
        )
        return self.herald.signed(manifest)

    def audit(self, number: int) -> None:
        """Have the auditor report on the first open audit of a round that is not its own."""
        audit = self.store.pending_audits(CYCLE, number)[0]
        place = (CYCLE, number)
        header = self.header(number, seq=2)
        plan = self.herald.signed(
            AuditPlan(
                header,
                sha256(b"commit set"),
                (AuditAssignment(audit.commit_sha256, AUDITOR.peer_id),),
                START_MS,
            )
        )
        self.store.touch_worker(
            AUDITOR.peer_id, now_ms=START_MS, device="cpu", gpu=False, software=""
        )
        task = AssignmentRow(audit.commit_sha256, AUDITOR.peer_id, *place, START_MS, START_MS)
        self.store.assign_audits(plan, [task])
        report = AuditReport(
            header=header,
            audit_plan_sha256=plan.payload_sha256,
            commit_sha256=audit.commit_sha256,
            tokens=TOKENS,
            rho=0.01,
            norm_ratio=1.0,
            cosine_drop=0.0003,
            replay_sha256=sha256(b"replay"),
            profile="cpu",
            code="",
            message="",
        )
        self.store.take_report(
            audit.commit_sha256,
            AUDITOR.peer_id,
            envelope=encode_envelope(seal(AUDITOR, report)),
            received_ms=START_MS,
            postings=pending_pay(
                report,
                AUDITOR.peer_id,
                reference_tokens_per_hour=TOKENS_PER_HOUR,
                at_ms=self.clock.now_ms(),
            ),
        )


def _commit_in(row: CommitRow) -> Commit:
    envelope = decode_envelope(row.envelope)
    return decode_payload(envelope.payload_type, envelope.payload, Commit)


def play_books(folder: Path, *, rounds: int = ROUNDS) -> None:
    """Play a history of `rounds - 1` rounds into `<folder>/ares.db`; the newest is not settled.

    Cleo fails when two rounds are open: the later one is forfeited, and what was paid on trust
    before is taken back. Dora's replay is void once, and she is refused now and then. Anna works
    on a GPU.
    """
    script = {(CLEO.peer_id, SLOW): ("fail",), (DORA.peer_id, 3): ("void",)}
    books = SignedBooks(folder, rounds=rounds, script=script, credit={"hold_rounds": 1})
    books.store.set_meta(MetaKey.COORDINATOR, COORDINATOR.peer_id)
    books.store.set_meta(MetaKey.NETWORK_ID, NETWORK.network_id)

    async def live() -> None:
        for number in range(rounds - 1):
            books.play(number, *PEOPLE, refused=[DORA] if number % 5 == 4 else [])
            if number % 4 == 0:
                books.audit(number)
            if number != SLOW:
                await books.work()

    asyncio.run(live())
    books.close()
