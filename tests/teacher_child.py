"""A run of the teacher in a process of its own, to be killed.

Forked from a server process that has everything imported, because a test starts it many times.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from ares_coordinator.distiller.apikey import VARIABLE
from ares_coordinator.distiller.authored import Accepted
from ares_coordinator.distiller.authoring import open_author
from ares_coordinator.settings import CoordinatorSettings, TeacherSection
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import SystemClock
from ares_p2p.shards import encode_row
from dataset_maker import open_maker
from teacher_server import KEY


def fork_server() -> ForkServerContext:
    """Return what starts children; the process they are forked from ends with the test's own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["teacher_child", "ares_coordinator.distiller.opus"])
    return context


def run(folder: Path, settings: dict[str, Any], counts: dict[str, int], seed: int) -> None:
    """Run to the end, then leave `rows.jsonl` and `report.json` behind; exit 130 after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        asyncio.run(_run(folder, TeacherSection(**settings), counts, seed))
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


async def _run(folder: Path, teacher: TeacherSection, counts: dict[str, int], seed: int) -> None:
    db = await StoreThread.open(folder / "ares.db")
    try:
        async with open_author(
            teacher, api_key=KEY, db=db, clock=SystemClock(), counts=counts, seed=seed, cycle=1
        ) as author:
            rows = [
                encode_row(row.example) async for row in author.rows() if isinstance(row, Accepted)
            ]
            report = author.report()
    finally:
        await db.close()
    (folder / "rows.jsonl").write_bytes(b"".join(rows))
    facts = {"short": report.short, "accepted": report.accepted, "requests": report.requests}
    (folder / "report.json").write_text(json.dumps(facts))


def make(folder: Path, settings: dict[str, Any]) -> None:
    """Make the rows of the first cycle as the engine does, with its statistics stored at the end."""
    os.environ[VARIABLE] = KEY
    asyncio.run(_make(folder, CoordinatorSettings.model_validate(settings)))
    os._exit(0)


async def _make(folder: Path, settings: CoordinatorSettings) -> None:
    async with open_maker(folder, settings, clock=SystemClock()) as (maker, row):
        found, _ = await maker.make(row)
        await maker.db.call(maker.db.store.save_dataset, found)
