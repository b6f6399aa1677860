"""Watches the coordinator's records for what a peer has to do next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ares_p2p import PROTOCOL_VERSION
from ares_p2p.domain import CommitSet, CycleConfig, NetworkDescriptor, RoundManifest, RoundPlan
from ares_p2p.errors import VersionRefused
from ares_p2p.network.records import Verified
from ares_peer.events import Event, Phase, PhaseChanged
from ares_peer.links import POLL_S, Links
from ares_peer.memory import SessionMemory
from ares_peer.patience import AWAY
from ares_peer.running import RunningCycle
from ares_peer.settings import remember_api

BETWEEN_CYCLES_S = 2.0  # a new cycle is prepared for minutes
DESCRIPTOR_PATIENCE_MS = 10_000  # before a newcomer is told that the coordinator is away


@dataclass(frozen=True, slots=True)
class Found:
    """The one thing to do next: a plan to work on, or the manifest that ended the cycle."""

    plan: Verified[RoundPlan] | None = None
    final: RoundManifest | None = None


@dataclass(frozen=True, slots=True)
class Lookout:
    """One per session. Its calls poll until there is something, or until `is_leaving`."""

    links: Links
    memory: SessionMemory
    emit: Callable[[Event], None]
    is_leaving: Callable[[], bool]

    async def check_network(self) -> None:
        """Wait for the network's descriptor and compare versions.

        Raises: VersionRefused.
        """
        self.emit(PhaseChanged(Phase.CONNECTING, "reading the network's descriptor"))
        tell_ms: int | None = self.links.clock.now_ms() + DESCRIPTOR_PATIENCE_MS

        def is_over() -> bool:
            nonlocal tell_ms
            if tell_ms is not None and self.links.clock.now_ms() > tell_ms:
                tell_ms = None
                self.emit(PhaseChanged(Phase.WAITING, AWAY))
            return self.is_leaving()

        found = await self.links.wait_for(
            lambda: self.links.records.fetch(NetworkDescriptor), until=is_over
        )
        if found is None:
            return
        lowest, highest = found.payload.protocol_min, found.payload.protocol_max
        if not lowest <= PROTOCOL_VERSION <= highest:
            raise VersionRefused(
                f"the network speaks protocol {lowest} to {highest}, this is {PROTOCOL_VERSION}"
            )
        remember_api(self.memory.path.parent, found.payload.api_url)

    async def next_of(self, running: RunningCycle) -> Found | None:
        """Return what to do next in a cycle; None: another cycle has begun, or we are to leave."""
        if not running.is_over:
            self.emit(PhaseChanged(Phase.WAITING, "for the next round"))
        pause_s = BETWEEN_CYCLES_S if running.is_over else POLL_S
        found = await self.links.wait_for(
            lambda: self._look(running), until=self.is_leaving, pause_s=lambda: pause_s
        )
        return None if found is None or found == Found() else found

    async def _look(self, running: RunningCycle) -> Found | None:
        """Return what there is to do, nothing at all (`Found()`) in a cycle that was replaced."""
        records, cycle = self.links.records, running.number
        if not running.is_over:
            newest = await records.fetch(RoundPlan, cycle=cycle)
            if newest is not None and await self._is_for_us(running, newest):
                return Found(plan=newest)
            final = await records.fetch(RoundManifest, cycle=cycle, round=running.config.rounds - 1)
            if final is not None:
                return Found(final=final.payload)
        config = await records.fetch(CycleConfig)
        is_replaced = config is not None and config.envelope.payload_sha256 != running.config_sha256
        return Found() if is_replaced else None

    async def _is_for_us(self, running: RunningCycle, found: Verified[RoundPlan]) -> bool:
        """Whether there is anything to do for a plan: it is new, and its commits are not closed.

        One that we had committed to before a restart is ours in any case.
        """
        plan, plan_sha256 = found.payload, found.envelope.payload_sha256
        if plan_sha256 == running.handled_plan:
            return False
        kept = self.memory.commit_for(plan_sha256)
        if kept is not None:
            return not kept.is_over
        if self.links.clock.now_ms() >= plan.commit_deadline_ms:
            return False
        closed = await self.links.records.fetch(
            CommitSet, cycle=running.number, round=plan.header.round
        )
        if closed is None or closed.payload.plan_sha256 != plan_sha256:
            return True
        running.handled_plan = plan_sha256
        return False
