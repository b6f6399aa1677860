"""Opens and closes rounds, and publishes what they came to.

One round is four transactions: opened with its plan, commits as they come, closed with its
commit set, finished with its manifest, pending credit and audits. Killed between any two, the
next start finds the round where it was and goes on; peers that committed meanwhile have left
their commits in the DHT.

The coordinator only sequences: the contributions travel between peers, and it fetches them like
everybody else, to decide the coefficients.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from ares_coordinator.context import RunningCycle
from ares_coordinator.herald import Herald
from ares_coordinator.judge import Judged, judge_contributions
from ares_coordinator.ledger.postings import pending_postings
from ares_coordinator.presence import Presence
from ares_coordinator.store.rows import (
    CommitResult,
    CommitRow,
    ContributionRow,
    RecordRow,
    RoundRow,
    RoundState,
)
from ares_coordinator.store.thread import StoreThread
from ares_p2p.averaging.vectors import VectorSource
from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import (
    Commit,
    CommitAck,
    CommitSet,
    EntryStatus,
    PeerStatus,
    RoundManifest,
    RoundPlan,
)
from ares_p2p.errors import (
    CommitLate,
    CommitWithoutBlob,
    Equivocation,
    NetworkFault,
    PayloadMalformed,
    PeerFault,
    UnknownRound,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blobs import Blobs, fetch_until
from ares_p2p.network.records import Records
from ares_p2p.rounds.commits import CommitBook, SignedCommit, check_commit_set, open_commit
from ares_p2p.rounds.manifest import build_manifest
from ares_p2p.rounds.plan import NO_DIGEST, RoundTimes, build_plan
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.training.replica import bind_layout, next_state, open_contribution
from ares_p2p.training.state import TrainingState, decode_snapshot, encode_snapshot
from ares_p2p.wire.codec import (
    class_of,
    decode_envelope,
    decode_payload,
    encode_envelope,
    open_envelope,
)

TICK_S = 0.2
MAX_PATIENCE = 16  # how far rounds stretch when nobody was fast enough for the deadline
QUIET_S = 1.0  # a round stays open at least so long, so that late joiners are not shut out
FETCH_GRACE_MS = 10_000  # after a restart, past the plan's own serve deadline

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RoundKeeper:
    """The rounds of one cycle. `handle` answers peers at any time; `run` drives the rounds."""

    cycle: RunningCycle
    herald: Herald
    db: StoreThread
    records: Records
    blobs: Blobs
    clock: Clock
    presence: Presence
    round_finished: Callable[[RoundRow, Digest], Awaitable[None]]
    paused: asyncio.Event  # set while no new round may open
    _book: CommitBook | None = None
    _refused: set[PeerId] = field(default_factory=set)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _patience: int = 1  # the deadline is this many times the configured one

    @property
    def deadline_ms(self) -> int | None:
        """When the open round's commits close; None between rounds."""
        return None if self._book is None else self._book.plan.commit_deadline_ms

    # --- answers to peers ----------------------------------------------------------------------

    async def handle(self, envelope: Envelope, remote: PeerId) -> Envelope:
        """Take a commit or an announcement from a peer.

        Raises: PeerFault: why not; its code travels back.
        """
        cls = class_of(envelope)
        if cls is PeerStatus:
            return await self._announced(envelope)
        if cls is not Commit:
            raise PayloadMalformed(f"a {cls.__name__} is nothing that peers submit")
        async with self._lock:
            return await self._committed(envelope, remote)

    async def _announced(self, envelope: Envelope) -> Envelope:
        status = open_envelope(envelope, PeerStatus, network_id=self.herald.network_id)
        now_ms = self.clock.now_ms()
        self.presence.note(envelope.signer, status, now_ms=now_ms)
        await self.db.call(
            self.db.store.touch_worker,
            envelope.signer,
            now_ms=now_ms,
            device=status.device,
            gpu=status.device.startswith("cuda"),
            software=status.software,
        )
        return self.herald.receipt(envelope)

    async def _committed(self, envelope: Envelope, remote: PeerId) -> Envelope:
        book, now_ms = self._book, self.clock.now_ms()
        if book is None:
            raise UnknownRound("no round is open", hint="Wait for the next plan.")
        round_number = book.plan.header.round
        try:
            await self._check_not_late(envelope, book)
            signed = book.add(envelope, now_ms=now_ms, sender=remote)
        except PeerFault as fault:
            await self._refuse(book, remote, fault)
            if isinstance(fault, Equivocation):  # the store keeps both envelopes as evidence
                with contextlib.suppress(Equivocation):
                    await self._store_commit(
                        open_commit(envelope, network_id=self.herald.network_id), now_ms=now_ms
                    )
            raise
        header = await self.herald.header(
            CommitAck, cycle=self.cycle.number, round_number=round_number
        )
        ack = self.herald.signed(CommitAck(header, signed.sha256, signed.peer), peer=signed.peer)
        if await self._store_commit(signed, now_ms=now_ms, ack=ack) is CommitResult.DUPLICATE:
            place = (self.cycle.number, round_number, signed.peer)
            stored = await self.db.call(self.db.store.record, "ack", *place)
            ack = ack if stored is None else stored
        log.info("commit", round=round_number, peer=signed.peer, tokens=signed.commit.tokens)
        return decode_envelope(ack.envelope)

    async def _check_not_late(self, envelope: Envelope, book: CommitBook) -> None:
        """Tell a commit that comes after its round from a replay of one that was taken.

        Raises: CommitLate.
        """
        signed = open_commit(envelope, network_id=self.herald.network_id)
        header, plan = signed.commit.header, book.plan.header
        earlier = header.cycle == plan.cycle and header.round <= plan.round
        if not earlier or signed.commit.plan_sha256 == book.plan_sha256:
            return
        taken = await self.db.call(self.db.store.commits, header.cycle, header.round)
        if all(row.commit_sha256 != signed.sha256 for row in taken):
            raise CommitLate(f"round {header.round} was over before this commit came")

    async def _store_commit(
        self, signed: SignedCommit, *, now_ms: int, ack: RecordRow | None = None
    ) -> CommitResult:
        header = signed.commit.header
        row = CommitRow(
            signed.sha256,
            header.cycle,
            header.round,
            signed.peer,
            encode_envelope(signed.envelope),
            now_ms,
        )
        return await self.db.call(self.db.store.add_commit, row, ack=ack)

    async def _refuse(self, book: CommitBook, culprit: PeerId, fault: PeerFault) -> None:
        """Count a refusal under who sent it: a signature may be forged, a connection is not."""
        if culprit not in book.commits:
            self._refused.add(culprit)
        log.info("commit_refused", peer=culprit, code=fault.code, reason=fault.message)
        await self.db.call(
            self.db.store.add_refusal,
            self.cycle.number,
            book.plan.header.round,
            culprit,
            code=fault.code,
            message=fault.message,
            now_ms=self.clock.now_ms(),
        )

    # --- the rounds ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the cycle's rounds to the last one."""
        while True:
            latest: RoundRow | None = await self.db.call(
                self.db.store.latest_round, self.cycle.number
            )
            if latest is None or latest.state is RoundState.AGGREGATED:
                number = 0 if latest is None else latest.round + 1
                if number == self.cycle.config.rounds:
                    return
                await self._wait_for_peers()
                await self._open(number, latest)
            elif latest.state is RoundState.OPEN:
                await self._collect(latest)
            else:
                await self._finish(latest)

    def _times(self) -> RoundTimes:
        rounds = self.cycle.settings.rounds
        return RoundTimes(rounds.train_s * self._patience, rounds.serve_s)

    async def _wait_for_peers(self) -> None:
        wanted = self.cycle.settings.rounds.min_peers
        while self.paused.is_set() or len(self._present()) < wanted:
            await self.clock.sleep(TICK_S)

    def _present(self) -> dict[PeerId, PeerStatus]:
        return self.presence.present(now_ms=self.clock.now_ms())

    async def _open(self, number: int, before: RoundRow | None) -> None:
        config, manifest = self.cycle.config, None
        if before is not None:
            manifest = await self.db.call(
                self.db.store.record, "manifest", self.cycle.number, before.round
            )
        state = config.initial_state
        if before is not None:
            assert before.next_state_digest is not None
            state = before.next_state_digest
        plan = build_plan(
            header=await self.herald.header(
                RoundPlan, cycle=self.cycle.number, round_number=number
            ),
            config=config,
            config_sha256=self.cycle.config_sha256,
            previous_manifest_sha256=manifest.payload_sha256 if manifest else NO_DIGEST,
            state=state,
            state_size_bytes=self.blobs.store.size(state),
            times=self._times(),
        )
        record = self.herald.signed(plan)
        self._set_book(plan, record.payload_sha256)
        await self.db.call(
            self.db.store.open_round,
            self.cycle.number,
            number,
            plan_sha256=record.payload_sha256,
            state_digest=state,
            now_ms=plan.opens_ms,
            records=[record],
        )
        await self.herald.publish(record)
        log.info("round_opened", round=number, state=state.hex()[:12])

    def _set_book(self, plan: RoundPlan, plan_sha256: Digest) -> CommitBook:
        self._refused.clear()
        self._book = CommitBook(self.cycle.config, plan, plan_sha256, self.cycle.examples)
        return self._book

    async def _plan_of(self, row: RoundRow) -> RoundPlan:
        record = await self.db.call(self.db.store.record, "plan", row.cycle, row.round)
        assert record is not None
        envelope = decode_envelope(record.envelope)
        return decode_payload(envelope.payload_type, envelope.payload, RoundPlan)

    async def _collect(self, row: RoundRow) -> None:
        """Wait until everybody has committed or the deadline is over, then close."""
        book = self._book
        if book is None or book.plan_sha256 != row.plan_sha256:  # after a restart
            book = self._set_book(await self._plan_of(row), row.plan_sha256)
            for commit in await self.db.call(self.db.store.commits, row.cycle, row.round):
                book.add(decode_envelope(commit.envelope), now_ms=book.plan.opens_ms)
        while not self._may_close(book):
            await self.clock.sleep(TICK_S)
        await self._take_from_dht(book)
        if not book.commits:
            await self._reopen(row)
            return
        async with self._lock:  # a commit that is being stored gets in
            self._book = None
            header = await self.herald.header(CommitSet, cycle=row.cycle, round_number=row.round)
            seed = revealed_seed(
                self.cycle.row.secret_seed,
                rounds=self.cycle.config.rounds,
                round_number=row.round,
            )
            record = self.herald.signed(book.close(header=header, seed=seed))
            await self.db.call(
                self.db.store.close_round,
                row.cycle,
                row.round,
                now_ms=self.clock.now_ms(),
                records=[record],
            )
        await self.herald.publish(record)
        log.info("round_closed", round=row.round, commits=len(book.commits))

    def _may_close(self, book: CommitBook) -> bool:
        now_ms = self.clock.now_ms()
        if now_ms >= book.plan.commit_deadline_ms:
            return True
        if now_ms < book.plan.opens_ms + QUIET_S * 1000 or not book.commits:
            return False
        working = self.presence.working_on(self.cycle.number, now_ms=now_ms)
        return working <= book.commits.keys() | self._refused

    async def _take_from_dht(self, book: CommitBook) -> None:
        """Enter the commits whose senders could not reach us in time but left them in the DHT."""
        found = await self.records.fetch_peers(
            Commit, cycle=self.cycle.number, round=book.plan.header.round
        )
        now_ms = min(self.clock.now_ms(), book.plan.commit_deadline_ms)
        for item in found:
            peer = item.envelope.signer
            if peer in book.commits or peer in self._refused:
                continue
            try:
                signed = book.add(item.envelope, now_ms=now_ms)
            except PeerFault as fault:
                await self._refuse(book, peer, fault)
            else:
                await self._store_commit(signed, now_ms=now_ms)

    async def _reopen(self, row: RoundRow) -> None:
        """Nobody committed: open the same round again when somebody is there."""
        self._patience = min(MAX_PATIENCE, self._patience * 2)
        log.warning("round_empty", round=row.round, patience=self._patience)
        await self._wait_for_peers()
        header = await self.herald.header(RoundPlan, cycle=row.cycle, round_number=row.round)
        old = await self._plan_of(row)
        plan = build_plan(
            header=header,
            config=self.cycle.config,
            config_sha256=self.cycle.config_sha256,
            previous_manifest_sha256=old.previous_manifest_sha256,
            state=old.state,
            state_size_bytes=old.state_size_bytes,
            times=self._times(),
        )
        record = self.herald.signed(plan)
        self._set_book(plan, record.payload_sha256)
        await self.db.call(
            self.db.store.reopen_round,
            row.cycle,
            row.round,
            plan_sha256=record.payload_sha256,
            now_ms=plan.opens_ms,
            plan=record,
        )
        await self.herald.publish(record)

    # --- the end of a round --------------------------------------------------------------------

    async def _finish(self, row: RoundRow) -> None:
        plan = await self._plan_of(row)
        record = await self.db.call(self.db.store.record, "commits", row.cycle, row.round)
        assert record is not None
        envelope = decode_envelope(record.envelope)
        commits = check_commit_set(
            decode_payload(envelope.payload_type, envelope.payload, CommitSet),
            plan=plan,
            plan_sha256=row.plan_sha256,
            config=self.cycle.config,
            examples=self.cycle.examples,
        )
        outcomes = await asyncio.gather(*(self._fetch(signed, commits, plan) for signed in commits))
        state = await asyncio.to_thread(self._load_state, plan.state)
        judged = await asyncio.to_thread(
            judge_contributions, commits, outcomes, layout=self.cycle.layout
        )
        following = await asyncio.to_thread(self._next_state, state, judged)
        size_bytes = self.blobs.store.size(following)
        manifest = build_manifest(
            header=await self.herald.header(RoundManifest, cycle=row.cycle, round_number=row.round),
            plan_sha256=row.plan_sha256,
            commit_set_sha256=record.payload_sha256,
            entries=[item.entry for item in judged],
            next_state=following,
            next_state_size_bytes=size_bytes,
            final=row.round + 1 == self.cycle.config.rounds,
        )
        await self._store_finished(row, judged, self.herald.signed(manifest), following)

    async def _store_finished(
        self, row: RoundRow, judged: list[Judged], record: RecordRow, following: Digest
    ) -> None:
        now_ms = self.clock.now_ms()
        contributions = [_contribution_row(row, item) for item in judged]
        used = [item for item in contributions if item.status is not EntryStatus.REFUSED]
        tokens = sum(item.tokens for item in used)
        mean_loss = sum(item.mean_loss * item.tokens for item in used) / tokens if tokens else None
        await self.db.call(
            self.db.store.finish_round,
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
            now_ms=now_ms,
            records=[record],
        )
        await self.herald.publish(record)
        log.info(
            "round_finished",
            round=row.round,
            accepted=len(used),
            refused=len(judged) - len(used),
            loss=mean_loss,
        )
        await self.round_finished(row, following)

    async def _fetch(
        self, signed: SignedCommit, commits: list[SignedCommit], plan: RoundPlan
    ) -> VectorSource | PeerFault:
        """Return a checked contribution, or the fault that keeps it out."""
        others = [other.peer for other in commits if other.peer != signed.peer]
        limit = self.cycle.config.limits.max_blob_bytes
        grace_ms = self.clock.now_ms() + FETCH_GRACE_MS
        try:
            path = await fetch_until(
                self.blobs,
                signed.commit.blob_id,
                sources=[signed.peer, *others],
                max_bytes=min(signed.commit.blob_size_bytes, limit),
                clock=self.clock,
                deadline_ms=max(plan.serve_deadline_ms, grace_ms),
            )
            plan_sha256 = signed.commit.plan_sha256
            layout = bind_layout(self.cycle.layout, plan_sha256=plan_sha256, peer=signed.peer)
            training = self.cycle.config.training
            return await asyncio.to_thread(
                lambda: open_contribution(path.read_bytes(), layout=layout, training=training)
            )
        except NetworkFault as fault:
            return CommitWithoutBlob(f"nobody served the committed blob: {fault.message}")
        except PeerFault as fault:
            return fault

    def _load_state(self, digest: Digest) -> TrainingState:
        return decode_snapshot(self.blobs.store.read(digest), layout=self.cycle.layout)

    def _next_state(self, state: TrainingState, judged: list[Judged]) -> Digest:
        contributions = [
            (item.vector, item.entry.coefficient) for item in judged if item.vector is not None
        ]
        following = next_state(state, contributions, self.cycle.config.training)
        return self.blobs.store.put(encode_snapshot(following))


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
