"""A cycle that this peer is prepared for, and how it comes by a state of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ares_p2p.domain import CycleConfig, RoundPlan
from ares_p2p.errors import HashMismatch, StateMismatch, WrongState
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.plan import NO_DIGEST, check_plan
from ares_p2p.training.replay import Rig
from ares_p2p.training.state import (
    TrainingState,
    decode_snapshot,
    initial_state,
    snapshot_size_bytes,
)
from ares_peer.corrections import EndedRound
from ares_peer.events import ErrorRaised, Event, Phase, PhaseChanged, SyncProgress
from ares_peer.links import Links
from ares_peer.shelf import Shelf

SNAPSHOT_TIMEOUT_S = 600.0


@dataclass(slots=True)
class RunningCycle:
    """Everything of one cycle that outlives a round.

    Attributes:
        state, state_digest: the newest state that is held.
        handled_plan: the plan that was worked on last, or refused for good.
        ended: the newest round whose manifest was checked.
        is_over: whether its end was reported.
    """

    config: CycleConfig
    config_sha256: Digest
    rig: Rig
    examples: int
    state: TrainingState | None = None
    state_digest: Digest = NO_DIGEST
    handled_plan: Digest = NO_DIGEST
    ended: EndedRound | None = None
    is_over: bool = False

    @property
    def number(self) -> int:
        """The cycle's number."""
        return self.config.header.cycle

    def check_plan(self, plan: RoundPlan) -> None:
        """Verify that a plan belongs to the cycle and continues what we have seen of it.

        Raises: UnknownRound, PayloadMalformed, WrongState: see `rounds.plan`. HashMismatch: it
            follows another manifest than the one that ended the round before.
        """
        check_plan(plan, config=self.config, config_sha256=self.config_sha256)
        if self.ended is None:
            return
        round_number = self.ended.manifest.header.round
        manifest_sha256 = self.ended.manifest_sha256
        follows = plan.header.round == round_number + 1
        if follows and plan.previous_manifest_sha256 != manifest_sha256:
            raise HashMismatch(
                f"the plan of round {plan.header.round} follows manifest "
                f"{plan.previous_manifest_sha256.hex()[:12]}, round {round_number} ended with "
                f"{manifest_sha256.hex()[:12]}"
            )

    def hold(self, state: TrainingState, digest: Digest) -> None:
        """Go on from this state."""
        self.state, self.state_digest = state, digest

    def let_go(self) -> None:
        """Hold no state: it is not the signed one, and memory is dear."""
        self.state, self.state_digest = None, NO_DIGEST


@dataclass(frozen=True, slots=True)
class StateFinder:
    """Brings the state that a round starts from, or that a cycle ends with."""

    links: Links
    shelf: Shelf
    peers_online: Callable[[], Awaitable[list[PeerId]]]
    emit: Callable[[Event], None]

    async def reach(
        self,
        running: RunningCycle,
        *,
        round_number: int,
        digest: Digest,
        size_bytes: int,
    ) -> TrainingState:
        """Return the signed state at the start of a round: our own if it is the same one.

        Raises: WrongState: the snapshot is of another round. BlobUnavailable. DiskFull.
        """
        own = running.state
        if own is not None and running.state_digest == digest:
            return own
        if own is not None and own.round == round_number:
            self.emit(
                ErrorRaised(
                    StateMismatch.code,
                    f"round {round_number}: our state is {running.state_digest.hex()[:12]}, the "
                    f"coordinator signed {digest.hex()[:12]}",
                    "Fetching the signed snapshot; report this if it goes on.",
                )
            )
        running.let_go()
        if digest == running.config.initial_state:
            state = await self._first(running)
        else:
            state = await self._fetched(running, digest, size_bytes=size_bytes)
        if (state.cycle, state.round) != (running.number, round_number):
            raise WrongState(
                f"the snapshot is of cycle {state.cycle} round {state.round}, cycle "
                f"{running.number} round {round_number} expected"
            )
        running.hold(state, digest)
        return state

    async def _first(self, running: RunningCycle) -> TrainingState:
        config = running.config
        state = await asyncio.to_thread(
            initial_state, running.rig.layout, cycle=running.number, seed=config.init_seed
        )
        if await self.shelf.put_state(state) != config.initial_state:
            raise WrongState("the cycle's first state is not the one its configuration names")
        return state

    async def _fetched(
        self, running: RunningCycle, digest: Digest, *, size_bytes: int
    ) -> TrainingState:
        self.emit(PhaseChanged(Phase.SYNCING, "the newest state"))
        layout, store = running.rig.layout, self.links.blobs.store
        await self.links.blobs.fetch(
            digest,
            sources=[*await self.peers_online(), self.links.coordinator],
            max_bytes=min(size_bytes, snapshot_size_bytes(layout)),
            timeout_s=SNAPSHOT_TIMEOUT_S,
            progress=lambda done, total: self.emit(SyncProgress("snapshot", done, total)),
        )
        state = await asyncio.to_thread(
            lambda: decode_snapshot(store.read(digest), layout=layout)  # every chunk verified
        )
        await self.shelf.keep_state(digest)
        return state
