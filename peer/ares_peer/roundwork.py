"""One round of one peer: train, commit, exchange, aggregate, compare.

Until the commits close, the contribution is withheld: nobody can copy what nobody can see. A
contribution that the coordinator refuses is reported with its reason, and the peer still follows
the round, so that it starts the next one from its own sum.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import (
    Commit,
    CommitAck,
    CommitSet,
    CycleConfig,
    RoundManifest,
    RoundPlan,
)
from ares_p2p.errors import (
    BlobUnavailable,
    NetworkFault,
    PeerFault,
    StateMismatch,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blobs import fetch_until
from ares_p2p.network.records import Verified
from ares_p2p.rounds.assignment import first_example
from ares_p2p.rounds.commits import SignedCommit, check_commit_set
from ares_p2p.rounds.manifest import check_manifest
from ares_p2p.training.inner import LocalResult, StepCallback
from ares_p2p.training.layout import Layout
from ares_p2p.training.replica import (
    BoundLayout,
    bind_layout,
    encode_contribution,
    next_state,
    open_contribution,
)
from ares_p2p.training.state import TrainingState, encode_snapshot
from ares_p2p.wire.codec import open_envelope, seal
from ares_peer.events import (
    CommitSent,
    Event,
    Phase,
    PhaseChanged,
    RoundDone,
    RoundOpened,
    StepDone,
)
from ares_peer.links import Links
from ares_peer.memory import SessionMemory

R = TypeVar("R", CommitSet, RoundManifest)

SUBMIT_TIMEOUT_S = 5.0
SUBMIT_RETRY_S = 1.0
COMMIT_MARGIN_S = 1.5  # compress, sign and send before the deadline
ANSWER_PATIENCE_S = 20.0  # past the serve deadline, before a peer looks for a newer plan


class Rig(Protocol):
    """What a round needs of `training.rig.TrainingRig`."""

    @property
    def layout(self) -> Layout:
        """The adapter's layout."""
        ...

    def train(
        self,
        start: Vector,
        *,
        round_number: int,
        peer: PeerId,
        lr: float,
        min_steps: int,
        max_steps: int,
        on_step: StepCallback | None = None,
    ) -> LocalResult:
        """Make the local steps; see `TrainingRig.train`."""
        ...


class RoundLost(Exception):
    """This round ends without this peer; the next plan is the next chance. Says why."""


