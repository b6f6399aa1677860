"""Rows that are made at a person's word, outside of a cycle, and how well a cycle's rows pack."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from ares_coordinator.datasets import Taught, ask_teacher
from ares_coordinator.distiller.pipeline import MAX_TRIES
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.layout import DataLayout
from ares_coordinator.preparation import base_folder, load_rows
from ares_coordinator.rowbook import Imported, bring_rows, next_cycle
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import SystemClock


async def write_rows(
    settings: CoordinatorSettings,
    files: DataLayout,
    target: str | Path,
    category: str,
    count: int,
    *,
    on_progress: Callable[[int], None],
) -> Imported:
    """Have the configured teacher write rows for the next cycle, and store what passes.

    What was answered is stored also when the teacher stops early; then its fault is raised.

    Raises: TeacherFault, TeacherAway. DatabaseInUse: a coordinator runs on it. DiskFull.
    """
    db, clock = await StoreThread.open(target), SystemClock()
    try:
        cycle = await db.call(next_cycle, db.store)
        if settings.teacher.kind == "procedural":
            # another seed than the cycle's own: the cycle makes other rows beside these
            seed = 1 + clock.now_ms()
            source = ProceduralTeacher().generate(category, count * MAX_TRIES, seed=seed, start=0)
            return bring_rows(
                islice(source, count),
                settings=settings,
                files=files,
                cycle=cycle,
                on_progress=on_progress,
            )
        taught = Taught()
        try:
            await ask_teacher(
                settings,
                files,
                db,
                clock,
                cycle=cycle,
                counts={category: count},
                seed=clock.now_ms(),
                into=taught,
                on_progress=lambda now: on_progress(now.accepted),
            )
        finally:
            result = bring_rows(
                taught.rows, settings=settings, files=files, cycle=cycle, on_progress=lambda _: None
            )
        return result
    finally:
        await db.close()


def packing_of(settings: CoordinatorSettings, files: DataLayout, cycle: int) -> dict[str, Any]:
    """Return how a cycle's training rows tokenize and pack with the configured base.

    Raises: BaseUnsupported: no base, or one without a tokenizer. ConfigFault.
    """
    from ares_p2p.training.base import BaseSpec, load_tokenizer
    from ares_p2p.training.data import batches, build_dataset

    training = settings.training
    length = training.sequence_length
    tokenizer = load_tokenizer(BaseSpec(str(base_folder(settings))))
    rows = load_rows(files, cycle, "train")
    data = build_dataset(tokenizer, [row.messages for row in rows], sequence_length=length)
    packed = list(
        batches(
            data,
            range(len(data)),
            sequence_length=length,
            sequences_per_step=training.sequences_per_step,
        )
    )
    sequences = sum(batch.tokens.shape[0] for batch in packed)
    tokens = sum(batch.token_count for batch in packed)
    return {
        "tokens": tokens,
        "learnt_tokens": sum(batch.loss_tokens for batch in packed),
        "sequence_length": length,
        "sequences": sequences,
        "examples_per_sequence": len(data) / max(1, sequences),
        "fill": tokens / max(1, sequences * length),
        "cut": data.truncated,
    }
