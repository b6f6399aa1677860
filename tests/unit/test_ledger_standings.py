"""Standings: recent credit by hand, streaks, and what a stored row may differ in."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.ledger.standings import differing_columns, fold_standings
from ares_coordinator.store.credit_rows import StandingsRow
from ares_coordinator.store.decay import HALF_LIFE_MS, NO_SCORE, faded, recent_score
from ares_coordinator.store.projection import Projection, new_standing
from ares_p2p.domain import Posting, PostingKind, PostingState
from ledger_samples import posting
from store_samples import NOW, digest, peer

SETTLED, VOID, CLAWBACK = PostingState.SETTLED, PostingState.VOID, PostingState.CLAWBACK
MONTH_MS = HALF_LIFE_MS
ONE, TWO, THREE = (digest(f"commit {n}") for n in range(3))


def numbered(*postings: Posting) -> list[Posting]:
    return [dataclasses.replace(one, id=at) for at, one in enumerate(postings, start=1)]


def standing(*postings: Posting) -> StandingsRow:
    return fold_standings(numbered(*postings))[peer(1)]


def test_credit_counts_half_after_thirty_days() -> None:
    assert HALF_LIFE_MS == 30 * 86_400_000
    assert faded(1000, from_ms=NOW, to_ms=NOW + MONTH_MS) == 500
    assert faded(1000, from_ms=NOW, to_ms=NOW + 3 * MONTH_MS) == 125
    assert faded(1000, from_ms=NOW, to_ms=NOW - MONTH_MS) == 1000, "no credit grows backwards"


def test_recent_credit_by_hand() -> None:
    row = standing(
        posting(peer(1), ONE, SETTLED, ucredits=800, at_ms=NOW),
        posting(peer(1), TWO, SETTLED, ucredits=100, at_ms=NOW + 2 * MONTH_MS),
        posting(peer(1), THREE, ucredits=7, at_ms=NOW + 3 * MONTH_MS),
    )
    assert row.recent_ms == NOW + 3 * MONTH_MS
    assert row.recent_ucredits == 800 / 8 + 100 / 2
    assert row.recent_score == math.log2(150) + row.recent_ms / MONTH_MS
    assert (row.settled_ucredits, row.pending_ucredits, row.last_posting_id) == (900, 7, 3)


def test_work_that_was_lost_is_not_recent() -> None:
    row = standing(
        posting(peer(1), ONE, SETTLED, ucredits=800),
        posting(peer(1), ONE, CLAWBACK, ucredits=800, code="x"),
    )
    assert (row.settled_ucredits, row.recent_ucredits, row.recent_score) == (0, 0.0, NO_SCORE)


def test_streak_begins_again_at_any_loss_and_leaves_out_audits() -> None:
    states = [SETTLED, SETTLED, VOID, SETTLED]
    work = [posting(peer(1), digest(str(at)), state) for at, state in enumerate(states)]
    paid = posting(peer(1), digest("audit"), SETTLED, kind=PostingKind.AUDIT)
    assert standing(*work, paid).streak == 1
    lost = posting(peer(1), digest("audit"), CLAWBACK, kind=PostingKind.AUDIT, code="x")
    assert standing(*work, paid, lost).streak == 0


@given(st.lists(st.tuples(st.floats(0.5, 1e12), st.integers(0, 200)), min_size=2, max_size=5))
def test_score_orders_workers_as_their_recent_credit_does_at_any_time(
    work: list[tuple[float, int]],
) -> None:
    day_ms = 86_400_000
    for (a, a_day), (b, b_day) in itertools.combinations(work, 2):
        scores = [
            recent_score(amount, NOW + day * day_ms) for amount, day in ((a, a_day), (b, b_day))
        ]
        now_ms = NOW + 300 * day_ms
        left = [
            faded(amount, from_ms=NOW + day * day_ms, to_ms=now_ms)
            for amount, day in ((a, a_day), (b, b_day))
        ]
        if not math.isclose(*left, rel_tol=1e-9):
            assert (scores[0] > scores[1]) == (left[0] > left[1])


@given(st.integers(0, 10**6), st.data())
def test_projection_posting_by_posting_is_the_fold(seed: int, data: st.DataObject) -> None:
    """Also when the projection is stored and read again between any two postings."""
    drawn = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from([ONE, TWO, THREE]),
                st.sampled_from(list(PostingState)),
                st.sampled_from([PostingKind.CPU_TRAINING, PostingKind.AUDIT]),
                st.integers(0, 10**9),
                st.integers(0, 400 * 86_400_000),
            ),
            min_size=1,
            max_size=12,
        )
    )
    postings = numbered(
        *(
            posting(peer(1), work, state, kind=kind, ucredits=amount, at_ms=NOW + at, key=str(n))
            for n, (work, state, kind, amount, at) in enumerate(drawn)
        )
    )
    row, highest = new_standing(peer(1), 0), {}
    for one in postings:
        step = Projection(highest, {}, {peer(1): row})
        step.add_all([one])
        row, highest = step.standings[peer(1)], step.highest
    assert differing_columns(row, fold_standings(postings)[peer(1)]) == ()


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("worker", lambda value: peer(2)),
        ("settled_ucredits", lambda value: value + 1),
        ("pending_ucredits", lambda value: value + 1),
        ("recent_ucredits", lambda value: value + 2),
        ("recent_ucredits", lambda value: math.nan),
        ("recent_ms", lambda value: value - 1),
        ("recent_score", lambda value: value + 0.001),
        ("recent_score", lambda value: math.nan),
        ("streak", lambda value: value + 1),
        ("last_posting_id", lambda value: value + 1),
    ],
)
def test_every_column_that_differs_is_told(column: str, change: object) -> None:
    row = standing(posting(peer(1), ONE, SETTLED, ucredits=800))
    assert callable(change)
    wrong = dataclasses.replace(row, **{column: change(getattr(row, column))})
    assert column in differing_columns(wrong, row)
    assert differing_columns(row, row) == ()
