"""A whole network on this machine: real processes on loopback, for the demo and for tests.

Every process is started in a session of its own and tied to this one's life; `close` ends all of
them and checks that they are gone. Nothing is ever ended by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from ares_p2p.processes import (
    ProcessRef,
    descendants,
    is_alive,
    kill_processes,
    reference,
    signal_on_parent_death,
)

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
MAX_LINE_BYTES = 1 << 20
COORDINATOR = ("-m", "ares_coordinator.cli")

OnEvent = Callable[[str, dict[str, Any]], None]


class ChildEnded(RuntimeError):
    """A process ended before it said what was waited for; carries the end of its log."""


@dataclass(slots=True)
class Child:
    """One process of the network and what it has said so far."""

    name: str
    process: asyncio.subprocess.Process
    log_file: Path
    said: list[dict[str, Any]] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self, on_event: OnEvent) -> None:
        """Collect the JSON lines of its stdout."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            on_event(self.name, record)
            async with self._news:
                self.said.append(record)
                self._news.notify_all()
        await self.process.wait()
        async with self._news:
            self._news.notify_all()

    async def wait_for(
        self, fits: Callable[[dict[str, Any]], bool], *, timeout_s: float, after: int = 0
    ) -> dict[str, Any]:
        """Return the first record from index `after` on that fits.

        Raises: ChildEnded, TimeoutError.
        """
        async with asyncio.timeout(timeout_s), self._news:
            seen = after
            while True:
                for record in self.said[seen:]:
                    if fits(record):
                        return record
                seen = len(self.said)
                if self.process.returncode is not None:
                    raise ChildEnded(
                        f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}"
                    )
                await self._news.wait()

    async def wait_for_event(
        self, event: str, *, timeout_s: float, **fields: Any
    ) -> dict[str, Any]:
        """Return the first event of a kind with these fields."""
        return await self.wait_for(
            lambda record: (
                record.get("event") == event
                and all(record.get(key) == value for key, value in fields.items())
            ),
            timeout_s=timeout_s,
        )

    def log_tail(self, lines: int = 25) -> str:
        """Return the end of its stderr."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def kill(self) -> None:
        """SIGKILL the process itself, nothing else: its own nets must catch the rest."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; return its exit code. SIGKILL when it does not."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            try:
                await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                self.kill()
        return await self.process.wait()


