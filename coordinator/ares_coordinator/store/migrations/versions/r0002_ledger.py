"""Audits by lottery and by peers, the Merkle log of the ledger, standings, corrected rounds.

Postings that are there already become the first leaves of the log, and standings are folded from
them. Frozen: changes come as further revisions.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKey, Index, Table, Text

from ares_coordinator.store.columns import (
    INT,
    blob,
    check_digest,
    check_flag,
    check_not_negative,
    check_one_of,
    integer,
    new_metadata,
    number,
    strict_table,
    text,
)
from ares_coordinator.store.triggers import append_only

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APPEND_ONLY = ("log_nodes", "log_heads")
REASONS = ("lottery", "alarm", "operator")
RESULTS = ("agreed", "contradicted", "missed", "unusable")

metadata = new_metadata()

# What the new tables refer to; only their names and keys matter here.
for name, key in (
    ("workers", "peer"),
    ("commits", "commit_sha256"),
    ("contributions", "commit_sha256"),
):
    Table(name, metadata, Column(key, Text if key == "peer" else blob(key).type, primary_key=True))

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
    Index("ix_standings_settled", "settled_ucredits", "first_seen_ms", "worker"),
    Index("ix_standings_recent", "recent_score", "first_seen_ms", "worker"),
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

NEW = (
    lottery,
    audit_assignments,
    decoys,
    log_nodes,
    log_heads,
    standings,
    corrections,
)


def upgrade() -> None:
    """Create the tables, and fill the log and the standings from the postings."""
    connection = op.get_bind()
    metadata.create_all(connection, tables=list(NEW), checkfirst=False)
    op.add_column("audits", Column("shadow", INT, nullable=False, server_default="0"))
    op.add_column("audits", Column("auditor", Text, nullable=False, server_default=""))
    for table in APPEND_ONLY:
        for statement in append_only(connection.dialect.name, table):
            op.execute(statement)
