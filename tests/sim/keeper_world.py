"""A real coordinator's rounds over real peers' sessions, in memory and in played time.

`RoundKeeper`, `PoisonWatch`, the commit desk, the herald and the SQLite store are the package's
own, and so are the sessions and their disks. Played are the task and the time, as in
`session_world`, and the worker process: it evaluates the toy.

`start` begins as a new process would, from what the database holds; `kill` ends it as SIGKILL
would, between two things that it does. Nobody pulls a plug here, so nothing waits for the disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from ares_coordinator.alarm.watch import PoisonWatch
from ares_coordinator.audit.client import ComputeWorker
from ares_coordinator.context import RunningCycle
from ares_coordinator.desk import CommitDesk
from ares_coordinator.engine.runner import Engine
from ares_coordinator.herald import Herald, payload_of, stored_record
from ares_coordinator.layout import DataLayout
from ares_coordinator.rounds import RoundKeeper
from ares_coordinator.seating import Seating
from ares_coordinator.settings import (
    AveragingSection,
    CoordinatorSettings,
    NetworkSection,
    RoundsSection,
)
from ares_coordinator.store import tables as t
from ares_coordinator.store.base import Store
from ares_coordinator.store.credit_rows import StandingsRow
from ares_coordinator.store.decay import NO_SCORE
from ares_coordinator.store.rows import CyclePhase, RecordRow, RoundRow
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.sql_base import insert_row
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.tierbook import TierBook, rules_of
from ares_p2p.averaging.bounds import reach_of
from ares_p2p.averaging.codec import encode, encoded_size_bytes
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import RoundManifest, RoundPlan
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.commits import SignedCommit, open_commit
from ares_p2p.training.replica import bind_layout, open_contribution
from ares_p2p.training.state import TrainingState, decode_snapshot
from ares_p2p.wire.codec import class_of, decode_envelope, decode_payload
from ares_peer.roundwork import RoundWork
from ares_peer.session import Session
from sim.samples import COORDINATOR, CYCLE, SECRET
from sim.samples import TRAINING as SAMPLE
from sim.session_world import EXAMPLES, NETWORK, AtOnce, Peer, World
from sim.task import Task

TOKENS = 8  # of a held-out example of the toy
LENGTH = 1.4  # of honest work, what a poisoner sends
TRAINING = {"max_steps": 30}  # long local paths: what a poisoner can do is more than noise
LONG_STREAK = 10_000  # of settled rounds: the lottery draws one of twenty


class ToyWorker:
    """Evaluates the toy where the real one asks a child process with the base."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.evaluations = 0
        self.before_answer: Callable[[int], Any] = lambda number: None  # a test's hand in it
        self.hold: asyncio.Event | None = None  # answers wait for it

    async def evaluate(
        self, *, state: Path | None, indices: list[int] | None, urgent: bool = False
    ) -> dict[str, Any]:
        self.evaluations += 1
        assert state is not None
        assert indices is not None
        assert urgent
        self.before_answer(self.evaluations)
        if self.hold is not None:
            await self.hold.wait()
        theta = decode_snapshot(state.read_bytes(), layout=self.task.layout).theta
        losses = self.task.example_losses(theta)[indices]
        return {"nll": (losses * TOKENS).tolist(), "tokens": [TOKENS] * len(indices)}


@dataclass(slots=True)
class WatchedHerald(Herald):
    """The real one, with a test's hand at the moments when it signs and when it publishes."""

    world: KeeperWorld | None = None

    def signed(self, payload: Any, *, peer: PeerId | None = None) -> RecordRow:
        assert self.world is not None
        return Herald.signed(self, self.world.before_sign(payload), peer=peer)

    async def publish(self, record: RecordRow) -> None:
        assert self.world is not None
        envelope = decode_envelope(record.envelope)
        cls = class_of(envelope)
        self.world.before_publish(decode_payload(envelope.payload_type, envelope.payload, cls))
        await Herald.publish(self, record)


