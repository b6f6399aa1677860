"""One scenario, from its first namespace to the last; whatever happens, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from ares_p2p import PROTOCOL_VERSION, __version__
from ares_p2p.errors import ConfigFault
from benchmarks.lab.counters import SAMPLE_S, Counters
from benchmarks.lab.network import ChildEnded, LabNetwork, WireProcess
from benchmarks.lab.record import Record
from benchmarks.lab.report import Facts, build_report
from benchmarks.lab.scenario import SERVERS, Scenario
from benchmarks.lab.screen import Screen
from benchmarks.lab.spaces import Spaces, processes_in
from benchmarks.lab.story import Story

MARKER: Final = "ares-lab"  # a folder with this file was made by the lab and may be replaced
POLL_S: Final = 0.5
ENDING_S: Final = 45.0  # for the peers, after the cycle: they wait for their credit
LIBRARIES: Final = ("hivemind", "torch", "aiohttp")


def fresh_folder(out: Path) -> None:
    """Make `out` anew. Raises: ConfigFault: it holds something that the lab did not make."""
    if out.exists() and not (out / MARKER).exists():
        if any(out.iterdir()):
            raise ConfigFault(f"{out} exists and the lab did not make it", hint="--out FOLDER")
    elif out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def versions() -> dict[str, Any]:
    """Return what ran."""
    return {
        "ares": __version__,
        "protocol": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }


async def run_scenario(
    scenario: Scenario, *, base: Path, out: Path, spaces: Spaces, screen: Screen
) -> dict[str, Any]:
    """Run a scenario and return its report. The caller removes `spaces`, however this ends.

    Args:
        base: folder of the base model.
        out: an empty folder.
        spaces: not built yet.
    Raises: ChildEnded, CommandFailed, TimeoutError: the network could not be set up.
    """
    record = Record()
    record.listeners.append(screen.on_said)
    (out / "logs").mkdir(exist_ok=True)
    screen.say(f"{len(scenario.nodes)} namespaces and their cables")
    await asyncio.to_thread(spaces.build)
    wire = await WireProcess.start(spaces, seed=scenario.seed, log_file=out / "logs" / "wire.log")
    counters = Counters(wire.pid, frozenset(scenario.nodes))
    screen.counters = counters
    sampling = asyncio.create_task(_sample(counters), name="lab-counters")
    network = LabNetwork(out, scenario=scenario, spaces=spaces, record=record)
    try:
        run = _Run(scenario, network, spaces, wire, counters, record, screen)
        failure = await run.play(base)
        return await run.report(failure)
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        await network.close()
        await wire.stop()


async def _sample(counters: Counters) -> None:
    while True:
        counters.sample(now_s=time.time())
        await asyncio.sleep(SAMPLE_S)


class _Run:
    """The part of a run in which there are processes."""

    def __init__(
        self,
        scenario: Scenario,
        network: LabNetwork,
        spaces: Spaces,
        wire: WireProcess,
        counters: Counters,
        record: Record,
        screen: Screen,
    ) -> None:
        self._scenario = scenario
        self._network = network
        self._spaces = spaces
        self._wire = wire
        self._counters = counters
        self._record = record
        self._screen = screen
        nothing: dict[str, Any] = {"rounds": [], "phase": None, "rounds_done": 0, "rounds_total": 0}
        self._training = nothing
        self._untold: list[str] = []

    async def play(self, base: Path) -> str:
        """Start everything and let it run to its end; return why it did not get there, or ""."""
        self._screen.say("setting up the network")
        await self._network.set_up(base)
        for name in ("bootstrap", "coordinator"):
            await self._network.start_node(name)
        for peer in self._scenario.peers:
            if peer.name not in self._scenario.late:
                await self._network.start_node(peer.name)
        story = Story(
            self._scenario,
            self._network,
            self._spaces,
            self._wire,
            self._counters,
            self._record,
        )
        telling = asyncio.create_task(story.tell(), name="lab-story")
        try:
            async with asyncio.timeout(self._scenario.time_limit_s):
                await self._to_the_end(telling)
        except TimeoutError:
            what = self._scenario.until
            return f"the end of the {what} did not come in {self._scenario.time_limit_s:g} s"
        except ChildEnded as error:
            return str(error)
        finally:
            self._untold = story.untold
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        return ""

    async def _to_the_end(self, telling: asyncio.Task[None]) -> None:
        """Wait until the cycle is done and the peers have ended. Raises: ChildEnded."""
        while not self._is_over():
            if telling.done():
                telling.result()
            self._check_servers()
            await self._look()
            self._network.note_processes()
            await asyncio.sleep(POLL_S)
        self._screen.say(f"cycle phase: [bold]{self._training['phase']}")
        if self._scenario.until == "rounds":
            return
        waiting = [child.process.wait() for child in self._network.peers.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                await asyncio.gather(*waiting)
        await self._look()

    def _is_over(self) -> bool:
        """Whether there is nothing left to wait for, but for the peers' own end."""
        if self._training["phase"] in ("done", "failed"):
            return True
        if self._scenario.until == "cycle":
            return False
        done, total = self._training["rounds_done"], self._training["rounds_total"]
        arrived = {said.node for said in self._record.said if said.event == "cycle_done"}
        return bool(total) and done == total and set(self._network.peers) <= arrived

    def _check_servers(self) -> None:
        for name in SERVERS:
            child = self._network.running.get(name)  # none: the story killed it
            if child is not None and child.process.returncode is not None:
                raise ChildEnded(f"{name} ended:\n{child.log_tail()}")

    async def _look(self) -> None:
        """Ask the coordinator how far it is; it may be busy, or killed by the story."""
        with contextlib.suppress(Exception):
            self._training = await self._network.get("/api/ares/training")

    async def report(self, failure: str) -> dict[str, Any]:
        """End the processes and return what the run came to."""
        await self._look()
        board: list[dict[str, Any]] = []
        history: dict[str, Any] | None = None
        with contextlib.suppress(Exception):
            board = await self._network.get("/api/ares/leaderboard?limit=100")
            history = (await self._network.get("/api/ares/model"))["history"][-1]
        ended_s = time.time()
        self._counters.sample(now_s=ended_s)
        counts = await self._wire.ask({})
        leftovers: list[Any] = list(await self._network.close())
        names = [self._spaces.name_of(node) for node in self._scenario.nodes]
        leftovers += await asyncio.to_thread(processes_in, names)
        return build_report(
            Facts(
                scenario=self._scenario,
                began_s=self._record.began_s,
                ended_s=ended_s,
                said=self._record.said,
                counters=self._counters,
                wire=counts,
                training=self._training,
                leaderboard=board,
                history=history,
                failure=failure,
                leftovers=leftovers,
                untold=self._untold,
                versions=versions(),
            )
        )
