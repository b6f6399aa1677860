"""A whole swarm in memory, seeded, that plays the real rules on a toy task.

Only three things are not the real ones: the task (numpy instead of torch), the network (method
calls that carry encoded, signed bytes) and the clock (a number). Plans, assignments, commits,
the book, commit sets, judgements, manifests, states and snapshots are the package's own code.

A peer does what its `Behaviour` says; the base class is honest and each of its methods is one
thing that a cheat can do differently. Nobody hands a peer anything but bytes, and everybody
verifies what the real peer verifies. One instance of `Swarm` is one cycle; `sim.audit` may keep its
books. One long file, so that a round can be read from its plan to the last replica without turning
a page.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ares_coordinator.judge import judge_contributions
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import (
    Commit,
    CommitSet,
    CycleConfig,
    PartRef,
    RoundManifest,
    RoundPlan,
    TrainingConfig,
)
from ares_p2p.errors import (
    BlobUnavailable,
    CommitWithoutBlob,
    HashMismatch,
    Oversize,
    PeerFault,
    StateMismatch,
)
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.rounds.assignment import assigned_examples, first_example
from ares_p2p.rounds.commits import CommitBook, SignedCommit, check_commit_set
from ares_p2p.rounds.manifest import build_manifest, check_manifest
from ares_p2p.rounds.plan import NO_DIGEST, RoundTimes, build_plan, check_plan
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.training.replica import (
    bind_layout,
    encode_contribution,
    next_state,
    open_contribution,
    state_after,
)
from ares_p2p.training.roundsum import (
    PartLayout,
    encode_sum,
    join_parts,
    parts_of,
    round_sum,
    sizes_of_parts,
)
from ares_p2p.training.state import (
    TrainingState,
    decode_snapshot,
    encode_snapshot,
    initial_state,
    state_digest,
)
from ares_p2p.wire.codec import decode_envelope, encode_envelope, open_envelope, seal
from payloads import identity
from sim.audit import AuditOffice, ClosedRound
from sim.samples import (
    COORDINATOR,
    CYCLE,
    NETWORK_ID,
    SECRET,
    START_MS,
    TRAINING,
    cycle_config,
    header,
    payload_sha256,
)
from sim.task import TRAIN_EXAMPLES, Labels, Task, make_task

P = TypeVar("P", RoundPlan, CommitSet, RoundManifest)

TIMES = RoundTimes(train_s=60.0, serve_s=20.0)


# --- what everybody shares --------------------------------------------------------------------


@dataclass(slots=True)
class Blobs:
    """Content-addressed bytes that somebody serves."""

    _served: dict[Digest, bytes] = field(default_factory=dict)

    def serve(self, data: bytes, *, name: Digest | None = None) -> None:
        """Serve `data`, under a wrong name if a liar says so."""
        self._served[blob_id_of(data) if name is None else name] = data

    def fetch(self, blob_id: Digest, *, max_bytes: int) -> bytes:
        """Return a blob as the real transfer does: bounded, then verified.

        Raises: BlobUnavailable, Oversize, HashMismatch.
        """
        if blob_id not in self._served:
            raise BlobUnavailable(f"nobody serves blob {blob_id.hex()[:12]}")
        data = self._served[blob_id]
        if len(data) > max_bytes:
            raise Oversize(f"blob of {len(data)} bytes, at most {max_bytes}")
        if blob_id_of(data) != blob_id:
            raise HashMismatch(f"these bytes are not blob {blob_id.hex()[:12]}")
        return data


@dataclass(frozen=True, slots=True)
class World:
    """What is public: the cycle, the data, what is served, and every commit ever published."""

    config: CycleConfig
    config_sha256: Digest
    task: Task
    blobs: Blobs
    board: list[Envelope]  # commits as the DHT shows them, oldest first

    @property
    def training(self) -> TrainingConfig:
        """The cycle's numbers."""
        return self.config.training

    def assigned(self, peer: PeerId, *, round_number: int) -> Iterator[int]:
        """Yield the examples of a peer in a round, which everybody can compute."""
        return assigned_examples(
            self.config.assignment_key,
            round_number=round_number,
            peer=peer,
            examples=TRAIN_EXAMPLES,
        )

    def parts_of(self, plan: RoundPlan, plan_sha256: Digest) -> tuple[PartLayout, ...]:
        """Return the parts of a round's sum, if it is exchanged by parts."""
        return parts_of(self.task.layout, plan=plan, plan_sha256=plan_sha256)

    def first_state(self) -> TrainingState:
        """Return S_0, which everybody can compute."""
        return initial_state(self.task.layout, cycle=CYCLE, seed=self.config.init_seed)


