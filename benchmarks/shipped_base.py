"""The base that ships, loaded for a benchmark that plays a cycle's rounds in one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ares_p2p.domain import BaseRef, CycleConfig, Header, Limits, TrainingConfig
from ares_p2p.ids import sha256
from ares_p2p.shards import Example
from ares_p2p.training.lora_spec import LoraSpec, layout_of_folder
from ares_p2p.training.rig import TrainingRig

BASE = Path(__file__).resolve().parent.parent / "data" / "base"


def load_shipped(training: TrainingConfig, rows: Sequence[Example], *, key: bytes) -> TrainingRig:
    """Return the base with an adapter, and training rows as tokens.

    Args:
        key: of the adapter's start and of who trains on what: any bytes.
    """
    layout = layout_of_folder(BASE, LoraSpec(training.rank, training.alpha, training.targets))
    digest = sha256(key)
    config = CycleConfig(
        header=Header("bench", 1, 0, 1, 1),
        base=BaseRef("base", bytes(32), ()),
        stack=(),
        training=training,
        limits=Limits(64, 1 << 20, 1 << 20),
        rounds=1,
        layout_sha256=layout.digest_sha256,
        parameters=layout.size,
        init_seed=digest,
        initial_state=bytes(32),
        assignment_key=digest,
        seed_anchor=bytes(32),
        dataset_sha256=bytes(32),
        reference_tokens_per_hour=1,
    )
    return TrainingRig.load(config, base=BASE, stack=(), examples=rows, device="cpu")
