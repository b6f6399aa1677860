"""The schema, as SQLAlchemy Core metadata: what the newest migration leaves behind.

Tables are STRICT in SQLite, with foreign keys and checks, so that a wrong value is refused by the
database too. Only in the migrations: the triggers that refuse to change or remove a posting or
the evidence of an equivocation. A test compares this module with a migrated database.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
)

from ares_coordinator.store.columns import (
    INT,
    TEXT,
    blob,
    check_digest,
    check_flag,
    check_not_negative,
    check_one_of,
    falling,
    integer,
    log_table,
    new_metadata,
    number,
    strict_table,
    text,
)

metadata = new_metadata()

PHASES = "generate prepare publish train stack evaluate promote rollback settle done failed"
STATUSES = ("accepted", "clipped", "refused")
OUTCOMES = ("pass", "void", "fail")
KINDS = ("gpu_training", "cpu_training", "audit")

meta = strict_table(metadata, "meta", text("key", key=True), text("value"))

sequences = strict_table(metadata, "sequences", text("kind", key=True), integer("seq"))

cycles = strict_table(
    metadata,
    "cycles",
    integer("cycle", key=True),
    text("phase"),
    integer("created_ms"),
    integer("updated_ms"),
    text("params_json"),
    blob("secret_seed"),
    blob("assignment_key"),
    blob("config_envelope", null=True),
    integer("rounds_total", null=True),
    integer("rank", null=True),
    integer("adapter_parameters", null=True),
    text("adapter_path", null=True),
    integer("promoted"),
    integer("version", null=True),
    number("loss_before"),
    number("loss_after"),
    number("loss_change_low"),
    number("loss_change_high"),
    text("failure", null=True),
    CheckConstraint("cycle >= 1", name="cycle"),
    check_one_of("phase", PHASES.split()),
    check_flag("promoted"),
)

records = strict_table(
    metadata,
    "records",
    text("kind", key=True),
    integer("cycle", key=True),
    integer("round", key=True),
    text("peer", key=True),
    integer("seq"),
    blob("payload_sha256"),
    blob("envelope"),
    integer("in_dht"),
    integer("saved_ms"),
    check_digest("payload_sha256"),
    check_flag("in_dht"),
    Index(None, "cycle"),
)

rounds = strict_table(
    metadata,
    "rounds",
    integer("cycle", ForeignKey("cycles.cycle"), key=True),
    integer("round", key=True),
    text("state"),
    blob("plan_sha256"),
    blob("state_digest"),
    integer("opened_ms"),
    blob("next_state_digest", null=True),
    integer("closed_ms", null=True),
    integer("finished_ms", null=True),
    number("mean_loss"),
    number("held_out_loss"),
    integer("blob_bytes"),
    check_one_of("state", ("open", "closed", "aggregated")),
    check_digest("plan_sha256"),
    check_digest("state_digest"),
    check_not_negative("round", "blob_bytes"),
    CheckConstraint("(state = 'aggregated') = (next_state_digest IS NOT NULL)", name="aggregated"),
)

workers = strict_table(
    metadata,
    "workers",
    text("peer", key=True),
    integer("first_seen_ms"),
    integer("last_seen_ms"),
    text("device"),
    integer("gpu"),
    text("software"),
    text("display_name", null=True),
    integer("gpu_passes"),
    check_flag("gpu"),
    check_not_negative("gpu_passes"),
    Index(None, "last_seen_ms"),
)


def _round_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["cycle", "round"], ["rounds.cycle", "rounds.round"])


commits = strict_table(
    metadata,
    "commits",
    blob("commit_sha256", key=True),
    integer("cycle"),
    integer("round"),
    text("peer", ForeignKey("workers.peer")),
    blob("envelope"),
    integer("received_ms"),
    _round_key(),
    check_digest("commit_sha256"),
    UniqueConstraint("cycle", "round", "peer"),
    Index(None, "peer", "cycle", "round"),
)

equivocations = strict_table(
    metadata,
    "equivocations",
    integer("cycle", key=True),
    integer("round", key=True),
    text("peer", ForeignKey("workers.peer"), key=True),
    blob("first_envelope"),
    blob("second_envelope"),
    integer("seen_ms"),
    _round_key(),
)

contributions = strict_table(
    metadata,
    "contributions",
    blob("commit_sha256", ForeignKey("commits.commit_sha256"), key=True),
    integer("cycle"),
    integer("round"),
    text("peer"),
    number("coefficient", null=False),
    text("status"),
    text("code"),
    text("message"),
    integer("steps"),
    integer("tokens"),
    number("mean_loss", null=False),
    text("device"),
    integer("gpu"),
    integer("blob_bytes"),
    check_one_of("status", STATUSES),
    check_flag("gpu"),
    check_not_negative("steps", "tokens", "blob_bytes"),
    Index(None, "cycle", "round"),
)

refusals = strict_table(
    metadata,
    "refusals",
    integer("cycle", key=True),
    integer("round", key=True),
    text("peer", key=True),
    text("code", key=True),
    text("message"),
    integer("count"),
    integer("first_ms"),
    integer("last_ms"),
    Index(None, "peer", "last_ms"),
)

audits = strict_table(
    metadata,
    "audits",
    blob("commit_sha256", ForeignKey("contributions.commit_sha256"), key=True),
    integer("cycle"),
    integer("round"),
    text("peer"),
    integer("created_ms"),
    integer("done_ms", null=True),
    text("outcome", null=True),
    number("rho"),
    number("norm_ratio"),
    number("cosine_drop"),
    text("code"),
    text("message"),
    Column("shadow", INT, nullable=False, server_default="0"),
    Column("auditor", TEXT, nullable=False, server_default=""),
    check_one_of("outcome", OUTCOMES),
    CheckConstraint("(done_ms IS NULL) = (outcome IS NULL)", name="done"),
    Index(None, "cycle", "round"),
)

postings = log_table(
    metadata,
    "postings",
    text("key"),
    text("worker", ForeignKey("workers.peer")),
    text("kind"),
    text("state"),
    integer("amount_ucredits"),
    integer("cycle"),
    integer("round"),
    blob("commit_sha256", ForeignKey("commits.commit_sha256")),
    text("code"),
    integer("at_ms"),
    UniqueConstraint("key"),
    check_one_of("kind", KINDS),
    check_one_of("state", ("pending", "settled", "void", "clawback")),
    check_not_negative("amount_ucredits"),
    Index(None, "commit_sha256"),
    Index(None, "worker", "id"),
    Index(None, "cycle", "round"),
)

worker_totals = strict_table(
    metadata,
    "worker_totals",
    text("worker", ForeignKey("workers.peer"), key=True),
    text("kind", key=True),
    integer("pending_ucredits"),
    integer("settled_ucredits"),
    integer("void_ucredits"),
    integer("clawback_ucredits"),
    check_one_of("kind", KINDS),
    check_not_negative(
        "pending_ucredits", "settled_ucredits", "void_ucredits", "clawback_ucredits"
    ),
)

evaluations = strict_table(
    metadata,
    "evaluations",
    integer("cycle", ForeignKey("cycles.cycle"), key=True),
    text("stage", key=True),
    integer("at_ms"),
    number("mean_loss", null=False),
    text("category_means_json"),
    text("examples_json"),
    check_one_of("stage", ("before", "after")),
)

datasets = strict_table(
    metadata,
    "datasets",
    integer("cycle", ForeignKey("cycles.cycle"), key=True),
    text("teacher"),
    integer("cost_microusd"),
    integer("disk_files"),
    integer("disk_bytes"),
    integer("updated_ms"),
    check_not_negative("cost_microusd", "disk_files", "disk_bytes"),
)

dataset_categories = strict_table(
    metadata,
    "dataset_categories",
    integer("cycle", ForeignKey("datasets.cycle"), key=True),
    text("category", key=True),
    integer("train_examples"),
    integer("held_out_examples"),
    integer("tokens"),
    check_not_negative("train_examples", "held_out_examples", "tokens"),
)

dataset_rejections = strict_table(
    metadata,
    "dataset_rejections",
    integer("cycle", ForeignKey("datasets.cycle"), key=True),
    text("reason", key=True),
    integer("examples"),
    check_not_negative("examples"),
)

events = log_table(
    metadata,
    "events",
    integer("at_ms"),
    text("type"),
    text("data_json"),
)

REASONS = ("lottery", "alarm", "operator")
RESULTS = ("agreed", "trusted", "contradicted", "missed", "unusable")

lottery = strict_table(
    metadata,
    "lottery",
    blob("commit_sha256", ForeignKey("contributions.commit_sha256"), key=True),
    integer("cycle"),
    integer("round"),
    text("peer"),
    integer("streak"),
    number("rate", null=False),
    integer("drawn"),
    text("reason"),
    check_flag("drawn"),
    check_not_negative("streak"),
    check_one_of("reason", REASONS),
    Index(None, "cycle", "round"),
)

audit_assignments = strict_table(
    metadata,
    "audit_assignments",
    blob("commit_sha256", ForeignKey("commits.commit_sha256"), key=True),
    text("auditor", ForeignKey("workers.peer"), key=True),
    integer("cycle"),
    integer("round"),
    integer("assigned_ms"),
    integer("deadline_ms"),
    blob("report_envelope", null=True),
    integer("received_ms", null=True),
    text("result", null=True),
    text("code"),
    text("message"),
    check_one_of("result", RESULTS),
    Index(None, "cycle", "round"),
    Index(None, "auditor", "cycle", "round"),
)

decoys = strict_table(
    metadata,
    "decoys",
    integer("cycle", key=True),
    integer("round", key=True),
    text("peer"),
    blob("key_seed"),
    blob("commit_sha256", null=True),
    text("forgery"),
)

auditors = strict_table(
    metadata,
    "auditors",
    text("peer", key=True),
    integer("named_ms", null=True),
    integer("dismissed_ms", null=True),
    text("message"),
)

log_nodes = strict_table(
    metadata,
    "log_nodes",
    integer("level", key=True),
    integer("position", key=True),
    blob("sha256"),
    check_digest("sha256"),
    check_not_negative("level", "position"),
)

log_heads = strict_table(
    metadata,
    "log_heads",
    integer("size", key=True),
    blob("root"),
    integer("cycle"),
    integer("round"),
    blob("envelope"),
    blob("page_blob_id"),
    integer("page_size_bytes"),
    integer("at_ms"),
    UniqueConstraint("cycle", "round"),
    check_digest("root"),
    check_digest("page_blob_id"),
    check_not_negative("size", "page_size_bytes"),
)

standings = strict_table(
    metadata,
    "standings",
    text("worker", ForeignKey("workers.peer"), key=True),
    integer("first_seen_ms"),
    integer("settled_ucredits"),
    integer("pending_ucredits"),
    number("recent_ucredits", null=False),
    integer("recent_ms"),
    number("recent_score", null=False),
    integer("streak"),
    integer("last_posting_id"),
    check_not_negative("settled_ucredits", "pending_ucredits", "streak"),
    Index("ix_standings_settled", falling("settled_ucredits"), "first_seen_ms", "worker"),
    Index("ix_standings_recent", falling("recent_score"), "first_seen_ms", "worker"),
)

alarms = strict_table(
    metadata,
    "alarms",
    integer("cycle", key=True),
    integer("round", key=True),
    integer("corrected_in_round", null=True),
    number("held_out_before", null=False),
    number("held_out_bad", null=False),
    number("held_out_after"),
    number("standard_error", null=False),
    integer("evaluations"),
    text("message"),
    integer("at_ms"),
    check_not_negative("evaluations"),
)

corrections = strict_table(
    metadata,
    "corrections",
    blob("commit_sha256", ForeignKey("contributions.commit_sha256"), key=True),
    integer("cycle"),
    integer("round"),
    integer("corrected_in_round"),
    text("peer"),
    number("old_coefficient", null=False),
    number("new_coefficient", null=False),
    text("code"),
    text("message"),
    integer("at_ms"),
    Index(None, "cycle", "round"),
)

REQUEST_STATES = ("sent", "done", "released", "lost")

teacher_requests = strict_table(
    metadata,
    "teacher_requests",
    blob("key", key=True),
    text("run_id"),
    integer("day"),
    integer("cycle"),
    text("category"),
    text("purpose"),
    text("model"),
    text("permission_ref"),
    text("state"),
    integer("charged_microusd"),
    integer("sent_ms"),
    integer("ended_ms", null=True),
    text("code"),
    text("stop_reason"),
    text("refusal"),
    text("answered_by"),
    integer("input_tokens"),
    integer("output_tokens"),
    integer("cache_write_tokens"),
    integer("cache_read_tokens"),
    blob("reply", null=True),
    check_digest("key"),
    check_one_of("state", REQUEST_STATES),
    check_not_negative(
        "charged_microusd",
        "input_tokens",
        "output_tokens",
        "cache_write_tokens",
        "cache_read_tokens",
    ),
    CheckConstraint("(state = 'done') = (reply IS NOT NULL)", name="done"),
    Index(None, "run_id", "charged_microusd"),
    Index(None, "day", "charged_microusd"),
    Index(None, "cycle", "category", "charged_microusd"),
    Index(None, "state"),
)
