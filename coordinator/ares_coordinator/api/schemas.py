"""The replies about the network, its model, its training and its data."""

from __future__ import annotations

from ares_coordinator.api.schemas_base import CamelReply, Reply
from ares_coordinator.api.schemas_credit import CreditsReply

# --- model -------------------------------------------------------------------------------------


class AdapterReply(Reply):
    """One promoted adapter of the stack."""

    cycle: int
    rank: int | None
    parameters: int | None


class CycleHistory(Reply):
    """One cycle: held-out evaluation first."""

    cycle: int
    phase: str
    loss_before: float | None
    loss_after: float | None
    loss_change_low: float | None
    loss_change_high: float | None
    promoted: bool
    version: str | None
    lora_rank: int | None
    adapter_parameters: int | None
    failure: str | None
    created_ms: int
    updated_ms: int


class ModelReply(Reply):
    """The model. Effective parameters = those of the first base + those of all promoted adapters.

    `adapter_count` adapters lie on the base as it is now, `merged_adapters` were merged into it.
    """

    version: str
    base: str
    base_params: int | None
    effective_params: int | None
    effective_params_human: str
    effective_params_definition: str
    adapter_count: int
    merged_adapters: int
    lora_rank: int | None
    current_cycle: int | None
    held_out_loss: float | None
    adapters: list[AdapterReply]
    history: list[CycleHistory]


# --- training ----------------------------------------------------------------------------------


class RefusalReply(Reply):
    """Why something of a peer was not accepted, and how often."""

    peer: str
    code: str
    message: str
    count: int


class TakenOutReply(Reply):
    """A contribution that does not count because it made the model worse, and why."""

    peer: str
    message: str


class AlarmReply(Reply):
    """The round made the model worse beyond noise. Held-out losses in nats per token.

    `corrected_in_round` is the round whose manifest says so, the round itself for a cycle's last
    one; null when nobody was taken out: then `message` says why.
    """

    held_out_before: float
    held_out_bad: float
    held_out_after: float | None
    corrected_in_round: int | None
    evaluations: int
    message: str
    taken_out: list[TakenOutReply]


class RoundReply(Reply):
    """One round of the cycle.

    A round that `corrects` the one before does not use its own contributions; they are paid.
    """

    round: int
    state: str
    opened_ms: int
    closed_ms: int | None
    finished_ms: int | None
    mean_loss: float | None
    held_out_loss: float | None
    commits: int
    used: int
    refused: int
    blob_bytes: int
    next_state: str | None  # hex digest of the state that the round led to
    refusals: list[RefusalReply]
    alarm: AlarmReply | None
    corrects: int | None  # a round


class SwarmWorker(CamelReply):
    """One worker of the swarm. `way` says how it reaches the network: p2p, relay, http, or ""."""

    id: str
    gpu: bool
    status: str
    way: str
    tasks_completed: int
    last_seen: int


class SwarmReply(CamelReply):
    """The swarm: who is known, who is there, how fast. `throughput` is in tokens per second."""

    total_workers: int
    gpu_workers: int
    online_workers: int
    total_gradients: int
    throughput: float
    bytes_sent: int
    bytes_received: int
    refused_records: dict[str, int]
    workers: list[SwarmWorker]


class TrainingReply(Reply):
    """The newest cycle. `progress` is the share of its rounds that are aggregated, 0 to 1.

    `audits_lag_ms` says how long the oldest open audit waits.
    """

    state: str
    activity: str
    failure: str
    cycle: int | None
    phase: str | None
    progress: float | None
    round: int | None
    rounds_done: int
    rounds_total: int | None
    deadline_ms: int | None
    schedule: str  # when cycles begin by themselves; "" where they do not
    next_cycle_ms: int | None
    round_clock: str  # why the deadlines are as they are; "" where they are fixed
    audits_open: int
    audits_lag_ms: int | None
    rounds: list[RoundReply]
    swarm: SwarmReply


# --- data --------------------------------------------------------------------------------------


class DatasetCycle(CamelReply):
    """The dataset of one cycle."""

    cycle: int
    teacher: str
    train_examples: int
    held_out_examples: int
    tokens: int
    cost_estimate: float
    by_category: dict[str, int]
    rejected_by_reason: dict[str, int]
    updated_ms: int


class TeacherReply(CamelReply):
    """How the teacher is: ok, waiting (asked again at `nextTryMs`), or fallback (a program made the
    rest). `code`, `message` and `hint` say why; "" when all is well.
    """

    state: str
    teacher: str
    cycle: int
    since_ms: int
    code: str
    message: str
    hint: str
    tries: int
    next_try_ms: int | None


class DataReply(CamelReply):
    """All datasets together. `costEstimate` is in US dollars; rows that are replayed count again.

    `rejectedByReason` names the evaluation set that was quoted: "contaminated:NAME". `teacher` is
    null before one was asked.
    """

    total_examples: int
    total_tokens: int
    cost_estimate: float
    by_category: dict[str, int]
    tokens_by_category: dict[str, int]
    rejected_by_reason: dict[str, int]
    disk_files: int
    disk_bytes: int
    teacher: TeacherReply | None
    cycles: list[DatasetCycle]


# --- network and status ------------------------------------------------------------------------


class NetworkReply(Reply):
    """How to join. `descriptor` is the signed envelope in base64: do not believe, verify."""

    invite: str
    network_id: str
    name: str
    coordinator: str
    protocol_min: int
    protocol_max: int
    bootstrap_addresses: list[str]
    api_url: str
    descriptor: str


class StatusReply(Reply):
    """Everything at a glance."""

    name: str
    network_id: str
    software: str
    at_ms: int
    uptime_s: int
    model: ModelReply
    training: TrainingReply
    data: DataReply
    credits: CreditsReply


class HealthReply(Reply):
    """The event loop is alive."""

    status: str


class VersionReply(Reply):
    """Which software answers, and which protocol it speaks."""

    software: str
    protocol: int