@dataclass(frozen=True, slots=True)
class Round:
    """A plan as a peer holds it after verifying it."""

    plan: RoundPlan
    plan_sha256: Digest

    @property
    def number(self) -> int:
        """Number of the round."""
        return self.plan.header.round


@dataclass(frozen=True, slots=True)
class Message:
    """What a peer sends to the coordinator, and when, in seconds after the round opened."""

    data: bytes
    at_s: float = 30.0


# --- peers ------------------------------------------------------------------------------------


class Behaviour:
    """An honest peer. A subclass overrides what it does differently."""

    def is_present(self, round_number: int) -> bool:
        """Return whether it takes part in this round at all."""
        return True

    def dies_before_serving(self, round_number: int) -> bool:
        """Return whether it crashes after its commit."""
        return False

    def steps(self, plan: RoundPlan) -> int:
        """Return how many local steps it makes."""
        return plan.max_steps

    def labels(self, task: Task) -> Labels:
        """Return the labels that it trains on."""
        return task.labels

    def start(self, state: TrainingState, peer: Peer) -> Vector:
        """Return the parameters that it trains from."""
        return state.theta

    def data_of(self, peer: Peer) -> PeerId:
        """Return whose examples it trains on."""
        return peer.peer_id

    def update(self, gradient: Vector, peer: Peer, round_: Round) -> Vector:
        """Return what it sends instead of its pseudo-gradient."""
        return gradient

    def blob(self, data: bytes, peer: Peer) -> bytes:
        """Return what it sends instead of its encoded contribution."""
        return data

    def commit(self, commit: Commit, peer: Peer) -> Commit:
        """Return what it signs instead of the true commit."""
        return commit

    def messages(self, envelope: Envelope, peer: Peer) -> list[Message]:
        """Return everything that it sends to the coordinator."""
        return [Message(encode_envelope(envelope))]

    def offers(self, data: bytes, peer: Peer) -> bytes | None:
        """Return what it serves under its blob's name once the commits are closed."""
        return data


