"""The values the protocol speaks of: frozen, checked when decoded, free of I/O.

Every signed payload carries a `Header`; its kind is the payload type of the envelope around it
(`ares_p2p.wire.codec` maps one to the other). Times are milliseconds since the epoch, digests
are 32-byte sha256, money is integer micro-credits, learning rates are plain floats that travel
as IEEE doubles so that every peer computes with the same bits.

Source: docs/adr/0001, the swarm protocol's rounds and records.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ares_p2p.ids import Digest, PeerId

NO_PAGE: Digest = bytes(32)  # a settlement that seals no page of the ledger

CATEGORIES = (
    "reasoning",
    "code",
    "creative",
    "tool_use",
    "long_context",
    "problem_solving",
    "instruction",
    "roleplay",
)


@dataclass(frozen=True, slots=True)
class Header:
    """What every payload names, so that nothing can be replayed somewhere else."""

    network_id: str
    cycle: int
    round: int
    seq: int  # monotone per (signer, kind); peers refuse a lower (cycle, seq)
    issued_ms: int


@dataclass(frozen=True, slots=True)
class NetworkDescriptor:
    """Written by the coordinator: what a newcomer must know."""

    header: Header
    name: str
    coordinator: PeerId
    bootstrap_addresses: tuple[str, ...]
    protocol_min: int
    protocol_max: int
    api_url: str


@dataclass(frozen=True, slots=True)
class BaseFile:
    """One file of the base model."""

    name: str
    size_bytes: int
    sha256: Digest
    blob_id: Digest


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An earlier cycle's adapter: frozen in the stack under the new one, or merged into the base."""

    cycle: int
    sha256: Digest
    files: tuple[BaseFile, ...]


@dataclass(frozen=True, slots=True)
class BaseRef:
    """The frozen base: its files, where else they may be had, and how it was made.

    A merged base is its parent with adapters merged in by the rule of ADR 0011: whoever has the parent
    makes the same bytes.
    """

    name: str
    sha256: Digest  # digest over the file list, see training.base_files
    files: tuple[BaseFile, ...]
    hub_id: str = ""
    revision: str = ""
    parent_sha256: bytes = b""  # 32 bytes, like `sha256`; empty: the base was not merged
    merged: tuple[AdapterRef, ...] = ()  # into the parent, oldest first


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """All numbers that decide what a local step and an outer step compute."""

    rank: int
    alpha: int  # the update is scaled by alpha / rank
    targets: tuple[str, ...]
    quantization: str  # "nf4" or "none"
    compute_dtype: str  # "float32" or "bfloat16"
    gradient_checkpointing: bool
    sequence_length: int
    sequences_per_step: int
    min_steps: int
    max_steps: int
    inner_lr: float
    beta2: float
    eps: float
    max_grad_norm: float
    outer_lr: float
    outer_momentum: float
    codec_bits: int
    codec_block: int
    down_bits: int = 0  # of the parts of a round's sum; 0: never exchanged by parts


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the network for one cycle."""

    max_peers_per_round: int
    max_blob_bytes: int
    max_dataset_bytes: int


@dataclass(frozen=True, slots=True)
class CycleConfig:
    """Written by the coordinator: one cycle, completely."""

    header: Header
    base: BaseRef
    stack: tuple[AdapterRef, ...]
    training: TrainingConfig
    limits: Limits
    rounds: int
    layout_sha256: Digest
    parameters: int
    init_seed: bytes  # 32 bytes: the adapter's first values
    initial_state: Digest  # S_0, a blob id that everyone can compute
    assignment_key: bytes  # 32 bytes: who trains on what
    seed_anchor: Digest  # last link of the hash chain that the rounds reveal
    dataset_sha256: Digest  # payload digest of the cycle's DatasetManifest
    reference_tokens_per_hour: int  # 10 credits
    averaging: str = "gather"


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One shard: the hash of its canonical bytes, and the chunks of its compressed ones."""

    content_sha256: Digest
    compressed_size_bytes: int
    examples: int
    chunk_sha256: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class DatasetContent:
    """All shards of a dataset, in order, and what they hold."""

    shards: tuple[ShardRef, ...]
    category_examples: tuple[tuple[str, int], ...]  # in the order of CATEGORIES, none empty
    examples: int
    assistant_chars: int


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """Written by the coordinator: the training examples of a cycle."""

    header: Header
    content: DatasetContent
    held_out_sha256: Digest  # a commitment: the held-out set never leaves the coordinator


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """Written by the coordinator: a round opens."""

    header: Header
    cycle_config_sha256: Digest
    previous_manifest_sha256: Digest  # zeros for round 0
    state: Digest  # S_r
    state_size_bytes: int
    opens_ms: int
    commit_deadline_ms: int
    serve_deadline_ms: int
    min_steps: int
    max_steps: int
    inner_lr: float
    parts: int = 0  # of the sum, each made by few and fetched by all; 0: all fetch everything


