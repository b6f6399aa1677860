"""Audits by lottery and by peers, the Merkle log of the ledger, standings, corrected rounds.

Postings that are there already become the first leaves of the log, and standings are folded from
them. Frozen: changes come as further revisions.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alembic import op
from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Index,
    Table,
    UniqueConstraint,
    column,
    insert,
    select,
    table,
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
    new_metadata,
    number,
    strict_table,
    text,
)
from ares_coordinator.store.decay import faded, recent_score
from ares_coordinator.store.triggers import append_only
from ares_p2p.crypto.merkle import leaf_hash, nodes_of_next
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.errors import LedgerTampered
from ares_p2p.proofs.ledger import leaf_of

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APPEND_ONLY = ("log_nodes", "log_heads")
REASONS = ("lottery", "alarm", "operator")
RESULTS = ("agreed", "trusted", "contradicted", "missed", "unusable")

metadata = new_metadata()

# What the new tables refer to; only their names and keys matter here.
for name, key in (
    ("workers", "peer"),
    ("commits", "commit_sha256"),
    ("contributions", "commit_sha256"),
):
    Table(name, metadata, Column(key, TEXT if key == "peer" else blob(key).type, primary_key=True))

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

NEW = (
    lottery,
    audit_assignments,
    decoys,
    auditors,
    log_nodes,
    log_heads,
    standings,
    alarms,
    corrections,
)


PAGE = 1000  # postings at a time
POSTING = (
    "id",
    "key",
    "worker",
    "kind",
    "state",
    "amount_ucredits",
    "cycle",
    "round",
    "commit_sha256",
    "code",
    "at_ms",
)
postings = table("postings", *map(column, POSTING))
workers = table("workers", column("peer"), column("first_seen_ms"))


def upgrade() -> None:
    """Create the tables, and fill the log and the standings from the postings."""
    connection = op.get_bind()
    metadata.create_all(connection, tables=list(NEW), checkfirst=False)
    op.add_column("audits", Column("shadow", INT, nullable=False, server_default="0"))
    op.add_column("audits", Column("auditor", TEXT, nullable=False, server_default=""))
    op.drop_index("ix_postings_worker_kind_commit_sha256", "postings")
    op.create_index("ix_postings_commit_sha256", "postings", ["commit_sha256"])
    op.create_index("ix_postings_worker_id", "postings", ["worker", "id"])
    op.create_index("ix_postings_cycle_round", "postings", ["cycle", "round"])
    for page in _pages(connection):
        _append_leaves(connection, page)
    _insert_standings(connection)
    for name in APPEND_ONLY:
        for statement in append_only(connection.dialect.name, name):
            op.execute(statement)


def _pages(connection: Connection) -> Iterator[list[Posting]]:
    """Yield all postings in the order of their ids."""
    after = 0
    while True:
        query = select(postings).where(postings.c.id > after).order_by(postings.c.id).limit(PAGE)
        page = [_posting(dict(row._mapping)) for row in connection.execute(query)]
        if not page:
            return
        if [posting.id for posting in page] != list(range(after + 1, after + 1 + len(page))):
            raise LedgerTampered(f"rows of postings are missing after id {after}")
        yield page
        after = page[-1].id


def _posting(row: dict[str, Any]) -> Posting:
    kind, state = PostingKind(row.pop("kind")), PostingState(row.pop("state"))
    return Posting(kind=kind, state=state, **row)


def _append_leaves(connection: Connection, page: list[Posting]) -> None:
    rows = []

    def read(level: int, position: int) -> bytes:
        c = log_nodes.c
        query = select(c.sha256).where(c.level == level, c.position == position)
        return known.get((level, position)) or connection.execute(query).scalar_one()

    known: dict[tuple[int, int], bytes] = {}
    for posting in page:
        for node in nodes_of_next(posting.id - 1, leaf_hash(leaf_of(posting)), read):
            known[node[:2]] = node[2]
            rows.append(dict(zip(("level", "position", "sha256"), node, strict=True)))
    connection.execute(insert(log_nodes), rows)


def _insert_standings(connection: Connection) -> None:
    highest: dict[tuple[str, ...], Posting] = {}
    rows: dict[str, dict[str, Any]] = {}
    for page in _pages(connection):
        for posting in page:
            work = (posting.worker, posting.kind, posting.commit_sha256.hex())
            before = highest.get(work)
            if before is None or posting.state.rank > before.state.rank:
                highest[work] = posting
            row = rows.setdefault(posting.worker, {"recent_ms": 0, "streak": 0})
            row["recent_ms"] = max(row["recent_ms"], posting.at_ms)
            row["last_posting_id"] = posting.id
            if posting.state in (PostingState.VOID, PostingState.CLAWBACK):
                row["streak"] = 0
            elif posting.state is PostingState.SETTLED and posting.kind is not PostingKind.AUDIT:
                row["streak"] += 1
    query = select(workers.c.peer, workers.c.first_seen_ms)
    for peer, first_seen_ms in connection.execute(query):
        if peer in rows:
            zero = {"settled_ucredits": 0, "pending_ucredits": 0, "recent_ucredits": 0.0}
            rows[peer] |= zero | {"worker": peer, "first_seen_ms": first_seen_ms}
    for posting in highest.values():
        row, amount = rows[posting.worker], posting.amount_ucredits
        if posting.state is PostingState.PENDING:
            row["pending_ucredits"] += amount
        if posting.state is PostingState.SETTLED:
            row["settled_ucredits"] += amount
            row["recent_ucredits"] += faded(amount, from_ms=posting.at_ms, to_ms=row["recent_ms"])
    for row in rows.values():
        row["recent_score"] = recent_score(row["recent_ucredits"], row["recent_ms"])
    if rows:
        connection.execute(insert(standings), list(rows.values()))
