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
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

from ares_p2p.averaging.group import SeatIn
from ares_p2p.domain import CycleConfig, RoundManifest, RoundPlan
from ares_p2p.errors import (
    AresError,
    ConfigFault,
    NetworkFault,
    NodeDied,
    PeerFault,
    StateMismatch,
)
from ares_p2p.ids import Digest
from ares_p2p.network.records import Verified
from ares_p2p.proofs.findings import Volunteer
from ares_p2p.rounds.audits import TRAINER_ROLE
from ares_p2p.rounds.strategy import averages_in_group
from ares_p2p.training.replay import Rig
from ares_peer.announcer import Announcer, Presence
from ares_peer.credit import CreditWatch, rounds_text
from ares_peer.events import (
    CycleDone,
    ErrorRaised,
    Event,
    Phase,
    PhaseChanged,
    SyncProgress,
    Traffic,
)
from ares_peer.evidence import FOLDER as EVIDENCE_FOLDER
from ares_peer.evidence import EvidenceStore
from ares_peer.ledgerwatch import LedgerWatch
from ares_peer.links import POLL_S, Links
from ares_peer.lookout import Lookout
from ares_peer.materials import Materials, gather_materials
from ares_peer.memory import SessionMemory
from ares_peer.reducedwork import ReducedWork
from ares_peer.roundwork import RoundLost, RoundWork
from ares_peer.running import RunningCycle, StateFinder
from ares_peer.shelf import Shelf
from ares_peer.stopwish import Leaving, StopWish

STATUS_EVERY_S = 15.0
SETTLEMENT_EVERY_S = 2.0
RETRY_S = 2.0

RigLoader = Callable[[CycleConfig, Materials], Rig]


