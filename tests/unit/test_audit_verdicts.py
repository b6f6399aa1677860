"""What the lottery draws of a round, and what the measures of a replay mean."""

from __future__ import annotations

import math

import pytest

from ares_coordinator.audit.lottery import draw_lottery
from ares_coordinator.audit.verdicts import Measures, judge_replay, not_comparable
from ares_coordinator.store.rows import DrawReason
from ares_p2p.domain import AuditOutcome
from ares_p2p.errors import AuditFailed, AuditVoid
from payloads import identity
from sim.samples import open_round
from store_samples import commit, contribution, digest, peer, refused

ROUND = open_round()
COMMIT = ROUND.commit(identity(1), tokens=640)
SEED = digest("seed")


def test_lottery_draws_all_newcomers_and_nobody_who_was_refused() -> None:
    work = [contribution(commit(1, 0, number)) for number in range(8)]
    work[3] = refused(work[3], code="ARES-E070", message="opposes")
    rows = draw_lottery(work, seed=SEED, streaks={peer(0): 9})
    assert [row.commit_sha256 for row in rows] == [
        one.commit_sha256 for one in work if one is not work[3]
    ]
    assert all(row.drawn and row.rate == 1 for row in rows)
    assert [row.streak for row in rows] == [9] + [0] * 6
    assert {row.reason for row in rows} == {DrawReason.LOTTERY}


def test_lottery_draws_old_hands_at_their_rate_and_the_same_again() -> None:
    work = [contribution(commit(1, number, 0)) for number in range(2000)]
    rows = draw_lottery(work, seed=SEED, streaks={peer(0): 99})
    assert {row.rate for row in rows} == {0.1}
    assert sum(row.drawn for row in rows) == pytest.approx(200, abs=68)  # five deviations
    assert draw_lottery(work, seed=SEED, streaks={peer(0): 99}) == rows
    assert draw_lottery(work, seed=digest("another"), streaks={peer(0): 99}) != rows


@pytest.mark.parametrize(
    ("measures", "outcome", "code", "says"),
    [
        (Measures(640, 0.01, 1.0, 0.0003), AuditOutcome.PASS, "", "cosine drop 0.0003"),
        (Measures(640, 0.4, 0.98, 0.02), AuditOutcome.VOID, AuditVoid.code, "neither close"),
        (Measures(640, 1.4, 0.9, 0.7), AuditOutcome.FAIL, AuditFailed.code, "another update"),
        (Measures(640, 9.0, 10.0, 0.0), AuditOutcome.FAIL, AuditFailed.code, "norm ratio 10.000"),
        (Measures(640, math.inf, math.inf, 1.0), AuditOutcome.FAIL, AuditFailed.code, "rho inf"),
        (Measures(640, math.nan, 1.0, math.nan), AuditOutcome.FAIL, AuditFailed.code, "nan"),
        (
            Measures(639, 0.01, 1.0, 0.0),
            AuditOutcome.FAIL,
            AuditFailed.code,
            "claims 640 tokens, the assignment has 639",
        ),
    ],
)
def test_measures_mean_what_the_message_says(
    measures: Measures, outcome: AuditOutcome, code: str, says: str
) -> None:
    verdict = judge_replay(measures, COMMIT, ROUND.config)
    assert (verdict.outcome, verdict.code) == (outcome, code)
    assert says in verdict.message
    assert verdict.measures == measures


def test_what_cannot_be_compared_is_void_and_has_no_measures() -> None:
    verdict = not_comparable("the blob is gone")
    assert (verdict.outcome, verdict.code, verdict.measures) == (
        AuditOutcome.VOID,
        AuditVoid.code,
        None,
    )
    assert verdict.message == "could not be replayed: the blob is gone"
