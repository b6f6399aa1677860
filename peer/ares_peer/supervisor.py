"""Starts the trainer, watches it, starts it again, and leaves nothing behind.

It imports neither torch nor hivemind: it must answer, write the status and stop things when they
hang. It refuses to restart for ever (`restarts`) and to kill anything it did not start
(`processes`). The order at an end: the trainer exits, its process group is killed, then the
recorded children that left the group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ares_p2p.clock import Clock
from ares_p2p.errors import InternalFault, NetworkFault
from ares_p2p.files import open_log
from ares_p2p.processes import (
    SUPERVISOR_PID_VARIABLE,
    ProcessRecord,
    ProcessRef,
    descendants,
    kill_group,
    kill_processes,
    living,
    reference,
)
from ares_peer.eventreader import EventReader
from ares_peer.events import (
    ErrorRaised,
    Event,
    Phase,
    PhaseChanged,
    StepDone,
    SupervisorNote,
    SyncProgress,
    Traffic,
)
from ares_peer.progress import Status, advance
from ares_peer.restarts import Restart, RestartPolicy, Stop
from ares_peer.settings import LOG_DIR, PROCESSES_FILE, TrainerSettings
from ares_peer.statusfile import StatusFile

# -P: a file named torch.py in the folder where somebody types the command must not be imported
TRAINER_ARGV: Final = (sys.executable, "-P", "-m", "ares_peer.trainer")
TICK_S: Final = 1.0
TICKER: Final = "supervisor-tick"  # the task's name
READ_BYTES: Final = 65_536
DRAIN_S: Final = 5.0  # for events that are still in the pipe when the trainer is gone
ABORTED_EXIT_CODE: Final = 130

Listener = Callable[[Event, Status], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the command's exit code, and the error that ended it, if one did."""

    exit_code: int
    error: ErrorRaised | None = None


