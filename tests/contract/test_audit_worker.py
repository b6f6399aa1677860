"""The worker process: honest work passes, half of it fails in two processes, faults are told apart.

A real child process with a real (tiny) base trains again what this process trained.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ares_coordinator.audit.client import ComputeWorker, WorkerNotReady
from ares_coordinator.audit.verdicts import Measures, Verdict, judge_replay
from ares_coordinator.datasets import DatasetMaker
from ares_coordinator.foundation import Foundation
from ares_coordinator.herald import Herald, payload_of
from ares_coordinator.layout import DataLayout
from ares_coordinator.preparation import load_rows, prepare_cycle
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import SystemClock
from ares_p2p.domain import AuditOutcome, CycleConfig
from ares_p2p.errors import InternalFault
from ares_p2p.ids import sha256
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.training.replay import Claim, forge_contribution
from ares_p2p.training.replica import bind_layout, encode_contribution
from ares_p2p.training.rig import TrainingRig
from ares_p2p.training.state import TrainingState, decode_snapshot
from payloads import identity
from sim.samples import open_round
from sim.session_world import AtOnce
from tinybase import build_tiny_base

PEER = identity(5)
PLAN = sha256(b"plan")
STEPS, LR = 6, 0.01
TRAINING = {
    "rank": 4,
    "alpha": 8,
    "min_steps": STEPS,
    "max_steps": STEPS,
    "sequence_length": 48,
    "sequences_per_step": 2,
}


@dataclass(frozen=True, slots=True)
class Cycle:
    """A prepared cycle, the rig of a peer in it, and the job that loads it into the worker."""

    folder: Path
    config: CycleConfig
    rig: TrainingRig
    start: TrainingState
    load: dict[str, object]

    async def verdict(self, worker: ComputeWorker, data: bytes, *, tokens: int) -> Verdict:
        """Return what a replay of a contribution says."""
        blob = self.folder / "blob"
        blob.write_bytes(data)
        answer = await worker.replay(
            state=str(self.folder / "state"),
            blob=str(blob),
            plan=PLAN.hex(),
            peer=PEER.peer_id,
            steps=STEPS,
            lr=LR,
        )
        names = ("tokens", "rho", "norm_ratio", "cosine_drop")
        commit = open_round().commit(PEER, tokens=tokens)
        return judge_replay(Measures(*(answer[name] for name in names)), commit, self.config)


async def prepare(folder: Path) -> Cycle:
    base = folder / "base"
    build_tiny_base(base)
    settings = CoordinatorSettings.model_validate(
        {
            "network": {"name": "worker"},
            "base": {"path": str(base), "device": "cpu"},
            "data": {"examples_per_category": 12, "seed": 3},
            "training": TRAINING,
        }
    )
    files, clock = DataLayout(folder), SystemClock()
    db = StoreThread(open_store(folder / "ares.db"), AtOnce(1))
    row = db.store.begin_cycle(1, now_ms=1, secret_seed=bytes(32), assignment_key=bytes(32))
    await DatasetMaker(settings, files, db, clock, lambda _: None).make(row)
    blobs = BlobStore(files.blobs)
    herald = Herald(identity(1), "net", db, None, clock)  # type: ignore[arg-type]
    prepared = await prepare_cycle(
        row,
        foundation=Foundation(base, ()),
        settings=settings,
        files=files,
        blobs=blobs,
        herald=herald,
    )
    await db.close()
    config = payload_of(prepared.config, CycleConfig)
    rig = TrainingRig.load(
        config, base=base, stack=[], examples=load_rows(files, 1, "train"), device="cpu"
    )
    snapshot = blobs.read(config.initial_state)
    (folder / "state").write_bytes(snapshot)
    data = files.dataset(1)
    load = {
        "config": str(files.config_file(1)),
        "base": str(base),
        "stack": [],
        "train": str(data / "train.jsonl"),
        "held_out": str(data / "eval.jsonl"),
        "device": "cpu",
    }
    return Cycle(folder, config, rig, decode_snapshot(snapshot, layout=rig.layout), load)


@pytest.fixture(scope="module")
def cycle(tmp_path_factory: pytest.TempPathFactory) -> Cycle:
    """One prepared cycle."""
    return asyncio.run(prepare(tmp_path_factory.mktemp("cycle")))


async def test_replay_passes_honest_work_and_fails_half_of_it_in_two_processes(
    cycle: Cycle, tmp_path: Path
) -> None:
    training, claim = cycle.config.training, Claim(PEER.peer_id, PLAN, STEPS, LR)
    done = cycle.rig.train(
        cycle.start.theta,
        round_number=cycle.start.round,
        peer=PEER.peer_id,
        lr=LR,
        min_steps=STEPS,
        max_steps=STEPS,
    )
    layout = bind_layout(cycle.rig.layout, plan_sha256=PLAN, peer=PEER.peer_id)
    honest = encode_contribution(cycle.start.theta, done.theta, layout=layout, training=training)
    half = forge_contribution(cycle.rig, claim, start=cycle.start, training=training)
    assert not np.array_equal(cycle.start.theta, done.theta)
    config = tmp_path / "config"
    config.write_bytes(Path(str(cycle.load["config"])).read_bytes())
    worker = ComputeWorker(tmp_path / "worker.log")
    try:
        await worker.load({**cycle.load, "config": str(config)})
        failed = [await cycle.verdict(worker, half.data, tokens=half.tokens)]
        first = _pid(worker)
        await worker.restart()
        failed.append(await cycle.verdict(worker, half.data, tokens=half.tokens))
        assert _pid(worker) != first
        assert half.tokens == done.tokens
        assert failed[0] == failed[1]
        assert failed[0].outcome is AuditOutcome.FAIL, failed[0].message
        os.kill(_pid(worker), signal.SIGKILL)  # it comes back with its cycle
        passed = await cycle.verdict(worker, honest, tokens=done.tokens)
        assert passed.outcome is AuditOutcome.PASS, passed.message
        assert passed.measures is not None
        assert passed.measures.rho == 0  # the same build: the same bits
        config.unlink()
        await worker.restart()
        with pytest.raises(WorkerNotReady, match="cannot start"):  # that blames no work
            await cycle.verdict(worker, honest, tokens=done.tokens)
    finally:
        await worker.close()


def _pid(worker: ComputeWorker) -> int:
    assert worker._process is not None
    return worker._process.pid


async def test_worker_that_cannot_load_its_cycle_blames_no_work(
    cycle: Cycle, tmp_path: Path
) -> None:
    worker = ComputeWorker(tmp_path / "worker.log")
    try:
        with pytest.raises(WorkerNotReady):
            await cycle.verdict(worker, b"", tokens=1)  # no cycle at all
        with pytest.raises(InternalFault):
            await worker.load({**cycle.load, "config": str(tmp_path / "none")})
        with pytest.raises(WorkerNotReady):
            await cycle.verdict(worker, b"", tokens=1)
    finally:
        await worker.close()
    with pytest.raises(WorkerNotReady):
        await cycle.verdict(worker, b"", tokens=1)
