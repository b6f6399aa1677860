"""The Merkle log, the standings and the batches of the ledger, over every implementation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ares_coordinator.ledger.balances import fold_balances
from ares_coordinator.ledger.standings import differing_columns, fold_standings
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import DrawReason, LotteryRow
from ares_coordinator.store.sql import open_store
from ares_p2p.crypto.merkle import check_consistency, check_inclusion, tree_root
from ares_p2p.domain import (
    NO_PAGE,
    AuditOutcome,
    LedgerHead,
    Posting,
    PostingKind,
    PostingState,
    RoundSettlement,
)
from ares_p2p.errors import InternalFault, LedgerTampered
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.proofs.ledger import check_page, decode_page, leaf_of
from ares_p2p.wire.codec import decode_envelope, open_envelope
from ledger_samples import COORDINATOR, NETWORK, header, posting, seal_round, signed
from store_samples import (
    NOW,
    begin,
    commit,
    contribution,
    finish_round,
    judge,
    open_round,
    peer,
)
from storefixtures import OPENERS

DAY_MS = 24 * 3600 * 1000
WORKERS = 3
ROUNDS = 3


def prepare(store: Store) -> None:
    """Let every worker commit in every round, so that postings may speak of it."""
    begin(store)
    for number in range(ROUNDS):
        open_round(store, 1, number)
        for worker in range(WORKERS):
            store.add_commit(commit(1, number, worker))
        finish_round(store, [], 1, number)


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[request.param](tmp_path)
    prepare(opened)
    yield opened
    opened.close()


def work(worker: int, round_number: int = 0) -> tuple[PeerId, Digest]:
    return peer(worker), commit(1, round_number, worker).commit_sha256


def leaves(store: Store) -> list[bytes]:
    return [leaf_of(row) for row in store.postings(limit=10_000)]


def draw(seed: int, count: int) -> list[Posting]:
    """Return postings that come in any order, speak of the same work and repeat."""
    rng, drawn = random.Random(seed), list[Posting]()
    for at in range(count):
        one = posting(
            *work(rng.randrange(WORKERS), rng.randrange(ROUNDS)),
            rng.choice(list(PostingState)),
            kind=rng.choice([PostingKind.CPU_TRAINING, PostingKind.AUDIT]),
            ucredits=rng.randrange(1_000_000),
            at_ms=NOW + rng.randrange(100 * DAY_MS),
            key=f"key {at}",
        )
        drawn.append(drawn[rng.randrange(at)] if at and rng.random() < 0.1 else one)
    return drawn


def check_ledger(store: Store) -> None:
    """Compare everything that is kept up to date with what all postings come to."""
    postings = store.postings(limit=10_000)
    assert [row.id for row in postings] == list(range(1, len(postings) + 1))
    assert {(row.worker, row.kind): row for row in store.totals()} == fold_balances(postings)
    stored = {row.worker: row for row in store.standings()}
    folded = fold_standings(postings)
    assert stored.keys() == folded.keys()
    assert [differing_columns(stored[one], folded[one]) for one in stored] == [()] * len(stored)
    for size in range(len(postings) + 1):
        assert store.log_root(size) == tree_root(leaves(store)[:size])


def test_batch_gives_the_same_as_one_by_one(store: Store, tmp_path: Path) -> None:
    """Whole rows are compared, with ids and floating-point numbers to the last bit."""
    drawn = draw(1, 120)
    single = open_store(tmp_path / "single.db")
    prepare(single)
    added = [single.add_postings([one]) for one in drawn]
    rng, rest, batched = random.Random(2), list(drawn), 0
    while rest:
        count = rng.randint(1, 50)
        batched += store.add_postings(rest[:count])
        rest = rest[count:]
    assert batched == sum(added) == len({one.key for one in drawn})
    assert store.postings(limit=10_000) == single.postings(limit=10_000)
    assert store.totals() == single.totals()
    assert store.standings() == single.standings()
    assert store.log_root(batched) == single.log_root(batched)
    check_ledger(store)
    single.close()


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "ares.db"
    made = open_store(path)
    prepare(made)
    made.close()
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**9), sizes=st.lists(st.integers(0, 12), max_size=5))
def test_any_batches_give_the_folds(
    empty_ledger: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("batches") / "ares.db"
    path.write_bytes(empty_ledger.read_bytes())
    store = open_store(path)
    drawn = iter(draw(seed, sum(sizes)))
    for size in sizes:
        store.add_postings(list(itertools.islice(drawn, size)))
    check_ledger(store)
    store.close()


def test_key_that_comes_twice_in_a_batch_counts_once(store: Store) -> None:
    one = posting(*work(0))
    assert store.add_postings([one, replace(one, at_ms=NOW + 1)]) == 1
    with pytest.raises(InternalFault):
        store.add_postings(
            [posting(*work(1)), replace(one, ucredits=7)]
            if False
            else [posting(*work(1)), replace(one, amount_ucredits=7)]
        )
    assert len(store.postings()) == 1, "a batch is added whole or not at all"


def test_log_that_does_not_end_with_the_postings_is_not_continued(store: Store) -> None:
    store.add_postings([posting(*work(0))])
    with store._write() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql(
            "INSERT INTO log_nodes SELECT 0, 1, sha256 FROM log_nodes WHERE level = 0"
        )
    with pytest.raises(LedgerTampered):
        store.add_postings([posting(*work(1))])
    assert len(store.postings()) == 1