@dataclass(slots=True)
class RoundWork:
    """The work of one round. One instance per round."""

    links: Links
    memory: SessionMemory
    config: CycleConfig
    plan: RoundPlan
    plan_sha256: Digest
    state: TrainingState
    rig: Rig
    examples: int
    device: str
    profile: str
    emit: Callable[[Event], None]
    tokens_per_s: float = 0.0

    async def run(self) -> TrainingState:
        """Return S_(r+1) after having contributed to it, or at least followed it.

        Raises: RoundLost: nothing came of the round. AresError: an own fault.
        """
        round_number = self.plan.header.round
        self.emit(
            RoundOpened(
                self.config.header.cycle,
                round_number,
                self.config.rounds,
                self.plan.commit_deadline_ms,
                self.state_hex,
            )
        )
        result = await self._train()
        commit = await self._commit(result)
        self.emit(PhaseChanged(Phase.EXCHANGING))
        commits, commit_set_sha256 = await self._closed_commits()
        if commit is not None:
            self.links.blobs.release(commit.blob_id)
        manifest, vectors = await self._exchange(commits, commit_set_sha256)
        self.emit(PhaseChanged(Phase.AGGREGATING))
        state = await asyncio.to_thread(self._advance, manifest, vectors)
        self._report(manifest)
        return state

    @property
    def state_hex(self) -> str:
        """The state the round starts from, in hex."""
        return self.plan.state.hex()

    def bound_layout(self, peer: PeerId) -> BoundLayout:
        """Return the layout that a contribution of `peer` in this round carries."""
        return bind_layout(self.rig.layout, plan_sha256=self.plan_sha256, peer=peer)

    # --- train ---------------------------------------------------------------------------------

    async def _train(self) -> LocalResult:
        self.emit(PhaseChanged(Phase.TRAINING))
        return await asyncio.to_thread(
            self.rig.train,
            self.state.theta,
            round_number=self.plan.header.round,
            peer=self.links.identity.peer_id,
            lr=self.plan.inner_lr,
            min_steps=self.plan.min_steps,
            max_steps=self.plan.max_steps,
            on_step=self._pace(),
        )

    def _pace(self) -> StepCallback:
        """Return a callback that reports steps and stops before the deadline would be missed."""
        clock, started_ms = self.links.clock, self.links.clock.now_ms()
        deadline_ms = self.plan.commit_deadline_ms - int(COMMIT_MARGIN_S * 1000)
        seen = 0

        def on_step(step: int, loss: float, tokens: int) -> bool:
            nonlocal seen
            seen += tokens
            now_ms = clock.now_ms()
            elapsed_ms = max(1, now_ms - started_ms)
            self.tokens_per_s = seen * 1000 / elapsed_ms
            self.emit(StepDone(step, self.plan.max_steps, loss, self.tokens_per_s))
            return now_ms + elapsed_ms / step < deadline_ms

        return on_step

    # --- commit --------------------------------------------------------------------------------

    def make_contribution(self, result: LocalResult) -> bytes:
        """Return the bytes that the commit promises: the compressed pseudo-gradient."""
        return encode_contribution(
            self.state.theta,
            result.theta,
            layout=self.bound_layout(self.peer),
            training=self.config.training,
        )

    async def _commit(self, result: LocalResult) -> Commit | None:
        """Sign, publish and submit; None when the coordinator refused it."""
        self.emit(PhaseChanged(Phase.UPLOADING))
        data = await asyncio.to_thread(self.make_contribution, result)
        blob_id = await asyncio.to_thread(self.links.blobs.store.put, data)
        self.links.blobs.withhold(blob_id)
        round_number = self.plan.header.round
        commit = Commit(
            header=self.memory.header(cycle=self.config.header.cycle, round_number=round_number),
            plan_sha256=self.plan_sha256,
            state=self.plan.state,
            blob_id=blob_id,
            blob_size_bytes=len(data),
            steps=result.steps,
            tokens=result.tokens,
            first_example=first_example(
                self.config.assignment_key,
                round_number=round_number,
                peer=self.links.identity.peer_id,
                examples=self.examples,
            ),
            previous_commit_sha256=self.memory.last_commit,
            mean_loss=result.mean_loss,
            device=self.device,
            profile=self.profile,
        )
        return await self._submit(commit)

    async def _submit(self, commit: Commit) -> Commit | None:
        envelope = seal(self.links.identity, commit)
        self.memory.remember_commit(envelope.payload_sha256)

        def told(*, accepted: bool, code: str = "", message: str = "") -> None:
            place = (commit.header.cycle, commit.header.round)
            digest = envelope.payload_sha256.hex()
            self.emit(
                CommitSent(*place, commit.steps, commit.tokens, digest, accepted, code, message)
            )

        # The DHT's copy speaks for us when the coordinator is away right now.
        with contextlib.suppress(NetworkFault, PeerFault):
            await self.links.records.publish(envelope, keep=False)
        while True:
            try:
                reply = await self.links.control.submit(
                    envelope, to=self.links.coordinator, timeout_s=SUBMIT_TIMEOUT_S
                )
                ack = open_envelope(
                    reply,
                    CommitAck,
                    signer=self.links.coordinator,
                    network_id=self.links.network_id,
                )
                if ack.commit_sha256 == envelope.payload_sha256:
                    told(accepted=True)
                    return commit
                raise PeerFault("the coordinator acknowledged another commit")
            except PeerFault as fault:
                told(accepted=False, code=fault.code, message=fault.message)
                return None
            except NetworkFault as fault:
                if self.links.clock.now_ms() > self.plan.commit_deadline_ms:
                    told(accepted=True, code=fault.code, message="sent by the DHT only")
                    return commit
                await self.links.clock.sleep(SUBMIT_RETRY_S)

    # --- exchange ------------------------------------------------------------------------------

    async def _closed_commits(self) -> tuple[list[SignedCommit], Digest]:
        found = await self._record_of_round(CommitSet)
        commits = check_commit_set(
            found.payload,
            plan=self.plan,
            plan_sha256=self.plan_sha256,
            config=self.config,
            examples=self.examples,
        )
        return commits, found.envelope.payload_sha256

    async def _record_of_round(self, cls: type[R]) -> Verified[R]:
        """Wait for a record that ends a part of this round.

        Raises: RoundLost: the coordinator opened another plan instead, or none came for long.
        """
        cycle, round_number = self.config.header.cycle, self.plan.header.round
        patience_ms = self.plan.serve_deadline_ms + int(ANSWER_PATIENCE_S * 1000)

        async def ask() -> Verified[R] | None:
            found = await self.links.records.fetch(cls, cycle=cycle, round=round_number)
            if found is not None and found.payload.plan_sha256 == self.plan_sha256:
                return found
            newest = await self.links.records.fetch(RoundPlan, cycle=cycle)
            if newest is not None and newest.payload.header.seq > self.plan.header.seq:
                raise RoundLost("the coordinator opened another plan")
            return None

        found = await self.links.wait_for(ask, until_ms=patience_ms)
        if found is None:
            raise RoundLost(f"no {cls.__name__} came for round {round_number}")
        return found

    async def _exchange(
        self, commits: list[SignedCommit], commit_set_sha256: Digest
    ) -> tuple[RoundManifest, dict[Digest, VectorSource]]:
        """Fetch all contributions while the coordinator decides, then what is still missing."""
        fetching = [asyncio.create_task(self._fetch(signed, commits)) for signed in commits]
        try:
            found = await self._record_of_round(RoundManifest)
            manifest = found.payload
            check_manifest(
                manifest,
                commits=commits,
                plan_sha256=self.plan_sha256,
                commit_set_sha256=commit_set_sha256,
            )
            vectors = {}
            for signed, entry, task in zip(commits, manifest.entries, fetching, strict=True):
                if entry.coefficient:
                    vectors[signed.sha256] = await task
        except BlobUnavailable as fault:
            raise RoundLost(f"a contribution could not be fetched: {fault.message}") from fault
        finally:
            for task in fetching:
                task.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)
        return manifest, vectors

    async def _fetch(self, signed: SignedCommit, commits: list[SignedCommit]) -> VectorSource:
        """Return one checked contribution, from its author or whoever has it by now."""
        others = [c.peer for c in commits if c.peer not in (signed.peer, self.peer)]
        sources = [signed.peer, *others, self.links.coordinator]
        path = await fetch_until(
            self.links.blobs,
            signed.commit.blob_id,
            sources=sources,
            max_bytes=self.config.limits.max_blob_bytes,
            clock=self.links.clock,
            deadline_ms=self.plan.serve_deadline_ms,
        )
        return await asyncio.to_thread(
            lambda: open_contribution(
                path.read_bytes(), layout=self.bound_layout(signed.peer), training=self.config.training
            )
        )

    @property
    def peer(self) -> PeerId:
        """This peer."""
        return self.links.identity.peer_id

    # --- aggregate -----------------------------------------------------------------------------

    def _advance(
        self, manifest: RoundManifest, vectors: dict[Digest, VectorSource]
    ) -> TrainingState:
        """Return the next state from our own sum.

        Raises: StateMismatch: it is not what the coordinator signed.
        """
        used = [
            (vectors[entry.commit_sha256], entry.coefficient)
            for entry in manifest.entries
            if entry.coefficient
        ]
        state = next_state(self.state, used, self.config.training)
        digest = self.links.blobs.store.put(encode_snapshot(state))
        if digest != manifest.next_state:
            raise StateMismatch(
                f"round {self.plan.header.round}: our sum is {digest.hex()[:12]}, the coordinator "
                f"signed {manifest.next_state.hex()[:12]}",
                hint="Fetching the signed snapshot; report this if it goes on.",
            )
        return state

    def _report(self, manifest: RoundManifest) -> None:
        place = (self.config.header.cycle, self.plan.header.round)
        next_hex = manifest.next_state.hex()
        for entry in manifest.entries:
            if entry.peer == self.peer:
                self.emit(
                    RoundDone(
                        *place,
                        entry.status.value,
                        entry.coefficient,
                        entry.code,
                        entry.message,
                        next_hex,
                    )
                )
                return
        self.emit(RoundDone(*place, "missed", 0.0, "", "not among the round's commits", next_hex))
