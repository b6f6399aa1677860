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
class BaseRef:
    """The frozen base: its files, and where else they may be had."""

    name: str
    sha256: Digest  # digest over the file list, see training.base_files
    files: tuple[BaseFile, ...]
    hub_id: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An earlier cycle's adapter, frozen in the stack under the new one."""

    cycle: int
    sha256: Digest
    files: tuple[BaseFile, ...]


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
class RoundManifest:
    """Written by the coordinator: what the round came to."""

    header: Header
    plan_sha256: Digest
    commit_set_sha256: Digest
    entries: tuple[ManifestEntry, ...]
    next_state: Digest  # S_(r+1)
    next_state_size_bytes: int
    final: bool  # the cycle's last round


class AuditOutcome(StrEnum):
    """What a replay said."""

    PASS = "pass"
    VOID = "void"
    FAIL = "fail"


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


@dataclass(frozen=True, slots=True)
class RoundSettlement:
    """Written by the coordinator: the round's audits are closed."""

    header: Header
    manifest_sha256: Digest
    entries: tuple[SettlementEntry, ...]


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
)
