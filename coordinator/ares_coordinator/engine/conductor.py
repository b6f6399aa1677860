"""When the engine works: asked for by hand, by the schedule, or not at all.

What an operator decides is in the database before he is told so: a paused coordinator comes back
paused, a started cycle goes on, a schedule is kept. There is never more than one cycle: a moment of
the schedule that comes while one is running passes, and is noted among the events.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Final

import structlog

from ares_coordinator.engine.runner import Engine
from ares_coordinator.engine.schedule import Missed, Schedule, parse_schedule, schedule_from_json
from ares_coordinator.store.rows import CycleRow, MetaKey
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock, sleep_or
from ares_p2p.errors import AresError, NodeDied, WrongMoment

LATE_MS: Final = 300_000  # a moment that passed longer ago was missed
LOOK_S: Final = 30.0  # the wall clock may jump: a long sleep would not see it

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Conductor:
    """One per coordinator; `load` first, then one task runs `run`."""

    engine: Engine
    db: StoreThread
    clock: Clock
    timezone: str = "UTC"
    missed: Missed = Missed.ONCE
    schedule: Schedule | None = None
    next_ms: int | None = None  # when the schedule begins the next cycle
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _go_on: bool = False  # an unfinished cycle is to be continued
    _works: bool = False

    async def load(self) -> None:
        """Take up what an earlier process was told."""
        if await self.db.call(self.db.store.meta, MetaKey.PAUSED):
            self.engine.paused.set()
        stored = await self.db.call(self.db.store.meta, MetaKey.SCHEDULE)
        if stored:
            values = json.loads(stored)
            self.schedule = schedule_from_json(values["schedule"])
            self.next_ms = values["next_ms"]

    # --- what an operator may ask for ----------------------------------------------------------

    async def start(self) -> CycleRow:
        """Begin a cycle, or go on with the unfinished one; return it.

        Raises: WrongMoment: one is running.
        """
        if self.engine.paused.is_set():
            await self.resume()
            row = await self.engine.unfinished()
            if row is not None and self._works:
                return row
        if self._works:
            raise WrongMoment(
                "a cycle is running", hint="Wait for its end, or pause it; GET /api/ares/training."
            )
        row = await self.engine.unfinished() or await self.engine.begin()
        await self.engine.event("cycle-start", cycle=row.cycle, why="asked for")
        self._go_on = True
        self._changed.set()
        return row

    async def pause(self) -> None:
        """Let nothing new begin, no round, phase or cycle; what is open comes to its end."""
        await self.db.call(self.db.store.set_meta, MetaKey.PAUSED, "1")
        if not self.engine.paused.is_set():
            self.engine.paused.set()
            await self.engine.event("paused")

    async def resume(self) -> None:
        """Go on after a pause; nothing happens where there was none."""
        await self.db.call(self.db.store.set_meta, MetaKey.PAUSED, "")
        if self.engine.paused.is_set():
            self.engine.paused.clear()
            await self.engine.event("resumed")
        self._changed.set()

    async def set_schedule(self, value: str | float | None) -> Schedule | None:
        """Begin cycles by themselves from now on, or (None) no more; return the new schedule.

        Raises: ScheduleRefused: it cannot be understood.
        """
        now_ms = self.clock.now_ms()
        schedule = parse_schedule(value, timezone=self.timezone, missed=self.missed, now_ms=now_ms)
        next_ms = None if schedule is None else schedule.next_after(now_ms)
        await self._keep(schedule, next_ms)
        text = "" if schedule is None else schedule.text
        await self.engine.event("schedule", schedule=text, timezone=self.timezone, next_ms=next_ms)
        self._changed.set()
        return schedule

    async def _keep(self, schedule: Schedule | None, next_ms: int | None) -> None:
        stored = "" if schedule is None else schedule.to_json()
        text = json.dumps({"schedule": stored, "next_ms": next_ms})
        await self.db.call(self.db.store.set_meta, MetaKey.SCHEDULE, text)
        self.schedule, self.next_ms = schedule, next_ms

    # --- the work ------------------------------------------------------------------------------

    async def run(self, *, cycles: int, exit_when_done: bool) -> None:
        """Run `cycles` cycles, then what an operator or the schedule asks for.

        An unfinished cycle is finished in any case; it is the first of them.

        Args:
            exit_when_done: return after these cycles; what fails is raised.
        """
        await self.engine.republish_finished()
        left, self._go_on = cycles, await self.engine.unfinished() is not None
        while True:
            row = await self.engine.unfinished()
            if row is None and left > 0:
                row = await self.engine.begin()
            if row is not None and (left > 0 or self._go_on):
                left, self._go_on = max(0, left - 1), False
                try:
                    await self._work(row)
                except NodeDied:
                    raise
                except AresError as fault:
                    if exit_when_done:
                        raise
                    left = 0
                    await self._wait_for_operator(row, fault)
                continue
            if exit_when_done:
                return
            await self._until_wanted(is_idle=row is None)

    async def _work(self, row: CycleRow) -> None:
        self._works = True
        try:
            await self.engine.run_cycle(row)
        finally:
            self._works = False
        now_ms = self.clock.now_ms()
        if self.schedule is not None and self.next_ms is not None and self.next_ms <= now_ms:
            await self.engine.event(
                "schedule-passed", at_ms=self.next_ms, why="a cycle was running"
            )
            await self._keep(self.schedule, self.schedule.next_after(now_ms))

    async def _wait_for_operator(self, row: CycleRow, fault: AresError) -> None:
        """Keep the reason where people look; `start` tries the phase again."""
        log.error("cycle_waits", cycle=row.cycle, code=fault.code, why=fault.message)
        await self.engine.note_failure(row, str(fault))
        await self.engine.event("cycle-waits", cycle=row.cycle, code=fault.code, why=fault.message)

    async def _until_wanted(self, *, is_idle: bool) -> None:
        """Return when somebody asked for something, or when the schedule has begun a cycle.

        Args:
            is_idle: whether no unfinished cycle lies there; one that waits for its operator stays.
        """
        while not self._go_on:
            self._changed.clear()
            pause_s, now_ms = LOOK_S, self.clock.now_ms()
            if is_idle and self.next_ms is not None and not self.engine.paused.is_set():
                if now_ms >= self.next_ms:
                    await self._begin_as_scheduled(now_ms)
                    continue
                pause_s = min(pause_s, (self.next_ms - now_ms) / 1000)
            await sleep_or(self.clock, pause_s, self._changed)

    async def _begin_as_scheduled(self, now_ms: int) -> None:
        assert self.schedule is not None
        assert self.next_ms is not None
        due_ms, schedule = self.next_ms, self.schedule
        was_missed = now_ms - due_ms > LATE_MS
        if was_missed and schedule.missed is Missed.SKIP:
            await self.engine.event("schedule-passed", at_ms=due_ms, why="nobody was running")
        else:
            row = await self.engine.begin()  # before the next moment is kept: a kill loses no cycle
            why = f"{schedule.text}{', late' if was_missed else ''}"
            await self.engine.event("cycle-start", cycle=row.cycle, why=why, due_ms=due_ms)
            self._go_on = True
        await self._keep(schedule, schedule.next_after(now_ms))