@dataclass(frozen=True, slots=True)
class Commit:
    """Written by a peer: "this is my work for this round", before anyone can see it."""

    header: Header
    plan_sha256: Digest
    state: Digest
    blob_id: Digest
    blob_size_bytes: int
    steps: int
    tokens: int
    first_example: int  # index of the first assigned example
    previous_commit_sha256: Digest  # zeros for a peer's first
    mean_loss: float
    device: str
    profile: str


@dataclass(frozen=True, slots=True)
class CommitAck:
    """Written by the coordinator: evidence that a commit arrived in time."""

    header: Header
    commit_sha256: Digest
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was not accepted: the code of `ares_p2p.errors`, and a sentence."""

    peer: PeerId
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CommitSet:
    """Written by the coordinator: the round's commits, closed, and the round's seed."""

    header: Header
    plan_sha256: Digest
    root: Digest  # RFC 9162 root over the commit digests, in order
    revealed_seed: bytes
    commits: tuple[bytes, ...]  # the envelopes exactly as received, by commit digest
    refusals: tuple[Refusal, ...]


class EntryStatus(StrEnum):
    """What the aggregate did with a contribution."""

    ACCEPTED = "accepted"
    CLIPPED = "clipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One contribution in the aggregate."""

    commit_sha256: Digest
    peer: PeerId
    coefficient: float  # float32 on the wire; 0 when refused
    status: EntryStatus
    code: str  # "" when accepted
    message: str


@dataclass(frozen=True, slots=True)
class RoundCorrection:
    """An earlier round's sum, made anew without what turned out to be poison.

    The round that carries it is set aside: its contributions are paid and not used, and its next
    state is what the corrected round should have led to.
    """

    round: int  # the corrected one, the round before
    manifest_sha256: Digest  # what it was signed as
    entries: tuple[ManifestEntry, ...]  # of the corrected round, in commit order
    held_out_before: float  # mean loss in nats a token: before the corrected round,
    held_out_bad: float  # after it as it was signed,
    held_out_after: float  # and after it as it is now


@dataclass(frozen=True, slots=True)
class PartRef:
    """One part of a round's sum, encoded like a contribution."""

    blob_id: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RoundManifest:
    """Written by the coordinator: what the round came to."""

    header: Header
    plan_sha256: Digest
    commit_set_sha256: Digest
    entries: tuple[ManifestEntry, ...]
    next_state: Digest  # S_(r+1)
    next_state_size_bytes: int
    final: bool  # the cycle's last round
    corrections: tuple[RoundCorrection, ...] = ()  # at most one
    parts: tuple[PartRef, ...] = ()  # in order; as many as the plan names


class AuditOutcome(StrEnum):
    """What a replay said, or that the lottery asked for none."""

    PASS = "pass"
    VOID = "void"
    FAIL = "fail"
    NOT_DRAWN = "not_drawn"


@dataclass(frozen=True, slots=True)
class SettlementEntry:
    """What one contribution earned, and why."""

    commit_sha256: Digest
    peer: PeerId
    outcome: AuditOutcome
    code: str
    message: str
    reward_ucredits: int
    balance_ucredits: int  # the worker's settled balance after this entry
    streak: int = 0  # of its author when the commits closed; gives the rate of the lottery
    shadow: bool = False  # the outcome is recorded and has no consequence


