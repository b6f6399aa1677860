"""Opens and closes rounds, and publishes what they came to.

One round is four transactions: opened with its plan, commits as they come, closed with its
commit set, finished with its manifest, pending credit and audits. Killed between any two, the
next start finds the round where it was and goes on; peers that could not hand their commits in
have left them in the DHT, which is searched when somebody who was here lately is missing.

A round is finished when the look at the state before it is over (`alarm.watch`): if the round
before turned out to be poisoned, this one's manifest corrects it, and its own contributions are
set aside.

The coordinator only sequences: the contributions travel between peers, and it fetches them like
everybody else, to decide the coefficients. When a round opens it chooses how it is exchanged:
everybody fetches everything, or the peers make the sum by parts (`parts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from ares_coordinator.alarm.correct import (
    StoredCorrection,
    build_correction,
    stored_correction,
)
from ares_coordinator.alarm.past import read_books, read_past
from ares_coordinator.alarm.remake import set_aside
from ares_coordinator.alarm.watch import PoisonWatch, Start
from ares_coordinator.audit.decoys import Decoys
from ares_coordinator.audit.lottery import draw_lottery
from ares_coordinator.context import RunningCycle
from ares_coordinator.desk import CommitDesk
from ares_coordinator.failpoints import failpoint
from ares_coordinator.herald import Herald, payload_of, stored_record
from ares_coordinator.intake import Intake
from ares_coordinator.judge import Judged, judge_contributions
from ares_coordinator.ledger.postings import pending_postings
from ares_coordinator.parts import PartDesk
from ares_coordinator.presence import Presence
from ares_coordinator.roundclock import RoundClock, Speed, Workload, sent_bytes
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import (
    ContributionRow,
    DrawReason,
    RecordRow,
    RoundRow,
    RoundState,
)
from ares_coordinator.store.thread import StoreThread
from ares_p2p.averaging.vectors import VectorSource
from ares_p2p.clock import Clock
from ares_p2p.domain import (
    CommitSet,
    EntryStatus,
    PartRef,
    RoundCorrection,
    RoundManifest,
    RoundPlan,
)
from ares_p2p.errors import (
    CommitWithoutBlob,
    NetworkFault,
    NodeDied,
    PeerFault,
    PoisonFound,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blobs import Blobs, fetch_until
from ares_p2p.network.records import Records
from ares_p2p.rounds.commits import CommitBook, SignedCommit, check_commit_set
from ares_p2p.rounds.manifest import build_manifest
from ares_p2p.rounds.parts import ExchangeSizes
from ares_p2p.rounds.plan import MAX_ROUND_MS, NO_DIGEST, RoundTimes, build_plan
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.training.replica import bind_layout, open_contribution
from ares_p2p.training.roundsum import parts_of
from ares_p2p.training.state import TrainingState, decode_snapshot

TICK_S = 0.2
MAX_PATIENCE = 16  # how far rounds stretch when nobody was fast enough for the deadline
QUIET_MS = 1_000  # a round stays open at least so long, so that late joiners are not shut out
RESUME_QUIET_MS = 12_000  # after a restart: every peer announces itself within 10 s
FETCH_GRACE_MS = 5_000  # after a restart, past the plan's own serve deadline

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RoundKeeper:
    """The rounds of one cycle. `run` drives them to the last one."""

    cycle: RunningCycle
    herald: Herald
    db: StoreThread
    records: Records
    blobs: Blobs
    clock: Clock
    presence: Presence
    round_finished: Callable[[RoundRow, Digest], Awaitable[None]]
    paused: asyncio.Event  # set while no new round may open
    desk: CommitDesk
    watch: PoisonWatch
    decoys: Decoys | None = None
    intake: Intake | None = None  # of contributions over HTTPS
    clockwork: RoundClock = field(init=False)
    parts: PartDesk = field(init=False)
    _patience: int = 1  # the deadline is this many times the configured one

    def __post_init__(self) -> None:
        rounds = self.cycle.settings.rounds
        self.clockwork = RoundClock(RoundTimes(rounds.train_s, rounds.serve_s))
        self.parts = PartDesk(self.cycle, self.blobs, self.clock)

    @property
    def deadline_ms(self) -> int | None:
        """When the open round's commits close; None between rounds."""
        return None if self.desk.book is None else self.desk.book.plan.commit_deadline_ms

    @property
    def clock_reason(self) -> str:
        """Why the newest round lasts as long as it may; "" where nothing was measured."""
        choice = self.clockwork.choice
        return "" if choice is None else choice.reason

    # --- the rounds ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the cycle's rounds to the last one."""
        try:
            await self._serve_parts_again()
            await self._drive()
            await self.parts.drain()
        finally:
            await self.parts.close()

    async def _drive(self) -> None:
        while True:
            latest: RoundRow | None = await self.db.call(
                self.db.store.latest_round, self.cycle.number
            )
            if latest is None or latest.state is RoundState.AGGREGATED:
                number = 0 if latest is None else latest.round + 1
                if latest is not None and number == self.cycle.config.rounds:
                    await self._audit_what_was_left_out(latest)
                    return
                await self._wait_for_peers()
                await self._open(number, latest)
            elif latest.state is RoundState.OPEN:
                await self._collect(latest)
            else:
                await self._finish(latest)

    async def _serve_parts_again(self) -> None:
        """Serve the parts of the newest finished round, which a restart may have left withheld."""
        rows = await self.db.call(self.db.store.rounds, self.cycle.number)
        done = [row.round for row in rows if row.state is RoundState.AGGREGATED]
        if done:
            record = await stored_record(self.db, "manifest", self.cycle.number, max(done))
            self.parts.serve(payload_of(record, RoundManifest))

    def _exchange(self) -> int:
        """Return by how many parts the next round is exchanged, 0 for everybody's everything."""
        speeds = [speed.upload_bytes_per_s for speed in self._speeds().values()]
        choice = self.parts.choose(peers=len(self._ready()), upload_bytes_per_s=speeds)
        log.info(
            "round_exchange",
            parts=choice.parts,
            gather_s=round(choice.gather_s, 1),
            parts_s=round(choice.parts_s, 1),
        )
        return choice.parts

    def _times(self, parts: int) -> RoundTimes:
        rounds = self.cycle.settings.rounds
        if rounds.clock == "measured" and self._patience == 1:
            choice = self.clockwork.choose(self._speeds(), self._workload(parts))
            log.info("round_clock", why=choice.reason)
            return choice.times
        train_s = min(rounds.train_s * self._patience, MAX_ROUND_MS / 1000 - rounds.serve_s)
        return RoundTimes(train_s, rounds.serve_s)

    def _speeds(self) -> dict[PeerId, Speed]:
        present = self.presence.present(now_ms=self.clock.now_ms())
        return {
            peer: Speed(present[peer].tokens_per_s, present[peer].upload_bytes_per_s)
            for peer in self._ready() & present.keys()
        }

    def _workload(self, parts: int) -> Workload:
        training, contribution = self.cycle.config.training, self.cycle.config.limits.max_blob_bytes
        sizes = ExchangeSizes(self.cycle.layout.size, contribution, self.parts.sum_bytes())
        return Workload(
            tokens_per_step=training.sequences_per_step * training.sequence_length,
            min_steps=training.min_steps,
            max_steps=training.max_steps,
            sent_bytes=sent_bytes(sizes, peers=len(self._ready()), parts=parts),
        )

    def _fetch_deadline_ms(self, row: RoundRow, plan: RoundPlan) -> int:
        """Return until when contributions are waited for: from the close on, not the deadline."""
        serve_ms = plan.serve_deadline_ms - plan.commit_deadline_ms
        closed_ms = plan.commit_deadline_ms if row.closed_ms is None else row.closed_ms
        return max(closed_ms + serve_ms, self.clock.now_ms() + FETCH_GRACE_MS)

    async def _wait_for_peers(self) -> None:
        wanted = self.cycle.settings.rounds.min_peers
        while self.paused.is_set() or len(self._ready()) < wanted:
            await self.clock.sleep(TICK_S)

    def _ready(self) -> set[PeerId]:
        return self.presence.working_on(self.cycle.number, now_ms=self.clock.now_ms())

    async def _open(self, number: int, before: RoundRow | None) -> None:
        config, previous, state = self.cycle.config, NO_DIGEST, self.cycle.config.initial_state
        if before is not None:
            manifest = await stored_record(self.db, "manifest", self.cycle.number, before.round)
            previous = manifest.payload_sha256
            assert before.next_state_digest is not None
            state = before.next_state_digest
        header = await self.herald.header(RoundPlan, cycle=self.cycle.number, round_number=number)
        parts = self._exchange()
        plan = build_plan(
            header=header,
            config=config,
            config_sha256=self.cycle.config_sha256,
            previous_manifest_sha256=previous,
            state=state,
            state_size_bytes=self.blobs.store.size(state),
            times=self._times(parts),
            parts=parts,
        )
        record = self.herald.signed(plan)
        await self.db.call(
            self.db.store.open_round,
            self.cycle.number,
            number,
            plan_sha256=record.payload_sha256,
            state_digest=state,
            now_ms=plan.opens_ms,
            records=[record],
        )
        failpoint(f"round-{number}-open")
        await self.desk.open(plan, record.payload_sha256)
        await self.herald.publish(record)
        if self.decoys is not None:
            await self.decoys.begin(plan, record.payload_sha256)
        log.info("round_opened", round=number, state=state.hex()[:12])

    async def _plan_of(self, row: RoundRow) -> RoundPlan:
        return payload_of(await stored_record(self.db, "plan", row.cycle, row.round), RoundPlan)

    async def _collect(self, row: RoundRow) -> None:
        """Wait until everybody has committed or the deadline is over, then close."""
        book, earliest_ms = self.desk.book, 0
        if book is None or book.plan_sha256 != row.plan_sha256:  # after a restart
            stored = await self.db.call(self.db.store.commits, row.cycle, row.round)
            book = await self.desk.open(await self._plan_of(row), row.plan_sha256, stored=stored)
            earliest_ms = self.clock.now_ms() + RESUME_QUIET_MS
        while not self._may_close(book, earliest_ms=earliest_ms):
            await self.clock.sleep(TICK_S)
            if book.commits:
                failpoint(f"round-{row.round}-commit")
        lately = self.presence.lately_on(self.cycle.number, now_ms=self.clock.now_ms())
        is_somebody_missing = (
            not book.commits or not lately <= book.commits.keys() | self.desk.refused
        )
        if earliest_ms or is_somebody_missing:  # a search costs every node some kilobytes
            await self.desk.take_from_dht(self.records)
        if not book.commits:
            await self._reopen(row)
            return
        record = await self.desk.close()
        self._learn_patience(book)
        self.clockwork.note_closed(book.commits)
        failpoint(f"round-{row.round}-closed")
        await self.herald.publish(record)
        log.info("round_closed", round=row.round, commits=len(book.commits))

    def _may_close(self, book: CommitBook, *, earliest_ms: int) -> bool:
        now_ms = self.clock.now_ms()
        if now_ms >= book.plan.commit_deadline_ms:
            return True
        quiet_ms = max(earliest_ms, book.plan.opens_ms + QUIET_MS)
        if now_ms < quiet_ms or not book.commits:
            return False
        working = self.presence.working_on(self.cycle.number, now_ms=now_ms)
        return working <= book.commits.keys() | self.desk.refused

    def _learn_patience(self, book: CommitBook) -> None:
        """Shorten a stretched deadline again once a round needed less than half of it."""
        plan = book.plan
        needed_ms = self.clock.now_ms() - plan.opens_ms
        if 2 * needed_ms < plan.commit_deadline_ms - plan.opens_ms:
            self._patience = max(1, self._patience // 2)

    async def _reopen(self, row: RoundRow) -> None:
        """Nobody committed: open the same round again, for longer, when somebody is there."""
        self._patience = min(MAX_PATIENCE, self._patience * 2)
        log.warning("round_empty", round=row.round, patience=self._patience)
        await self._wait_for_peers()
        old = await self._plan_of(row)
        parts = self._exchange()
        plan = build_plan(
            header=await self.herald.header(RoundPlan, cycle=row.cycle, round_number=row.round),
            config=self.cycle.config,
            config_sha256=self.cycle.config_sha256,
            previous_manifest_sha256=old.previous_manifest_sha256,
            state=old.state,
            state_size_bytes=old.state_size_bytes,
            times=self._times(parts),
            parts=parts,
        )
        record = self.herald.signed(plan)
        await self.db.call(
            self.db.store.reopen_round,
            row.cycle,
            row.round,
            plan_sha256=record.payload_sha256,
            now_ms=plan.opens_ms,
            plan=record,
        )
        await self.desk.open(plan, record.payload_sha256)
        await self.herald.publish(record)

    # --- the end of a round --------------------------------------------------------------------

    async def _finish(self, row: RoundRow) -> None:
        plan = await self._plan_of(row)
        record = await stored_record(self.db, "commits", row.cycle, row.round)
        commits = check_commit_set(
            payload_of(record, CommitSet),
            plan=plan,
            plan_sha256=row.plan_sha256,
            config=self.cycle.config,
            examples=self.cycle.examples,
        )
        if self.intake is not None:
            await self.intake.admit({signed.commit.blob_id for signed in commits})
        deadline_ms = self._fetch_deadline_ms(row, plan)
        outcomes = await asyncio.gather(
            *(self._fetch(signed, commits, deadline_ms=deadline_ms) for signed in commits)
        )
        self.clockwork.note_fetched(
            signed.peer
            for signed, outcome in zip(commits, outcomes, strict=True)
            if isinstance(outcome, CommitWithoutBlob)
        )
        judged = await asyncio.to_thread(
            judge_contributions, commits, outcomes, layout=self.cycle.layout
        )
        await self.watch.decide(row.round - 1, until_ms=deadline_ms)
        stored = await self.db.call(stored_correction, self.db.store, row.cycle, row.round - 1)
        correction: RoundCorrection | None = None
        refs: tuple[PartRef, ...] = ()
        final = row.round + 1 == self.cycle.config.rounds
        if stored is not None:
            correction, following, refs = await self._corrected(stored)
            judged = set_aside(judged, corrected_round=correction.round)
        else:
            state = await asyncio.to_thread(self._load_state, plan.state)
            if final:
                serve_ms = plan.serve_deadline_ms - plan.commit_deadline_ms
                until_ms = self.clock.now_ms() + serve_ms
                split = parts_of(self.cycle.layout, plan=plan, plan_sha256=row.plan_sha256)
                start = Start(state, split)
                judged = await self.watch.sift(row, start, judged, until_ms=until_ms)
            following, refs = await asyncio.to_thread(
                self.parts.end, plan, row.plan_sha256, state, judged
            )
        size_bytes = self.blobs.store.size(following)
        manifest = build_manifest(
            header=await self.herald.header(RoundManifest, cycle=row.cycle, round_number=row.round),
            plan_sha256=row.plan_sha256,
            commit_set_sha256=record.payload_sha256,
            entries=[item.entry for item in judged],
            next_state=following,
            next_state_size_bytes=size_bytes,
            final=final,
            correction=correction,
            parts=refs,
        )
        await self._store_finished(row, judged, self.herald.signed(manifest), following)
        self.parts.serve_later(plan, manifest)

    async def _corrected(
        self, stored: StoredCorrection
    ) -> tuple[RoundCorrection, Digest, tuple[PartRef, ...]]:
        """Return what corrects the round before, the state it leads to, and the sum's parts."""
        alarm, blobs = stored.alarm, self.blobs.store
        books = await self.db.call(read_books, self.db.store, alarm.cycle, alarm.round)
        past = await asyncio.to_thread(read_past, books, self.cycle, blobs)
        correction = build_correction(past, stored)
        following, refs = await asyncio.to_thread(self.parts.end_corrected, past, correction)
        log.warning("round_corrected", round=alarm.round, state=following.hex()[:12])
        return correction, following, refs

    async def _store_finished(
        self, row: RoundRow, judged: list[Judged], record: RecordRow, following: Digest
    ) -> None:
        now_ms = self.clock.now_ms()
        contributions = [_contribution_row(row, item) for item in judged]
        used = [item for item in contributions if item.status is not EntryStatus.REFUSED]
        tokens = sum(item.tokens for item in used)
        mean_loss = sum(item.mean_loss * item.tokens for item in used) / tokens if tokens else None
        seed = revealed_seed(
            self.cycle.row.secret_seed, rounds=self.cycle.config.rounds, round_number=row.round
        )

        def finish(store: Store) -> None:  # the streaks are those before the round's own credit
            streaks = store.streaks([item.peer for item in used])
            store.finish_round(
                row.cycle,
                row.round,
                next_state_digest=following,
                mean_loss=mean_loss,
                contributions=contributions,
                postings=pending_postings(
                    used,
                    reference_tokens_per_hour=self.cycle.config.reference_tokens_per_hour,
                    at_ms=now_ms,
                ),
                lottery=draw_lottery(
                    used, seed=seed, streaks=streaks, on_trust=self.cycle.is_audited
                ),
                now_ms=now_ms,
                records=[record],
            )

        await self.db.call(finish, self.db.store)
        failpoint(f"round-{row.round}")
        await self.herald.publish(record)
        log.info(
            "round_finished",
            round=row.round,
            accepted=len(used),
            refused=len(judged) - len(used),
            loss=mean_loss,
        )
        await self.round_finished(row, following)

    async def _audit_what_was_left_out(self, row: RoundRow) -> None:
        """Have the audit for certain that decides what the last round pays for what it left out."""
        for work in await self.db.call(self.db.store.contributions, row.cycle, row.round):
            if work.code == PoisonFound.code:
                await self.db.call(
                    self.db.store.order_audit,
                    work.commit_sha256,
                    reason=DrawReason.ALARM,
                    now_ms=self.clock.now_ms(),
                )

    async def _fetch(
        self, signed: SignedCommit, commits: list[SignedCommit], *, deadline_ms: int
    ) -> VectorSource | PeerFault:
        """Return a checked contribution, or the fault that keeps it out."""
        others = [other.peer for other in commits if other.peer != signed.peer]
        limit = self.cycle.config.limits.max_blob_bytes
        try:
            blob_id = signed.commit.blob_id
            fetching = fetch_until(
                self.blobs,
                blob_id,
                sources=[signed.peer, *others],
                max_bytes=min(signed.commit.blob_size_bytes, limit),
                clock=self.clock,
                deadline_ms=deadline_ms,
            )
            if self.intake is None:
                path = await fetching
            else:
                path = await self.intake.or_upload(blob_id, fetching)
            plan_sha256 = signed.commit.plan_sha256
            layout = bind_layout(self.cycle.layout, plan_sha256=plan_sha256, peer=signed.peer)
            training = self.cycle.config.training
            return await asyncio.to_thread(
                lambda: open_contribution(path.read_bytes(), layout=layout, training=training)
            )
        except NodeDied:
            raise
        except NetworkFault as fault:
            return CommitWithoutBlob(f"nobody served the committed blob: {fault.message}")
        except PeerFault as fault:
            return fault

    def _load_state(self, digest: Digest) -> TrainingState:
        return decode_snapshot(self.blobs.store.read(digest), layout=self.cycle.layout)


def _contribution_row(row: RoundRow, item: Judged) -> ContributionRow:
    commit, entry = item.signed.commit, item.entry
    return ContributionRow(
        commit_sha256=item.signed.sha256,
        cycle=row.cycle,
        round=row.round,
        peer=item.signed.peer,
        coefficient=entry.coefficient,
        status=entry.status,
        code=entry.code,
        message=entry.message,
        steps=commit.steps,
        tokens=commit.tokens,
        mean_loss=commit.mean_loss,
        device=commit.device,
        gpu=commit.device.startswith("cuda"),
        blob_bytes=commit.blob_size_bytes,
    )
