"""The supervisor with real processes and a fake trainer: restarts, signals, and no orphans.

Nothing here waits for time to pass: tests wait for lines, for processes, or on their own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ares_p2p.processes import ProcessRecord, ProcessRef, is_alive, reference
from ares_peer.eventreader import EventReader
from ares_peer.events import (
    CycleDone,
    ErrorRaised,
    Event,
    Phase,
    PhaseChanged,
    RoundDone,
    SupervisorNote,
)
from ares_peer.progress import Status
from ares_peer.settings import PROCESSES_FILE, STATUS_FILE, TrainerSettings
from ares_peer.statusfile import is_running, load_status
from ares_peer.supervisor import TICKER, Outcome, Supervisor

HERE = Path(__file__).parent
FAKE_TRAINER = HERE / "peer_fake_trainer.py"
PEER_JOIN = HERE / "peer_join.py"
pytestmark = pytest.mark.swarm

GONE_S = 20.0  # for the kernel to take a killed process away, on a busy machine


class HandClock:
    """Backoff passes at once and is written down; the supervisor's tick comes when asked for."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000
        self.delays: list[float] = []
        self.tick = asyncio.Event()
        self.ticks_asked: asyncio.Queue[None] = asyncio.Queue()

    def now_ms(self) -> int:
        return self.ms

    async def sleep(self, seconds: float) -> None:
        task = asyncio.current_task()
        if task is not None and task.get_name() == TICKER:
            self.ticks_asked.put_nowait(None)
            await self.tick.wait()
            self.tick.clear()
        else:
            self.delays.append(seconds)
            self.ms += round(seconds * 1000)


def supervisor(
    data_dir: Path,
    *scenario: str,
    clock: HandClock,
    listener: Callable[[Event, Status], None] = lambda event, status: None,
) -> Supervisor:
    own = reference(os.getpid())
    assert own is not None
    return Supervisor(
        TrainerSettings(data_dir=data_dir, invite="ares://test", threads=3),
        status=Status(pid=own.pid, started_s=own.started_s),
        clock=clock,
        listener=listener,
        argv=(sys.executable, str(FAKE_TRAINER), *scenario),
    )


@dataclass(frozen=True, slots=True)
class Ran:
    """What a scenario came to."""

    exit_code: int
    error: ErrorRaised | None
    status: Status
    delays: list[float]
    events: list[Event]


def ran(data_dir: Path, *scenario: str) -> Ran:
    """Run a scenario to its end."""
    events: list[Event] = []

    async def run() -> Ran:
        clock = HandClock()
        one = supervisor(
            data_dir, *scenario, clock=clock, listener=lambda event, status: events.append(event)
        )
        outcome = await one.run()
        return Ran(outcome.exit_code, outcome.error, one.status, clock.delays, events)

    return asyncio.run(run())


def test_cycle_is_played_and_settings_arrive(tmp_path: Path) -> None:
    run = ran(tmp_path, "cycle")
    assert (run.exit_code, run.error, run.delays) == (0, None, [])
    got = json.loads((tmp_path / "trainer-got.json").read_text())
    assert (got["invite"], got["threads"]) == ("ares://test", 3)
    assert load_status(tmp_path) == run.status
    assert run.status.phase is Phase.STOPPED
    assert run.status.totals.rounds_accepted == 2
    assert run.status.pending == ((1, 1),)
    assert run.status.settled_ucredits == 2_500_000
    assert run.status.trainer_pid is None


def test_stray_prints_land_in_the_log(tmp_path: Path) -> None:
    run = ran(tmp_path, "garbage")
    assert run.exit_code == 0
    assert "garbage" not in [e.what for e in run.events if isinstance(e, SupervisorNote)]
    log = (tmp_path / "logs" / "trainer.log").read_text()
    assert "a library prints" in log
    assert "a child prints" in log


def test_lines_that_are_no_events_are_counted_and_do_no_harm(tmp_path: Path) -> None:
    run = ran(tmp_path, "noise")
    assert run.exit_code == 0
    assert CycleDone(1, "cc") in run.events
    notes = [e.detail for e in run.events if isinstance(e, SupervisorNote) and e.what == "garbage"]
    assert notes == ["3 lines of the trainer were no events"]


@pytest.mark.parametrize("exit_code", [1, 76])
def test_crashing_trainer_is_restarted_with_backoff_and_then_braked(
    tmp_path: Path, exit_code: int
) -> None:
    run = ran(tmp_path, "exit", str(exit_code))
    assert run.delays == [1, 2, 4, 8]
    assert run.exit_code == 70
    assert run.error is not None
    assert "failed 5 times within 10 minutes" in run.error.message
    assert "trainer.log" in run.error.hint
    assert run.status.restarts == 4


