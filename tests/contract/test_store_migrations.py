"""A database of the first revision, with credit in it, comes to the newest one, in both databases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, insert

from ares_coordinator.ledger.log import verify_log
from ares_coordinator.ledger.projections import verify_projections
from ares_coordinator.store.admin import database_status, migrate_database
from ares_coordinator.store.connect import connect
from ares_coordinator.store.migrations.versions import r0001_first as first
from ares_coordinator.store.revisions import _config, newest_revision
from ares_coordinator.store.snapshot import open_snapshot
from ares_coordinator.store.sql import open_store
from ares_p2p.crypto.merkle import tree_root
from ares_p2p.domain import PostingState
from ares_p2p.ids import sha256
from ares_p2p.proofs.ledger import leaf_of
from payloads import identity
from storefixtures import TARGETS, postgres_server

PEERS = sorted((identity(number).peer_id for number in range(3)), reverse=True)
DIGEST = sha256(b"anything")


def _fill(engine: Engine) -> None:
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        cycle = {"cycle": 1, "phase": "train", "created_ms": 1, "updated_ms": 1, "promoted": 0}
        secrets = {"params_json": "{}", "secret_seed": DIGEST, "assignment_key": DIGEST}
        connection.execute(insert(first.cycles).values(**cycle, **secrets))
        place = {"cycle": 1, "round": 0}
        of_round = {"plan_sha256": DIGEST, "state_digest": DIGEST, "opened_ms": 1, "blob_bytes": 0}
        connection.execute(insert(first.rounds).values(**place, state="open", **of_round))
        for peer in PEERS:
            commit = sha256(peer.encode())
            seen = {"first_seen_ms": 1, "last_seen_ms": 1, "device": "", "software": ""}
            connection.execute(insert(first.workers).values(peer=peer, gpu=0, gpu_passes=0, **seen))
            handed_in = {"peer": peer, "envelope": b"signed", "received_ms": 1, **place}
            connection.execute(insert(first.commits).values(commit_sha256=commit, **handed_in))
            for state in ("pending", "settled"):
                work = {"worker": peer, "kind": "cpu_training", "commit_sha256": commit, **place}
                posting = {"key": f"{peer} {state}", "state": state, "code": "", "at_ms": 7}
                row = {"amount_ucredits": 1_000_000, **work, **posting}
                connection.execute(insert(first.postings).values(**row))
            zero = dict.fromkeys(("pending_ucredits", "void_ucredits", "clawback_ucredits"), 0)
            total = {"worker": peer, "kind": "cpu_training", "settled_ucredits": 1_000_000, **zero}
            connection.execute(insert(first.worker_totals).values(**total))


@pytest.mark.parametrize("kind", TARGETS)
def test_first_revision_with_credit_comes_to_the_newest(kind: str, tmp_path: Path) -> None:
    target: str | Path = tmp_path / "ares.db"
    if kind == "postgresql":
        target = postgres_server().fresh(tmp_path, migrated=False)
    engine = connect(target)
    _fill(engine)
    engine.dispose()
    assert database_status(target).revision == "0001"
    assert migrate_database(target, rehearsal=True).statements != ()
    assert database_status(target).revision == "0001"
    done = migrate_database(target)
    assert (done.before, done.after) == ("0001", newest_revision())
    store = open_store(target)
    assert [posting.id for posting in store.postings()] == [1, 2, 3, 4, 5, 6]
    board = [(row.peer, row.settled_ucredits) for row in store.leaderboard(10)]
    assert board == [(peer, 1_000_000) for peer in sorted(PEERS)]
    assert store.streaks(PEERS) == dict.fromkeys(PEERS, 1)
    more = dataclasses.replace(store.postings()[0], key="more", state=PostingState.VOID, code="x")
    assert store.add_postings([more]) == 1, "log and standings go on from what was there"
    store.close()
    snapshot = open_snapshot(target)
    who = {"coordinator": PEERS[0], "network_id": "none"}
    assert list(verify_log(snapshot, **who, progress=lambda _: None)) == []
    assert list(verify_projections(snapshot, progress=lambda _: None)) == []
    assert snapshot.log_root(7) == tree_root([leaf_of(one) for one in snapshot.postings()])
    snapshot.close()
