"""The session world with the coordinator's own parts: rounds, audits, auditors, settlements.

Desk, rounds, queue, audit plans, reception, decoys and the database are the package's own; so are
the sessions of trainers and auditors. Played are the task (numpy), the time, and that the worker
is no process of its own: it calls the same functions on the toy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ares_coordinator.alarm.watch import PoisonWatch
from ares_coordinator.audit.assignments import Assignments
from ares_coordinator.audit.auditors import AuditorReports
from ares_coordinator.audit.decoys import Decoys
from ares_coordinator.audit.queue import AuditQueue
from ares_coordinator.audit.reception import Reception
from ares_coordinator.context import RunningCycle
from ares_coordinator.desk import CommitDesk
from ares_coordinator.herald import Herald, payload_of
from ares_coordinator.layout import DataLayout
from ares_coordinator.presence import Presence
from ares_coordinator.rounds import RoundKeeper
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.auditor_rows import AssignmentRow
from ares_coordinator.store.rows import AuditRow, CyclePhase
from ares_coordinator.store.sql import SqlStore, open_store
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.tierbook import TierBook, rules_of
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import (
    AuditPlan,
    AuditReport,
    CycleConfig,
    PeerStatus,
    PostingKind,
    RoundSettlement,
)
from ares_p2p.errors import CoordinatorAway, NotAnAuditor
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.audits import AUDITOR_ROLE
from ares_p2p.training.inner import LocalResult
from ares_p2p.training.replay import Claim, forge_contribution, replay_contribution
from ares_p2p.training.state import decode_snapshot
from ares_p2p.wire.codec import class_of, open_envelope
from ares_peer.auditor import Auditor
from ares_peer.auditsession import AuditorSession
from ares_peer.roundwork import RoundWork
from ares_peer.session import Session
from sim.samples import COORDINATOR, CYCLE, SECRET
from sim.session_world import EXAMPLES, NETWORK, AtOnce, Peer, ToyRig, World, the_task

STEP_S = 0.05  # all train and audit on one thread: a step is time that passes for everybody


@dataclass
class ToyWorker:
    """The coordinator's worker, without a process."""

    rig: ToyRig
    config: CycleConfig
    replays: int = 0
    forgeries: int = 0

    async def replay(self, **job: Any) -> dict[str, Any]:
        self.replays += 1
        found = replay_contribution(
            self.rig,
            self._claim(job),
            start=decode_snapshot(Path(job["state"]).read_bytes(), layout=self.rig.layout),
            blob=Path(job["blob"]).read_bytes(),
            training=self.config.training,
        )
        seen = found.comparison
        return {
            "tokens": found.tokens,
            "rho": seen.rho,
            "norm_ratio": seen.norm_ratio,
            "cosine_drop": seen.cosine_drop,
        }

    async def forge(self, **job: Any) -> dict[str, Any]:
        self.forgeries += 1
        start = decode_snapshot(Path(job["state"]).read_bytes(), layout=self.rig.layout)
        made = forge_contribution(
            self.rig, self._claim(job), start=start, training=self.config.training
        )
        Path(job["out"]).write_bytes(made.data)
        return {
            "tokens": made.tokens,
            "mean_loss": made.mean_loss,
            "device": "cpu",
            "profile": "toy",
        }

    async def evaluate(self, *, indices: list[int], **_: Any) -> dict[str, Any]:
        """Return that no state is better than another: nothing here is about poison."""
        return {"nll": [1.0] * len(indices), "tokens": [1] * len(indices)}

    async def restart(self) -> None:
        """Nothing to begin anew."""

    def _claim(self, job: dict[str, Any]) -> Claim:
        return Claim(PeerId(job["peer"]), bytes.fromhex(job["plan"]), job["steps"], job["lr"])


class HalfWork(RoundWork):
    """Makes half of the steps and claims all of them."""

    def make_contribution(self, result: LocalResult) -> bytes:
        claim = Claim(self.peer, self.plan_sha256, result.steps, self.plan.inner_lr)
        training = self.config.training
        return forge_contribution(self.rig, claim, start=self.state, training=training).data


class HalfSession(Session):
    """A cheat's session."""

    round_work = HalfWork


def auditing(work: type[Auditor]) -> type[AuditorSession]:
    """Return a session whose auditor is `work`."""
    return type("PlayedSession", (AuditorSession,), {"auditor_work": work})


