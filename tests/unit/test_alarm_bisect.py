"""The search for culprits: who is found, and in how many questions."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.alarm.bisect import find_culprits, most_culprits, most_questions

Mended = Callable[[frozenset[int]], bool]


def search(suspects: list[int], is_mended: Mended) -> tuple[frozenset[int], list[frozenset[int]]]:
    """Return what the search finds, and what it asked."""
    asked: list[frozenset[int]] = []
    running = find_culprits(suspects)
    try:
        trial = next(running)
        while True:
            asked.append(trial)
            trial = running.send(is_mended(trial))
    except StopIteration as stop:
        return stop.value, asked


def without(culprits: Collection[int]) -> Mended:
    """A round that is mended when all of these are out."""
    return lambda removed: set(culprits) <= removed


@given(st.data(), st.integers(2, 64))
def test_one_culprit_is_found_in_few_questions(data: st.DataObject, count: int) -> None:
    culprit = data.draw(st.integers(0, count - 1))
    found, asked = search(list(range(count)), without({culprit}))
    assert found == {culprit}
    assert len(asked) <= (count - 1).bit_length() + 1
    assert len(set(asked)) == len(asked)  # an answer is never paid for twice


@given(st.data(), st.integers(4, 64))
def test_two_culprits_are_found_wherever_they_stand(data: st.DataObject, count: int) -> None:
    culprits = data.draw(st.sets(st.integers(0, count - 1), min_size=2, max_size=2))
    found, asked = search(list(range(count)), without(culprits))
    assert found == culprits
    assert len(asked) <= most_questions(count)


@given(st.data(), st.integers(6, 64))
def test_the_most_suspicious_third_is_found_whole_or_not_at_all(
    data: st.DataObject, count: int
) -> None:
    bad = set(range(data.draw(st.integers(1, count // 3))))
    found, asked = search(list(range(count)), without(bad))
    assert found in (bad, set())
    assert found == bad or len(bad) > 2
    assert len(asked) <= most_questions(count)


def test_three_colluders_of_ten_are_found_when_they_are_suspected() -> None:
    found, asked = search(list(range(10)), without({0, 1, 2}))
    assert found == {0, 1, 2}
    assert len(asked) == 6


def test_what_is_found_was_asked_about_and_answered_yes() -> None:
    for count in range(2, 20):
        for culprit in range(count):
            found, asked = search(list(range(count)), without({culprit}))
            assert frozenset(found) in asked


@pytest.mark.parametrize("count", range(12))
def test_nobody_is_guilty_when_nothing_mends_it(count: int) -> None:
    found, asked = search(list(range(count)), lambda _: False)
    assert found == frozenset()
    assert len(asked) <= most_questions(count)


@pytest.mark.parametrize("count", range(2, 12))
def test_most_of_a_round_is_never_taken_out(count: int) -> None:
    bad = set(range(most_culprits(count) + 1))
    found, asked = search(list(range(count)), without(bad))
    assert found == frozenset()
    assert len(asked) <= most_questions(count)


@given(st.integers(2, 40), st.randoms(use_true_random=False))
def test_answers_that_contradict_each_other_accuse_nobody_unasked(count: int, chance) -> None:  # type: ignore[no-untyped-def]
    said: dict[frozenset[int], bool] = {}

    def answer(removed: frozenset[int]) -> bool:
        return said.setdefault(removed, chance.random() < 0.5)

    found, asked = search(list(range(count)), answer)
    assert len(asked) <= most_questions(count)
    assert not found or said[found]
    assert len(found) <= most_culprits(count)