def test_trainer_that_recovers_goes_on(tmp_path: Path) -> None:
    run = ran(tmp_path, "flaky", "1", "2")
    assert (run.exit_code, run.delays) == (0, [1, 2])


def test_network_fault_is_tried_longer_than_the_brake_allows(tmp_path: Path) -> None:
    run = ran(tmp_path, "flaky", "75", "6")
    assert (run.exit_code, run.delays) == (0, [1, 2, 4, 8, 16, 32])


def test_configuration_fault_ends_with_the_trainers_own_reason(tmp_path: Path) -> None:
    run = ran(tmp_path, "exit", "78")
    assert (run.exit_code, run.delays) == (78, [])
    assert run.error is not None
    assert (run.error.code, run.error.hint) == ("ARES-E017", "give another --base")


def test_children_are_recorded_and_killed_wherever_they_went(tmp_path: Path) -> None:
    async def run() -> tuple[Outcome, list[ProcessRef]]:
        clock = HandClock()
        ready: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

        def listen(event: Event, status: Status) -> None:
            if isinstance(event, PhaseChanged) and event.detail.startswith("ready"):
                ready.set_result([int(pid) for pid in event.detail.split()[1:]])

        one = supervisor(tmp_path, "family", clock=clock, listener=listen)
        running = asyncio.create_task(one.run())
        children = [found for pid in await ready if (found := reference(pid))]
        await clock.ticks_asked.get()
        clock.tick.set()
        await clock.ticks_asked.get()  # the next one is asked for when this one's work is done
        recorded = {pid for pid, _ in json.loads((tmp_path / PROCESSES_FILE).read_text())}
        assert {child.pid for child in children} <= recorded
        one.request_stop()
        return await running, children

    outcome, children = asyncio.run(run())
    assert outcome.exit_code == 70  # it failed while it should have finished
    assert len(children) == 2
    assert_gone(children)
    assert json.loads((tmp_path / PROCESSES_FILE).read_text()) == []


