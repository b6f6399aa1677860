"""What all processes said and what the lab did, with the time, and waiting for some of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Fits = Callable[["Said"], bool]


@dataclass(frozen=True, slots=True)
class Said:
    """One line of a process, or (`event` = "lab") something that the lab did to it."""

    at_s: float  # seconds since the epoch: the coordinator's times are of this clock, too
    node: str
    record: dict[str, Any]

    @property
    def event(self) -> str:
        """Which kind of line."""
        return str(self.record.get("event", ""))


@dataclass(slots=True)
class Record:
    """Everything that was said, in order."""

    began_s: float = field(default_factory=time.time)
    said: list[Said] = field(default_factory=list)
    listeners: list[Callable[[Said], None]] = field(default_factory=list)
    _waiting: list[tuple[Fits, asyncio.Future[Said]]] = field(default_factory=list)

    def on_event(self, node: str, record: dict[str, Any]) -> None:
        """Keep a line of a process."""
        self._keep(Said(time.time(), node, record))

    def did(self, node: str, what: str, **facts: Any) -> Said:
        """Keep something that the lab does now to a node."""
        said = Said(time.time(), node, {"event": "lab", "do": what, **facts})
        self._keep(said)
        return said

    def _keep(self, said: Said) -> None:
        self.said.append(said)
        for fits, future in list(self._waiting):
            if not future.done() and fits(said):
                future.set_result(said)
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        for listener in self.listeners:
            listener(said)

    async def wait_for(self, fits: Fits) -> Said:
        """Return the first line that fits, of those before as well. `fits` sees each line once."""
        for said in self.said:
            if fits(said):
                return said
        future: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._waiting.append((fits, future))
        return await future
