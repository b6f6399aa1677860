"""What happens to the nodes of a scenario: each event waits for its moment, then does its thing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.lab.counters import Counters
from benchmarks.lab.network import LabNetwork, WireProcess
from benchmarks.lab.record import Fits, Record, Said
from benchmarks.lab.scenario import SERVERS, Event, Scenario
from benchmarks.lab.spaces import Spaces

LOOK_S: Final = 0.005  # at 20 Mbit/s a cable carries 12 kB meanwhile


def moment_of(event: Event) -> Fits:
    """Return what recognises the line in the record at which an event is due (but for its bytes).

    It is asked about each line once, in order.
    """
    in_round = False

    def fits(said: Said) -> bool:
        nonlocal in_round
        if event.node not in SERVERS and said.node != event.node:
            return False
        if said.event == "round_open":
            in_round = said.record["round"] >= (event.round or 0)
            return in_round and not event.phase
        return in_round and said.event == "phase" and said.record["phase"] == event.phase

    return fits


@dataclass(slots=True)
class Story:
    """The events of one run."""

    scenario: Scenario
    network: LabNetwork
    spaces: Spaces
    wire: WireProcess
    counters: Counters
    record: Record
    _happened: set[int] = field(default_factory=set)  # places in the scenario's list

    @property
    def untold(self) -> list[str]:
        """What has not happened (yet)."""
        events = enumerate(self.scenario.events)
        return [f"{e.do} {e.node}" for place, e in events if place not in self._happened]

    async def tell(self) -> None:
        """Let everything happen; returns after the last event, raises what one of them raises."""
        async with asyncio.TaskGroup() as group:
            for place, event in enumerate(self.scenario.events):
                group.create_task(self._happen(place, event), name=f"{event.do}-{event.node}")

    async def _happen(self, place: int, event: Event) -> None:
        if event.at_s is not None:
            first = await self.record.wait_for(lambda said: said.event == "round_open")
            await asyncio.sleep(first.at_s + event.at_s - time.time())
        elif event.do == "start":  # it is not there: the others' round counts
            await self.record.wait_for(
                lambda said: said.event == "round_open" and said.record["round"] >= event.round
            )
        else:
            await self.record.wait_for(moment_of(event))
        if event.up_bytes:
            await self._carried(event.node, event.up_bytes)
        self._happened.add(place)
        await self._act(event)

    async def _carried(self, node: str, up_bytes: int) -> None:
        """Return once a node's cable has carried so many more bytes up."""
        start = self.counters.now()[node].up
        while self.counters.now()[node].up - start < up_bytes:  # noqa: ASYNC110 - the kernel's count
            await asyncio.sleep(LOOK_S)

    async def _act(self, event: Event) -> None:
        node = event.node
        match event.do:
            case "kill":
                await self.network.kill_node(node)
                if event.for_s is not None:
                    await asyncio.sleep(event.for_s)
                    await self.network.start_node(node)
            case "start":
                await self.network.start_node(node)
            case "cut":
                self.record.did(node, "cut")
                await self.wire.ask({"node": node, "cut": True})
                if event.for_s is not None:
                    await asyncio.sleep(event.for_s)
                    await self._restore(node)
            case "restore":
                await self._restore(node)
            case "rate":
                rates = _given(event, "up_mbit", "down_mbit")
                await asyncio.to_thread(self.spaces.set_rate, node, **rates)
                self.record.did(node, "rate", **rates)
            case "delay":
                delays = _given(event, "delay_ms", "jitter_ms")
                await self.wire.ask({"node": node, **delays})
                self.record.did(node, "delay", **delays)

    async def _restore(self, node: str) -> None:
        await self.wire.ask({"node": node, "cut": False})
        self.record.did(node, "restore")


def _given(event: Event, *names: str) -> dict[str, Any]:
    found = {name: getattr(event, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}
