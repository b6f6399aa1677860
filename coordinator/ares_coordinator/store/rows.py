"""What the database holds, as frozen dataclasses. Free of SQL.

Field names equal column names. Secrets are kept out of `repr`, so that no log shows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ares_p2p.domain import AuditOutcome, EntryStatus
from ares_p2p.ids import Digest, PeerId


class CyclePhase(StrEnum):
    """Where a cycle is. `DONE` and `FAILED` end it."""

    GENERATE = "generate"
    PREPARE = "prepare"
    PUBLISH = "publish"
    TRAIN = "train"
    STACK = "stack"
    EVALUATE = "evaluate"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    SETTLE = "settle"
    DONE = "done"
    FAILED = "failed"


TERMINAL_PHASES = (CyclePhase.DONE, CyclePhase.FAILED)


class RoundState(StrEnum):
    """Where a round is: commits come in, commits are closed, the next state exists."""

    OPEN = "open"
    CLOSED = "closed"
    AGGREGATED = "aggregated"


class CommitResult(StrEnum):
    """What became of a commit that was handed in."""

    NEW = "new"
    DUPLICATE = "duplicate"


class Stage(StrEnum):
    """When an evaluation was made: without or with the cycle's adapter."""

    BEFORE = "before"
    AFTER = "after"


class DrawReason(StrEnum):
    """Why a contribution was audited or not: the lottery's word, or somebody asked for it."""

    LOTTERY = "lottery"
    ALARM = "alarm"  # the round made the model worse
    OPERATOR = "operator"


class MetaKey(StrEnum):
    """Keys of the few single values; the first two can be written once only."""

    NETWORK_ID = "network_id"
    COORDINATOR = "coordinator"
    NETWORK_NAME = "network_name"
    SETTINGS = "settings"  # JSON of the settings in force
    PAUSED = "paused"
    SCHEDULE = "schedule"
    TEACHER = "teacher"  # JSON of how the teacher is; see teacherstate


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One cycle. `version` is the N of `ares-vN` that it was promoted to."""

    cycle: int
    phase: CyclePhase
    created_ms: int
    updated_ms: int
    params_json: str  # what the cycle was started with
    secret_seed: bytes = field(repr=False)  # first link of the hash chain; revealed round by round
    assignment_key: bytes = field(repr=False)  # public once the cycle's config is
    config_envelope: bytes | None = field(default=None, repr=False)
    rounds_total: int | None = None
    rank: int | None = None
    adapter_parameters: int | None = None
    adapter_path: str | None = None
    promoted: bool = False
    version: int | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    loss_change_low: float | None = None  # bootstrap interval of after - before
    loss_change_high: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A signed envelope of ours. `peer` is "" unless it answers one peer (an ack)."""

    kind: str
    cycle: int
    round: int
    peer: str
    seq: int
    payload_sha256: Digest
    envelope: bytes = field(repr=False)
    in_dht: bool  # to be published again after a restart
    saved_ms: int


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round. Times are None until it happened."""

    cycle: int
    round: int
    state: RoundState
    plan_sha256: Digest
    state_digest: Digest
    opened_ms: int
    next_state_digest: Digest | None = None
    closed_ms: int | None = None
    finished_ms: int | None = None
    mean_loss: float | None = None  # training loss, as the contributors declared it
    held_out_loss: float | None = None
    blob_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RoundCounts:
    """How many commits a round got, and what became of them."""

    round: int
    commits: int
    used: int  # accepted or clipped
    refused: int


@dataclass(frozen=True, slots=True)
class CommitRow:
    """A peer's commit, exactly as received."""

    commit_sha256: Digest
    cycle: int
    round: int
    peer: PeerId
    envelope: bytes = field(repr=False)
    received_ms: int


@dataclass(frozen=True, slots=True)
class EquivocationRow:
    """Two different commits of one peer for one round: both signatures prove it."""

    cycle: int
    round: int
    peer: PeerId
    first_envelope: bytes = field(repr=False)
    second_envelope: bytes = field(repr=False)
    seen_ms: int


@dataclass(frozen=True, slots=True)
class ContributionRow:
    """What the aggregate did with a commit."""

    commit_sha256: Digest
    cycle: int
    round: int
    peer: PeerId
    coefficient: float
    status: EntryStatus
    code: str
    message: str
    steps: int
    tokens: int
    mean_loss: float
    device: str
    gpu: bool
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """Refusals of one peer in one round for one reason, counted."""

    cycle: int
    round: int
    peer: PeerId
    code: str
    message: str
    count: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class LotteryRow:
    """Whether a contribution is audited, and from what that follows."""

    commit_sha256: Digest
    cycle: int
    round: int
    peer: PeerId
    streak: int  # of its author when the round was finished
    rate: float
    drawn: bool
    reason: DrawReason = DrawReason.LOTTERY


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A contribution to be replayed, or that was: `outcome` is None while it is pending."""

    commit_sha256: Digest
    cycle: int
    round: int
    peer: PeerId
    created_ms: int
    done_ms: int | None = None
    outcome: AuditOutcome | None = None
    rho: float | None = None
    norm_ratio: float | None = None
    cosine_drop: float | None = None
    code: str = ""
    message: str = ""
    shadow: bool = False
    auditor: str = ""


@dataclass(frozen=True, slots=True)
class BacklogRow:
    """The audits still to do."""

    open: int
    oldest_ms: int | None  # when the one that waits longest was drawn


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """What a replay said. Measures are None when there was nothing to compare."""

    commit_sha256: Digest
    outcome: AuditOutcome
    rho: float | None
    norm_ratio: float | None
    cosine_drop: float | None
    code: str
    message: str
    done_ms: int
    shadow: bool = False  # recorded, and without consequence
    auditor: str = ""  # the peer whose replay it rests on, "" for our own


@dataclass(frozen=True, slots=True)
class EvaluatedExample:
    """One held-out example: summed negative log-likelihood over its trained tokens."""

    category: str
    nll: float
    tokens: int


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A held-out evaluation. Means are nats per token."""

    cycle: int
    stage: Stage
    at_ms: int
    mean_loss: float
    category_means: tuple[tuple[str, float], ...]
    examples: tuple[EvaluatedExample, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """The dataset's share of one category."""

    category: str
    train_examples: int
    held_out_examples: int
    tokens: int


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """What was made for a cycle, and what was thrown away."""

    cycle: int
    teacher: str
    categories: tuple[CategoryCount, ...]
    rejected: tuple[tuple[str, int], ...]  # (reason, examples)
    cost_microusd: int
    disk_files: int
    disk_bytes: int
    updated_ms: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened, for those who watch."""

    id: int
    at_ms: int
    type: str
    data_json: str
