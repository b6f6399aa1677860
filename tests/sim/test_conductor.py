"""When cycles begin: by hand, by the schedule, after restarts. Real store, played time and cycles."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.engine.conductor import Conductor
from ares_coordinator.engine.runner import Engine
from ares_coordinator.engine.schedule import Missed
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import CyclePhase, CycleRow
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.thread import StoreThread
from ares_p2p.errors import BaseUnsupported, ScheduleRefused, WrongMoment
from sim.session_world import AtOnce, VirtualClock

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
LOOK_S = 20.0  # a phase takes a minute
SETTINGS = CoordinatorSettings.model_validate(
    {"network": {"name": "conductor"}, "base": {"path": "nowhere"}}
)
PHASES = [CyclePhase.GENERATE, CyclePhase.PREPARE, CyclePhase.TRAIN]


@dataclass(slots=True)
class PlayedEngine(Engine):
    """An engine whose phases only take their time."""

    phase_s: float = 60.0
    fault: Exception | None = None
    at_work: int = 0
    most_at_work: int = 0
    ran: list[int] = field(default_factory=list)

    async def republish_finished(self) -> None:
        pass

    async def _phase_with_retries(self, row: CycleRow) -> None:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            self.ran.append(row.cycle)
            await self.clock.sleep(self.phase_s)
            if self.fault is not None:
                raise self.fault
            following = dict(zip(PHASES, [*PHASES[1:], CyclePhase.DONE], strict=True))[row.phase]
            await self.db.call(
                self.db.store.advance_phase,
                row.cycle,
                row.phase,
                following,
                now_ms=self.clock.now_ms(),
            )
        finally:
            self.at_work -= 1


class Coordinators:
    """One database and one clock, over which coordinators come and go."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.store = open_store(folder / "ares.db")
        self.folder = folder
        self.tasks: list[asyncio.Task[None]] = []
        self.engine: PlayedEngine

    async def begin(
        self, *, cycles: int = 0, missed: Missed = Missed.ONCE, zone: str = "UTC"
    ) -> Conductor:
        """Start a coordinator."""
        db = StoreThread(self.store, AtOnce(1))
        nothing: Any = None
        self.engine = PlayedEngine(
            SETTINGS, DataLayout(self.folder), db, nothing, nothing, nothing, self.clock, nothing
        )
        conductor = Conductor(self.engine, db, self.clock, zone, missed)
        await conductor.load()
        run = conductor.run(cycles=cycles, exit_when_done=False)
        self.tasks.append(asyncio.create_task(run))
        return conductor

    async def kill(self) -> None:
        """End the running one, between two things that it does."""
        task = self.tasks.pop()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def pass_s(self, seconds: float) -> None:
        """Let time go by."""
        await self.clock.sleep(seconds)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, at most a played week."""
        limit_ms = self.clock.now_ms() + 7 * DAY_S * 1000
        while not condition():
            assert self.clock.now_ms() < limit_ms, "it did not come"
            await self.clock.sleep(LOOK_S)

    def done(self) -> list[int]:
        return [row.cycle for row in self.store.cycles() if row.phase is CyclePhase.DONE]

    def begun(self) -> list[int]:
        return [row.cycle for row in self.store.cycles()]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [
            json.loads(row.data_json)
            for row in self.store.events_after(0, 1000)
            if row.type == kind
        ]


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Coordinators]:
    made = Coordinators(tmp_path)
    ticking = asyncio.create_task(made.clock.run())
    try:
        yield made
    finally:
        while made.tasks:
            await made.kill()
        ticking.cancel()
        made.store.close()


async def test_what_was_asked_for_at_the_start_and_then_what_is_asked_for(
    there: Coordinators,
) -> None:
    conductor = await there.begin(cycles=2)
    await there.until(lambda: there.done() == [1, 2])
    await there.pass_s(DAY_S)
    assert there.begun() == [1, 2], "nobody asked for a third"
    assert (await conductor.start()).cycle == 3
    await there.until(lambda: there.engine.at_work == 1)
    with pytest.raises(WrongMoment):
        await conductor.start()
    await there.until(lambda: there.done() == [1, 2, 3])


async def test_a_started_cycle_survives_the_death_of_the_coordinator(there: Coordinators) -> None:
    conductor = await there.begin()
    await conductor.start()
    await there.kill()  # before the loop had a chance to begin with it
    assert there.begun() == [1]
    await there.begin()
    await there.until(lambda: there.done() == [1])


async def test_two_who_start_at_once_start_one_cycle(there: Coordinators) -> None:
    conductor = await there.begin()
    answers = await asyncio.gather(conductor.start(), conductor.start(), return_exceptions=True)
    await there.until(lambda: there.done() == [1])
    await there.pass_s(DAY_S)
    assert there.begun() == [1]
    assert {row.cycle for row in answers if isinstance(row, CycleRow)} == {1}


async def test_a_pause_lasts_through_a_restart(there: Coordinators) -> None:
    conductor = await there.begin(cycles=1)
    await there.until(lambda: there.engine.ran == [1])
    await conductor.pause()
    await there.pass_s(HOUR_S)
    assert there.engine.ran == [1], "the phase comes to its end, no other begins"
    await there.kill()
    conductor = await there.begin()
    await there.pass_s(HOUR_S)
    assert there.engine.ran == []
    assert there.engine.paused.is_set()
    await conductor.resume()
    await there.until(lambda: there.done() == [1])


async def test_start_ends_a_pause(there: Coordinators) -> None:
    conductor = await there.begin(cycles=1)
    await there.until(lambda: there.engine.ran == [1])
    await conductor.pause()
    assert (await conductor.start()).cycle == 1
    await there.until(lambda: there.done() == [1])
    assert there.begun() == [1]


async def test_a_schedule_begins_cycles_and_is_kept(there: Coordinators) -> None:
    conductor = await there.begin()
    await conductor.set_schedule("6h")
    began_ms = there.clock.now_ms()
    await there.until(lambda: len(there.done()) == 2)
    assert there.clock.now_ms() - began_ms == pytest.approx(12 * HOUR_S * 1000, abs=600_000)
    await there.kill()
    conductor = await there.begin()
    assert conductor.schedule is not None
    assert conductor.schedule.text == "6h"
    await there.until(lambda: len(there.done()) == 4)
    starts = [event["due_ms"] for event in there.events("cycle-start")]
    assert [moment - began_ms for moment in starts] == [
        round(n * 6 * HOUR_S * 1000) for n in (1, 2, 3, 4)
    ]
    await conductor.set_schedule(None)
    await there.pass_s(3 * DAY_S)
    assert len(there.begun()) == 4


async def test_a_moment_that_comes_while_a_cycle_runs_passes(there: Coordinators) -> None:
    conductor = await there.begin()
    there.engine.phase_s = 3 * HOUR_S  # a cycle takes nine hours
    await conductor.set_schedule("4h")
    await there.until(lambda: len(there.done()) == 2)
    assert there.engine.most_at_work == 1
    assert len(there.events("schedule-passed")) == 2
    starts = [event["due_ms"] for event in there.events("cycle-start")]
    assert starts[1] - starts[0] == round(12 * HOUR_S * 1000), "the next moment after its end"


@pytest.mark.parametrize(("missed", "begun"), [(Missed.ONCE, [1]), (Missed.SKIP, [])])
async def test_what_was_missed_while_nobody_ran(
    there: Coordinators, missed: Missed, begun: list[int]
) -> None:
    conductor = await there.begin(missed=missed)
    await conductor.set_schedule("daily")
    await there.kill()
    await there.pass_s(5 * DAY_S + 60)
    conductor = await there.begin(missed=missed)
    await there.until(
        lambda: conductor.next_ms is not None and conductor.next_ms > there.clock.now_ms()
    )
    await there.pass_s(600)
    assert there.begun() == begun, "five were missed; one begins, or none"
    await there.until(lambda: len(there.begun()) == len(begun) + 1)


async def test_nothing_is_due_while_it_is_paused(there: Coordinators) -> None:
    conductor = await there.begin()
    await conductor.set_schedule("6h")
    await conductor.pause()
    await there.pass_s(DAY_S)
    assert there.begun() == []
    await conductor.resume()
    await there.until(lambda: there.done() == [1])


async def test_a_schedule_that_is_refused_changes_nothing(there: Coordinators) -> None:
    conductor = await there.begin()
    await conductor.set_schedule("6h")
    with pytest.raises(ScheduleRefused):
        await conductor.set_schedule("now and then")
    assert conductor.schedule is not None
    assert conductor.schedule.text == "6h"


async def test_a_phase_that_fails_for_good_waits_for_the_operator(there: Coordinators) -> None:
    conductor = await there.begin(cycles=2)
    there.engine.fault = BaseUnsupported("no such base")
    await conductor.set_schedule("6h")
    await there.until(lambda: bool(there.events("cycle-waits")))
    row = there.store.cycle(1)
    assert row is not None
    assert "no such base" in row.failure
    await there.pass_s(DAY_S)
    assert there.engine.ran == [1], "neither tried for ever, nor overtaken by the schedule"
    there.engine.fault = None
    await conductor.start()
    await there.until(lambda: there.done()[:1] == [1])
