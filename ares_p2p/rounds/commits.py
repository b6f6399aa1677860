"""The book of commits of one round: what may enter, and how it closes.

A commit enters once, before the deadline, signed by the peer it speaks for, for this plan and
this state, with steps and tokens that the plan allows and the first example that the assignment
gives. A second, different commit of the same peer is equivocation and is kept as evidence.
Closed, the book becomes a CommitSet: the envelopes exactly as received, in the order of their
digests, with the Merkle root over them and the round's revealed seed. What enters is bounded in
bytes too, because a CommitSet larger than a record could never be published.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.merkle import tree_root
from ares_p2p.domain import Commit, CommitSet, CycleConfig, Header, Refusal, RoundPlan
from ares_p2p.errors import (
    CommitLate,
    CommitReplayed,
    Equivocation,
    HashMismatch,
    Oversize,
    PayloadMalformed,
    PeerFault,
    RateLimited,
    StepsOutOfRange,
    WrongState,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.assignment import first_example
from ares_p2p.rounds.seedchain import check_revealed_seed
from ares_p2p.wire.codec import (
    MAX_ENVELOPE_BYTES,
    decode_envelope,
    encode_envelope,
    open_envelope,
)

MAX_MEAN_LOSS = 100.0  # nats per token; a uniform guess over a million tokens costs 14
MAX_REFUSALS = 64  # listed per round; more are counted by the coordinator, not published
MAX_REASON_CHARS = 200
MAX_COMMITS_BYTES = 44 * 1024  # 110 honest ones of 400; the rest of a record is for the refusals
_SET_HEAD_BYTES = 1024  # header (512-character network id), root, seed and envelope of a CommitSet
_ITEM_BYTES = 16  # tags and lengths of a repeated field's item, at most


def reason_text(message: str, *, limit: int = MAX_REASON_CHARS) -> str:
    """Return a fault's message as records can carry it: ASCII, printable, short.

    A message may quote what a stranger sent, and a record with an unprintable text is refused.
    """
    plain = message.encode("ascii", "replace").decode("ascii")
    return "".join(char if char.isprintable() else "?" for char in plain)[:limit]


@dataclass(frozen=True, slots=True)
class SignedCommit:
    """A verified commit with the envelope it came in."""

    commit: Commit
    envelope: Envelope

    @property
    def sha256(self) -> Digest:
        """The digest by which everything else refers to the commit."""
        return self.envelope.payload_sha256

    @property
    def peer(self) -> PeerId:
        """Whose work it is: the signer."""
        return self.envelope.signer


def open_commit(envelope: Envelope, *, network_id: str) -> SignedCommit:
    """Return the commit in `envelope` after verifying its signature and ranges.

    Raises: PeerFault: see `wire.codec.open_envelope`.
    """
    return SignedCommit(open_envelope(envelope, Commit, network_id=network_id), envelope)


def check_commit(
    signed: SignedCommit,
    *,
    plan: RoundPlan,
    plan_sha256: Digest,
    config: CycleConfig,
    examples: int,
) -> None:
    """Verify everything about a commit that does not depend on the time or on other commits.

    Raises: CommitReplayed, WrongState, StepsOutOfRange, Oversize.
    """
    commit, training = signed.commit, config.training
    place = (commit.header.cycle, commit.header.round)
    if place != (plan.header.cycle, plan.header.round) or commit.plan_sha256 != plan_sha256:
        raise CommitReplayed(
            f"a commit for cycle {place[0]} round {place[1]} or another plan of it; "
            f"cycle {plan.header.cycle} round {plan.header.round} is open"
        )
    if commit.state != plan.state:
        raise WrongState(
            f"trained from state {commit.state.hex()[:12]}, {plan.state.hex()[:12]} expected"
        )
    if not plan.min_steps <= commit.steps <= plan.max_steps:
        raise StepsOutOfRange(
            f"{commit.steps} steps, {plan.min_steps} to {plan.max_steps} expected"
        )
    if commit.mean_loss > MAX_MEAN_LOSS:
        raise PayloadMalformed(f"a mean loss of {commit.mean_loss:.3g} nats per token cannot be")
    most_tokens = commit.steps * training.sequences_per_step * training.sequence_length
    if not 0 < commit.tokens <= most_tokens:
        raise StepsOutOfRange(f"{commit.tokens} tokens in {commit.steps} steps cannot be")
    assigned = first_example(
        config.assignment_key,
        round_number=plan.header.round,
        peer=signed.peer,
        examples=examples,
    )
    if commit.first_example != assigned:
        raise StepsOutOfRange(
            f"starts at example {commit.first_example}, the assignment starts at {assigned}"
        )
    if not 0 < commit.blob_size_bytes <= config.limits.max_blob_bytes:
        raise Oversize(
            f"a blob of {commit.blob_size_bytes} bytes, at most {config.limits.max_blob_bytes}"
        )


@dataclass(slots=True)
class CommitBook:
    """The commits of one round while it is open. Mutable, owned by one coordinator task."""

    config: CycleConfig
    plan: RoundPlan
    plan_sha256: Digest
    examples: int
    commits: dict[PeerId, SignedCommit] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    equivocations: dict[PeerId, SignedCommit] = field(default_factory=dict)
    commits_bytes: int = 0  # of the entered envelopes

    def add(self, envelope: Envelope, *, now_ms: int, sender: PeerId | None = None) -> SignedCommit:
        """Enter a commit, or say why not; the same one twice is no fault.

        Args:
            sender: whose connection it came over, when that is known; a refusal is listed under
                the sender, so that nobody is blamed for what another one replays.
        Raises: PeerFault: the reason.
        """
        try:
            signed = open_commit(envelope, network_id=self.config.header.network_id)
        except PeerFault as fault:
            if sender is not None:
                self.refuse(sender, fault)
            raise
        culprit = signed.peer if sender is None else sender
        try:
            if culprit != signed.peer:
                raise CommitReplayed(f"a commit of {signed.peer}, sent by another peer")
            return self._enter(signed, now_ms=now_ms)
        except PeerFault as fault:
            self.refuse(culprit, fault)
            raise

    def _enter(self, signed: SignedCommit, *, now_ms: int) -> SignedCommit:
        check_commit(
            signed,
            plan=self.plan,
            plan_sha256=self.plan_sha256,
            config=self.config,
            examples=self.examples,
        )
        known = self.commits.get(signed.peer)
        if known is not None and known.sha256 == signed.sha256:
            return known
        if known is not None:
            self.equivocations.setdefault(signed.peer, signed)
            raise Equivocation("a second, different commit for the same round")
        if now_ms > self.plan.commit_deadline_ms:
            late_s = (now_ms - self.plan.commit_deadline_ms) / 1000
            raise CommitLate(f"{late_s:.1f} s after the deadline")
        if len(self.commits) >= self.config.limits.max_peers_per_round:
            raise RateLimited(f"the round is full ({len(self.commits)} peers)")
        size_bytes = self.commits_bytes + len(encode_envelope(signed.envelope)) + _ITEM_BYTES
        if size_bytes > MAX_COMMITS_BYTES:
            raise RateLimited(f"the round is full ({self.commits_bytes} bytes of commits)")
        self.commits_bytes = size_bytes
        self.commits[signed.peer] = signed
        return signed

    def refuse(self, peer: PeerId, fault: PeerFault) -> None:
        """List a refusal, once per peer and code."""
        known = any(item.peer == peer and item.code == fault.code for item in self.refusals)
        if not known and len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(Refusal(peer, fault.code, reason_text(fault.message)))

    def in_order(self) -> list[SignedCommit]:
        """Return the commits by digest: the order of everything that follows."""
        return sorted(self.commits.values(), key=lambda signed: signed.sha256)

    def close(self, *, header: Header, seed: Digest) -> CommitSet:
        """Return the closed book, with as many refusals, oldest first, as its record can hold."""
        ordered = self.in_order()
        room, listed = MAX_ENVELOPE_BYTES - _SET_HEAD_BYTES - self.commits_bytes, 0
        for refusal in self.refusals:
            room -= 2 * _ITEM_BYTES + len(refusal.peer + refusal.code + refusal.message)
            listed += room >= 0
        return CommitSet(
            header=header,
            plan_sha256=self.plan_sha256,
            root=tree_root([signed.sha256 for signed in ordered]),
            revealed_seed=seed,
            commits=tuple(encode_envelope(signed.envelope) for signed in ordered),
            refusals=tuple(self.refusals[:listed]),
        )


def check_commit_set(
    commit_set: CommitSet,
    *,
    plan: RoundPlan,
    plan_sha256: Digest,
    config: CycleConfig,
    examples: int,
) -> list[SignedCommit]:
    """Verify a closed book as a peer sees it, commit by commit.

    Returns: the commits, in order.
    Raises: CommitReplayed: of another plan. HashMismatch: wrong root, order or seed.
        Equivocation: one peer twice. Any fault of a commit inside.
    """
    if commit_set.plan_sha256 != plan_sha256:
        raise CommitReplayed("the commit set closes another plan")
    check_revealed_seed(
        commit_set.revealed_seed, anchor=config.seed_anchor, round_number=plan.header.round
    )
    network_id = config.header.network_id
    commits = [open_commit(decode_envelope(data), network_id=network_id)
               for data in commit_set.commits]  # fmt: skip
    digests = [signed.sha256 for signed in commits]
    if digests != sorted(digests) or tree_root(digests) != commit_set.root:
        raise HashMismatch("the commit set's order or root does not fit its commits")
    if len({signed.peer for signed in commits}) != len(commits):
        raise Equivocation("the commit set holds one peer twice")
    for signed in commits:
        check_commit(signed, plan=plan, plan_sha256=plan_sha256, config=config, examples=examples)
    return commits
