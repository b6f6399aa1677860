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
from ares_coordinator.store.rows import DrawReason
from ares_coordinator.store.sql import open_store
from ares_p2p.crypto.merkle import check_consistency, check_inclusion, tree_root
from ares_p2p.domain import (
    NO_PAGE,
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
        store.add_postings([posting(*work(1)), replace(one, amount_ucredits=7)])
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


# --- heads, pages, proofs ----------------------------------------------------------------------


def head_of(envelope: bytes) -> LedgerHead:
    return open_envelope(
        decode_envelope(envelope), LedgerHead, signer=COORDINATOR.peer_id, network_id=NETWORK
    )


def test_seal_stores_postings_head_page_and_settlement_together(store: Store) -> None:
    store.add_postings([posting(*work(n)) for n in range(WORKERS)])
    sealed = seal_round(store, 1, 0, [posting(*work(0), PostingState.SETTLED)])
    head = store.log_head()
    assert head is not None
    assert sealed.head is not None
    assert (head.size, head.root) == (4, tree_root(leaves(store)))
    assert head_of(head.envelope) == LedgerHead(header(1, 0, seq=101), head.size, head.root)
    assert (head.cycle, head.round, head.at_ms) == (1, 0, sealed.head.saved_ms)
    assert store.record("log", 1, 0) == sealed.head
    assert store.record("settlement", 1, 0) == sealed.settlement
    settlement = open_envelope(decode_envelope(sealed.settlement.envelope), RoundSettlement)
    assert settlement.page == sealed.page == head.page_blob_id == blob_id_of(sealed.page_data)
    assert settlement.page_size_bytes == head.page_size_bytes == len(sealed.page_data)
    page = decode_page(sealed.page_data)
    check_page(page, coordinator=COORDINATOR.peer_id, network_id=NETWORK)
    assert (page.first, list(page.leaves)) == (0, leaves(store))


def test_seal_repeated_returns_what_was_signed_and_posts_nothing(store: Store) -> None:
    store.add_postings([posting(*work(n)) for n in range(WORKERS)])
    first = seal_round(store, 1, 0, [posting(*work(0), PostingState.SETTLED)])
    seal_round(store, 1, 1, [posting(*work(0, 1))])
    again = seal_round(store, 1, 0, [posting(*work(1), PostingState.SETTLED)])
    assert replace(again, head=None) == replace(first, head=None)
    assert (again.head and again.head.envelope) == (first.head and first.head.envelope)
    assert len(store.postings()) == 5


def test_pages_go_on_where_the_one_before_ended(store: Store) -> None:
    """A volunteer follows pages from head to head; each can be made anew from the postings."""
    before, everything = None, list[bytes]()
    for number in range(ROUNDS):
        store.add_postings([posting(*work(n, number)) for n in range(WORKERS)])
        sealed = seal_round(store, 1, number, [posting(*work(0, number), PostingState.SETTLED)])
        page = decode_page(sealed.page_data)
        before = check_page(
            page, coordinator=COORDINATOR.peer_id, network_id=NETWORK, head_before=before
        )
        assert page.first == len(everything)
        everything += page.leaves
        assert store.page_bytes(before.size) == sealed.page_data
    assert everything == leaves(store)
    with pytest.raises(IndexError):
        store.page_bytes(5)
    assert [row.size for row in store.log_heads()] == [4, 8, 12]
    assert [row.size for row in store.log_heads(after_size=4, limit=1)] == [8]


def test_only_the_newest_head_stays_in_the_dht(store: Store) -> None:
    for number in range(2):
        seal_round(store, 1, number, [posting(*work(0, number))])
    kinds = [(row.kind, row.round) for row in store.records_to_publish(1) if row.kind == "log"]
    assert kinds == [("log", 1)]
    assert store.record("log", 1, 0) is not None


def test_round_without_postings_is_settled_without_a_page(store: Store) -> None:
    first = seal_round(store, 1, 0)
    assert (first.head, first.page, first.page_data) == (None, NO_PAGE, b"")
    seal_round(store, 1, 1, [posting(*work(0, 1))])
    sealed = seal_round(store, 1, 2)
    settlement = open_envelope(decode_envelope(sealed.settlement.envelope), RoundSettlement)
    assert (settlement.page, settlement.page_size_bytes) == (NO_PAGE, 0)
    assert [row.round for row in store.log_heads()] == [1]
    assert seal_round(store, 1, 2) == sealed


def test_seal_that_cannot_be_signed_leaves_nothing(store: Store) -> None:
    def refuse(*_: object) -> None:
        raise InternalFault("no")

    with pytest.raises(InternalFault):
        store.seal(
            1,
            0,
            [posting(*work(0))],
            sign_head=lambda size, root: signed(LedgerHead(header(1, 0), size, root)),
            sign_settlement=refuse,  # type: ignore[arg-type]
        )
    assert store.postings() == store.standings() == store.log_heads() == ()
    assert (store.log_size(), store.record("log", 1, 0)) == (0, None)


def test_seal_refuses_what_was_signed_for_another_round(store: Store) -> None:
    with pytest.raises(InternalFault, match="round 1"):
        store.seal(
            1,
            0,
            [posting(*work(0))],
            sign_head=lambda size, root: signed(LedgerHead(header(1, 1), size, root)),
            sign_settlement=lambda page: signed(
                RoundSettlement(header(1, 0), NO_PAGE, (), (), page.blob_id, page.size_bytes)
            ),
        )


def test_settlement_sees_the_balance_after_its_own_postings(store: Store) -> None:
    seen = {}

    def look(page: object) -> None:
        seen.update({n: page.settled_ucredits(peer(n)) for n in range(2)})  # type: ignore[attr-defined]
        raise InternalFault("enough")

    with pytest.raises(InternalFault, match="enough"):
        store.seal(
            1,
            0,
            [posting(*work(0), PostingState.SETTLED, ucredits=7)],
            sign_head=lambda size, root: signed(LedgerHead(header(1, 0), size, root)),
            sign_settlement=look,  # type: ignore[arg-type]
        )
    assert seen == {0: 7, 1: 0}


def test_proofs_of_every_posting_and_every_pair_of_sizes_verify(store: Store) -> None:
    store.add_postings(draw(3, 40))
    entries = leaves(store)
    for size in (1, 2, 7, 8, 21, len(entries)):
        root = store.log_root(size)
        for index in range(size):
            proof = store.inclusion_proof(index, size)
            check_inclusion(entries[index], index=index, count=size, proof=proof, root=root)
        for first in range(size + 1):
            check_consistency(
                first=first,
                second=size,
                first_root=store.log_root(first),
                second_root=root,
                proof=store.consistency_proof(first, size),
            )


@pytest.mark.parametrize("ask", [(0, 3), (2, 2), (-1, 2), (0, 0), (0, -1)])
def test_proofs_of_what_is_not_there_are_refused(store: Store, ask: tuple[int, int]) -> None:
    store.add_postings([posting(*work(0)), posting(*work(1))])
    with pytest.raises(IndexError):
        store.inclusion_proof(*ask)
    with pytest.raises(IndexError):
        store.consistency_proof(3, 2)
    with pytest.raises(IndexError):
        store.log_root(3)


# --- standings ---------------------------------------------------------------------------------


def test_streak_counts_settled_training_and_begins_again(store: Store) -> None:
    pay = {"kind": PostingKind.AUDIT, "state": PostingState.SETTLED}
    store.add_postings(
        [
            posting(*work(0, 0), PostingState.SETTLED),
            posting(*work(0, 1), PostingState.SETTLED),
            posting(*work(0, 2)),
            posting(*work(1, 0), PostingState.SETTLED),
            posting(*work(1, 1), PostingState.VOID),
            posting(*work(1, 2), PostingState.SETTLED),
            posting(*work(2, 0), **pay),  # type: ignore[arg-type]
            posting(*work(2, 1), **pay),  # type: ignore[arg-type]
        ]
    )
    assert store.streaks([peer(n) for n in range(4)]) == dict(
        zip([peer(n) for n in range(4)], [2, 1, 0, 0], strict=True)
    )
    assert store.audit_streaks([peer(0), peer(2)]) == {peer(0): 0, peer(2): 2}
    wrong = posting(*work(2, 0), PostingState.CLAWBACK, kind=PostingKind.AUDIT)
    store.add_postings([wrong, posting(*work(2, 2), **pay)])  # type: ignore[arg-type]
    assert store.audit_streaks([peer(2)]) == {peer(2): 1}
    assert store.streaks([]) == {}


def test_recent_credit_halves_in_thirty_days_and_order_needs_no_clock(store: Store) -> None:
    """The older credit is larger and fades below the newer one; that shows without a clock."""
    late = NOW + 60 * DAY_MS
    store.add_postings([posting(*work(0), PostingState.SETTLED, ucredits=3999, at_ms=NOW)])
    store.add_postings([posting(*work(1), PostingState.SETTLED, ucredits=1000, at_ms=late)])
    assert [row.peer for row in store.leaderboard(9)] == [peer(0), peer(1)]
    assert [row.peer for row in store.leaderboard(9, by_recent=True)] == [peer(1), peer(0)]
    more = posting(*work(0, 1), PostingState.SETTLED, ucredits=1, at_ms=late)
    store.add_postings([more])
    row = store.standing(peer(0))
    assert row is not None
    assert row.recent_ucredits == pytest.approx(3999 / 4 + 1)
    assert [row.peer for row in store.leaderboard(9, by_recent=True)] == [peer(0), peer(1)]
    store.add_postings([posting(*work(0), PostingState.CLAWBACK, ucredits=3999, at_ms=late)])
    assert [row.peer for row in store.leaderboard(9, by_recent=True)] == [peer(1), peer(0)]
    row = store.standing(peer(0))
    assert row is not None
    assert (row.settled_ucredits, row.recent_ucredits) == (1, pytest.approx(1))


def test_leaderboard_pages_hold_everybody_once_in_order(store: Store) -> None:
    amounts = {worker: (worker * 7) % 5 for worker in range(12)}
    begin(store)
    for worker in amounts:
        store.touch_worker(peer(worker), now_ms=NOW, device="", gpu=False, software="")
    commits = {worker: commit(1, ROUNDS, worker) for worker in amounts}
    open_round(store, 1, ROUNDS)
    for one in commits.values():
        store.add_commit(one)
    store.add_postings(
        [
            posting(peer(worker), one.commit_sha256, PostingState.SETTLED, ucredits=amounts[worker])
            for worker, one in commits.items()
        ]
    )
    whole = store.leaderboard(100)
    paid = [worker for worker in amounts if amounts[worker]]
    assert [row.peer for row in whole] == [
        peer(worker) for worker in sorted(paid, key=lambda one: (-amounts[one], peer(one)))
    ], "who has nothing is left out; on a tie all were first seen at once, so ids decide"
    for by_recent in (False, True):
        pages = [store.leaderboard(4, offset=at, by_recent=by_recent) for at in range(0, 16, 4)]
        assert [row.peer for page in pages for row in page] == [row.peer for row in whole]


def test_postings_of_a_worker_and_of_a_round_are_paged_by_id(store: Store) -> None:
    store.add_postings([posting(*work(n % 3, n // 3), round_number=n // 3) for n in range(9)])
    mine = store.postings_of(peer(1), limit=2)
    rest = store.postings_of(peer(1), after_id=mine[-1].id)
    assert [row.id for row in (*mine, *rest)] == [2, 5, 8]
    assert [row.id for row in store.postings_of_round(1, 1)] == [4, 5, 6]
    found = store.posting(5)
    assert found is not None
    assert found.worker == peer(1)
    assert store.posting(10) is None


# --- what a failed audit takes back ------------------------------------------------------------


def play(store: Store, number: int, *, drawn: bool) -> Digest:
    """Play a round of worker 0 that ends settled: by an audit that passed, or on trust."""
    one = contribution(commit(1, number, 0))
    open_round(store, 1, number)
    store.add_commit(commit(1, number, 0))
    finish_round(store, [one], 1, number, undrawn=[] if drawn else [one])
    if drawn:
        judge(store, one)
    else:
        (pending,) = store.pending_postings(peer(0))
        key = pending.key.replace("pending", "settled")
        settled = replace(pending, key=key, state=PostingState.SETTLED, at_ms=NOW)
        store.add_postings([settled])
    return one.commit_sha256


def test_trusted_work_is_what_was_settled_without_an_audit_since_one_passed(store: Store) -> None:
    play(store, 3, drawn=False)
    play(store, 4, drawn=True)
    later = [play(store, number, drawn=False) for number in (5, 6)]
    trusted = store.trusted_since_last_pass(peer(0))
    assert [row.commit_sha256 for row in trusted] == later
    assert {row.state for row in trusted} == {PostingState.SETTLED}
    back = replace(trusted[0], key="back", state=PostingState.CLAWBACK)
    store.add_postings([back])
    assert [row.commit_sha256 for row in store.trusted_since_last_pass(peer(0))] == later[1:]
    assert store.trusted_since_last_pass(peer(1)) == ()


def test_work_that_is_audited_by_request_is_not_trusted_any_more(store: Store) -> None:
    taken = play(store, 3, drawn=False)
    assert len(store.trusted_since_last_pass(peer(0))) == 1
    store.order_audit(taken, reason=DrawReason.OPERATOR, now_ms=NOW)
    assert store.trusted_since_last_pass(peer(0)) == ()
