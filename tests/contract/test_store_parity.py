"""The same story told to a SQLite file and to PostgreSQL is told back word for word.

Orders with ties, upper and lower case, sums, averages, flags, numbers with many digits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import (
    CategoryCount,
    DatasetRow,
    EvaluatedExample,
    EvaluationRow,
    MetaKey,
    Stage,
)
from ares_p2p.domain import AuditOutcome
from ares_p2p.errors import Equivocation
from store_samples import (
    NOW,
    begin,
    commit,
    contribution,
    judge,
    open_round,
    peer,
    play_round,
    record,
    refused,
)
from storefixtures import open_new

WORDS = ("b", "B", "a", "ä", "Z", "é", "_", "10", "9", "日本")
PEERS = range(5)

Question = Callable[[Store], object]
QUESTIONS: dict[str, Question] = {
    "meta": lambda s: [s.meta(key) for key in MetaKey],
    "cycles": lambda s: s.cycles(),
    "latest_record": lambda s: s.latest_record("plan"),
    "records_to_publish": lambda s: s.records_to_publish(1),
    "evaluation": lambda s: s.evaluation(1, Stage.BEFORE),
    "datasets": lambda s: s.datasets(),
    "events_after": lambda s: s.events_after(0),
    "rounds": lambda s: s.rounds(1),
    "round_counts": lambda s: s.round_counts(1),
    "commits": lambda s: s.commits(1, 0),
    "equivocations": lambda s: s.equivocations(1, 1),
    "contributions": lambda s: s.contributions(1, 0),
    "refusals": lambda s: s.refusals(1, 1),
    "refusals_of_cycle": lambda s: s.refusals_of_cycle(1, 100),
    "refusals_of": lambda s: s.refusals_of(peer(1), 100),
    "pending_audits": lambda s: s.pending_audits(1),
    "audits": lambda s: s.audits(1, 0),
    "postings": lambda s: s.postings(),
    "pending_postings": lambda s: [s.pending_postings(peer(n)) for n in PEERS],
    "posting_of": lambda s: [s.posting_of(commit(1, 0, n).commit_sha256) for n in PEERS],
    "totals": lambda s: s.totals(),
    "workers": lambda s: s.workers(),
    "active_workers": lambda s: s.active_workers(100),
    "counts": lambda s: s.counts(),
    "leaderboard": lambda s: s.leaderboard(100),
    "tier_counts": lambda s: sorted(map(repr, s.tier_counts([0, 1]))),
    "recent_work": lambda s: [s.recent_work(peer(n), 100) for n in PEERS],
    "settled_by_kind": lambda s: s.settled_by_kind(),
    "lottery": lambda s: s.lottery(1, 0),
    "standings": lambda s: s.standings(),
    "standing": lambda s: [s.standing(peer(n)) for n in PEERS],
    "postings_of": lambda s: [s.postings_of(peer(n)) for n in PEERS],
    "postings_of_round": lambda s: s.postings_of_round(1, 0),
    "log_root": lambda s: s.log_root(s.log_size()),
    "inclusion_proof": lambda s: s.inclusion_proof(0, s.log_size()),
}


def tell(store: Store) -> None:
    """Tell a story with as many ties as a story can have."""
    begin(store)
    store.set_meta(MetaKey.NETWORK_NAME, "Überall")
    store.update_cycle(1, now_ms=NOW, loss_before=0.1 + 0.2, loss_after=1e-300, promoted=True)
    for word in WORDS:
        store.save_record(record(word, 1, 0))
        store.add_event(word, "{}", now_ms=NOW)
    store.save_dataset(
        DatasetRow(
            cycle=1,
            teacher="procedural",
            categories=tuple(CategoryCount(word, 9, 1, 2**40) for word in WORDS),
            rejected=tuple((word, 1) for word in WORDS),
            cost_microusd=2**53 + 1,
            disk_files=3,
            disk_bytes=12345,
            updated_ms=NOW,
        )
    )
    examples = (EvaluatedExample("code", 1 / 3, 10),)
    store.save_evaluation(EvaluationRow(1, Stage.BEFORE, NOW, 1 / 3, (("code", 0.7),), examples))
    works = [contribution(commit(1, 0, n), tokens=100 + n, gpu=n % 2 == 0) for n in PEERS]
    works[-1] = refused(works[-1], code="C", message="no")
    play_round(store, 1, 0, works)
    for work, outcome in zip(works[:2], (AuditOutcome.PASS, AuditOutcome.FAIL), strict=True):
        judge(store, work, outcome)
    open_round(store, 1, 1)
    for number in PEERS:
        for word in WORDS:
            store.add_refusal(1, 1, peer(number), code=word, message=word, now_ms=NOW)
        store.add_commit(commit(1, 1, number))
        with pytest.raises(Equivocation):
            store.add_commit(commit(1, 1, number, text="another"))


def test_both_databases_tell_the_same_in_the_same_order(tmp_path: Path) -> None:
    told = {}
    for kind in ("postgresql", "sqlite"):
        store = open_new(kind, tmp_path)
        tell(store)
        told[kind] = {name: repr(ask(store)) for name, ask in QUESTIONS.items()}
        store.close()
    assert told["postgresql"] == told["sqlite"]
    assert "Decimal" not in repr(told)


def test_every_question_exists_and_has_an_answer(tmp_path: Path) -> None:
    """An empty answer would be equal in both for no reason."""
    store = open_new("sqlite", tmp_path)
    assert set(QUESTIONS) <= {name for name, _ in inspect.getmembers(Store, callable)}
    tell(store)
    empty = [name for name, ask in QUESTIONS.items() if not ask(store)]
    store.close()
    assert empty == []
