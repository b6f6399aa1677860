"""How two runs are compared: where each came to the same loss, and what it had sent by then."""

from __future__ import annotations

import pytest

from benchmarks.lab.side_by_side import Point, compare, reached


def run(*looks: tuple[float, int, int, float]) -> list[Point]:
    return [Point(*look) for look in looks]


OURS = run((0, 0, 0, 3.0), (10, 1_000, 100, 2.0), (20, 2_000, 200, 1.0))  # target: 1.2


def test_side_by_side_target_lies_between_two_looks_in_proportion() -> None:
    assert reached(OURS, 1.5) == Point(15, 1_500, 150, 1.5)
    assert reached(OURS, 2.0) == Point(10, 1_000, 100, 2.0)
    assert reached(OURS, 0.9) is None


def test_side_by_side_target_that_was_passed_for_a_moment_counts_from_the_first_time() -> None:
    bouncing = run((0, 0, 0, 3.0), (10, 1, 1, 1.0), (20, 2, 2, 2.5), (30, 3, 3, 1.0))
    found = reached(bouncing, 1.0)
    assert found is not None
    assert found.seconds == 10


def test_side_by_side_factors_are_those_at_the_target() -> None:
    rival = run((0, 0, 0, 3.0), (180, 3_000, 36_000, 1.2), (400, 9_000, 90_000, 0.5))
    result = compare(OURS, rival)
    assert result["target_loss"] == pytest.approx(1.2)
    assert result["times_less_time"] == pytest.approx(180 / 18)
    assert result["times_fewer_bytes"] == pytest.approx(36_000 / 180)
    assert result["times_fewer_bytes_per_token"] == pytest.approx(10 / 0.1)
    assert not result["is_lower_bound"]


def test_side_by_side_rival_that_never_comes_there_gives_lower_bounds() -> None:
    rival = run((0, 0, 0, 3.0), (90, 1_000, 9_000, 2.0))
    result = compare(OURS, rival)
    assert result["is_lower_bound"]
    assert result["rival"] is None
    assert result["times_less_time"] == pytest.approx(90 / 18)
    assert result["times_fewer_bytes"] == pytest.approx(9_000 / 180)