@dataclass
class Office:
    """The coordinator's parts over one database; a new one over the same is a restart."""

    world: AuditWorld
    settings: CoordinatorSettings
    db: StoreThread
    presence: Presence = field(default_factory=Presence)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        world, host = self.world, self.world.host
        links, clock = host.links, world.clock
        self.herald = Herald(COORDINATOR, NETWORK.network_id, self.db, links.records, clock)
        row = self.store.cycle(CYCLE)
        assert row is not None
        files = DataLayout(world.folder / "office")
        self.cycle = RunningCycle(
            row,
            host.config,
            host.config_sha256,
            the_task().layout,
            EXAMPLES,
            self.settings,
            files,
        )
        self.worker: Any = ToyWorker(ToyRig(clock, host.config, step_s=0.01), host.config)
        tiers = TierBook(self.db, clock, rules_of(self.settings.credit))
        self.assignments = Assignments(
            self.cycle, self.herald, self.db, clock, self.presence, tiers
        )
        self.reception = Reception(self.cycle, self.herald, self.db, clock)
        reports = AuditorReports(self.cycle, self.assignments, since_ms=clock.now_ms())
        self.queue = AuditQueue(
            self.cycle, self.herald, self.db, links.blobs, self.worker, clock, reports=reports
        )
        self.desk = CommitDesk(self.cycle, self.herald, self.db, clock)
        self.decoys = Decoys(
            self.cycle,
            NETWORK.network_id,
            self.db,
            links.blobs,
            links.records,
            self.worker,
            clock,
            self.desk,
            self.assignments,
            folder=files.scratch,
        )
        self.keeper = RoundKeeper(
            cycle=self.cycle,
            herald=self.herald,
            db=self.db,
            records=links.records,
            blobs=links.blobs,
            clock=clock,
            presence=self.presence,
            round_finished=self._round_finished,
            paused=asyncio.Event(),
            desk=self.desk,
            watch=PoisonWatch(
                self.cycle,
                self.db,
                links.blobs,
                self.worker,
                clock,
                indices=list(range(8)),
                folder=files.scratch,
            ),
            decoys=self.decoys,
        )
        world.control.handlers[COORDINATOR.peer_id] = self.handle

    @property
    def store(self) -> SqlStore:
        assert isinstance(self.db.store, SqlStore)
        return self.db.store

    async def _round_finished(self, *_: object) -> None:
        pass

    async def handle(self, envelope: Envelope, remote: PeerId) -> Envelope:
        """What `Engine.handle` does."""
        if class_of(envelope) is PeerStatus:
            status = open_envelope(envelope, PeerStatus, network_id=NETWORK.network_id)
            peer, now_ms = envelope.signer, self.world.clock.now_ms()
            if self.presence.note(peer, status, remote=remote, now_ms=now_ms):
                self.store.touch_worker(
                    peer, now_ms=now_ms, device=status.device, gpu=False, software=status.software
                )
            why = await self.assignments.why_not(peer) if status.role == AUDITOR_ROLE else ""
            if why:
                raise NotAnAuditor(f"this peer may not audit: {why}")
            return self.herald.receipt(envelope)
        if class_of(envelope) is AuditReport:
            return await self.reception.take(envelope, remote)
        if self.desk.book is None:
            raise CoordinatorAway("no round is open just now")
        return await self.desk.take(envelope, remote)

    def open(self) -> Office:
        """Begin rounds and audits."""
        self.tasks = [
            asyncio.create_task(self.keeper.run(), name="rounds"),
            asyncio.create_task(self.queue.run(), name="audits"),
        ]
        self.world.tasks += self.tasks
        return self

    async def kill(self) -> None:
        """End as SIGKILL would; the database stays."""
        await self.decoys.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.world.control.handlers.pop(COORDINATOR.peer_id, None)

    # --- what came of it -----------------------------------------------------------------------

    def settlement(self, number: int) -> RoundSettlement | None:
        record = self.store.record("settlement", CYCLE, number)
        return None if record is None else payload_of(record, RoundSettlement)

    def plan(self, number: int) -> AuditPlan | None:
        record = self.store.record("audits", CYCLE, number)
        return None if record is None else payload_of(record, AuditPlan)

    async def settled(self, rounds: int) -> None:
        """Return when so many rounds are settled."""
        await self.world.until(lambda: self.settlement(rounds - 1) is not None)

    def tasks_of(self, auditor: PeerId) -> list[AssignmentRow]:
        rounds = range(self.cycle.config.rounds)
        found = [task for number in rounds for task in self.store.assignments(CYCLE, number)]
        return [task for task in found if task.auditor == auditor]

    def audits(self) -> list[AuditRow]:
        rounds = range(self.cycle.config.rounds)
        return [audit for number in rounds for audit in self.store.audits(CYCLE, number)]

    def totals(self, peer: PeerId, kind: PostingKind) -> tuple[int, int, int, int]:
        """Return pending, settled, void and taken back micro-credits."""
        for row in self.store.totals(peer):
            if row.kind is kind:
                return (
                    row.pending_ucredits,
                    row.settled_ucredits,
                    row.void_ucredits,
                    row.clawback_ucredits,
                )
        return (0, 0, 0, 0)

    def decoy_commits(self) -> set[Digest]:
        rounds = range(self.cycle.config.rounds)
        found = [self.store.decoy(CYCLE, number) for number in rounds]
        return {decoy.commit_sha256 for decoy in found if decoy and decoy.commit_sha256}

    def refusals(self, peer: PeerId) -> set[str]:
        return {row.code for row in self.store.refusals_of(peer, 100)}


