"""The API's window into the running coordinator. Reads memory only; blocks on nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

from ares_coordinator.api.views import LiveSnapshot
from ares_coordinator.engine.conductor import Conductor
from ares_coordinator.engine.runner import Engine
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.errors import NetworkFault
from ares_p2p.network.node import Node

REFUSALS_EVERY_S = 2.0
MAX_HEADER_BYTES = 64 * 1024**2  # of a safetensors file: names and shapes of its tensors


class LiveViews:
    """Implements `api.views.Views` over the engine and the node."""

    def __init__(
        self,
        *,
        settings: CoordinatorSettings,
        db: StoreThread,
        engine: Engine,
        conductor: Conductor,
        node: Node,
        clock: Clock,
        invite: str,
    ) -> None:
        self._settings = settings
        self._db = db
        self._engine = engine
        self._conductor = conductor
        self._node = node
        self._clock = clock
        self._invite = invite
        self._started_ms = clock.now_ms()
        self._base_parameters = base_parameters(Path(settings.base.path))
        self._dht_refusals: Mapping[str, int] = {}

    @property
    def db(self) -> StoreThread:
        """The store and its thread."""
        return self._db

    @property
    def invite(self) -> str:
        """The network's invite."""
        return self._invite

    async def watch(self) -> None:
        """Keep what has to be asked for up to date, until cancelled."""
        while True:
            with contextlib.suppress(NetworkFault):
                self._dht_refusals = await self._node.refusals()
            await asyncio.sleep(REFUSALS_EVERY_S)

    def snapshot(self) -> LiveSnapshot:
        """Return the present moment."""
        now_ms, engine = self._clock.now_ms(), self._engine
        present = engine.presence.present(now_ms=now_ms)
        schedule = self._conductor.schedule
        traffic = self._node.blobs.traffic
        state = "running" if engine.activity else "idle"
        return LiveSnapshot(
            at_ms=now_ms,
            started_ms=self._started_ms,
            state="paused" if engine.paused.is_set() else state,
            activity=engine.activity,
            failure=engine.failure,
            online=frozenset(present),
            deadline_ms=engine.keeper.deadline_ms if engine.keeper else None,
            tokens_per_s=sum(seen.tokens_per_s for seen in present.values()),
            bytes_sent=traffic.up_bytes,
            bytes_received=traffic.down_bytes,
            refused_records=dict(self._dht_refusals),
            base_name=self._settings.base.name,
            base_parameters=self._base_parameters,
            ways={peer: seen.way for peer, seen in present.items()},
            schedule="" if schedule is None else schedule.text,
            next_cycle_ms=self._conductor.next_ms,
            round_clock=engine.keeper.clock_reason if engine.keeper else "",
        )


def base_parameters(folder: Path) -> int | None:
    """Return how many parameters a base has, from its safetensors headers; None if unreadable.

    Source: the safetensors format: u64 length, JSON header, data.
    """
    total = 0
    try:
        for path in folder.glob("*.safetensors"):
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                if size > MAX_HEADER_BYTES:
                    return None
                header = json.loads(file.read(size))
            total += sum(
                math.prod(tensor["shape"])
                for name, tensor in header.items()
                if name != "__metadata__"
            )
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return total or None