@dataclass(frozen=True, slots=True)
class AuditPay:
    """What an auditor earned for one replay, or why nothing."""

    commit_sha256: Digest
    auditor: PeerId
    code: str
    message: str
    reward_ucredits: int
    balance_ucredits: int


@dataclass(frozen=True, slots=True)
class RoundSettlement:
    """Written by the coordinator: the round's audits are closed, and a ledger page is sealed."""

    header: Header
    manifest_sha256: Digest
    entries: tuple[SettlementEntry, ...]
    audits: tuple[AuditPay, ...] = ()
    page: Digest = NO_PAGE  # blob id of the ledger page with this round's postings
    page_size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class AuditAssignment:
    """One commit, and the peer that the seed names to train it again."""

    commit_sha256: Digest
    auditor: PeerId


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Written by the coordinator: who audits what of a closed round."""

    header: Header
    commit_set_sha256: Digest
    assignments: tuple[AuditAssignment, ...]
    deadline_ms: int  # reports that come later are not paid


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Written by an auditor: the measures of its replay. The coordinator judges them."""

    header: Header
    audit_plan_sha256: Digest
    commit_sha256: Digest
    tokens: int  # that the assignment holds for the committed steps
    rho: float
    norm_ratio: float
    cosine_drop: float  # a negative one is reported as 0
    replay_sha256: Digest  # of the auditor's own update, encoded like the contribution
    profile: str
    code: str  # "" or why nothing could be compared
    message: str
    quiet_drop: float = 0.0  # see `proofs.sketch`; a negative one is reported as 0


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """Written by the coordinator: the ledger's Merkle tree as it stands (RFC 9162)."""

    header: Header  # cycle and round of the settlement that it seals
    size: int  # postings
    root: Digest


class PostingKind(StrEnum):
    """What kind of work a posting pays."""

    GPU_TRAINING = "gpu_training"
    CPU_TRAINING = "cpu_training"
    AUDIT = "audit"


class PostingState(StrEnum):
    """What a posting says about one piece of work (worker, kind, commit).

    The states are ordered, and the piece of work is in the highest that any of its postings
    says: so neither the order nor the repetition of events changes a balance.
    """

    PENDING = "pending"
    SETTLED = "settled"
    VOID = "void"
    CLAWBACK = "clawback"

    @property
    def rank(self) -> int:
        """Place in the order: a higher one overrides a lower one."""
        return _RANK[self]


_RANK = {state: rank for rank, state in enumerate(PostingState)}


@dataclass(frozen=True, slots=True)
class Posting:
    """One line of the ledger; never changed, never removed. `id` is 0 until it is stored.

    Ids count from 1 without gaps: posting `id` is leaf `id - 1` of the Merkle log.
    """

    key: str  # idempotency key: the same event has the same key
    worker: PeerId
    kind: PostingKind
    state: PostingState
    amount_ucredits: int
    cycle: int
    round: int
    commit_sha256: Digest
    code: str  # reason, "" when there is nothing to explain
    at_ms: int
    id: int = 0


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Written by each peer: who is there, and what it can serve."""

    header: Header
    software: str
    protocol: int
    device: str
    profile: str
    tokens_per_s: float
    state: Digest  # newest state it holds
    held_blobs: tuple[Digest, ...]
    role: str = "trainer"  # or "auditor": no round waits for it
    upload_bytes_per_s: float = 0.0  # measured; 0: not yet
    way: str = ""  # how it reaches the network: "p2p", "relay" or "http"


Payload = (
    NetworkDescriptor
    | CycleConfig
    | DatasetManifest
    | RoundPlan
    | Commit
    | CommitAck
    | CommitSet
    | RoundManifest
    | RoundSettlement
    | PeerStatus
    | AuditPlan
    | AuditReport
    | LedgerHead
)