class Peer:
    """One volunteer: a key, a behaviour, and the state that it holds."""

    def __init__(self, who: Identity, behaviour: Behaviour, world: World, *, seed: int) -> None:
        self.identity = who
        self.behaviour = behaviour
        self.world = world
        self.rng = np.random.default_rng(seed)
        self.state: TrainingState | None = None
        self.snapshots_fetched = 0
        self._last_commit = NO_DIGEST
        self._round: Round | None = None
        self._blob = b""

    @property
    def peer_id(self) -> PeerId:
        """Its name."""
        return self.identity.peer_id

    def work(self, plan_data: bytes) -> list[Message]:
        """Verify the plan, train, and return what is sent before the commits close."""
        self._round = round_ = self._opened(plan_data)
        state = self._synchronised(round_.plan)
        plan, world, act = round_.plan, self.world, self.behaviour
        steps, start = act.steps(plan), act.start(state, self)
        end, mean_loss = world.task.local_steps(
            start,
            world.assigned(act.data_of(self), round_number=round_.number),
            steps=steps,
            lr=plan.inner_lr,
            training=world.training,
            labels=act.labels(world.task),
        )
        sent = act.update(start - end, self, round_)
        layout = bind_layout(world.task.layout, plan_sha256=round_.plan_sha256, peer=self.peer_id)
        data = encode_contribution(
            sent, np.zeros_like(sent), layout=layout, training=world.training
        )
        self._blob = act.blob(data, self)
        training = world.training
        commit = Commit(
            header=header(round_.number, issued_ms=plan.opens_ms),
            plan_sha256=round_.plan_sha256,
            state=plan.state,
            blob_id=blob_id_of(self._blob),
            blob_size_bytes=len(self._blob),
            steps=steps,
            tokens=steps * training.sequences_per_step * training.sequence_length,
            first_example=first_example(
                world.config.assignment_key,
                round_number=round_.number,
                peer=self.peer_id,
                examples=TRAIN_EXAMPLES,
            ),
            previous_commit_sha256=self._last_commit,
            mean_loss=mean_loss,
            device="cpu",
            profile="sim",
        )
        envelope = seal(self.identity, act.commit(commit, self))
        self._last_commit = envelope.payload_sha256
        messages = act.messages(envelope, self)
        world.board.append(envelope)
        return messages

    def serve(self) -> None:
        """Serve this round's contribution: the commits are closed."""
        offered = self.behaviour.offers(self._blob, self)
        if offered is not None:
            self.world.blobs.serve(offered, name=blob_id_of(self._blob))

    def follow(self, set_data: bytes, manifest_data: bytes) -> Digest:
        """Verify how the round ended, make the next state from the blobs, and return its digest.

        Raises: StateMismatch: it is not what the coordinator signed.
        """
        round_ = self._round
        assert round_ is not None
        state = self._synchronised(round_.plan)
        config = self.world.config
        envelope = decode_envelope(set_data)
        commit_set = self._from_coordinator(envelope, CommitSet)
        commits = check_commit_set(
            commit_set,
            plan=round_.plan,
            plan_sha256=round_.plan_sha256,
            config=config,
            examples=TRAIN_EXAMPLES,
        )
        manifest = self._from_coordinator(decode_envelope(manifest_data), RoundManifest)
        check_manifest(
            manifest,
            commits=commits,
            plan_sha256=round_.plan_sha256,
            commit_set_sha256=envelope.payload_sha256,
            part_sizes=sizes_of_parts(state.theta.size, plan=round_.plan, training=config.training),
        )
        total = self._sum_of(round_, manifest, commits)
        self.state = state_after(state, total, config.training)
        digest = state_digest(self.state)
        if digest != manifest.next_state:
            raise StateMismatch(f"round {round_.number}: another sum than the coordinator's")
        self.world.blobs.serve(encode_snapshot(self.state))
        return digest

    def _sum_of(
        self, round_: Round, manifest: RoundManifest, commits: Sequence[SignedCommit]
    ) -> Vector | None:
        """Return the round's sum: joined from the parts that are served, or added up."""
        world, training = self.world, self.world.training
        if manifest.parts:
            data = [
                world.blobs.fetch(part.blob_id, max_bytes=part.size_bytes)
                for part in manifest.parts
            ]
            return join_parts(data, training, world.parts_of(round_.plan, round_.plan_sha256))
        used = [
            (fetch_contribution(signed, world), entry.coefficient)
            for signed, entry in zip(commits, manifest.entries, strict=True)
            if entry.coefficient
        ]
        return round_sum(used, training) if used else None

    def _opened(self, plan_data: bytes) -> Round:
        envelope = decode_envelope(plan_data)
        plan = self._from_coordinator(envelope, RoundPlan)
        check_plan(plan, config=self.world.config, config_sha256=self.world.config_sha256)
        return Round(plan, envelope.payload_sha256)

    def _from_coordinator(self, envelope: Envelope, cls: type[P]) -> P:
        return open_envelope(envelope, cls, signer=COORDINATOR.peer_id, network_id=NETWORK_ID)

    def _synchronised(self, plan: RoundPlan) -> TrainingState:
        """Return S_r: its own if it has it, else the snapshot that somebody serves."""
        if self.state is None and plan.header.round == 0:
            self.state = self.world.first_state()
        if self.state is None or state_digest(self.state) != plan.state:
            data = self.world.blobs.fetch(plan.state, max_bytes=plan.state_size_bytes)
            self.state = decode_snapshot(data, layout=self.world.task.layout)
            self.snapshots_fetched += 1
        return self.state


def fetch_contribution(signed: SignedCommit, world: World) -> VectorSource:
    """Return a contribution, fetched and checked as everybody does it.

    Raises: PeerFault, BlobUnavailable.
    """
    commit = signed.commit
    data = world.blobs.fetch(commit.blob_id, max_bytes=commit.blob_size_bytes)
    layout = bind_layout(world.task.layout, plan_sha256=commit.plan_sha256, peer=signed.peer)
    return open_contribution(data, layout=layout, training=world.training)


# --- the coordinator --------------------------------------------------------------------------