def test_stop_during_backoff_ends_without_another_start(tmp_path: Path) -> None:
    class Waiting(HandClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.Event().wait()

    async def run() -> tuple[Outcome, int]:
        starts = 0

        def listen(event: Event, status: Status) -> None:
            nonlocal starts
            if isinstance(event, SupervisorNote):
                starts += event.what == "started"
                if event.what == "restarting":
                    asyncio.get_running_loop().call_soon(one.request_stop)

        one = supervisor(tmp_path, "exit", "1", clock=Waiting(), listener=listen)
        return await one.run(), starts

    outcome, starts = asyncio.run(run())
    assert (outcome.exit_code, starts) == (0, 1)


def test_trainer_that_cannot_be_started_is_an_internal_fault(tmp_path: Path) -> None:
    from ares_p2p.errors import InternalFault

    async def run() -> None:
        one = Supervisor(
            TrainerSettings(data_dir=tmp_path, invite="ares://test"),
            status=Status(pid=1, started_s=1.0),
            clock=HandClock(),
            listener=lambda event, status: None,
            argv=(str(tmp_path / "absent"),),
        )
        await one.run()

    with pytest.raises(InternalFault, match="cannot be started"):
        asyncio.run(run())


def test_record_kills_leftovers_but_no_namesake(tmp_path: Path) -> None:
    path = tmp_path / PROCESSES_FILE
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        found = reference(child.pid)
        assert found is not None
        ProcessRecord(path).save([ProcessRef(found.pid, found.started_s - 60)])
        assert ProcessRecord(path).kill_leftovers() == []
        assert is_alive(found)
        ProcessRecord(path).save([found])
        assert [killed.pid for killed in ProcessRecord(path).kill_leftovers()] == [child.pid]
        assert child.wait(GONE_S) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    for text in ("", "{", '{"a": 1}', "[[1]]", '[["x", 1]]'):
        path.write_text(text)
        assert ProcessRecord(path).kill_leftovers() == []


class Joined:
    """A running `ares-peer join` and the lines it says."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self._lines, self._errors = process.stdout, process.stderr
        self._reader = EventReader()

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        """Return the first event that is wanted; fail when the output ends before it."""
        for line in self._lines:
            for event in self._reader.feed(line):
                if wanted(event):
                    return event
        raise AssertionError(f"the command ended with {self.process.wait()}: {self.errors()}")

    def ready(self) -> list[ProcessRef]:
        """Return the trainer and the children it names, once it says that it is ready."""
        event = self.until(lambda e: isinstance(e, PhaseChanged) and e.detail.startswith("ready"))
        assert isinstance(event, PhaseChanged)
        trainer = psutil.Process(self.process.pid).children()
        pids = [child.pid for child in trainer] + [int(p) for p in event.detail.split()[1:]]
        found = [process for pid in pids if (process := reference(pid))]
        guards = psutil.Process(trainer[0].pid).children()
        return found + [ProcessRef(guard.pid, guard.create_time()) for guard in guards]

    def end(self) -> int:
        """Read on to the end of the output. Returns: the exit code."""
        self._lines.read()
        return self.process.wait()

    def errors(self) -> str:
        return self._errors.read().decode()


@contextmanager
def joined(data_dir: Path, *scenario: str) -> Iterator[Joined]:
    process = subprocess.Popen(
        [sys.executable, str(PEER_JOIN), "json", str(data_dir), *scenario],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Joined(process)
    finally:
        process.kill()
        process.communicate()


def assert_gone(processes: list[ProcessRef]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(process.pid)
            if is_alive(process):
                found.wait(GONE_S)
    assert [process for process in processes if is_alive(process)] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_finishes_the_round(tmp_path: Path, number: signal.Signals) -> None:
    with joined(tmp_path, "polite") as peer:
        processes = peer.ready()
        peer.process.send_signal(number)
        peer.until(lambda event: isinstance(event, RoundDone))
        assert peer.end() == 0
        assert_gone(processes)
    status = load_status(tmp_path)
    assert status is not None
    assert (status.phase, status.totals.rounds_accepted) == (Phase.STOPPED, 1)
    assert not is_running(status)


def test_second_ctrl_c_stops_a_stubborn_trainer_at_once(tmp_path: Path) -> None:
    with joined(tmp_path, "stubborn") as peer:
        processes = peer.ready()
        peer.process.send_signal(signal.SIGINT)
        asked = peer.until(lambda event: isinstance(event, SupervisorNote))
        assert isinstance(asked, SupervisorNote)
        assert asked.what == "stopping"
        assert "press Ctrl-C again" in asked.detail
        assert is_alive(processes[0])
        peer.process.send_signal(signal.SIGINT)
        assert peer.end() == 130
        assert_gone(processes)


def test_killed_supervisor_takes_the_trainer_and_its_group_along(tmp_path: Path) -> None:
    with joined(tmp_path, "busy") as peer:
        processes = peer.ready()
        assert len(processes) >= 3  # the trainer, its child, its guard
        for _ in range(200):  # read while it is written: always whole
            json.loads((tmp_path / STATUS_FILE).read_text())
            peer.until(lambda event: isinstance(event, RoundDone))
        peer.process.kill()
        peer.process.wait()
        assert_gone(processes)
    status = load_status(tmp_path)
    assert status is not None
    assert not is_running(status)
    assert status.phase is Phase.TRAINING
    assert status.totals.rounds_accepted > 0


def test_killed_trainer_is_restarted_and_its_group_is_gone(tmp_path: Path) -> None:
    with joined(tmp_path, "stubborn") as peer:
        processes = peer.ready()
        os.kill(processes[0].pid, signal.SIGKILL)
        peer.until(lambda e: isinstance(e, SupervisorNote) and e.what == "restarting")
        assert_gone(processes)
        again = peer.ready()
        assert again[0] != processes[0]
        peer.process.kill()
        peer.end()
        assert_gone(again)


def test_ctrl_c_before_the_trainer_has_a_handler_is_a_clean_end(tmp_path: Path) -> None:
    with joined(tmp_path, "busy") as peer:
        processes = peer.ready()
        peer.process.send_signal(signal.SIGINT)
        assert peer.end() == 0
        assert_gone(processes)


def test_data_dir_serves_one_peer_at_a_time(tmp_path: Path) -> None:
    with joined(tmp_path, "polite") as first:
        first.ready()
        with joined(tmp_path, "polite") as second:
            assert second.end() != 0
            assert f"in use by process {first.process.pid}" in second.errors()
        first.process.send_signal(signal.SIGINT)
        first.until(lambda event: isinstance(event, RoundDone))
        assert first.end() == 0
    with joined(tmp_path, "cycle") as third:
        assert third.end() == 0


def test_totals_outlive_a_restart_of_the_command(tmp_path: Path) -> None:
    with joined(tmp_path, "cycle") as peer:
        assert peer.end() == 0
    with joined(tmp_path, "garbage") as peer:
        assert peer.end() == 0
    status = load_status(tmp_path)
    assert status is not None
    assert (status.totals.rounds_accepted, status.settled_ucredits) == (2, 2_500_000)
    assert status.totals.up_bytes == 1_000