class KeeperWorld(World):
    """A network whose coordinator is the real one, as far as rounds go."""

    keeper_class: Callable[..., RoundKeeper] = RoundKeeper
    watch_class: type[PoisonWatch] = PoisonWatch

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int,
        peers: int,
        examples: int = 128,
        training: dict[str, Any] | None = None,
        averaging: AveragingSection | None = None,
        rank: int = SAMPLE.rank,
        **changes: Any,
    ) -> None:
        super().__init__(folder, rounds=rounds, rank=rank)
        config = self.host.config
        fields = {"rank": rank, "down_bits": averaging.down_bits if averaging else 0}
        changed = replace(config.training, **(TRAINING | fields | (training or {})))
        blob_bytes = encoded_size_bytes(
            self.task.layout.size, bits=changed.codec_bits, block=changed.codec_block
        )
        limits = replace(config.limits, max_blob_bytes=blob_bytes)
        self.host.config = replace(config, training=changed, limits=limits)
        self.settings = CoordinatorSettings(
            network=NetworkSection(name="session-world"),
            rounds=RoundsSection(
                **{"clock": "fixed", "train_s": 60, "serve_s": 20, **changes},
                rounds=rounds,
                min_peers=peers,
            ),
            averaging=averaging or AveragingSection(),
        )
        self.worker = ToyWorker(self.task)
        self.indices = list(range(examples))
        self.sql = open_store(folder / "ares.db")
        self.db = StoreThread(self.sql, AtOnce(1))
        self.scratch = folder / "coordinator-files" / "scratch"
        self.scratch.mkdir(parents=True)
        self.peers: list[Peer] = []
        self.before_sign: Callable[[Any], Any] = lambda payload: payload  # a liar's hand
        self.before_publish: Callable[[Any], None] = lambda payload: None
        self._task: asyncio.Task[None] | None = None

    @property
    def store(self) -> Store:
        """The coordinator's books."""
        return self.db.store

    def rows(self) -> tuple[RoundRow, ...]:
        """The rounds so far, oldest first."""
        return self.store.rounds(CYCLE)

    def peer(self) -> Peer:
        """A new volunteer."""
        self.peers.append(super().peer())
        return self.peers[-1]

    def trust(self, peers: Sequence[Peer]) -> None:
        """Give peers a history of settled work, so that the lottery leaves most of theirs out."""
        now_ms = self.clock.now_ms()
        for peer in peers:
            self.store.touch_worker(
                peer.peer_id, now_ms=now_ms, device="cpu", gpu=False, software="toy"
            )
            row = StandingsRow(
                worker=peer.peer_id,
                first_seen_ms=now_ms,
                settled_ucredits=0,
                pending_ucredits=0,
                recent_ucredits=0.0,
                recent_ms=now_ms,
                recent_score=NO_SCORE,
                streak=LONG_STREAK,
                last_posting_id=0,
            )
            with self.sql._write() as connection:
                insert_row(connection, t.standings, row)

    def signed_commits(self, number: int) -> list[SignedCommit]:
        """The commits of a round, in order."""
        envelopes = [decode_envelope(row.envelope) for row in self.store.commits(CYCLE, number)]
        return [open_commit(one, network_id=NETWORK.network_id) for one in envelopes]

    def plan(self, number: int) -> RoundPlan:
        """The signed plan of a round."""
        record = self.store.record("plan", CYCLE, number)
        assert record is not None
        return payload_of(record, RoundPlan)

    def state(self, digest: Digest) -> TrainingState:
        """A state that the coordinator holds."""
        return decode_snapshot(self.host.links.blobs.store.read(digest), layout=self.task.layout)

    def contribution(self, signed: SignedCommit) -> VectorSource:
        """A contribution that the coordinator holds."""
        layout = bind_layout(
            self.task.layout, plan_sha256=signed.commit.plan_sha256, peer=signed.peer
        )
        data = self.host.links.blobs.store.read(signed.commit.blob_id)
        return open_contribution(data, layout=layout, training=self.host.config.training)

    async def manifest(self, number: int) -> tuple[RoundManifest, Digest]:
        """The signed manifest of a round, and its digest."""
        record = await stored_record(self.db, "manifest", CYCLE, number)
        return payload_of(record, RoundManifest), record.payload_sha256

    def losses(self) -> list[float]:
        """The held-out losses that were noted, of rounds 0, 1, 2 ..."""
        return [row.held_out_loss or np.nan for row in self.rows()]

    async def finished(self, number: int) -> RoundManifest:
        """Wait for the end of a round."""
        await self.until(lambda: self._is_finished(number))
        return (await self.manifest(number))[0]

    def _is_finished(self, number: int) -> bool:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
        return any(row.round == number and row.next_state_digest for row in self.rows())

    async def over(self) -> None:
        """Wait for the end of the coordinator's rounds."""
        assert self._task is not None
        task = self._task
        await self.until(task.done)
        task.result()

    # --- one life of the coordinator -----------------------------------------------------------

    def start(self) -> None:
        """Begin as a new process would."""
        links, clock = self.host.links, self.clock
        herald = WatchedHerald(
            COORDINATOR, NETWORK.network_id, self.db, links.records, clock, world=self
        )
        files = DataLayout(self.folder / "coordinator-files")
        row = self.store.cycle(CYCLE)
        assert row is not None
        cycle = RunningCycle(
            row,
            self.host.config,
            self.host.config_sha256,
            self.task.layout,
            EXAMPLES,
            self.settings,
            files,
        )
        engine = Engine(
            self.settings,
            files,
            self.db,
            herald,
            links.records,
            links.blobs,
            clock,
            ComputeWorker(files.logs / "none.log"),  # no child is started: nothing asks it
        )
        tiers = TierBook(self.db, clock, rules_of(self.settings.credit))
        seats = cycle.config.limits.max_peers_per_round
        engine.desk = CommitDesk(
            cycle, herald, self.db, clock, seating=Seating(tiers, seats, lambda: ())
        )
        watch = self.watch_class(
            cycle,
            self.db,
            links.blobs,
            self.worker,
            clock,
            indices=self.indices,
            folder=files.scratch,
        )

        async def round_finished(row: RoundRow, state: Digest) -> None:
            watch.begin(row, state)

        keeper = self.keeper_class(
            cycle=cycle,
            herald=herald,
            db=self.db,
            records=links.records,
            blobs=links.blobs,
            clock=clock,
            presence=engine.presence,
            round_finished=round_finished,
            paused=engine.paused,
            desk=engine.desk,
            watch=watch,
        )

        async def run() -> None:
            await herald.republish(CYCLE, from_round=0)
            try:
                await watch.resume()
                await keeper.run()
                await watch.drain()
            finally:
                await watch.close()

        self.control.handlers[COORDINATOR.peer_id] = engine.handle
        self._task = asyncio.create_task(run(), name="coordinator")

    async def kill(self) -> None:
        """End the coordinator; what is in the database and on the disk stays."""
        assert self._task is not None
        self.control.handlers.pop(COORDINATOR.peer_id, None)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def __aenter__(self) -> KeeperWorld:
        self._no_fsync = patch.object(os, "fsync", lambda descriptor: None)
        self._no_fsync.start()
        raw = self.sql._engine.raw_connection()  # the one that its pool has
        raw.cursor().execute("PRAGMA synchronous = OFF")
        raw.close()
        await super().__aenter__()
        for number in range(1, CYCLE + 1):
            self.store.begin_cycle(
                number, now_ms=self.clock.now_ms(), secret_seed=SECRET, assignment_key=bytes(32)
            )
            over = CyclePhase.TRAIN if number == CYCLE else CyclePhase.FAILED
            self.store.advance_phase(number, CyclePhase.GENERATE, over, now_ms=self.clock.now_ms())
        return self

    async def __aexit__(self, *details: object) -> None:
        if self._task is not None:
            await self.kill()
        await super().__aexit__(*details)
        await self.db.close()
        self._no_fsync.stop()


