"""Processes that never outlive the one that started them.

The trainer starts helpers of its own (the DHT's process, `p2pd`, torch's shared memory manager)
that survive it when it is killed. Three nets catch them:

1. `die_with_parent()` in the trainer: the kernel kills the trainer when the supervisor dies
   (PR_SET_PDEATHSIG, Linux only), and a *guard*, a forked process of the trainer's own group
   that does nothing but wait, kills the rest of the group when the trainer dies.
2. the supervisor kills the trainer's group, then the children it recorded, after every end;
3. the record is a file (`ProcessRecord`), so that the next start finds what is left even where
   the first two are not to be had. A pid is only killed together with its start time.

It never kills by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ares_p2p.files import write_atomically

SUPERVISOR_PID_VARIABLE: Final = "ARES_SUPERVISOR_PID"  # set by the supervisor for its trainer
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_START_TOLERANCE_S: Final = 2.0  # start times move with corrections of the machine's clock


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process, once: a pid alone may mean another one tomorrow."""

    pid: int
    started_s: float  # seconds since the epoch


def die_with_parent() -> None:
    """Tie this process, and every process it starts, to its parent's life.

    Call it first: before threads, before heavy imports. In a process group of its own (as the
    supervisor starts the trainer) it also forks the guard. Does nothing but return outside Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = _expected_parent()
    signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above: no signal would ever come
        os._exit(0)
    if os.getpgid(0) == os.getpid():
        _fork_guard()


def _expected_parent() -> int:
    stated = os.environ.pop(SUPERVISOR_PID_VARIABLE, "")
    return int(stated) if stated.isdecimal() else os.getppid()


def signal_on_parent_death(number: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _fork_guard() -> None:
    """Fork the process that kills the group when this process, its leader, is gone."""
    leader = os.getpid()
    wakeup = signal.SIGUSR1
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if os.fork() != 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)  # holding the trainer's pipes open would hide its end
        os.closerange(3, 1024)
        signal_on_parent_death(wakeup)
        if os.getppid() == leader:
            signal.sigwait({wakeup})
        os.killpg(leader, signal.SIGKILL)  # itself included
    finally:
        os._exit(0)


def reference(pid: int) -> ProcessRef | None:
    """Return the process of `pid` with its start time, or None when there is none."""
    try:
        return ProcessRef(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def is_alive(process: ProcessRef) -> bool:
    """Whether exactly this process runs (a zombie does not)."""
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.started_s) <= _START_TOLERANCE_S
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def descendants(pid: int) -> set[ProcessRef]:
    """Return the children of `pid`, and theirs, that run now."""
    found = set()
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found.add(ProcessRef(child.pid, child.create_time()))
    return found


def living(processes: Iterable[ProcessRef]) -> set[ProcessRef]:
    """Return those of `processes` that still run."""
    return {process for process in processes if is_alive(process)}


def kill_group(group: int) -> None:
    """Kill every process of `group`, if any is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_processes(processes: Iterable[ProcessRef]) -> list[ProcessRef]:
    """Kill those of `processes` that still run. Returns: the ones it killed."""
    killed = []
    for process in living(processes):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process)
    return killed


class ProcessRecord:
    """The processes of the running trainer in a file, for the start after a crash."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: frozenset[ProcessRef] = frozenset()

    def save(self, processes: Iterable[ProcessRef]) -> None:
        """Write them down, when they are others than before."""
        known = frozenset(processes)
        if known == self._known:
            return
        rows = sorted((process.pid, process.started_s) for process in known)
        write_atomically(self._path, json.dumps(rows).encode())
        self._known = known

    def kill_leftovers(self) -> list[ProcessRef]:
        """Kill what an earlier supervisor left behind. Returns: the killed ones."""
        return kill_processes(self._load())

    def _load(self) -> list[ProcessRef]:
        try:
            rows = json.loads(self._path.read_bytes())
            return [ProcessRef(int(pid), float(started_s)) for pid, started_s in rows]
        except (OSError, ValueError, TypeError):
            return []  # none, or not ours: nothing to kill
