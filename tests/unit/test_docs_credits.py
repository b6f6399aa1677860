"""docs/credits.md says what the program says: reasons, tiers, rates."""

from __future__ import annotations

from pathlib import Path

from ares_coordinator.ledger.tiers import BENEFITS, DEFAULT_RULES, Tier
from ares_p2p.rounds.lottery import LOWEST_RATE, NEWCOMER_ROUNDS
from ares_peer.reasons import REASONS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "credits.md").read_text(encoding="utf-8")


def test_every_reason_stands_there_as_the_program_says_it() -> None:
    wanted = [f"| {code} | {one.meaning} | {one.advice} |" for code, one in sorted(REASONS.items())]
    assert [line for line in TEXT.splitlines() if line.startswith("| ARES-")] == wanted


def test_tiers_are_those_of_the_table() -> None:
    rows = {line.split(" |")[0].strip("| "): line for line in TEXT.splitlines() if "| " in line}
    for rule in DEFAULT_RULES:
        row = rows[rule.tier]
        assert f"| {rule.minimum_ucredits // 1_000_000}" in row
        assert ("GPU" in row) == rule.needs_gpu
        assert ("may audit" in row) == BENEFITS[rule.tier].may_audit
    free = BENEFITS[Tier.FREE].requests_per_minute
    times = [BENEFITS[tier].requests_per_minute // free for tier in Tier]
    assert times == [1, 2, 5, 10]  # "twice", "five times", "ten times"
    shares = [round(1 / BENEFITS[tier].release_share) for tier in list(Tier)[:3]]
    assert shares == [1, 3, 12]  # "a third", "a twelfth"


def test_the_lottery_is_the_one_that_is_described() -> None:
    assert f"{NEWCOMER_ROUNDS} / (1 + s)" in TEXT
    assert LOWEST_RATE == 1 / 20
    assert "one in twenty" in TEXT
