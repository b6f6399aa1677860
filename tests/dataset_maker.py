"""A maker of a cycle's rows over a real folder and database, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ares_coordinator.datasets import DatasetMaker
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings, TeacherSection
from ares_coordinator.store.rows import CyclePhase, CycleRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.shards import Example
from ares_p2p.shards.format import decode_jsonl
from teacher_clock import JumpClock

ROWS = 3  # of each category


def cycle_settings(teacher: TeacherSection | None = None, **data: Any) -> CoordinatorSettings:
    return CoordinatorSettings.model_validate(
        {
            "network": {"name": "rows"},
            "data": {"examples_per_category": ROWS, "seed": 3, **data},
            "teacher": {} if teacher is None else teacher.model_dump(),
        }
    )


@asynccontextmanager
async def open_maker(
    folder: Path,
    settings: CoordinatorSettings,
    *,
    cycle: int = 1,
    clock: Clock | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[tuple[DatasetMaker, CycleRow]]:
    """Give the maker, and the cycle whose rows it is to make."""
    db = await StoreThread.open(folder / "ares.db")
    try:
        row = await db.call(db.store.cycle, cycle) or await db.call(
            db.store.begin_cycle,
            cycle,
            now_ms=1,
            secret_seed=bytes([cycle]) * 32,
            assignment_key=bytes(32),
        )
        yield DatasetMaker(settings, DataLayout(folder), db, clock or JumpClock(), say), row
    finally:
        await db.close()


async def end_cycle(maker: DatasetMaker, cycle: int, *, promoted: bool) -> None:
    """End a cycle whose rows were made, as if it had been trained."""
    store = maker.db.store
    await maker.db.call(
        store.advance_phase,
        cycle,
        CyclePhase.GENERATE,
        CyclePhase.DONE,
        now_ms=2,
        promoted=promoted,
    )


def rows_in(folder: Path, side: str, cycle: int = 1) -> list[Example]:
    """Return the rows of one side of a cycle."""
    path = DataLayout(folder).dataset(cycle) / f"{side}.jsonl"
    return list(decode_jsonl(path.read_bytes()))


def all_rows(folder: Path, cycle: int = 1) -> list[Example]:
    """Return the rows of both sides of a cycle."""
    return [*rows_in(folder, "train", cycle), *rows_in(folder, "eval", cycle)]


def card_of(folder: Path, cycle: int = 1) -> str:
    """Return the card of a cycle."""
    return (DataLayout(folder).dataset(cycle) / "README.md").read_text(encoding="utf-8")
