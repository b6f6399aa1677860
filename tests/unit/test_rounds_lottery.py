"""The audit lottery: rates, draws that anyone can recompute, and the choice of an auditor."""

from __future__ import annotations

import pytest

from ares_p2p.ids import sha256
from ares_p2p.rounds.lottery import LOWEST_RATE, audit_rate, draw, is_drawn, ranked_auditors
from payloads import identity

SEED = sha256(b"seed")
COMMITS = [sha256(b"commit %d" % number) for number in range(4000)]
PEERS = tuple(identity(number).peer_id for number in range(6))


@pytest.mark.parametrize(
    ("streak", "rate"),
    [(0, 1.0), (9, 1.0), (10, 10 / 11), (19, 0.5), (99, 0.1), (199, 0.05), (10_000, 0.05)],
)
def test_rate_falls_with_the_streak_to_a_floor(streak: int, rate: float) -> None:
    assert audit_rate(streak) == pytest.approx(rate)
    assert audit_rate(streak + 1) <= audit_rate(streak)


def test_negative_streak_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        audit_rate(-1)


@pytest.mark.parametrize("rate", [1.0, 0.5, LOWEST_RATE])
def test_drawn_share_is_the_rate(rate: float) -> None:
    share = sum(is_drawn(SEED, commit, rate) for commit in COMMITS) / len(COMMITS)
    # five standard deviations of a binomial
    assert share == pytest.approx(rate, abs=5 * (rate * (1 - rate) / len(COMMITS)) ** 0.5 + 1e-9)


def test_draws_of_one_seed_say_nothing_about_another() -> None:
    both = [
        is_drawn(SEED, commit, 0.5) == is_drawn(sha256(b"other"), commit, 0.5) for commit in COMMITS
    ]
    assert sum(both) / len(both) == pytest.approx(0.5, abs=0.04)


def test_draw_is_what_everybody_computes() -> None:
    digest = sha256(b"ares/audit-lottery/v1\0" + SEED + COMMITS[0])
    assert draw(SEED, COMMITS[0]) == int.from_bytes(digest[:8], "big") // 2048 / 2**53
    assert min(draw(SEED, commit) for commit in COMMITS) >= 0
    assert max(draw(SEED, commit) for commit in COMMITS) < 1


def test_auditors_are_ranked_by_the_seed_in_whatever_order_they_come() -> None:
    ranked = ranked_auditors(SEED, COMMITS[0], PEERS)
    assert sorted(ranked) == sorted(PEERS)
    assert ranked_auditors(SEED, COMMITS[0], PEERS[::-1]) == ranked
    left = tuple(peer for peer in PEERS if peer != ranked[0])
    assert ranked_auditors(SEED, COMMITS[0], left) == ranked[1:]


def test_every_auditor_gets_its_share_of_the_work() -> None:
    first = [ranked_auditors(SEED, commit, PEERS)[0] for commit in COMMITS]
    for peer in PEERS:
        assert first.count(peer) / len(first) == pytest.approx(1 / 6, abs=0.03)
