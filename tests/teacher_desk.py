"""A request desk over a real database and the stand-in server, for tests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ares_coordinator.distiller.opus import OpusClient
from ares_coordinator.distiller.requests import RequestDesk
from ares_coordinator.settings import TeacherSection
from ares_coordinator.store.request_rows import RequestState
from ares_coordinator.store.thread import StoreThread
from teacher_clock import JumpClock
from teacher_server import KEY, TeacherServer

PERMISSION = "letter of 2026-11-02, section 3"


def teacher_settings(server: TeacherServer | None = None, **changes: Any) -> TeacherSection:
    values: dict[str, Any] = {
        "kind": "opus",
        "base_url": "" if server is None else server.url,
        "permission_ref": PERMISSION,
        "licence": "LicenseRef-Test",
        "thinking_tokens": 50,
    }
    return TeacherSection(**{**values, **changes})


@asynccontextmanager
async def open_desk(
    folder: Path, server: TeacherServer, *, run_id: str = "run-1", clock: JumpClock | None = None,
    key: str = KEY, resend_lost: bool = False, timeout_s: float = 5, **changes: Any,
) -> AsyncIterator[RequestDesk]:  # fmt: skip
    settings = teacher_settings(server, **changes)
    db = await StoreThread.open(folder / "ares.db")
    client = OpusClient(
        api_key=key, model=settings.model, base_url=settings.base_url, timeout_s=timeout_s
    )
    try:
        async with (
            client,
            RequestDesk(
                settings,
                client=client,
                db=db,
                clock=clock or JumpClock(),
                run_id=run_id,
                cycle=1,
                rng=random.Random(0),
                resend_lost=resend_lost,
            ) as desk,
        ):
            yield desk
    finally:
        await db.close()


async def totals(folder: Path) -> dict[RequestState, tuple[int, int]]:
    """Return requests and micro-dollars by state."""
    db = await StoreThread.open(folder / "ares.db", read_only=True)
    try:
        rows = await db.call(db.store.request_totals)
    finally:
        await db.close()
    found: dict[RequestState, tuple[int, int]] = {}
    for row in rows:
        requests, cost = found.get(row.state, (0, 0))
        found[row.state] = (requests + row.requests, cost + row.cost_microusd)
    return found