class LocalNetwork:
    """Bootstrap, coordinator and peers as separate processes on loopback."""

    def __init__(self, root: Path, *, on_event: OnEvent = lambda _name, _record: None) -> None:
        self.root = root
        self.logs = root / "logs"
        self.children: list[Child] = []
        self.network = ""
        self.invite = ""
        self.api_url = ""
        self.bootstrap_address = ""
        self._on_event = on_event
        self._ever: set[ProcessRef] = set()

    async def __aenter__(self) -> LocalNetwork:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def coordinator_dir(self) -> Path:
        """The coordinator's data directory."""
        return self.root / "coordinator"

    def host_of(self, _name: str) -> str:
        """Return the address that a process listens on."""
        return "127.0.0.1"

    def prefix_of(self, _name: str) -> Sequence[str]:
        """Return what the command line of a process begins with."""
        return ()

    async def init(
        self, *, base: Path, name: str = "local", settings: Mapping[str, object]
    ) -> None:
        """Set up the coordinator's data directory."""
        self.logs.mkdir(parents=True, exist_ok=True)
        arguments = ["init", "--name", name, "--base", str(base), "--json"]
        arguments += ["--data-dir", str(self.coordinator_dir)]
        host = json.dumps(self.host_of("coordinator"))
        arguments += ["--set", f"network.host={host}", "--set", "network.api_port=0"]
        for key, value in settings.items():
            arguments += ["--set", f"{key}={json.dumps(value)}"]
        child = await self.start("init", COORDINATOR, arguments)
        facts = await child.wait_for(lambda _: True, timeout_s=START_TIMEOUT_S)
        if "network" not in facts:
            raise ChildEnded(f"init: {facts}")
        self.network = facts["network"]
        await child.process.wait()

    async def start_bootstrap(self, *, port: int = 0) -> Child:
        """Start the bootstrap node and wait for its address and invite: peers may join from now on."""
        host = self.host_of("bootstrap")
        arguments = ["run", "--network", self.network, "--host", host, "--json"]
        arguments += ["--data-dir", str(self.root / "bootstrap"), "--port", str(port)]
        child = await self.start("bootstrap", ("-m", "ares_bootstrap.cli"), arguments)
        facts = await child.wait_for(lambda _: True, timeout_s=START_TIMEOUT_S)
        if "addresses" not in facts:
            raise ChildEnded(f"bootstrap: {facts}")
        self.bootstrap_address, self.invite = facts["addresses"][0], facts["invite"]
        return child

    async def start_coordinator(
        self,
        *,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
        cycles: int = 1,
    ) -> Child:
        """Start the coordinator and wait until its API answers."""
        arguments = ["run", "--data-dir", str(self.coordinator_dir), "--json"]
        arguments += ["--cycles", str(cycles)]
        if self.bootstrap_address:
            arguments += ["--bootstrap", self.bootstrap_address]
        for key, value in (settings or {}).items():
            arguments += ["--set", f"{key}={json.dumps(value)}"]
        child = await self.start("coordinator", COORDINATOR, arguments, env=env)
        facts = await child.wait_for(lambda _: True, timeout_s=START_TIMEOUT_S)
        if "invite" not in facts:
            raise ChildEnded(f"coordinator: {facts}\n{child.log_tail()}")
        self.api_url = facts["api"]
        return child

    async def start_peer(
        self,
        name: str,
        *,
        arguments: Sequence[str] = (),
        program: Sequence[str] = ("-m", "ares_peer.cli"),
    ) -> Child:
        """Start a peer; its data directory is kept by name, so it may come back."""
        command = ["join", self.invite, "--data-dir", str(self.root / name), "--json"]
        command += ["--host", self.host_of(name), "--device", "cpu", "--threads", "1", *arguments]
        return await self.start(name, program, command)

    async def start(
        self,
        name: str,
        program: Sequence[str],
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Start `python program arguments` as a child of this network."""
        log_file = self.logs / f"{name}.log"
        with log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.prefix_of(name),
                sys.executable,
                *program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=MAX_LINE_BYTES,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
                preexec_fn=lambda: signal_on_parent_death(signal.SIGKILL),
            )
        child = Child(name, process, log_file)
        child.reader = asyncio.create_task(child.read(self._on_event), name=f"read-{name}")
        self.children.append(child)
        self.note_processes()
        return child

    def note_processes(self) -> None:
        """Remember every process of the network that runs now, to check later that it ends."""
        for child in self.children:
            if child.process.returncode is None:
                found = reference(child.process.pid)
                self._ever |= {found} if found else set()
                self._ever |= descendants(child.process.pid)

    async def get(self, path: str) -> Any:
        """Return the JSON of a GET at the coordinator's API."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.api_url}{path}") as reply:
            reply.raise_for_status()
            return await reply.json()

    async def wait_for_phase(self, phase: str, *, timeout_s: float, cycle: int = 1) -> None:
        """Return when the newest cycle is number `cycle` and in `phase`.

        Raises: TimeoutError.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                training = await self.get("/api/ares/training")
                if (training["cycle"], training["phase"]) == (cycle, phase):
                    return
                await asyncio.sleep(0.3)

    async def close(self) -> list[ProcessRef]:
        """End everything; return what had to be killed although it should have ended itself."""
        self.note_processes()
        peers = [c for c in self.children if c.name not in ("coordinator", "bootstrap")]
        others = [c for c in self.children if c.name in ("coordinator", "bootstrap")]
        for group in (peers, others):
            await asyncio.gather(*(child.stop() for child in group), return_exceptions=True)
        for child in self.children:
            if child.reader is not None:
                child.reader.cancel()
                await asyncio.gather(child.reader, return_exceptions=True)
        for _ in range(50):
            if not any(is_alive(process) for process in self._ever):
                return []
            await asyncio.sleep(0.1)
        return kill_processes(self._ever)

    def remove(self) -> None:
        """Delete the network's files."""
        shutil.rmtree(self.root, ignore_errors=True)
