"""An auditor's work: find what the seed asks of this peer, train it again, report the measures.

It judges nothing. State and contribution are fetched by the hashes that the author signed, the
replay is the very function that the coordinator uses, and what could not be compared is reported
with its reason, so that nobody waits for the deadline. A report is remembered before it is sent:
after a restart the same bytes are handed in again, and nothing is replayed twice.

It holds one state and one contribution at a time, and gives the latter back at once.
Source: `ares_p2p.rounds.audits`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import AuditPlan, AuditReport, CommitSet, RoundPlan
from ares_p2p.errors import (
    ConfigFault,
    NetworkFault,
    NodeDied,
    PeerFault,
    ReportLate,
    UnknownRound,
    WrongState,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.records import Verified
from ares_p2p.rounds.audits import (
    MAX_PROFILE_CHARS,
    MAX_REPORT_CHARS,
    assigned_to,
    bounded_drop,
    bounded_measure,
)
from ares_p2p.rounds.commits import SignedCommit, open_commit, reason_text
from ares_p2p.rounds.plan import NO_DIGEST
from ares_p2p.training.replay import Claim, Replay, replay_contribution
from ares_p2p.training.state import TrainingState, decode_snapshot, snapshot_size_bytes
from ares_p2p.wire.codec import decode_envelope, encode_envelope, seal
from ares_peer.events import AuditReported, AuditStarted, Event, Phase, PhaseChanged, StepDone
from ares_peer.links import Links
from ares_peer.memory import KeptReport, SessionMemory
from ares_peer.pace import Abandoned
from ares_peer.running import RunningCycle
from ares_peer.shelf import Shelf
from ares_peer.submission import SUBMIT_RETRY_S, Answer, submit_once

WINDOW = 8  # rounds back from the newest in which a plan is still looked for
MIN_FETCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Task:
    """One commit that this peer is asked to replay."""

    plan: AuditPlan
    plan_sha256: Digest
    signed: SignedCommit

    @property
    def commit_sha256(self) -> Digest:
        """The commit's digest, by which everything names the task."""
        return self.signed.sha256


