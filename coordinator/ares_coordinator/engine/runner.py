"""Does what a cycle's phase asks for, and moves it on; killed, it repeats the phase.

Each phase is idempotent: files are replaced in one step, records are signed once and stored with
the move to the next phase, rounds and audits continue from the database. A phase that fails is
tried again with growing pauses; what went wrong is kept where people look.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from ares_coordinator.alarm.watch import PoisonWatch
from ares_coordinator.audit.assignments import Assignments
from ares_coordinator.audit.auditors import AuditorReports
from ares_coordinator.audit.client import ComputeWorker
from ares_coordinator.audit.decoys import Decoys
from ares_coordinator.audit.queue import AuditQueue
from ares_coordinator.audit.reception import Reception
from ares_coordinator.context import RunningCycle
from ares_coordinator.datasets import DatasetMaker
from ares_coordinator.desk import CommitDesk
from ares_coordinator.engine.states import is_over, next_phase
from ares_coordinator.evaluation import (
    GateResult,
    decide,
    evaluation_row,
    losses_of,
    spread_indices,
)
from ares_coordinator.failpoints import failpoint
from ares_coordinator.foundation import Foundation, base_of, foundation_before, merge_if_due
from ares_coordinator.herald import Herald
from ares_coordinator.intake import Intake
from ares_coordinator.layout import DataLayout
from ares_coordinator.preparation import (
    load_rows,
    prepare_cycle,
    running_cycle,
)
from ares_coordinator.presence import Presence
from ares_coordinator.reducedrounds import LossWatch, ReducedKeeper
from ares_coordinator.rounds import RoundKeeper
from ares_coordinator.seating import Seating
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import (
    CyclePhase,
    CycleRow,
    EvaluationRow,
    RoundRow,
    Stage,
)
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.teacherstate import Condition, TeacherState, name_of, note_teacher
from ares_coordinator.tierbook import TierBook, rules_of
from ares_p2p.averaging.group import SeatIn
from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import AuditReport, PeerStatus
from ares_p2p.errors import (
    AresError,
    ConfigFault,
    CoordinatorAway,
    InternalFault,
    NetworkFault,
    NodeDied,
    NotAnAuditor,
    TeacherAway,
    TeacherFault,
)
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.records import Records
from ares_p2p.rounds.audits import AUDITOR_ROLE
from ares_p2p.rounds.strategy import averages_in_group
from ares_p2p.shards.manifest import build_dataset_shards, chunks_of
from ares_p2p.training.lora_spec import LoraSpec, save_adapter
from ares_p2p.training.state import decode_snapshot
from ares_p2p.wire.codec import class_of, open_envelope

PAUSE_TICK_S = 0.5
RETRY_S = (1.0, 5.0, 15.0, 60.0, 300.0)
FRESH_AFTER_MS = 600_000  # a phase that worked so long before it failed is not stuck

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Engine:
    """The life of cycles on one coordinator; `conductor` says when."""

    settings: CoordinatorSettings
    files: DataLayout
    db: StoreThread
    herald: Herald
    records: Records
    blobs: Blobs
    clock: Clock
    worker: ComputeWorker
    presence: Presence = field(default_factory=Presence)
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: RoundKeeper | None = None
    desk: CommitDesk | None = None
    activity: str = ""  # what the running phase is at, for people
    failure: str = ""
    intake: Intake | None = None  # of contributions over HTTPS
    seat_in: SeatIn | None = None  # for cycles that are averaged in groups
    _audits: AuditQueue | None = None
    _assignments: Assignments | None = None
    _reception: Reception | None = None
    _cycle: RunningCycle | None = None
    _watch: PoisonWatch | None = None

    async def handle(self, envelope: Envelope, remote: PeerId) -> Envelope:
        """Answer a peer: take its commit or its audit report, or note that it is there.

        Raises: PeerFault: why it is refused. CoordinatorAway: no rounds are running just now.
        """
        if class_of(envelope) is PeerStatus:
            return await self._announced(envelope, remote)
        if class_of(envelope) is AuditReport:
            if self._reception is None:
                raise CoordinatorAway("no cycle is running just now")
            return await self._reception.take(envelope, remote)
        if self.desk is None:
            raise CoordinatorAway("no rounds are running just now")
        return await self.desk.take(envelope, remote)

    async def _announced(self, envelope: Envelope, remote: PeerId) -> Envelope:
        status = open_envelope(envelope, PeerStatus, network_id=self.herald.network_id)
        now_ms, peer = self.clock.now_ms(), envelope.signer
        if self.presence.note(peer, status, remote=remote, now_ms=now_ms):
            await self.db.call(
                self.db.store.touch_worker,
                peer,
                now_ms=now_ms,
                device=status.device,
                gpu=status.device.startswith("cuda"),
                software=status.software,
            )
        if status.role == AUDITOR_ROLE:
            await self._check_may_audit(peer)
        return self.herald.receipt(envelope)

    async def _check_may_audit(self, peer: PeerId) -> None:
        """Tell an auditor at once that nobody will ask it.

        Raises: NotAnAuditor.
        """
        if self._assignments is None:
            return
        why = await self._assignments.why_not(peer)
        if why:
            raise NotAnAuditor(f"this peer may not audit: {why}")

    async def run_cycle(self, row: CycleRow) -> None:
        """Bring a cycle to its end from the phase it is in."""
        log.info("cycle", cycle=row.cycle, phase=row.phase.value)
        try:
            while not is_over(row.phase):
                await self._while_paused()
                await self._phase_with_retries(row)
                found = await self.db.call(self.db.store.cycle, row.cycle)
                assert found is not None
                row = found
        finally:
            self.activity = ""

    async def _while_paused(self) -> None:
        if self.paused.is_set():
            self.activity = "paused"
        while self.paused.is_set():
            await self.clock.sleep(PAUSE_TICK_S)

    async def close(self) -> None:
        """Let go of what runs beside the phases."""
        if self._watch is not None:
            await self._watch.close()
        await self.worker.close()

    async def unfinished(self) -> CycleRow | None:
        """Return the cycle that is not at its end, if there is one."""
        return await self.db.call(self.db.store.current_cycle)

    async def begin(self) -> CycleRow:
        """Begin the next cycle; there must be no unfinished one."""
        latest = await self.db.call(self.db.store.latest_cycle)
        number = 1 if latest is None else latest.cycle + 1
        return await self.db.call(
            self.db.store.begin_cycle,
            number,
            now_ms=self.clock.now_ms(),
            secret_seed=secrets.token_bytes(32),
            assignment_key=self._assignment_key(number),
            params_json=self.settings.model_dump_json(exclude={"network", "database"}),
        )

    def _assignment_key(self, cycle: int) -> bytes:
        """Return who trains on what, and the adapter's start: public, so a seed may fix it."""
        seed = self.settings.data.seed
        if seed < 0:
            return secrets.token_bytes(32)
        return sha256(b"ares/assignment-key/v1\0", b"%d/%d" % (seed, cycle))

    async def _phase_with_retries(self, row: CycleRow) -> None:
        phases = {
            CyclePhase.GENERATE: self._generate,
            CyclePhase.PREPARE: self._prepare,
            CyclePhase.PUBLISH: self._publish,
            CyclePhase.TRAIN: self._train,
            CyclePhase.STACK: self._stack,
            CyclePhase.EVALUATE: self._evaluate,
            CyclePhase.PROMOTE: self._promote,
            CyclePhase.ROLLBACK: self._rollback,
            CyclePhase.SETTLE: self._settle,
        }
        log.info("phase", cycle=row.cycle, phase=row.phase.value)
        await self.event("cycle-phase", cycle=row.cycle, phase=row.phase.value)
        tries = 0
        while True:
            self.activity = row.phase.value
            failpoint(row.phase.value)
            began_ms = self.clock.now_ms()
            try:
                await phases[row.phase](row)
            except NodeDied:
                raise
            except AresError as fault:
                if isinstance(fault, ConfigFault) and not isinstance(fault, TeacherFault):
                    raise
                log.warning(
                    "phase_failed", phase=row.phase.value, code=fault.code, why=fault.message
                )
                await self.note_failure(row, str(fault))
                self._cycle = None  # publish and load everything again
                lasting = self.clock.now_ms() - began_ms > FRESH_AFTER_MS
                tries = 1 if lasting else tries + 1
                if tries > len(RETRY_S) and not isinstance(fault, NetworkFault | TeacherFault):
                    raise  # for a teacher the settings say whether to wait
                pause_s = RETRY_S[min(tries, len(RETRY_S)) - 1]
                if isinstance(fault, TeacherFault | TeacherAway):
                    await self._note_waiting(row, fault, pause_s=pause_s)
                await self.clock.sleep(pause_s)
            except Exception as error:
                await self.note_failure(row, f"{type(error).__name__}: {error}")
                raise
            else:
                if self.failure:
                    await self.note_failure(row, "")
                return

    async def note_failure(self, row: CycleRow, text: str) -> None:
        """Keep what keeps a cycle from going on; "" when it goes on."""
        self.failure = text
        now_ms = self.clock.now_ms()
        await self.db.call(self.db.store.update_cycle, row.cycle, now_ms=now_ms, failure=text)

    async def _note_waiting(self, row: CycleRow, fault: AresError, *, pause_s: float) -> None:
        """Keep where a restart finds it that the teacher is waited for, and why."""
        now_ms = self.clock.now_ms()
        state = TeacherState(
            Condition.WAITING,
            name_of(self.settings.teacher),
            row.cycle,
            now_ms,
            fault.code,
            fault.message,
            fault.hint,
            next_try_ms=now_ms + round(pause_s * 1000),
        )
        log.warning("teacher_waited_for", code=fault.code, next_try_s=pause_s, hint=fault.hint)
        await self.db.call(note_teacher, self.db.store, state)

    async def _advance(self, row: CycleRow, new: CyclePhase, **fields: Any) -> None:
        failpoint(f"{row.phase.value}-end")
        await self.db.call(
            self.db.store.advance_phase,
            row.cycle,
            row.phase,
            new,
            now_ms=self.clock.now_ms(),
            **fields,
        )

    async def event(self, kind: str, **data: object) -> None:
        """Keep what happened, for whoever looks on."""
        await self.db.call(
            self.db.store.add_event, kind, json.dumps(data), now_ms=self.clock.now_ms()
        )

    # --- data ----------------------------------------------------------------------------------

    async def _generate(self, row: CycleRow) -> None:
        maker = DatasetMaker(self.settings, self.files, self.db, self.clock, self._say)
        dataset, _ = await maker.make(row)
        await self.db.call(self.db.store.save_dataset, dataset)
        await self._advance(row, next_phase(row.phase))

    def _say(self, activity: str) -> None:
        self.activity = activity

    async def _prepare(self, row: CycleRow) -> None:
        prepared = await prepare_cycle(
            row,
            foundation=await self._foundation(row),
            settings=self.settings,
            files=self.files,
            blobs=self.blobs.store,
            herald=self.herald,
        )
        await self._advance(
            row,
            next_phase(row.phase),
            records=[prepared.dataset, prepared.config],
            config_envelope=prepared.config.envelope,
            rounds_total=self.settings.rounds.rounds,
            rank=self.settings.training.rank,
            adapter_parameters=prepared.parameters,
        )

    async def _foundation(self, row: CycleRow) -> Foundation:
        """Return what the cycle is trained on, merged first if the stack is high enough."""
        db, settings = self.db, self.settings
        found = await db.call(foundation_before, db.store, settings, self.files, row.cycle)

        def say(done: int, total: int) -> None:
            self.activity = f"merge {len(found.stack)} adapters: {done / max(1, total):.0%}"

        threshold = settings.growth.merge_threshold
        merged = await merge_if_due(found, threshold=threshold, files=self.files, on_bytes=say)
        if merged is not found:
            await self.event("merge", cycle=row.cycle, merged=list(merged.merged))
        return merged

    async def republish_finished(self) -> None:
        """Publish again what the newest finished cycle came to, for whoever asks."""
        latest = await self.db.call(self.db.store.latest_cycle)
        if latest is not None and is_over(latest.phase):
            last = await self.db.call(self.db.store.latest_round, latest.cycle)
            from_round = 0 if last is None else last.round - 1
            await self.herald.republish(latest.cycle, from_round=from_round)

    async def _publish(self, row: CycleRow) -> None:
        await self.herald.patiently(lambda: self._publish_shards(row), what="shards")
        for kind in ("dataset", "cycle"):
            record = await self.db.call(self.db.store.record, kind, row.cycle, 0)
            assert record is not None
            await self.herald.publish(record)
        await self._advance(row, next_phase(row.phase))

    async def _publish_shards(self, row: CycleRow) -> None:
        rows = load_rows(self.files, row.cycle, "train")
        _, shards = await asyncio.to_thread(build_dataset_shards, rows)
        chunks = [chunk for shard in shards for chunk in chunks_of(shard.data)]
        for number, chunk in enumerate(chunks):
            self.activity = f"publish shard chunk {number + 1} of {len(chunks)}"
            await self.records.publish_chunk(chunk)

    # --- training ------------------------------------------------------------------------------

    async def _running(self, row: CycleRow) -> RunningCycle:
        """Return the running cycle, with its audits at work and everything in the DHT again."""
        if self._cycle is not None and self._cycle.number == row.cycle:
            return self._cycle
        record = await self.db.call(self.db.store.record, "cycle", row.cycle, 0)
        if record is None:
            raise InternalFault(f"cycle {row.cycle} is in {row.phase} without a config")
        cycle = await asyncio.to_thread(
            running_cycle, row, record, settings=self.settings, files=self.files
        )
        await self._load_worker(cycle)
        await self.herald.patiently(lambda: self._publish_shards(row), what="shards")
        latest = await self.db.call(self.db.store.latest_round, row.cycle)
        await self.herald.republish(row.cycle, from_round=latest.round - 1 if latest else 0)
        self._audits = AuditQueue(
            cycle,
            self.herald,
            self.db,
            self.blobs,
            self.worker,
            self.clock,
            reports=self._auditor_reports(cycle),
        )
        self._cycle = cycle
        return cycle

    def _auditor_reports(self, cycle: RunningCycle) -> AuditorReports:
        """Return what auditor peers report in a cycle, and take their reports from now on."""
        tiers = TierBook(self.db, self.clock, rules_of(self.settings.credit))
        self._assignments = Assignments(
            cycle, self.herald, self.db, self.clock, self.presence, tiers
        )
        self._reception = Reception(cycle, self.herald, self.db, self.clock)
        return AuditorReports(cycle, self._assignments, since_ms=self.clock.now_ms())

    async def _load_worker(self, cycle: RunningCycle) -> None:
        folder = self.files.dataset(cycle.number)
        await self.worker.load(
            {
                "config": str(self.files.config_file(cycle.number)),
                "base": str(base_of(cycle.config.base, self.settings, self.files)),
                "stack": [str(self.files.adapter(item.cycle)) for item in cycle.config.stack],
                "train": str(folder / "train.jsonl"),
                "held_out": str(folder / "eval.jsonl"),
                "device": self._device(),
            }
        )

    def _device(self) -> str:
        if self.settings.base.device != "auto":
            return self.settings.base.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    async def _train(self, row: CycleRow) -> None:
        cycle = await self._running(row)
        assert self._audits is not None
        self.desk = CommitDesk(
            cycle, self.herald, self.db, self.clock, seating=self._seating(cycle)
        )
        decoys = self._decoys(cycle, self.desk)
        watch = self._watch = self._poison_watch(cycle)
        self.keeper = self._keeper_of(cycle)(
            desk=self.desk,
            cycle=cycle,
            herald=self.herald,
            db=self.db,
            records=self.records,
            blobs=self.blobs,
            clock=self.clock,
            presence=self.presence,
            round_finished=self._round_finished,
            paused=self.paused,
            watch=watch,
            decoys=decoys if cycle.is_audited else None,
            intake=self.intake,
        )
        audits = asyncio.create_task(self._audit_forever(self._audits), name="audits")
        try:
            await watch.resume()
            await self.keeper.run()
            await watch.drain()
        finally:
            self.keeper = self.desk = self._watch = None
            await watch.close()
            await decoys.close()
            audits.cancel()
            await asyncio.gather(audits, return_exceptions=True)
        await self._advance(row, next_phase(row.phase))

    def _keeper_of(self, cycle: RunningCycle) -> Callable[..., RoundKeeper]:
        if averages_in_group(cycle.config):
            return functools.partial(ReducedKeeper, seat_in=self.seat_in)
        return RoundKeeper

    def _poison_watch(self, cycle: RunningCycle) -> PoisonWatch:
        categories = [item.category for item in load_rows(self.files, cycle.number, "eval")]
        kind = LossWatch if averages_in_group(cycle.config) else PoisonWatch
        return kind(
            cycle,
            self.db,
            self.blobs,
            self.worker,
            self.clock,
            indices=spread_indices(categories, self.settings.rounds.held_out_examples),
            folder=self.files.scratch,
        )

    def _decoys(self, cycle: RunningCycle, desk: CommitDesk) -> Decoys:
        assert self._assignments is not None
        return Decoys(
            cycle,
            self.herald.network_id,
            self.db,
            self.blobs,
            self.records,
            self.worker,
            self.clock,
            desk,
            self._assignments,
            folder=self.files.scratch,
        )

    def _seating(self, cycle: RunningCycle) -> Seating:
        def waiting() -> set[PeerId]:
            return self.presence.working_on(cycle.number, now_ms=self.clock.now_ms())

        assert self._assignments is not None
        return Seating(self._assignments.tiers, cycle.config.limits.max_peers_per_round, waiting)

    async def _audit_forever(self, audits: AuditQueue) -> None:
        """Audit beside the rounds; a fault there is told and tried again, never stops a round."""
        while True:
            try:
                await audits.run()
            except Exception:
                log.exception("audits_failed")
                await self.clock.sleep(RETRY_S[1])

    async def _round_finished(self, row: RoundRow, state: Digest) -> None:
        await self.event("round", cycle=row.cycle, round=row.round, state=state.hex())
        if self._watch is not None:
            self._watch.begin(row, state)

    # --- what came of it -----------------------------------------------------------------------

    async def _final_state(self, cycle: RunningCycle) -> Digest:
        latest = await self.db.call(self.db.store.latest_round, cycle.number)
        if latest is None or latest.next_state_digest is None:
            raise InternalFault(f"cycle {cycle.number} has no final state")
        return latest.next_state_digest

    async def _stack(self, row: CycleRow) -> None:
        cycle = await self._running(row)
        digest = await self._final_state(cycle)
        folder = self.files.adapter(row.cycle)
        base = base_of(cycle.config.base, self.settings, self.files)

        def save() -> None:
            state = decode_snapshot(self.blobs.store.read(digest), layout=cycle.layout)
            training = cycle.config.training
            save_adapter(
                folder,
                cycle.layout,
                state.theta,
                spec=LoraSpec(training.rank, training.alpha, training.targets),
                base_name=cycle.config.base.hub_id or str(base),
            )

        await asyncio.to_thread(save)
        await self._advance(row, next_phase(row.phase), adapter_path=str(folder))

    async def _evaluate(self, row: CycleRow) -> None:
        cycle = await self._running(row)
        await self._load_worker(cycle)
        snapshot = self.blobs.store.path(await self._final_state(cycle))
        rows = {}
        for stage, state in ((Stage.BEFORE, None), (Stage.AFTER, snapshot)):
            self.activity = f"evaluate {stage.value}"
            rows[stage] = await self._evaluation(cycle, stage, state)
        gate = await asyncio.to_thread(decide, rows[Stage.BEFORE], rows[Stage.AFTER])
        await self.event("evaluation", cycle=row.cycle, **_gate_event(gate))
        log.info("gate", promoted=gate.promoted, **_gate_event(gate))
        await self._advance(
            row,
            next_phase(row.phase, promoted=gate.promoted),
            loss_before=gate.loss_before,
            loss_after=gate.loss_after,
            loss_change_low=-gate.improvement.high,
            loss_change_high=-gate.improvement.low,
        )

    async def _evaluation(
        self, cycle: RunningCycle, stage: Stage, state: Path | None
    ) -> EvaluationRow:
        stored = await self.db.call(self.db.store.evaluation, cycle.number, stage)
        if stored is not None:
            return stored
        answer = await self.worker.evaluate(state=state, indices=None, urgent=True)
        categories = [item.category for item in load_rows(self.files, cycle.number, "eval")]
        evaluation = evaluation_row(
            losses_of(answer),
            categories,
            cycle=cycle.number,
            stage=stage,
            at_ms=self.clock.now_ms(),
        )
        await self.db.call(self.db.store.save_evaluation, evaluation)
        return evaluation

    async def _promote(self, row: CycleRow) -> None:
        await self._running(row)
        done = await self.db.call(self.db.store.cycles)
        version = 1 + max((item.version or 0 for item in done if item.cycle < row.cycle), default=0)
        await self._advance(row, next_phase(row.phase), promoted=True, version=version)

    async def _rollback(self, row: CycleRow) -> None:
        await self._running(row)
        await self._advance(row, next_phase(row.phase), promoted=False)

    async def _settle(self, row: CycleRow) -> None:
        await self._running(row)
        assert self._audits is not None
        await self._audits.drain()
        await self.event("cycle-complete", cycle=row.cycle, promoted=row.promoted)
        self._cycle = self._audits = self._assignments = self._reception = None
        await self._advance(row, next_phase(row.phase))


def _gate_event(gate: GateResult) -> dict[str, float]:
    return {
        "loss_before": round(gate.loss_before, 4),
        "loss_after": round(gate.loss_after, 4),
        "improvement_low": round(gate.improvement.low, 4),
        "improvement_high": round(gate.improvement.high, 4),
    }