class Coordinator:
    """Sequences the rounds of one cycle; it holds a replica like everybody else."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state = world.first_state()
        self.now_ms = START_MS
        self._previous_manifest = NO_DIGEST
        self._book: CommitBook | None = None

    @property
    def book(self) -> CommitBook:
        """The open round's book."""
        assert self._book is not None
        return self._book

    def open_round(self, number: int) -> bytes:
        """Return the signed plan of a round."""
        snapshot = encode_snapshot(self.state)
        self.world.blobs.serve(snapshot)
        plan = build_plan(
            header=header(number, issued_ms=self.now_ms),
            config=self.world.config,
            config_sha256=self.world.config_sha256,
            previous_manifest_sha256=self._previous_manifest,
            state=blob_id_of(snapshot),
            state_size_bytes=len(snapshot),
            times=TIMES,
            parts=1 if self.world.training.down_bits else 0,  # the toy is a single frame
        )
        envelope = seal(COORDINATOR, plan)
        self._book = CommitBook(
            self.world.config, plan, envelope.payload_sha256, examples=TRAIN_EXAMPLES
        )
        return encode_envelope(envelope)

    def submit(self, message: Message, *, sender: PeerId | None) -> None:
        """Take what came over the connection of `sender`, or out of the DHT.

        Raises: PeerFault: why not.
        """
        now_ms = self.book.plan.opens_ms + int(message.at_s * 1000)
        self.book.add(decode_envelope(message.data), now_ms=now_ms, sender=sender)

    def close(self) -> bytes:
        """Return the signed commit set."""
        plan = self.book.plan
        number, rounds = plan.header.round, self.world.config.rounds
        seed = revealed_seed(SECRET, rounds=rounds, round_number=number)
        self.now_ms = plan.serve_deadline_ms
        head = header(number, issued_ms=self.now_ms)
        return encode_envelope(seal(COORDINATOR, self.book.close(header=head, seed=seed)))

    def finish(self, set_data: bytes) -> bytes:
        """Fetch, judge, make the next state, and return the signed manifest."""
        plan, commits = self.book.plan, self.book.in_order()
        outcomes = self.outcomes(commits)
        judged = judge_contributions(commits, outcomes, layout=self.world.task.layout)
        used = [
            (item.vector, item.entry.coefficient)
            for item in judged
            if item.vector is not None and item.entry.coefficient
        ]
        parts = self.world.parts_of(plan, self.book.plan_sha256)
        encoded = encode_sum(used, self.world.training, parts) if used else []
        for data in encoded:
            self.world.blobs.serve(data)
        self.state = next_state(self.state, used, self.world.training, parts)
        snapshot = encode_snapshot(self.state)
        manifest = build_manifest(
            header=header(plan.header.round, issued_ms=self.now_ms),
            plan_sha256=self.book.plan_sha256,
            commit_set_sha256=decode_envelope(set_data).payload_sha256,
            entries=[item.entry for item in judged],
            next_state=blob_id_of(snapshot),
            next_state_size_bytes=len(snapshot),
            final=plan.header.round + 1 == self.world.config.rounds,
            parts=[PartRef(blob_id_of(data), len(data)) for data in encoded],
        )
        envelope = seal(COORDINATOR, manifest)
        self._previous_manifest = envelope.payload_sha256
        return encode_envelope(envelope)

    def outcomes(self, commits: Sequence[SignedCommit]) -> list[VectorSource | PeerFault]:
        """Return every commit's contribution, or why there is none."""
        return [self._outcome(signed) for signed in commits]

    def _outcome(self, signed: SignedCommit) -> VectorSource | PeerFault:
        try:
            return fetch_contribution(signed, self.world)
        except BlobUnavailable as fault:
            return CommitWithoutBlob(fault.message)
        except PeerFault as fault:
            return fault


# --- the swarm --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """What a round came to."""

    number: int
    commit_set: CommitSet
    manifest: RoundManifest
    digests: dict[PeerId, Digest]  # S_(r+1) as every peer that followed computed it
    turned_away: Counter[str]  # codes of what the coordinator refused before the close
    loss: float  # held out, at S_(r+1)

    def codes(self) -> Counter[str]:
        """Return how often each reason stands in what was published of the round."""
        listed = [refusal.code for refusal in self.commit_set.refusals]
        return Counter(listed + [entry.code for entry in self.manifest.entries if entry.code])

    def reasons_of(self, peer: PeerId) -> list[tuple[str, str]]:
        """Return (code, sentence) of everything that was published about one peer."""
        entries = [item for item in self.manifest.entries if item.code]
        listed = [*self.commit_set.refusals, *entries]
        return [(item.code, item.message) for item in listed if item.peer == peer]


