"""The ledger of paid requests to a teacher.

Frozen: changes come as further revisions.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Index

from ares_coordinator.store.columns import (
    blob,
    check_digest,
    check_not_negative,
    check_one_of,
    integer,
    new_metadata,
    strict_table,
    text,
)

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

metadata = new_metadata()

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
    check_one_of("state", ("sent", "done", "released", "lost")),
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


def upgrade() -> None:
    """Create the table."""
    metadata.create_all(op.get_bind(), tables=[teacher_requests], checkfirst=False)
