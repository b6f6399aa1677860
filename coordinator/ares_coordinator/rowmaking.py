"""Rows that are made at a person's word, outside of a cycle, and how well a cycle's rows pack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ares_coordinator.datasets import IMPORTED, Taught, ask_teacher, read_imported, screen_of
from ares_coordinator.distiller.pipeline import MAX_TRIES
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.distiller.requests import check_permission
from ares_coordinator.foundation import first_base
from ares_coordinator.layout import DataLayout
from ares_coordinator.preparation import load_rows
from ares_coordinator.rowbook import Imported, bring_rows, next_cycle
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import SystemClock
from ares_p2p.errors import TeacherAway, TeacherFault
from ares_p2p.ids import sha256


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

    What the filters leave out is asked for again, within the caps. What was answered is stored also
    when the teacher stops early, and asked again after a kill it is found in the ledger: the seed
    follows from what lies there.

    Returns: what came of it; `short` and `fault` say why there are fewer rows than asked.
    Raises: TeacherNotPermitted. DatabaseInUse: a coordinator runs on it. DiskFull.
    """
    if settings.teacher.kind != "procedural":
        check_permission(settings.teacher)
    db, clock = await StoreThread.open(target), SystemClock()
    try:
        cycle = await db.call(next_cycle, db.store)
        seed = _seed(files, cycle, category)
        if settings.teacher.kind == "procedural":
            source = ProceduralTeacher().generate(category, count * MAX_TRIES, seed=seed, start=0)
            result = bring_rows(
                source,
                settings=settings,
                files=files,
                cycle=cycle,
                on_progress=on_progress,
                wanted=count,
            )
            if result.accepted.total() < count:
                result.short = "the procedural teacher has no more different rows"
            return result
        taught, fault = Taught(), None
        screen = screen_of(settings, files, cycle)
        for known in read_imported(files, cycle):
            screen(known)  # so that nothing like it is written
        try:
            await ask_teacher(
                settings,
                files,
                db,
                clock,
                cycle=cycle,
                counts={category: count},
                seed=seed,
                into=taught,
                screen=screen,
                on_progress=lambda now: on_progress(now.accepted),
            )
        except (TeacherFault, TeacherAway) as error:
            fault = error
        result = bring_rows(
            taught.rows,
            settings=settings,
            files=files,
            cycle=cycle,
            on_progress=lambda _: None,
            left_out=taught.rejected,
        )
        result.fault = fault
        if result.accepted.total() < count:
            result.short = taught.why_short() or (fault.message if fault else "")
        return result
    finally:
        await db.close()


def _seed(files: DataLayout, cycle: int, category: str) -> int:
    """Return the seed of the next rows: of what was brought before, so no two runs make the same.

    It is another one than the cycle's own: the cycle makes other rows beside these.
    """
    names = sorted(path.name for path in files.raw_rows(cycle).glob(IMPORTED))
    text = "\0".join((str(cycle), category, *names))
    return int.from_bytes(sha256(b"ares/generate-seed/v1\0", text.encode())[:6], "big")


def packing_of(settings: CoordinatorSettings, files: DataLayout, cycle: int) -> dict[str, Any]:
    """Return how a cycle's training rows tokenize and pack with the configured base.

    Raises: BaseUnsupported: no base, or one without a tokenizer. ConfigFault.
    """
    from ares_p2p.training.base import BaseSpec, load_tokenizer
    from ares_p2p.training.data import batches, build_dataset

    training = settings.training
    length = training.sequence_length
    tokenizer = load_tokenizer(BaseSpec(str(first_base(settings))))
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