class AuditWorld(World):
    """A network with two trainers and whatever auditors a test wants; an async context."""

    office: Office

    def __init__(self, folder: Path, *, rounds: int = 3, **audit: Any) -> None:
        super().__init__(folder, rounds=rounds)
        self._audit = {"decoy_rate": 0.0, "report_s": 60.0, **audit}
        self._trainers = 2

    def peer(self, session: type[Session] = Session) -> Peer:
        peer = super().peer()
        peer.rig.step_s = STEP_S
        peer.session_class = session
        return peer

    def train(self, count: int) -> list[Peer]:
        """Start honest trainers."""
        return [self.peer().start() for _ in range(count)]

    def auditor(self, work: type[Auditor] = Auditor) -> Peer:
        """Return a machine that audits, to be started."""
        return self.peer(auditing(work))

    def settings(self, *named: Peer, **changes: Any) -> CoordinatorSettings:
        audit = {**self._audit, "auditors": [peer.peer_id for peer in named], **changes}
        return CoordinatorSettings.model_validate(
            {
                "network": {"name": "audit-world"},
                "rounds": {"min_peers": self._trainers, "train_s": 60, "serve_s": 20},
                "audit": audit,
            }
        )

    def open(self, *named: Peer, **changes: Any) -> Office:
        """Open the coordinator's office; the peers in `named` may audit."""
        db = StoreThread(self.store, AtOnce(1))
        self.office = Office(self, self.settings(*named, **changes), db).open()
        return self.office

    async def reopen(self, *named: Peer, **changes: Any) -> Office:
        """Kill the coordinator and start it again."""
        await self.office.kill()
        return self.open(*named, **changes)

    async def until(self, condition: Callable[[], bool]) -> None:
        """As in any world, but nothing here takes an hour."""
        limit_ms = self.clock.now_ms() + 3_600_000

        def is_so() -> bool:
            assert self.clock.now_ms() < limit_ms, "it did not come within an hour"
            return condition()

        await super().until(is_so)

    async def with_auditors(self, *auditors: Peer) -> None:
        """Start auditors and wait until the coordinator knows them."""
        for auditor in auditors:
            auditor.start()
        presence = self.office.presence
        wanted = {auditor.peer_id for auditor in auditors}
        await self.until(lambda: wanted <= presence.auditors_of(CYCLE, now_ms=self.clock.now_ms()))

    async def __aenter__(self) -> AuditWorld:
        await super().__aenter__()
        self.store = open_store(self.folder / "ares.db")
        for number in range(1, CYCLE + 1):
            config = self.host.config
            self.store.begin_cycle(
                number,
                now_ms=self.clock.now_ms(),
                secret_seed=SECRET,
                assignment_key=config.assignment_key,
            )
            end = CyclePhase.TRAIN if number == CYCLE else CyclePhase.DONE
            self.store.advance_phase(number, CyclePhase.GENERATE, end, now_ms=self.clock.now_ms())
        return self

    async def __aexit__(self, *args: object) -> None:
        await super().__aexit__(*args)
        self.store.close()
