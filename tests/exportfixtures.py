"""A coordinator's data directory with promoted cycles on the shipped base, really trained, in seconds.

Two promoted cycles, one that was rolled back, and everything an export reads: signed configs, rows,
adapters, evaluations, contributions.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ares_coordinator.audit.worker import Workbench
from ares_coordinator.datasets import DatasetMaker
from ares_coordinator.evaluation import decide, evaluation_row, losses_of
from ares_coordinator.foundation import foundation_before, merge_if_due
from ares_coordinator.herald import Herald, payload_of
from ares_coordinator.layout import DataLayout
from ares_coordinator.preparation import load_rows, prepare_cycle
from ares_coordinator.settings import (
    DATABASE_FILE,
    IDENTITY_FILE,
    CoordinatorSettings,
    write_settings,
)
from ares_coordinator.store.rows import CyclePhase, Stage
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import SystemClock
from ares_p2p.crypto.keys import save_identity
from ares_p2p.domain import CycleConfig
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.training.lora_spec import save_adapter
from ares_p2p.training.rig import TrainingRig, lora_spec_of
from ares_p2p.training.state import TrainingState, decode_snapshot, encode_snapshot
from payloads import identity
from sim.session_world import AtOnce
from store_samples import commit, contribution, play_round

BASE = Path(__file__).resolve().parent.parent / "data" / "base"
STEPS = 8
RANKS = ((4, 8), (3, 5), (2, 2))  # rank and alpha of each cycle; 5 / 3 is no power of two
ROLLED_BACK = 3


@dataclass(frozen=True, slots=True)
class ExportWorld:
    """The data directory, and the mean held-out losses: before each cycle, after promoted ones."""

    folder: Path
    settings: CoordinatorSettings
    configs: dict[int, CycleConfig]
    loss: dict[int, float]
    before: dict[int, float] = field(default_factory=dict)

    @property
    def files(self) -> DataLayout:
        return DataLayout(self.folder)


def export_settings(cycle: int, *, threshold: int = 0, **training: Any) -> CoordinatorSettings:
    rank, alpha = RANKS[(cycle - 1) % len(RANKS)]
    return CoordinatorSettings.model_validate(
        {
            "network": {"name": "exported"},
            "base": {"path": str(BASE), "name": "the-shipped-base", "device": "cpu"},
            "data": {"examples_per_category": 12, "seed": 3},
            "growth": {"merge_threshold": threshold},
            "training": {
                "rank": rank,
                "alpha": alpha,
                "min_steps": STEPS,
                "max_steps": STEPS,
                "inner_lr": 0.005,
                "sequence_length": 192,
                "sequences_per_step": 4,
                "quantization": "none",
                **training,
            },
        }
    )


async def build_world(folder: Path, cycles: int, **training: Any) -> ExportWorld:
    settings = export_settings(1, **training)
    write_settings(folder, settings)
    save_identity(identity(1), folder / IDENTITY_FILE)
    db = StoreThread(open_store(folder / DATABASE_FILE), AtOnce(1))
    world = ExportWorld(folder, settings, {}, {})
    for cycle in range(1, cycles + 1):
        await _cycle(world, db, cycle, export_settings(cycle, **training))
    await db.close()
    return world


def make_world(folder: Path, *, cycles: int = ROLLED_BACK, **training: Any) -> ExportWorld:
    """Make the data directory in `folder`; the third cycle is rolled back."""
    return asyncio.run(build_world(folder, cycles, **training))


async def _cycle(
    world: ExportWorld, db: StoreThread, cycle: int, settings: CoordinatorSettings
) -> None:
    files, clock = world.files, SystemClock()
    row = db.store.begin_cycle(
        cycle, now_ms=cycle, secret_seed=bytes(32), assignment_key=bytes([cycle] * 32)
    )
    dataset, _ = await DatasetMaker(settings, files, db, clock, lambda _: None).make(row)
    db.store.save_dataset(dataset)
    blobs = BlobStore(files.blobs)
    foundation = await merge_if_due(
        foundation_before(db.store, settings, files, cycle),
        threshold=settings.growth.merge_threshold,
        files=files,
        on_bytes=lambda done, total: None,
    )
    prepared = await prepare_cycle(
        row,
        foundation=foundation,
        settings=settings,
        files=files,
        blobs=blobs,
        herald=Herald(identity(1), "net", db, None, clock),  # type: ignore[arg-type]
    )
    config = payload_of(prepared.config, CycleConfig)
    stack = [files.adapter(item.cycle) for item in config.stack]
    rig = TrainingRig.load(
        config,
        base=foundation.base,
        stack=stack,
        examples=load_rows(files, cycle, "train"),
        device="cpu",
    )
    start = decode_snapshot(blobs.read(config.initial_state), layout=rig.layout)
    done = rig.train(
        start.theta,
        round_number=0,
        peer=identity(5).peer_id,
        lr=config.training.inner_lr,
        min_steps=STEPS,
        max_steps=STEPS,
    )
    save_adapter(
        files.adapter(cycle),
        rig.layout,
        done.theta,
        spec=lora_spec_of(config.training),
        base_name=str(foundation.base),
    )
    end = TrainingState(cycle, 1, rig.layout.digest_sha256, done.theta, np.zeros_like(done.theta))
    snapshot = world.folder / f"state-{cycle}"
    snapshot.write_bytes(encode_snapshot(end))
    rows = _evaluations(world, config, base=foundation.base, snapshot=snapshot, stack=stack)
    gate = decide(rows[Stage.BEFORE], rows[Stage.AFTER])
    for evaluation in rows.values():
        db.store.save_evaluation(evaluation)
    play_round(
        db.store, cycle, 0, [contribution(commit(cycle, 0, number)) for number in (5, 5 + cycle)]
    )
    promoted = cycle != ROLLED_BACK
    db.store.advance_phase(
        cycle,
        CyclePhase.GENERATE,
        CyclePhase.DONE,
        now_ms=cycle + 1,
        records=[prepared.dataset, prepared.config],
        config_envelope=prepared.config.envelope,
        promoted=promoted,
        **({"version": cycle} if promoted else {}),
        loss_before=gate.loss_before,
        loss_after=gate.loss_after,
        loss_change_low=-gate.improvement.high,
        loss_change_high=-gate.improvement.low,
    )
    world.configs[cycle] = config
    world.before[cycle] = gate.loss_before
    if promoted:
        world.loss[cycle] = gate.loss_after


def _evaluations(
    world: ExportWorld, config: CycleConfig, *, base: Path, snapshot: Path, stack: list[Path]
) -> dict[Stage, Any]:
    cycle = config.header.cycle
    folder = world.files.dataset(cycle)
    bench = Workbench(
        {
            "config": str(world.files.config_file(cycle)),
            "base": str(base),
            "stack": [str(one) for one in stack],
            "train": str(folder / "train.jsonl"),
            "held_out": str(folder / "eval.jsonl"),
            "device": "cpu",
        }
    )
    categories = [one.category for one in load_rows(world.files, cycle, "eval")]
    return {
        stage: evaluation_row(
            losses_of(bench.evaluate({"state": state, "indices": None})),
            categories,
            cycle=cycle,
            stage=stage,
            at_ms=cycle,
        )
        for stage, state in ((Stage.BEFORE, None), (Stage.AFTER, str(snapshot)))
    }