class Supervisor:
    """Runs one trainer after the other until the policy or a person says stop.

    Args:
        settings: what the trainer gets on its stdin.
        status: the picture to go on from.
        listener: told every event, with the picture after it.
        argv: the trainer's command line.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        *,
        status: Status,
        clock: Clock,
        listener: Listener,
        argv: Sequence[str] = TRAINER_ARGV,
    ) -> None:
        self._settings = settings
        self._argv = tuple(argv)
        self._clock = clock
        self._listener = listener
        self._policy = RestartPolicy()
        self._status_file = StatusFile(settings.data_dir)
        self._record = ProcessRecord(settings.data_dir / PROCESSES_FILE)
        self._log_path = settings.data_dir / LOG_DIR / "trainer.log"
        self._stop_asked = asyncio.Event()
        self._aborted = False
        self._process: Process | None = None
        self._children: set[ProcessRef] = set()
        self._fatal: ErrorRaised | None = None
        self.status = status

    async def run(self) -> Outcome:
        """Return when the trainer is done, given up, or stopped by request."""
        leftovers = await asyncio.to_thread(self._record.kill_leftovers)
        if leftovers:
            pids = ", ".join(str(process.pid) for process in leftovers)
            self._note("leftovers", f"ended what an earlier run left behind: {pids}")
        ticker = asyncio.create_task(self._tick(), name=TICKER)
        try:
            return await self._run_until_stop()
        finally:
            ticker.cancel()
            self._take(PhaseChanged(Phase.STOPPED))

    def request_stop(self) -> None:
        """Let the trainer finish its round and end; between two trainers, end now."""
        if self._stop_asked.is_set():
            return
        self._stop_asked.set()
        runs = self._process is not None
        text = "finishing this round... press Ctrl-C again to stop at once" if runs else "stopping"
        self._note("stopping", text)
        self._send(signal.SIGINT)

    def abort(self) -> None:
        """End at once; at most the running round is lost."""
        self._stop_asked.set()
        self._aborted = True
        self._note("aborting", "stopping at once")
        if self._process is not None and self._process.returncode is None:
            kill_group(self._process.pid)

    async def _run_until_stop(self) -> Outcome:
        while True:
            exit_code = await self._run_trainer()
            decision = self._decide(exit_code)
            if isinstance(decision, Stop):
                self._note("ended", f"the trainer {_exit_text(exit_code)}")
                return self._outcome(decision)
            await self._wait_for_restart(exit_code, decision)
            if self._stop_asked.is_set():
                return self._outcome(Stop(ABORTED_EXIT_CODE if self._aborted else 0))

    def _decide(self, exit_code: int) -> Restart | Stop:
        if self._aborted:
            return Stop(ABORTED_EXIT_CODE)
        if not self._stop_asked.is_set():
            return self._policy.after_exit(exit_code, now_ms=self._clock.now_ms())
        if exit_code in (0, -signal.SIGINT):  # -SIGINT: it had no handler yet
            return Stop(0)
        return Stop(max(exit_code, InternalFault.exit_code))  # a crash or a signal is internal

    async def _wait_for_restart(self, exit_code: int, decision: Restart) -> None:
        self.status = replace(self.status, restarts=self.status.restarts + 1)
        how = _exit_text(exit_code)
        self._note("restarting", f"the trainer {how}; next start in {decision.delay_s:.0f} s")
        waits = (
            asyncio.create_task(self._clock.sleep(decision.delay_s)),
            asyncio.create_task(self._stop_asked.wait()),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _outcome(self, stop: Stop) -> Outcome:
        if stop.exit_code in (0, ABORTED_EXIT_CODE):
            return Outcome(stop.exit_code)
        if stop.exit_code == InternalFault.exit_code and stop.reason:
            last = f"; the last error was {self._fatal.message}" if self._fatal else ""
            error = ErrorRaised(
                InternalFault.code,
                f"{stop.reason}{last}",
                f"Read {self._log_path}, then `ares-peer join` to try again.",
                fatal=True,
            )
        else:
            error = self._fatal or ErrorRaised(
                InternalFault.code,
                f"the trainer ended with exit code {stop.exit_code} and no reason",
                f"Read {self._log_path}.",
                fatal=True,
            )
        return Outcome(stop.exit_code, error)

    async def _run_trainer(self) -> int:
        """Run one trainer to its end. Returns: its exit code, negative for a signal."""
        self._fatal = None
        process = await self._start_process()
        self._process = process
        own = reference(process.pid)
        self._children = {own} if own else set()
        self._record.save(self._children)
        self.status = replace(self.status, trainer_pid=process.pid)
        self._note("started", f"trainer started as process {process.pid}")
        reading = asyncio.create_task(self._read_events(process))
        try:
            await self._hand_over_settings(process)
            if self._aborted:  # asked while it was starting
                kill_group(process.pid)
            elif self._stop_asked.is_set():
                self._send(signal.SIGINT)
            exit_code = await process.wait()
        finally:
            kill_group(process.pid)  # its pid cannot be another's yet: pids are given in turn
            kill_processes(self._children)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reading, DRAIN_S)
        self._process = None
        self._children = set()
        self._record.save(())
        self.status = replace(self.status, trainer_pid=None)
        return exit_code

    async def _start_process(self) -> Process:
        """Raises: InternalFault: the system cannot start it, or the log cannot be written."""
        try:
            with open_log(self._log_path) as log:
                return await asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=log,
                    start_new_session=True,
                    env={**os.environ, SUPERVISOR_PID_VARIABLE: str(os.getpid())},
                )
        except OSError as error:
            raise InternalFault(f"the trainer cannot be started: {error}") from error

    async def _hand_over_settings(self, process: Process) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: wait() says how
            process.stdin.write(self._settings.to_json_line())
            await process.stdin.drain()
            process.stdin.close()

    async def _read_events(self, process: Process) -> None:
        assert process.stdout is not None
        reader = EventReader()
        while data := await process.stdout.read(READ_BYTES):
            for event in reader.feed(data):
                if isinstance(event, ErrorRaised) and event.fatal:
                    self._fatal = event
                self._take(event)
        if reader.garbage:
            self._note("garbage", f"{reader.garbage} lines of the trainer were no events")

    async def _tick(self) -> None:
        """Record the trainer's children and write what is due, once a second."""
        while True:
            await self._clock.sleep(TICK_S)
            if self._process is not None:
                await self._record_children(self._process.pid)
            self._save(urgent=False)

    async def _record_children(self, pid: int) -> None:
        found = await asyncio.to_thread(descendants, pid)
        self._children = await asyncio.to_thread(living, self._children | found)
        self._record.save(self._children)

    def _note(self, what: str, detail: str) -> None:
        self._take(SupervisorNote(what, detail))

    def _take(self, event: Event) -> None:
        self.status = advance(self.status, event, now_ms=self._clock.now_ms())
        self._save(urgent=not isinstance(event, StepDone | SyncProgress | Traffic))
        self._listener(event, self.status)

    def _save(self, *, urgent: bool) -> None:
        # A full disk must not end the training: the picture in memory stays right.
        with contextlib.suppress(OSError):
            self._status_file.save(self.status, now_ms=self._clock.now_ms(), urgent=urgent)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _exit_text(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-exit_code).name}"
    if exit_code == NetworkFault.exit_code:
        return "has no network"
    return "ended" if exit_code == 0 else f"failed with exit code {exit_code}"