# --- poison ------------------------------------------------------------------------------------


class AscentWork(RoundWork):
    """Honest in one half of the tensors; in the other half up the loss, as far as nobody minds.

    Half of the tensors vote for it, no element is beyond the reach of local steps, and its norm is
    not twice the median: the robust mean lets it through.
    """

    rounds: frozenset[int] = frozenset()

    def make_contribution(self, result: Any) -> bytes:
        if self.plan.header.round not in self.rounds:
            return RoundWork.make_contribution(self, result)
        rig: Any = self.rig
        task, training, start = rig.task, self.config.training, self.state.theta
        sent: Vector = start - result.theta
        length = LENGTH * float(np.linalg.norm(sent))
        reach = reach_of(training.max_steps, lr=training.inner_lr, beta2=training.beta2)
        way = task.ascent(start, length=length, reach=0.9 * reach, only="lora_B")
        for name, tensor in task.layout.split(sent).items():
            if "lora_B" in name:
                tensor[...] = -task.layout.split(way)[name]
        sent *= np.float32(min(1.0, length / float(np.linalg.norm(sent))))
        return encode(
            sent,
            bits=training.codec_bits,
            block=training.codec_block,
            layout_sha256=self.bound_layout(self.peer).digest_sha256,
        )


def poisoner(world: World, *rounds: int) -> Peer:
    """Return a peer that poisons these rounds and is honest in all others."""

    class Work(AscentWork):
        pass

    class Poisoner(Session):
        round_work = Work

    Work.rounds = frozenset(rounds)
    peer = world.peer()
    peer.session_class = Poisoner
    return peer
