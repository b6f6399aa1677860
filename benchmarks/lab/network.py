"""Real processes in the namespaces of one run: the local network of the demo, behind cables."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ares_p2p.processes import signal_on_parent_death
from benchmarks.lab.front import make_certificate
from benchmarks.lab.inside import client_in
from benchmarks.lab.record import Record
from benchmarks.lab.scenario import SERVERS, Link, Scenario
from benchmarks.lab.spaces import DEVICE, HUB, Spaces

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts")]

from localnet import START_TIMEOUT_S, Child, ChildEnded, LocalNetwork  # noqa: E402

__all__ = ["ROOT", "ChildEnded", "LabNetwork", "WireProcess"]

API_PORT: Final = 8787
HTTPS_PORT: Final = 443
FRONT: Final = "front"  # the coordinator's reverse proxy, in its namespace
COORDINATOR_PORT: Final = 31_000
BOOTSTRAP_PORT: Final = 31_100
WIRE_TIMEOUT_S: Final = 20.0


class WireProcess:
    """The process in the hub; see `benchmarks.lab.wire`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The process: whoever reads `/proc/PID/net` sees the hub's interfaces."""
        return self._process.pid

    @staticmethod
    async def start(spaces: Spaces, *, seed: int, log_file: Path) -> WireProcess:
        """Start it and lead the cables through it. Raises: ChildEnded, CommandFailed."""
        with log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *spaces.prefix_of(HUB),
                sys.executable,
                "-m",
                "benchmarks.lab.wire",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=lambda: signal_on_parent_death(signal.SIGKILL),
            )
        wire = WireProcess(process)
        nodes = {name: _node(link, spaces.addresses[name]) for name, link in spaces.links.items()}
        try:
            await wire.ask({"device": DEVICE, "seed": seed, "nodes": nodes})
        except ChildEnded as error:
            raise ChildEnded(f"the wire did not start: see {log_file}") from error
        await asyncio.to_thread(spaces.connect)
        return wire

    async def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Send one line and return the answer. Raises: ChildEnded, TimeoutError."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        async with self._lock, asyncio.timeout(WIRE_TIMEOUT_S):
            try:
                stdin.write(json.dumps(order).encode() + b"\n")
                await stdin.drain()
                line = await stdout.readline()
            except (BrokenPipeError, ConnectionResetError):
                line = b""
            if not line:
                raise ChildEnded(f"the wire ended with {await self._process.wait()}")
            answer: dict[str, Any] = json.loads(line)
            return answer

    async def stop(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), WIRE_TIMEOUT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _node(link: Link, address: str) -> dict[str, Any]:
    names = ("delay_ms", "jitter_ms", "loss", "dial_in", "dial_out")
    return {"address": address, **{name: getattr(link, name) for name in names}}


class LabNetwork(LocalNetwork):
    """The processes of a scenario, each in the namespace of its node."""

    def __init__(self, root: Path, *, scenario: Scenario, spaces: Spaces, record: Record) -> None:
        super().__init__(root, on_event=record.on_event)
        self._scenario = scenario
        self._spaces = spaces
        self._record = record
        self._certificate = root / "certificate.pem"
        self.running: dict[str, Child] = {}  # node -> its newest process

    def host_of(self, _name: str) -> str:
        """Return the address to listen on: as volunteers do, all of them."""
        return "0.0.0.0"

    def prefix_of(self, name: str) -> Sequence[str]:
        """Return what puts a process into its namespace."""
        node = "coordinator" if name == FRONT else name
        return self._spaces.prefix_of(node) if node in self._spaces.links else ()

    async def set_up(self, base: Path) -> None:
        """Set up the coordinator's data directory with the scenario's settings."""
        settings: dict[str, object] = {
            "network.port": COORDINATOR_PORT,
            "network.api_port": API_PORT,
            "network.api_url": f"https://{self._spaces.addresses['coordinator']}",
            **self._scenario.settings,
        }
        await self.init(base=base, name="lab", settings=settings)
        address = self._spaces.addresses["coordinator"]
        await asyncio.to_thread(make_certificate, address, self._certificate)

    async def start(
        self,
        name: str,
        program: Sequence[str],
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a process in the namespace of its node; it trusts the run's certificate."""
        trusting = {"SSL_CERT_FILE": str(self._certificate), **(env or {})}
        return await super().start(name, program, arguments, env=trusting)

    async def _start_front(self) -> None:
        """Start the proxy that speaks HTTPS for the coordinator; it lives as long as the run."""
        arguments = (str(self._certificate), str(HTTPS_PORT), str(API_PORT))
        front = await self.start(FRONT, ("-m", "benchmarks.lab.front"), arguments)
        await front.wait_for(lambda record: "ready" in record, timeout_s=START_TIMEOUT_S)

    async def start_node(self, name: str) -> Child:
        """Start a node, or start it again with what it had on its disk. Raises: ChildEnded."""
        self._record.did(name, "start")
        if name == "bootstrap":
            child = await self.start_bootstrap(port=BOOTSTRAP_PORT)
        elif name == "coordinator":
            child = await self.start_coordinator()
            if not any(one.name == FRONT for one in self.children):
                await self._start_front()
        else:
            peer = next(peer for peer in self._scenario.peers if peer.name == name)
            arguments = ("--exit-after-cycle", *peer.arguments)
            child = await self.start_peer(name, arguments=arguments)
        self.running[name] = child
        return child

    async def kill_node(self, name: str) -> None:
        """SIGKILL a node's process; what it started must end by its own nets."""
        self.note_processes()
        child = self.running.pop(name)
        self._record.did(name, "kill")
        child.kill()
        await child.process.wait()

    @property
    def peers(self) -> dict[str, Child]:
        """The peers that were not killed, each in its newest life."""
        return {name: child for name, child in self.running.items() if name not in SERVERS}

    async def get(self, path: str) -> Any:
        """Return the JSON of a GET at the coordinator's API, over no cable."""
        url = f"http://127.0.0.1:{API_PORT}{path}"
        async with (
            client_in(self._spaces.name_of("coordinator")) as http,
            http.get(url) as reply,
        ):
            reply.raise_for_status()
            return await reply.json()