class Swarm:
    """One cycle with these behaviours, in a world that its seed decides.

    Args:
        behaviours: one per peer; a peer's key and data depend on its place only.
        seed: of the task, and of the cheats' random numbers.
        arrival_seed: of the order in which messages reach the coordinator.
        rounds: of the cycle.
        audited: draw, replay and pay contributions as well.
        down_bits: of a part of the sum; 0: everybody fetches everything.
    """

    def __init__(
        self,
        behaviours: Sequence[Behaviour],
        *,
        seed: int = 0,
        arrival_seed: int = 0,
        rounds: int = 30,
        audited: bool = False,
        down_bits: int = 0,
    ) -> None:
        config = cycle_config(
            rounds=rounds, training=dataclasses.replace(TRAINING, down_bits=down_bits)
        )
        task = make_task(seed, rank=config.training.rank)
        first = initial_state(task.layout, cycle=CYCLE, seed=config.init_seed)
        config = dataclasses.replace(
            config,
            layout_sha256=task.layout.digest_sha256,
            parameters=task.layout.size,
            initial_state=state_digest(first),
        )
        self.world = World(config, payload_sha256(config, "cycle"), task, Blobs(), [])
        self.coordinator = Coordinator(self.world)
        self.peers = [
            Peer(identity(number), behaviour, self.world, seed=1000 * seed + number)
            for number, behaviour in enumerate(behaviours)
        ]
        self.first_loss = task.held_out_loss(first.theta)
        self.reports: list[Report] = []
        self.office = AuditOffice(config, task) if audited else None
        self._arrival = np.random.default_rng(arrival_seed)

    def run(self) -> Swarm:
        """Play all rounds."""
        for _ in range(self.world.config.rounds):
            self.play_round()
        return self

    def play_round(self) -> Report:
        """Play the next round, from its plan to the comparison of all replicas."""
        number = len(self.reports)
        start = self.coordinator.state
        plan_data = self.coordinator.open_round(number)
        present = [peer for peer in self.peers if peer.behaviour.is_present(number)]
        sent = [(peer.peer_id, message) for peer in present for message in peer.work(plan_data)]
        turned_away: Counter[str] = Counter()
        for place in self._arrival.permutation(len(sent)):
            sender, message = sent[place]
            try:
                self.coordinator.submit(message, sender=sender)
            except PeerFault as fault:
                turned_away[fault.code] += 1
        set_data = self.coordinator.close()
        alive = [peer for peer in present if not peer.behaviour.dies_before_serving(number)]
        for peer in alive:
            peer.serve()
        manifest_data = self.coordinator.finish(set_data)
        report = Report(
            number,
            open_envelope(decode_envelope(set_data), CommitSet),
            open_envelope(decode_envelope(manifest_data), RoundManifest),
            {peer.peer_id: peer.follow(set_data, manifest_data) for peer in alive},
            turned_away,
            self.world.task.held_out_loss(self.coordinator.state.theta),
        )
        self.reports.append(report)
        if self.office is not None:
            commits = self.coordinator.book.in_order()
            self.office.finish(self._closed(report, start, commits))
        return report

    def _closed(
        self, report: Report, start: TrainingState, commits: Sequence[SignedCommit]
    ) -> ClosedRound:
        held = {signed.sha256: self._held(signed) for signed in commits}
        return ClosedRound(report.manifest, start, commits, report.commit_set.revealed_seed, held)

    def _held(self, signed: SignedCommit) -> bytes:
        """Return a committed blob as the coordinator keeps it; nothing if there is none."""
        commit = signed.commit
        try:
            return self.world.blobs.fetch(commit.blob_id, max_bytes=commit.blob_size_bytes)
        except (BlobUnavailable, PeerFault):
            return b""

    def reasons_of(self, *peers: Peer) -> set[tuple[str, str]]:
        """Return (code, sentence) of everything that was published about these peers."""
        return {
            reason
            for report in self.reports
            for peer in peers
            for reason in report.reasons_of(peer.peer_id)
        }

    @property
    def digests(self) -> list[Digest]:
        """S_1 ... S_r as the coordinator signed them."""
        return [report.manifest.next_state for report in self.reports]

    @property
    def loss(self) -> float:
        """Held-out loss, the mean over the last five states: one state alone is noisy."""
        return float(np.mean([report.loss for report in self.reports[-5:]]))

    def codes(self) -> Counter[str]:
        """Return how often each reason was published."""
        return sum((report.codes() for report in self.reports), Counter())

    def codes_of(self, *peers: Peer) -> Counter[str]:
        """Return how often each reason was published for these peers."""
        names = {peer.peer_id for peer in peers}
        found: Counter[str] = Counter()
        for report in self.reports:
            found.update(r.code for r in report.commit_set.refusals if r.peer in names)
            found.update(e.code for e in report.manifest.entries if e.peer in names and e.code)
        return found

    def weight_of(self, *peers: Peer) -> float:
        """Return the sum of the coefficients that these peers ever got."""
        names = {peer.peer_id for peer in peers}
        return sum(
            entry.coefficient
            for report in self.reports
            for entry in report.manifest.entries
            if entry.peer in names
        )
