"""One round of one peer: train, commit, exchange, aggregate, compare.

Until the commits close, the contribution is withheld: nobody can copy what nobody can see. A
contribution that the coordinator refuses is reported with its reason, and so is a machine that
is too slow; the peer still follows the round, so that it starts the next one from its own sum.

A commit is remembered before it is sent. A peer that was killed after that hands in the same
bytes again and does not train again. While the coordinator is away, the peer waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ares_p2p.averaging.vectors import Vector
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import (
    Commit,
    CommitSet,
    CycleConfig,
    RoundCorrection,
    RoundManifest,
    RoundPlan,
)
from ares_p2p.errors import BlobUnavailable, StateMismatch
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.network.records import Verified
from ares_p2p.rounds.assignment import first_example
from ares_p2p.rounds.commits import SignedCommit, check_commit_set, open_commit
from ares_p2p.rounds.manifest import check_correction, check_manifest
from ares_p2p.training.replay import Rig
from ares_p2p.training.replica import BoundLayout, bind_layout, encode_contribution, state_after
from ares_p2p.training.roundsum import PartLayout, parts_of, sizes_of_parts
from ares_p2p.training.state import TrainingState, encode_snapshot
from ares_p2p.wire.codec import decode_envelope, encode_envelope, seal
from ares_peer.butterfly import PartExchange
from ares_peer.corrections import EndedRound, remade_state
from ares_peer.events import CommitSent, ErrorRaised, Event, Phase, PhaseChanged, RoundOpened
from ares_peer.evidence import EvidenceStore
from ares_peer.exchange import Exchange, Total
from ares_peer.links import Links
from ares_peer.memory import KeptCommit, SessionMemory
from ares_peer.pace import Pace, TooSlow
from ares_peer.patience import Patience, RoundLost
from ares_peer.reports import round_corrected, round_done
from ares_peer.residual import FEEDBACK_BITS, Residuals
from ares_peer.submission import SENT_BY_DHT, Answer, hand_in, is_listed

if TYPE_CHECKING:  # that module brings torch, which nothing here needs
    from ares_p2p.training.inner import LocalResult

__all__ = ["RoundLost", "RoundWork"]

R = TypeVar("R", CommitSet, RoundManifest)


@dataclass(slots=True)
class RoundWork:
    """The work of one round. One instance per round.

    Args:
        is_finishing: whether the session was asked to end.
        tokens_per_s: as measured, once there was a step.
        before: the round before, if this peer saw its end: this one may correct it.
        contributions: blob ids of the round, as far as it came; the parts of its sum, too.
        ended: the round itself, once its manifest was checked.
    """

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
    evidence: EvidenceStore
    is_finishing: Callable[[], bool] = lambda: False
    tokens_per_s: float = 0.0
    before: EndedRound | None = None
    contributions: set[Digest] = field(default_factory=set)
    ended: EndedRound | None = None
    _missed_because: str = ""
    _patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        self._patience = Patience(
            self.links, self.plan, self.plan_sha256, emit=self.emit, is_finishing=self.is_finishing
        )

    async def run(self) -> tuple[TrainingState, Digest]:
        """Return S_(r+1) and its digest, after having contributed to it, or at least followed it.

        Its snapshot is in the blob store then.

        Raises: RoundLost: nothing came of the round. AresError: an own fault.
        """
        cycle, round_number = self._place
        deadline_ms, state_hex = self.plan.commit_deadline_ms, self.plan.state.hex()
        self.emit(RoundOpened(cycle, round_number, self.config.rounds, deadline_ms, state_hex))
        kept = self.memory.commit_for(self.plan_sha256)
        if kept is not None:
            await self._resume(kept)
        else:
            result = await self._train()
            if result is not None:
                await self._commit(result)
        self.emit(PhaseChanged(Phase.EXCHANGING))
        commits, closed = await self._closed_commits()
        manifest, total = await self._exchange(commits, closed)
        self.emit(PhaseChanged(Phase.AGGREGATING))
        return await asyncio.to_thread(self._advance, manifest, total)

    @property
    def peer(self) -> PeerId:
        """This peer."""
        return self.links.identity.peer_id

    @property
    def _place(self) -> tuple[int, int]:
        return self.config.header.cycle, self.plan.header.round

    def bound_layout(self, peer: PeerId) -> BoundLayout:
        """Return the layout that a contribution of `peer` in this round carries."""
        return bind_layout(self.rig.layout, plan_sha256=self.plan_sha256, peer=peer)

    # --- train ---------------------------------------------------------------------------------

    async def _train(self) -> LocalResult | None:
        """Make the steps that fit; None when not even the fewest do."""
        self.emit(PhaseChanged(Phase.TRAINING))
        pace = Pace(self.plan, clock=self.links.clock, emit=self.emit)
        try:
            return await asyncio.to_thread(
                self.rig.train,
                self.state.theta,
                round_number=self.plan.header.round,
                peer=self.peer,
                lr=self.plan.inner_lr,
                min_steps=self.plan.min_steps,
                max_steps=self.plan.max_steps,
                on_step=pace.on_step,
            )
        except TooSlow as slow:
            self._missed_because = str(slow)
            self.evidence.note(self._place, "missed", message=self._missed_because)
            self.emit(PhaseChanged(Phase.WAITING, str(slow)))
            return None
        finally:
            pace.abandon()
            self.tokens_per_s = pace.tokens_per_s

    # --- commit --------------------------------------------------------------------------------

    def make_contribution(self, result: LocalResult) -> bytes:
        """Return the bytes that the commit promises: the compressed pseudo-gradient."""
        start, layout, training = (
            self.state.theta,
            self.bound_layout(self.peer),
            self.config.training,
        )
        if training.codec_bits == FEEDBACK_BITS:
            residuals = Residuals(self.memory.path.parent / "residual")
            return residuals.contribution(
                start, result.theta, place=self._place, layout=layout, training=training
            )
        return encode_contribution(start, result.theta, layout=layout, training=training)

    async def _commit(self, result: LocalResult) -> None:
        """Store the contribution, sign what is promised, and hand it in."""
        self.emit(PhaseChanged(Phase.UPLOADING))
        blob_id, size_bytes = await asyncio.to_thread(self._store_withheld, result)
        cycle, round_number = self._place
        commit = Commit(
            header=self.memory.header(cycle=cycle, round_number=round_number),
            plan_sha256=self.plan_sha256,
            state=self.plan.state,
            blob_id=blob_id,
            blob_size_bytes=size_bytes,
            steps=result.steps,
            tokens=result.tokens,
            first_example=first_example(
                self.config.assignment_key,
                round_number=round_number,
                peer=self.peer,
                examples=self.examples,
            ),
            previous_commit_sha256=self.memory.last_commit,
            mean_loss=result.mean_loss,
            device=self.device,
            profile=self.profile,
        )
        await self._submit(commit)

    def _store_withheld(self, result: LocalResult) -> tuple[Digest, int]:
        data = self.make_contribution(result)
        blob_id = blob_id_of(data)
        self.links.blobs.withhold(blob_id)  # before it is there: no moment in which it is served
        self.links.blobs.store.put(data)
        self.contributions.add(blob_id)
        return blob_id, len(data)

    async def _submit(self, commit: Commit) -> Commit | None:
        """Sign, remember, and hand in; None when the coordinator refused it."""
        envelope = seal(self.links.identity, commit)
        kept = KeptCommit(self.plan_sha256, encode_envelope(envelope), commit.blob_id)
        await asyncio.to_thread(self.memory.remember_commit, envelope.payload_sha256, kept)
        self.evidence.keep(self._place, commit=envelope)
        return await self._hand_in(envelope, commit)

    async def _resume(self, kept: KeptCommit) -> None:
        """Hand in again what an earlier run of this peer signed for this very plan."""
        self.emit(PhaseChanged(Phase.UPLOADING, "the work of before the restart"))
        envelope = decode_envelope(kept.envelope)
        commit = open_commit(envelope, network_id=self.links.network_id).commit
        self.contributions.add(kept.blob_id)
        self.evidence.keep(self._place, commit=envelope)
        if not self.links.blobs.store.has(kept.blob_id):
            # Training it again could give other bits, and a second commit is equivocation.
            self._missed_because = "the contribution is not on the disk any more"
            self.emit(ErrorRaised(BlobUnavailable.code, self._missed_because))
            code, message = BlobUnavailable.code, self._missed_because
            self.evidence.note(self._place, "missed", code=code, message=message)
            return
        closed = await self._patience.closed()
        if closed is None:
            self.links.blobs.withhold(kept.blob_id)
            await self._hand_in(envelope, commit)
        else:
            self._tell(envelope, commit, Answer(is_listed(envelope, closed), "", SENT_BY_DHT))

    async def _hand_in(self, envelope: Envelope, commit: Commit) -> Commit | None:
        self.memory.expect_credit(self._place)  # its round may end without us watching
        self._patience.repeat = envelope
        answer = await hand_in(
            self.links,
            envelope,
            deadline_ms=self.plan.commit_deadline_ms,
            closed=self._patience.closed,
        )
        self._tell(envelope, commit, answer)
        return commit if answer.accepted else None

    def _tell(self, envelope: Envelope, commit: Commit, answer: Answer) -> None:
        self.evidence.keep(self._place, ack=answer.ack)
        if not answer.accepted:
            code, message = answer.code, answer.message
            self.evidence.note(self._place, "refused", code=code, message=message)
        digest = envelope.payload_sha256.hex()
        work = (*self._place, commit.steps, commit.tokens, digest)
        self.emit(CommitSent(*work, answer.accepted, answer.code, answer.message))

    # --- exchange ------------------------------------------------------------------------------

    async def _closed_commits(self) -> tuple[list[SignedCommit], Verified[CommitSet]]:
        found = await self._patience.wait_for(CommitSet, expected_ms=self.plan.commit_deadline_ms)
        self.evidence.keep(self._place, commit_set=found.envelope)
        commits = check_commit_set(
            found.payload,
            plan=self.plan,
            plan_sha256=self.plan_sha256,
            config=self.config,
            examples=self.examples,
        )
        for signed in commits:
            self.contributions.add(signed.commit.blob_id)
            if signed.peer == self.peer:  # whatever was answered: it counts
                self.links.blobs.release(signed.commit.blob_id)
        return commits, found

    async def _exchange(
        self, commits: list[SignedCommit], closed: Verified[CommitSet]
    ) -> tuple[RoundManifest, Total]:
        """Fetch what the sum needs while the coordinator decides, and report what it decided."""
        exchange = self._exchange_of(commits, closed.payload)
        exchange.start()
        try:
            found = await self._patience.wait_for(
                RoundManifest, expected_ms=self.plan.serve_deadline_ms
            )
            manifest = found.payload
            self.evidence.keep(self._place, manifest=found.envelope)
            check_manifest(
                manifest,
                commits=commits,
                plan_sha256=self.plan_sha256,
                commit_set_sha256=closed.envelope.payload_sha256,
                previous_manifest_sha256=self.plan.previous_manifest_sha256,
                part_sizes=self._part_sizes(manifest),
            )
            for correction in manifest.corrections:
                corrected = self._ended(correction)
                if corrected is not None:
                    check_correction(correction, previous=corrected.manifest)
            digest = found.envelope.payload_sha256
            seed = closed.payload.revealed_seed
            self.ended = EndedRound(self.plan, manifest, digest, tuple(commits), seed)
            self._report(manifest)
            if manifest.corrections:
                return manifest, await self._corrected_sum(manifest, manifest.corrections[0])
            return manifest, await exchange.sum_of(manifest)
        except BlobUnavailable as fault:
            raise RoundLost(f"not all of the round could be fetched: {fault.message}") from fault
        finally:
            await exchange.stop()

    def _exchange_of(
        self, commits: list[SignedCommit], commit_set: CommitSet
    ) -> Exchange | PartExchange:
        links, config, plan = self.links, self.config, self.plan
        parts = parts_of(self.rig.layout, plan=plan, plan_sha256=self.plan_sha256)
        if parts:
            return self._exchange_of_parts(commits, commit_set.revealed_seed, parts)
        return Exchange(links, config, plan, commits, commit_set, self.bound_layout)

    def _exchange_of_parts(
        self, commits: Sequence[SignedCommit], seed: Digest, parts: Sequence[PartLayout]
    ) -> PartExchange:
        return PartExchange(
            self.links,
            self.config,
            self.plan,
            commits,
            seed,
            parts,
            keep=self.contributions.add,
            say=self._say_mismatch,
        )

    def _part_sizes(self, manifest: RoundManifest) -> tuple[int, ...] | None:
        """Return the bytes of the parts that a manifest must name, None when nobody here knows."""
        plan = self.plan
        for correction in manifest.corrections:
            ended = self._ended(correction)
            if ended is None:
                return None
            plan = ended.plan
        return sizes_of_parts(self.rig.layout.size, plan=plan, training=self.config.training)

    async def _corrected_sum(self, manifest: RoundManifest, correction: RoundCorrection) -> Total:
        """Return what makes the corrected sum of a round by parts; of another it is made later."""
        ended = self._ended(correction)
        if ended is None or not manifest.parts:
            return lambda: None
        parts = parts_of(self.rig.layout, plan=ended.plan, plan_sha256=ended.manifest.plan_sha256)
        again = self._exchange_of_parts(ended.commits, ended.revealed_seed, parts)
        again.start()
        try:
            return await again.sum_of(replace(manifest, entries=correction.entries, corrections=()))
        finally:
            await again.stop()

    def _say_mismatch(self, fault: StateMismatch) -> None:
        """Keep it with the round's signed records, which name what was signed instead."""
        self.evidence.note(self._place, "mismatch", code=fault.code, message=fault.message)

    def _report(self, manifest: RoundManifest) -> None:
        """Say what became of the work, and whether credit is to come for it."""
        self.memory.end_commit(self.plan_sha256)
        for correction in manifest.corrections:
            self.emit(round_corrected(manifest, correction, peer=self.peer))
        done = round_done(manifest, peer=self.peer, missed_because=self._missed_because)
        if done.status in ("accepted", "clipped"):
            self.memory.expect_credit(self._place)
        else:
            self.memory.forget_credit(self._place)
        self.emit(done)

    # --- aggregate -----------------------------------------------------------------------------

    def _advance(self, manifest: RoundManifest, total: Total) -> tuple[TrainingState, Digest]:
        """Return the next state from our own sum, its snapshot stored.

        Raises: StateMismatch: it is not what the coordinator signed. RoundLost: the manifest
            corrects a round of which not everything is held here any more.
        """
        if manifest.corrections:
            state = self._corrected(manifest.corrections[0], total())
        else:
            state = state_after(self.state, total(), self.config.training)
        digest = self.links.blobs.store.put(encode_snapshot(state))
        if digest != manifest.next_state:
            self.links.blobs.store.delete(digest)
            raise StateMismatch(
                f"round {self.plan.header.round}: our sum is {digest.hex()[:12]}, the coordinator "
                f"signed {manifest.next_state.hex()[:12]}",
                hint="Fetching the signed snapshot; report this if it goes on.",
            )
        return state, digest

    def _ended(self, correction: RoundCorrection) -> EndedRound | None:
        """Return the corrected round, None when this peer did not see its end."""
        before = self.before
        is_it = before is not None and before.manifest_sha256 == correction.manifest_sha256
        return before if is_it else None

    def _corrected(self, correction: RoundCorrection, total: Vector | None) -> TrainingState:
        """Return the state that a correction leads to, from the corrected round's own blobs."""
        ended = self._ended(correction)
        state = None
        if ended is not None:
            state = remade_state(
                ended,
                correction,
                store=self.links.blobs.store,
                layout=self.rig.layout,
                training=self.config.training,
                total=total,
            )
        if state is None:
            raise RoundLost(f"the corrected state of round {correction.round + 1} is to be fetched")
        return state