@dataclass(slots=True)
class Auditor:
    """The audits of one session. `look` for a task, then `work` on it.

    Attributes:
        tokens_per_s: as measured in the last replay.
    """

    links: Links
    memory: SessionMemory
    shelf: Shelf
    profile: str
    peers_online: Callable[[], Awaitable[list[PeerId]]]
    emit: Callable[[Event], None]
    tokens_per_s: float = 0.0
    _over: set[tuple[int, int]] = field(default_factory=set)  # rounds without a task for us
    _held: tuple[Digest, TrainingState] | None = None
    _abandoned: bool = False

    # --- what is asked -------------------------------------------------------------------------

    async def look(self, running: RunningCycle) -> Task | None:
        """Return the oldest task that is not done, None when nothing is asked now.

        Raises: NetworkFault, NodeDied.
        """
        newest = await self.links.records.fetch(RoundPlan, cycle=running.number)
        if newest is None:
            return None
        last = newest.payload.header.round
        for number in range(max(0, last - WINDOW), last + 1):
            if (running.number, number) in self._over:
                continue
            task = await self._task_in(running, number)
            if task is not None:
                return task
        return None

    async def _task_in(self, running: RunningCycle, number: int) -> Task | None:
        place = (running.number, number)
        found = await self.links.records.fetch(AuditPlan, cycle=place[0], round=number)
        if found is None:
            return None
        left = [commit for commit in self._asked(found.payload) if not self._is_done(commit)]
        if not left or self.links.clock.now_ms() > found.payload.deadline_ms:
            self._over.add(place)
            return None
        closed = await self.links.records.fetch(CommitSet, cycle=place[0], round=number)
        if closed is None or closed.envelope.payload_sha256 != found.payload.commit_set_sha256:
            return None  # it is on its way
        return self._task(found, closed.payload, left)

    def _asked(self, plan: AuditPlan) -> Sequence[Digest]:
        return assigned_to(plan, self.links.identity.peer_id)

    def _is_done(self, commit_sha256: Digest) -> bool:
        kept = self.memory.report_on(commit_sha256)
        return kept is not None and kept.is_over

    def _task(
        self, found: Verified[AuditPlan], closed: CommitSet, wanted: Sequence[Digest]
    ) -> Task | None:
        for data in closed.commits:
            envelope = decode_envelope(data)
            if envelope.payload_sha256 in wanted:
                signed = open_commit(envelope, network_id=self.links.network_id)
                return Task(found.payload, found.envelope.payload_sha256, signed)
        return None

    # --- the work ------------------------------------------------------------------------------

    async def work(self, running: RunningCycle, task: Task) -> None:
        """Replay and report one task, or hand in again what an earlier run had signed.

        Raises: NodeDied. ConfigFault: an own fault that has to be mended first.
        """
        kept = self.memory.report_on(task.commit_sha256)
        if kept is not None:
            self.emit(PhaseChanged(Phase.AUDITING, "the report of before the restart"))
            await self._hand_in(decode_envelope(kept.envelope), task)
            return
        self._tell_start(running, task)
        report = await self._report(running, task)
        if report is None:
            late = "the replay was not ready before the deadline"
            await asyncio.to_thread(self._remember, task, b"", is_over=True)
            self._tell_end(task, 0, Answer(False, ReportLate.code, late))
            return
        envelope = seal(self.links.identity, report)
        await asyncio.to_thread(self._remember, task, encode_envelope(envelope))
        await self._hand_in(envelope, task, tokens=report.tokens)

    def _remember(self, task: Task, envelope: bytes, *, is_over: bool = False) -> None:
        self.memory.remember_report(KeptReport(task.commit_sha256, envelope, is_over))

    async def _report(self, running: RunningCycle, task: Task) -> AuditReport | None:
        """Return what there is to say about a task; None when its time is over."""
        try:
            replay = await self._replay(running, task)
        except Abandoned:
            return None
        except (NodeDied, ConfigFault):
            raise
        except (PeerFault, NetworkFault) as fault:
            message = reason_text(fault.message, limit=MAX_REPORT_CHARS)
            return self._signed_off(task, code=fault.code, message=message)
        measured = replay.comparison
        return self._signed_off(
            task,
            tokens=replay.tokens,
            rho=bounded_measure(measured.rho),
            norm_ratio=bounded_measure(measured.norm_ratio),
            cosine_drop=bounded_drop(measured.cosine_drop),
            quiet_drop=bounded_drop(measured.quiet_drop or 0.0),
            replay_sha256=replay.replay_sha256,
        )

    def _signed_off(
        self,
        task: Task,
        *,
        tokens: int = 0,
        rho: float = 0.0,
        norm_ratio: float = 0.0,
        cosine_drop: float = 0.0,
        quiet_drop: float = 0.0,
        replay_sha256: Digest = NO_DIGEST,
        code: str = "",
        message: str = "",
    ) -> AuditReport:
        header = task.plan.header
        return AuditReport(
            header=self.memory.header(cycle=header.cycle, round_number=header.round),
            audit_plan_sha256=task.plan_sha256,
            commit_sha256=task.commit_sha256,
            tokens=tokens,
            rho=rho,
            norm_ratio=norm_ratio,
            cosine_drop=cosine_drop,
            replay_sha256=replay_sha256,
            profile=self.profile[:MAX_PROFILE_CHARS],
            code=code,
            message=message,
            quiet_drop=quiet_drop,
        )

    async def _replay(self, running: RunningCycle, task: Task) -> Replay:
        commit, deadline_ms = task.signed.commit, task.plan.deadline_ms
        state = await self._state(running, task)
        limit = min(commit.blob_size_bytes, running.config.limits.max_blob_bytes)
        await self._fetch(commit.blob_id, task, max_bytes=limit)
        store = self.links.blobs.store
        claim = Claim(
            task.signed.peer,
            commit.plan_sha256,
            commit.steps,
            running.config.training.inner_lr,  # as every plan of the cycle says
        )
        self._abandoned = False
        try:
            return await asyncio.to_thread(
                lambda: replay_contribution(
                    running.rig,
                    claim,
                    start=state,
                    blob=store.read(commit.blob_id),
                    training=running.config.training,
                    on_step=self._on_step(commit.steps, deadline_ms=deadline_ms),
                )
            )
        finally:
            self._abandoned = True  # a thread cannot be cancelled: it ends after its step
            await asyncio.to_thread(store.delete, commit.blob_id)

    def _on_step(self, steps: int, *, deadline_ms: int) -> Callable[[int, float, int], bool]:
        clock, began_ms, tokens_done = self.links.clock, self.links.clock.now_ms(), 0

        def on_step(step: int, loss: float, tokens: int) -> bool:
            nonlocal tokens_done
            now_ms = clock.now_ms()
            if self._abandoned or now_ms > deadline_ms:
                raise Abandoned
            tokens_done += tokens
            self.tokens_per_s = tokens_done * 1000 / max(1, now_ms - began_ms)
            self.emit(StepDone(step, steps, loss, self.tokens_per_s))
            return True

        return on_step

    async def _state(self, running: RunningCycle, task: Task) -> TrainingState:
        """Return the state that the audited work began with.

        Raises: BlobUnavailable. WrongState: the commit names a state of another round.
        """
        digest = task.signed.commit.state
        if self._held is not None and self._held[0] == digest:
            return self._held[1]
        layout, store = running.rig.layout, self.links.blobs.store
        self._held = None  # two need not fit in memory
        await self._fetch(digest, task, max_bytes=snapshot_size_bytes(layout))
        await self.shelf.keep_state(digest)
        state = await asyncio.to_thread(lambda: decode_snapshot(store.read(digest), layout=layout))
        number = task.plan.header.round
        if (state.cycle, state.round) != (running.number, number):
            raise WrongState(
                f"the work of round {number} began with the state of cycle {state.cycle} round "
                f"{state.round}"
            )
        self._held = (digest, state)
        return state

    async def _fetch(self, blob_id: Digest, task: Task, *, max_bytes: int) -> None:
        left_s = (task.plan.deadline_ms - self.links.clock.now_ms()) / 1000
        if left_s <= 0:
            raise Abandoned
        try:
            online = await self.peers_online()
        except NodeDied:
            raise
        except NetworkFault:
            online = []
        await self.links.blobs.fetch(
            blob_id,
            sources=[self.links.coordinator, task.signed.peer, *online],
            max_bytes=max_bytes,
            timeout_s=max(MIN_FETCH_S, left_s / 2),  # a reason why not is to be in time as well
        )

    # --- the report ----------------------------------------------------------------------------

    async def _hand_in(self, envelope: Envelope, task: Task, *, tokens: int = 0) -> None:
        """Hand in a signed report until it is taken, refused, or too late."""
        answer = await self._answer(envelope, deadline_ms=task.plan.deadline_ms)
        if answer.accepted:
            header = task.plan.header
            self.memory.expect_credit((header.cycle, header.round))
        self.memory.end_report(task.commit_sha256)
        self._tell_end(task, tokens, answer)

    async def _answer(self, envelope: Envelope, *, deadline_ms: int) -> Answer:
        while True:
            try:
                await submit_once(self.links, envelope)
            except NodeDied:
                raise
            except (UnknownRound, NetworkFault) as fault:
                if self.links.clock.now_ms() > deadline_ms:
                    why = f"the coordinator could not be reached in time: {fault.message}"
                    return Answer(False, ReportLate.code, why)
            except PeerFault as fault:
                return Answer(False, fault.code, fault.message)
            else:
                return Answer(True)
            await self.links.clock.sleep(SUBMIT_RETRY_S)

    def _tell_start(self, running: RunningCycle, task: Task) -> None:
        header = task.plan.header
        self.emit(PhaseChanged(Phase.AUDITING))
        self.emit(
            AuditStarted(
                header.cycle,
                header.round,
                running.config.rounds,
                task.commit_sha256.hex(),
                task.signed.peer,
                task.signed.commit.steps,
                task.plan.deadline_ms,
            )
        )

    def _tell_end(self, task: Task, tokens: int, answer: Answer) -> None:
        header = task.plan.header
        place = (header.cycle, header.round, task.commit_sha256.hex())
        self.emit(AuditReported(*place, tokens, answer.accepted, answer.code, answer.message))