def _without_repeats(emit: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return an emitter that says once what it is busy with, however long that takes."""
    last: PhaseChanged | None = None

    def emit_new(event: Event) -> None:
        nonlocal last
        if isinstance(event, PhaseChanged):
            if event == last:
                return
            last = event
        emit(event)

    return emit_new


class Session:
    """One peer's session; `run` returns when the stop wish is fulfilled."""

    round_work: type[RoundWork] = RoundWork
    role: str = TRAINER_ROLE

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
        seat_in: SeatIn | None = None,
    ) -> None:
        emit = _without_repeats(emit)
        self._links = links
        self._data_dir = data_dir
        self._base = base
        self._device = device
        self._profile = profile
        self._load_rig = load_rig
        self._emit = emit
        self._exit_after_cycle = exit_after_cycle
        self._seat_in = seat_in
        self._wish = StopWish()
        self._running: RunningCycle | None = None
        self._tokens_per_s = 0.0
        self._last_fault: tuple[str, str] | None = None
        self._refusal = ""
        self._memory = SessionMemory.load(
            data_dir / "session.json", clock=links.clock, network_id=links.network_id
        )
        self._shelf = Shelf(links.blobs.store, self._memory)
        self._evidence = EvidenceStore.open(
            data_dir / EVIDENCE_FOLDER,
            Volunteer(links.network_id, links.coordinator, links.identity.peer_id),
            clock=links.clock,
            emit=emit,
        )
        self._ledger = LedgerWatch(links, self._memory, self._evidence, emit)
        self._credit = CreditWatch(links, self._memory, emit, self._ledger)
        self._announcer = Announcer(
            links, self._memory, device, profile, self._presence, self.role, self._refused
        )
        self._lookout = Lookout(links, self._memory, emit, self._wish.is_uttered)
        self._states = StateFinder(links, self._shelf, self._announcer.peers_online, emit)
        self._is_clean = False
        self._is_in_round = False

    def finish(self) -> None:
        """Ask for the end: after the running round, or at once when none runs."""
        self._wish.utter()
        self._emit(PhaseChanged(Phase.FINISHING))

    async def run(self) -> None:
        """Take part until asked to finish (or, if so configured, until the cycle ends).

        Raises: ConfigFault: nothing that waiting could mend. NodeDied: the network process ended.
        """
        await self._lookout.check_network()
        tasks = [
            asyncio.create_task(self._live(), name="ares-session"),
            asyncio.create_task(self._forever(self._tell, STATUS_EVERY_S), name="ares-announce"),
            asyncio.create_task(
                self._forever(self._credit.settle, SETTLEMENT_EVERY_S), name="ares-settle"
            ),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # the helpers never end by themselves: this raises
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._announcer.leave()
            self._tell_traffic()

    # --- helpers -------------------------------------------------------------------------------

    async def _forever(self, act: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Do something again and again; only the node's death ends it."""
        while True:
            try:
                await act()
            except NodeDied:
                raise
            except AresError as fault:
                self._report(fault)
            await self._links.clock.sleep(every_s)

    async def _tell(self) -> None:
        await self._announcer.announce()
        self._tell_traffic()

    def _tell_traffic(self) -> None:
        traffic = self._links.blobs.traffic
        self._emit(Traffic(traffic.up_bytes, traffic.down_bytes))

    def _presence(self) -> Presence:
        """Return what others may know; rounds do not wait for a peer that is about to leave."""
        running = self._running
        if running is None or (self._wish.is_uttered() and not self._is_in_round):
            return Presence(held_blobs=self._shelf.states, tokens_per_s=self._tokens_per_s)
        return Presence(
            running.number, running.state_digest, self._shelf.states, self._tokens_per_s
        )

    def _report(self, fault: AresError) -> None:
        """Say what went wrong, once while it goes on."""
        if self._last_fault != (fault.code, fault.message):
            self._last_fault = (fault.code, fault.message)
            self._emit(ErrorRaised(fault.code, fault.message, fault.hint))

    def _refused(self, fault: AresError) -> None:
        """Say once that the coordinator does not want this peer in its role."""
        if fault.message != self._refusal:
            self._refusal = fault.message
            self._emit(ErrorRaised(fault.code, fault.message, fault.hint))

    async def _pause(self, seconds: float, why: str) -> None:
        self._emit(PhaseChanged(Phase.WAITING, why))
        with contextlib.suppress(Leaving):
            await self._wish.or_leave(self._links.clock.sleep(seconds))

    # --- one step of life ----------------------------------------------------------------------

    async def _live(self) -> None:
        while not self._wish.is_uttered():
            if await self._step():
                return

    async def _step(self) -> bool:
        """Do the next thing; True when the session is over."""
        try:
            running = await self._wish.or_leave(self._current_cycle())
            if running is None:
                await self._pause(POLL_S, "no cycle is running yet")
                return False
            if await self._follow(running):
                return True
            self._last_fault = None
        except Leaving:
            return True
        except (ConfigFault, NodeDied):
            raise
        except RoundLost as lost:
            self._emit(PhaseChanged(Phase.WAITING, str(lost)))
        except AresError as fault:
            self._report(fault)
            await self._pause(RETRY_S, fault.message)
        return False

    async def _follow(self, running: RunningCycle) -> bool:
        """Do the next thing in a cycle; True when the session is over."""
        found = await self._lookout.next_of(running)
        if found is None:
            return False  # another cycle has begun, or we are to leave
        if found.final is not None:
            return await self._end_cycle(running, found.final)
        if found.plan is not None:
            await self._take_part(running, found.plan)
        return False

    async def _current_cycle(self) -> RunningCycle | None:
        """Return the newest cycle, prepared; None when there is none."""
        try:
            found = await self._links.records.fetch(CycleConfig)
        except NodeDied:
            raise
        except NetworkFault:
            if self._running is None:
                raise
            return self._running
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
            sources=[*await self._announcer.peers_online(), self._links.coordinator],
            progress=lambda what, done, total: self._emit(SyncProgress(what, done, total)),
        )
        await self._clean_up(config)
        await self._ledger.begin_cycle(found)
        if averages_in_group(config):
            text = f"cycle {config.header.cycle} averages on hivemind: nothing is verified or paid"
            self._emit(PhaseChanged(Phase.SYNCING, text))
        self._emit(PhaseChanged(Phase.SYNCING, "loading the base"))
        self._running = None  # two bases need not fit in memory
        rig = await asyncio.to_thread(self._load_rig, config, materials)
        self._running = RunningCycle(config, digest, rig, len(materials.examples))
        await self._announcer.announce()
        return self._running

    async def _clean_up(self, config: CycleConfig) -> None:
        """Forget what earlier cycles and runs left behind."""
        self._memory.forget_cycles_before(config.header.cycle - 1)
        if not self._is_clean:
            files = [*config.base.files, *(file for one in config.stack for file in one.files)]
            await self._shelf.clean(file.blob_id for file in files)
            self._is_clean = True

    async def _end_cycle(self, running: RunningCycle, final: RoundManifest) -> bool:
        """Hold the signed final state and say so; True when the session ends here."""
        await self._wish.or_leave(
            self._states.reach(
                running,
                round_number=running.config.rounds,
                digest=final.next_state,
                size_bytes=final.next_state_size_bytes,
            )
        )
        return await self._say_cycle_is_done(running, final.next_state)

    async def _say_cycle_is_done(self, running: RunningCycle, state: Digest) -> bool:
        """Say it and, if so configured, wait for the credit and end the session: then True."""
        running.is_over = True
        self._emit(CycleDone(running.number, state.hex()))
        if not self._exit_after_cycle:
            text = f"cycle {running.number} is done, the next is to come"
            self._emit(PhaseChanged(Phase.WAITING, text))
            return False
        left = await self._credit.wait(is_finishing=self._wish.is_uttered)
        if left:
            text = f"credit is still being audited, it comes without us: {rounds_text(left)}"
            self._emit(PhaseChanged(Phase.FINISHING, text))
        return True

    # --- a round -------------------------------------------------------------------------------

    async def _take_part(self, running: RunningCycle, found: Verified[RoundPlan]) -> None:
        plan, plan_sha256 = found.payload, found.envelope.payload_sha256
        try:
            running.check_plan(plan)
        except PeerFault:
            running.handled_plan = plan_sha256  # it will not become better
            raise
        key = (running.number, plan.header.round)
        self._evidence.begin(key, found.envelope)
        self._memory.expect_page(key)
        try:
            await self._work_on(running, plan, plan_sha256)
        except RoundLost as lost:
            self._evidence.note(key, "lost", message=str(lost))
            raise
        except StateMismatch:
            raise  # the work counts: only our own sum is another one
        except AresError as fault:
            self._evidence.note(key, "lost", code=fault.code, message=fault.message)
            raise

    def _kind_of_work(self, config: CycleConfig) -> Callable[..., RoundWork]:
        """Return what does a round of a cycle.

        Raises: PayloadMalformed: this version cannot. ConfigFault: this peer cannot.
        """
        if not averages_in_group(config):
            return self.round_work
        if self._seat_in is None:
            raise ConfigFault(
                "this network averages on hivemind, which needs P2P; HTTPS alone does not do",
                hint="ares-peer join --way p2p",
            )
        return functools.partial(ReducedWork, seat_in=self._seat_in)

    async def _work_on(self, running: RunningCycle, plan: RoundPlan, plan_sha256: Digest) -> None:
        try:
            state = await self._wish.or_leave(
                self._states.reach(
                    running,
                    round_number=plan.header.round,
                    digest=plan.state,
                    size_bytes=plan.state_size_bytes,
                )
            )
        except AresError:
            if self._links.clock.now_ms() >= plan.commit_deadline_ms:
                running.handled_plan = plan_sha256  # no time is left for another try
            raise
        running.handled_plan = plan_sha256
        work = self._kind_of_work(running.config)(
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
            emit=self._emit,
            evidence=self._evidence,
            is_finishing=self._wish.is_uttered,
            before=running.ended,
        )
        self._is_in_round = True
        try:
            running.hold(*await work.run())
            await self._shelf.keep_state(running.state_digest)
        except StateMismatch:
            running.let_go()  # fetch the signed snapshot at the next plan
            raise
        finally:
            self._is_in_round = False
            self._tokens_per_s = work.tokens_per_s
            if work.ended is not None:
                running.ended = work.ended
            await self._shelf.keep_round(work.contributions)
            self._tell_traffic()
