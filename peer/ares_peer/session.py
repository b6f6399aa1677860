"""A peer's life in the swarm: cycle after cycle, round after round.

It follows the coordinator's signed records, trains what the assignment gives it, and hands each
round to `roundwork`. It never trusts a record before its signature, never a blob before its
hash, and never the manifest's digest without its own sum.

A peer that loses a round loses that round only: it fetches the newest snapshot and is in again
at the next plan. While the coordinator is away it waits; nothing signed is lost.

Source: the swarm protocol, "A round".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ares_p2p import PROTOCOL_VERSION, __version__
from ares_p2p.domain import (
    CycleConfig,
    NetworkDescriptor,
    PeerStatus,
    RoundManifest,
    RoundPlan,
    RoundSettlement,
)
from ares_p2p.errors import (
    AresError,
    ConfigFault,
    NetworkFault,
    NodeDied,
    PeerFault,
    StateMismatch,
    VersionRefused,
    WrongState,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.records import Verified
from ares_p2p.rounds.plan import NO_DIGEST, check_plan
from ares_p2p.training.state import TrainingState, decode_snapshot, encode_snapshot, initial_state
from ares_p2p.wire.codec import seal
from ares_peer.events import (
    CreditSettled,
    CycleDone,
    ErrorRaised,
    Event,
    Phase,
    PhaseChanged,
    RoundDone,
    SyncProgress,
    Traffic,
)
from ares_peer.links import POLL_S, Links
from ares_peer.materials import Materials, gather_materials
from ares_peer.memory import SessionMemory
from ares_peer.roundwork import Rig, RoundLost, RoundWork

STATUS_EVERY_S = 15.0
SETTLEMENT_EVERY_S = 2.0
SNAPSHOT_TIMEOUT_S = 600.0
RETRY_S = 2.0
KEPT_STATES = 3  # snapshots served to late joiners

T = TypeVar("T")
RigLoader = Callable[[CycleConfig, Materials], Rig]


@dataclass(slots=True)
class _Running:
    """A cycle this peer is prepared for."""

    config: CycleConfig
    config_sha256: Digest
    rig: Rig
    examples: int
    state: TrainingState | None = None
    state_digest: Digest = NO_DIGEST
    handled_plan: Digest = NO_DIGEST
    unsettled: set[int] = field(default_factory=set)


class Session:
    """One peer's session; `run` returns when the stop wish is fulfilled."""

    round_work: type[RoundWork] = RoundWork

    def __init__(
        self,
        links: Links,
        *,
        data_dir: Path,
        base: Path | None,
        device: str,
        profile: str,
        load_rig: RigLoader,
        emit: Callable[[Event], None],
        exit_after_cycle: bool = False,
    ) -> None:
        self._links = links
        self._data_dir = data_dir
        self._base = base
        self._device = device
        self._profile = profile
        self._load_rig = load_rig
        self._emit = emit
        self._exit_after_cycle = exit_after_cycle
        self._finishing = asyncio.Event()
        self._running: _Running | None = None
        self._kept: list[Digest] = []
        self._tokens_per_s = 0.0
        self._memory = SessionMemory.load(
            data_dir / "session.json", clock=links.clock, network_id=links.network_id
        )

    def finish(self) -> None:
        """Ask for the end: after the running round, or at once when none runs."""
        self._finishing.set()
        self._emit(PhaseChanged(Phase.FINISHING))

    async def run(self) -> None:
        """Take part until asked to finish (or, if so configured, until the cycle ends).

        Raises: ConfigFault: nothing that waiting could mend. NodeDied: the network process ended.
        """
        await self._check_network()
        helpers = [
            asyncio.create_task(self._announce_forever()),
            asyncio.create_task(self._settle_forever()),
        ]
        try:
            while not self._finishing.is_set():
                if await self._step():
                    break
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._announce(leaving=True)
            self._tell_traffic()

    # --- the network ---------------------------------------------------------------------------

    async def _check_network(self) -> None:
        """Wait for the descriptor and compare versions.

        Raises: VersionRefused.
        """
        self._emit(PhaseChanged(Phase.CONNECTING, "reading the network's descriptor"))
        found = await self._unless_finishing(lambda: self._links.records.fetch(NetworkDescriptor))
        if found is None:
            return
        lowest, highest = found.payload.protocol_min, found.payload.protocol_max
        if not lowest <= PROTOCOL_VERSION <= highest:
            raise VersionRefused(
                f"the network speaks protocol {lowest} to {highest}, this is {PROTOCOL_VERSION}"
            )

    async def _unless_finishing(self, ask: Callable[[], Awaitable[T | None]]) -> T | None:
        """Poll `ask` until it answers or the stop wish comes (then None)."""
        while not self._finishing.is_set():
            answer = await ask()
            if answer is not None:
                return answer
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finishing.wait(), timeout=POLL_S)
        return None

    # --- one step of life ----------------------------------------------------------------------

    async def _step(self) -> bool:
        """Do the next thing; True when the session is over."""
        try:
            running = await self._current_cycle()
            if running is None:
                await self._pause(POLL_S, "no cycle is running yet")
                return False
            plan = await self._next_plan(running)
            if plan is None:
                return await self._cycle_over(running)
            await self._take_part(running, plan)
        except (ConfigFault, NodeDied):
            raise
        except RoundLost as lost:
            self._lose_round(str(lost))
        except AresError as fault:
            self._lose_round(fault.message, code=fault.code, hint=fault.hint)
            await self._pause(RETRY_S, fault.message)
        return False

    def _lose_round(self, message: str, *, code: str = "", hint: str = "") -> None:
        if code:
            self._emit(ErrorRaised(code, message, hint))
        else:
            self._emit(PhaseChanged(Phase.WAITING, message))

    async def _pause(self, seconds: float, why: str) -> None:
        self._emit(PhaseChanged(Phase.WAITING, why))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._finishing.wait(), timeout=seconds)

    async def _current_cycle(self) -> _Running | None:
        """Return the newest cycle, prepared; None when there is none."""
        found = await self._links.records.fetch(CycleConfig)
        if found is None:
            return self._running
        digest = found.envelope.payload_sha256
        if self._running is not None and self._running.config_sha256 == digest:
            return self._running
        config = found.payload
        self._emit(PhaseChanged(Phase.SYNCING, f"cycle {config.header.cycle}"))
        materials = await gather_materials(
            self._links,
            config,
            data_dir=self._data_dir,
            base=self._base,
            sources=[self._links.coordinator, *await self._peers_online()],
            progress=lambda what, done, total: self._emit(SyncProgress(what, done, total)),
        )
        self._emit(PhaseChanged(Phase.SYNCING, "loading the base"))
        self._running = None  # two bases need not fit in memory
        rig = await asyncio.to_thread(self._load_rig, config, materials)
        self._running = _Running(config, digest, rig, len(materials.examples))
        await self._announce()
        return self._running

    async def _next_plan(self, running: _Running) -> Verified[RoundPlan] | None:
        """Return the next plan to work on; None when the cycle is over or we are to stop."""
        cycle, last_round = running.config.header.cycle, running.config.rounds - 1
        self._emit(PhaseChanged(Phase.WAITING, "for the next round"))

        async def ask() -> Verified[RoundPlan] | bool | None:
            newest = await self._links.records.fetch(RoundPlan, cycle=cycle)
            if newest is not None and newest.envelope.payload_sha256 != running.handled_plan:
                closing_ms = newest.payload.commit_deadline_ms
                if self._links.clock.now_ms() < closing_ms:
                    return newest
            manifest = await self._links.records.fetch(RoundManifest, cycle=cycle, round=last_round)
            if manifest is not None:
                return False
            config = await self._links.records.fetch(CycleConfig)
            if config is not None and config.envelope.payload_sha256 != running.config_sha256:
                return False
            return None

        found = await self._unless_finishing(ask)
        return found if isinstance(found, Verified) else None

    async def _cycle_over(self, running: _Running) -> bool:
        """Wait for the next cycle; True when the session ends here."""
        if self._finishing.is_set():
            return True
        cycle = running.config.header.cycle
        self._emit(CycleDone(cycle, running.state_digest.hex()))
        if self._exit_after_cycle:
            await self._unless_finishing(self._all_settled)
            return True

        async def ask() -> bool | None:
            config = await self._links.records.fetch(CycleConfig)
            changed = config is not None and config.envelope.payload_sha256 != running.config_sha256
            return True if changed else None

        self._emit(PhaseChanged(Phase.WAITING, f"cycle {cycle} is done, the next is to come"))
        await self._unless_finishing(ask)
        return self._finishing.is_set()

    # --- a round -------------------------------------------------------------------------------

    async def _take_part(self, running: _Running, found: Verified[RoundPlan]) -> None:
        plan, plan_sha256 = found.payload, found.envelope.payload_sha256
        running.handled_plan = plan_sha256
        check_plan(plan, config=running.config, config_sha256=running.config_sha256)
        state = await self._state_of(running, plan)
        work = self.round_work(
            links=self._links,
            memory=self._memory,
            config=running.config,
            plan=plan,
            plan_sha256=plan_sha256,
            state=state,
            rig=running.rig,
            examples=running.examples,
            device=self._device,
            profile=self._profile,
            emit=self._watch(running),
        )
        try:
            following = await work.run()
        except StateMismatch:
            running.state = None  # fetch the signed snapshot at the next plan
            raise
        self._tokens_per_s = work.tokens_per_s
        self._hold(running, following)
        self._tell_traffic()

    def _watch(self, running: _Running) -> Callable[[Event], None]:
        """Return an emitter that also notes which rounds have credit to come."""

        def emit(event: Event) -> None:
            if isinstance(event, RoundDone) and event.status in ("accepted", "clipped"):
                running.unsettled.add(event.round)
            self._emit(event)

        return emit

    async def _state_of(self, running: _Running, plan: RoundPlan) -> TrainingState:
        """Return S_r: our own, the cycle's first one, or the snapshot from whoever has it."""
        if running.state is not None and running.state_digest == plan.state:
            return running.state
        config, layout = running.config, running.rig.layout
        if plan.state == config.initial_state:
            state = await asyncio.to_thread(
                initial_state, layout, cycle=config.header.cycle, seed=config.init_seed
            )
        else:
            self._emit(PhaseChanged(Phase.SYNCING, f"state of round {plan.header.round}"))
            sources = [*await self._peers_online(), self._links.coordinator]
            path = await self._links.blobs.fetch(
                plan.state,
                sources=sources,
                max_bytes=plan.state_size_bytes,
                timeout_s=SNAPSHOT_TIMEOUT_S,
                progress=lambda done, total: self._emit(SyncProgress("snapshot", done, total)),
            )
            data = await asyncio.to_thread(path.read_bytes)
            state = await asyncio.to_thread(decode_snapshot, data, layout=layout)
        if (state.cycle, state.round) != (config.header.cycle, plan.header.round):
            raise WrongState(f"the snapshot is of cycle {state.cycle} round {state.round}")
        if self._hold(running, state) != plan.state:
            raise WrongState("the cycle's first state is not the one the plan starts from")
        return state

    def _hold(self, running: _Running, state: TrainingState) -> Digest:
        """Keep and serve a state, and let go of the oldest."""
        running.state = state
        running.state_digest = self._links.blobs.store.put(encode_snapshot(state))
        if running.state_digest not in self._kept:
            self._kept.append(running.state_digest)
        for digest in self._kept[:-KEPT_STATES]:
            self._links.blobs.store.delete(digest)
        del self._kept[:-KEPT_STATES]
        return running.state_digest

    # --- announcements and credit --------------------------------------------------------------

    async def _peers_online(self) -> list[PeerId]:
        found = await self._links.records.fetch_peers(PeerStatus)
        return [item.envelope.signer for item in found if item.envelope.signer != self._me]

    @property
    def _me(self) -> PeerId:
        return self._links.identity.peer_id

    async def _announce(self, *, leaving: bool = False) -> None:
        """Say that we are here and, once prepared for a cycle, that its rounds may wait for us."""
        running = None if leaving or self._finishing.is_set() else self._running
        status = PeerStatus(
            header=self._memory.header(cycle=running.config.header.cycle if running else 0),
            software=__version__,
            protocol=PROTOCOL_VERSION,
            device=self._device,
            profile=self._profile,
            tokens_per_s=self._tokens_per_s,
            state=running.state_digest if running else NO_DIGEST,
            held_blobs=tuple(self._kept),
        )
        envelope = seal(self._links.identity, status)
        with contextlib.suppress(NetworkFault, PeerFault):
            await self._links.control.submit(envelope, to=self._links.coordinator, timeout_s=5.0)
        if not leaving:
            with contextlib.suppress(NetworkFault, PeerFault):
                await self._links.records.publish(envelope, keep=False)

    async def _announce_forever(self) -> None:
        while True:
            await self._announce()
            self._tell_traffic()
            await asyncio.sleep(STATUS_EVERY_S)

    async def _settle_forever(self) -> None:
        """Report the credit of our rounds as the coordinator publishes it."""
        while True:
            await asyncio.sleep(SETTLEMENT_EVERY_S)
            running = self._running
            if running is not None:
                with contextlib.suppress(NetworkFault, PeerFault):
                    await self._settle(running)

    async def _settle(self, running: _Running) -> None:
        cycle = running.config.header.cycle
        for round_number in sorted(running.unsettled):
            found = await self._links.records.fetch(
                RoundSettlement, cycle=cycle, round=round_number
            )
            if found is None:
                continue
            running.unsettled.discard(round_number)
            for entry in found.payload.entries:
                if entry.peer == self._me:
                    self._emit(
                        CreditSettled(
                            cycle,
                            round_number,
                            entry.outcome.value,
                            entry.reward_ucredits,
                            entry.balance_ucredits,
                            entry.code,
                            entry.message,
                        )
                    )

    async def _all_settled(self) -> bool | None:
        return True if self._running is None or not self._running.unsettled else None

    def _tell_traffic(self) -> None:
        traffic = self._links.blobs.traffic
        self._emit(Traffic(traffic.up_bytes, traffic.down_bytes))
