"""The event loop's side of the worker process: one job at a time, urgent ones first.

A worker that dies is started again with the same cycle; a job that kills it twice is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from ares_p2p.errors import AresError, InternalFault, all_errors

MAX_ANSWER_BYTES = 64 * 1024**2  # two numbers for each of a million held-out examples
TRIES = 2
_CLASSES = {cls.code: cls for cls in all_errors()}
log = structlog.get_logger(__name__)


class WorkerNotReady(InternalFault):
    """The worker cannot load the cycle: that says nothing about the job it was asked for."""


class ComputeWorker:
    """A child process that replays and evaluates; see `audit.worker`."""

    def __init__(self, log_file: Path) -> None:
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._loaded: dict[str, Any] | None = None
        self._lock = asyncio.Lock()
        self._number = 0
        self._closed = False
        self._urgent = 0
        self._none_urgent = asyncio.Event()
        self._none_urgent.set()

    async def load(self, job: Mapping[str, Any]) -> None:
        """Load a cycle; the same one again is free while the process lives."""
        async with self._lock:
            wanted = {**job, "job": "load"}
            if self._process is not None and self._loaded == wanted:
                return
            await self._stop()
            self._loaded = wanted
            try:
                await self._started()
            except BaseException:
                self._loaded = None
                await self._stop()
                raise

    async def restart(self) -> None:
        """Begin with a fresh process: the next answer owes nothing to the one before."""
        async with self._lock:
            await self._stop()

    async def replay(self, **fields: Any) -> dict[str, Any]:
        """Replay one contribution; waits for urgent jobs."""
        return await self._call({"job": "replay", **fields})

    async def forge(self, **fields: Any) -> dict[str, Any]:
        """Make a forged contribution while its round is open; goes before replays."""
        return await self._call({"job": "forge", **fields}, urgent=True)

    async def evaluate(
        self, *, state: Path | None, indices: list[int] | None, urgent: bool = False
    ) -> dict[str, Any]:
        """Return {"nll": [...], "tokens": [...]} of held-out examples under a snapshot."""
        job = {"job": "evaluate", "state": str(state) if state else None, "indices": indices}
        return await self._call(job, urgent=urgent)

    async def close(self) -> None:
        """End the process, also in the middle of a job."""
        self._closed = True
        await self._stop()

    async def _call(self, job: dict[str, Any], *, urgent: bool = False) -> dict[str, Any]:
        async with self._urgent_first(urgent), self._lock:
            return await self._answer(job)

    @contextlib.asynccontextmanager
    async def _urgent_first(self, urgent: bool) -> AsyncIterator[None]:
        """Let urgent jobs go before the others; an urgent one holds the others back."""
        if not urgent:
            await self._none_urgent.wait()
            yield
            return
        self._urgent += 1
        self._none_urgent.clear()
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._none_urgent.set()

    async def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        for _ in range(TRIES):
            if self._closed or self._loaded is None:
                raise WorkerNotReady("the worker is closed, or has no cycle")
            try:
                process = await self._started()
            except AresError as fault:
                raise WorkerNotReady(f"the worker cannot start: {fault.message}") from fault
            answer = await self._ask(process, job)
            if answer is not None:
                return answer
            log.warning("worker_died", job=job["job"], returncode=process.returncode)
            await self._stop()
        raise InternalFault(
            f"the worker process died twice over a {job['job']} job",
            hint=f"See {self._log_file}.",
        )

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ares_coordinator.audit.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=MAX_ANSWER_BYTES,
                start_new_session=True,
                env={**os.environ, "ARES_SUPERVISOR_PID": str(os.getpid())},
            )
        try:
            if self._loaded is not None and await self._ask(self._process, self._loaded) is None:
                raise InternalFault(
                    "the worker process died while loading the base", hint=f"See {self._log_file}."
                )
        except BaseException:
            await self._stop()  # one without its cycle must not get a job
            raise
        return self._process

    async def _ask(
        self, process: asyncio.subprocess.Process, job: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return the answer, None when the process died over it.

        Raises: AresError: the worker's own, by code.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            self._number += 1
            process.stdin.write(json.dumps({**job, "number": self._number}).encode() + b"\n")
            await process.stdin.drain()
            answer: dict[str, Any] = {}
            while answer.get("number") != self._number:  # skip those nobody waits for any more
                line = await process.stdout.readline()
                if not line:
                    await process.wait()
                    return None
                answer = json.loads(line)
        except (BrokenPipeError, ConnectionResetError):
            await process.wait()
            return None
        if "code" in answer:
            cls: type[AresError] = _CLASSES.get(answer["code"], InternalFault)
            raise cls(answer["message"])
        return answer

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
