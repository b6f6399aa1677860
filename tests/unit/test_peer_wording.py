"""Numbers and durations as people read them."""

from __future__ import annotations

import pytest

from ares_peer.events import AuditReported, AuditSettled, AuditStarted, Event
from ares_peer.wording import (
    bytes_text,
    count_text,
    credits_text,
    duration_text,
    sentence,
)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (47_000_000, "47.0 MB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_bytes_have_three_digits(size_bytes: int, text: str) -> None:
    assert bytes_text(size_bytes) == text


@pytest.mark.parametrize(
    ("ucredits", "text"),
    [
        (0, "0.00"),
        (9_999, "0.00"),
        (1_500_000, "1.50"),
        (1_999_999, "1.99"),
        (1_234_567_890_000, "1,234,567.89"),
        (-1_500_000, "-1.50"),
    ],
)
def test_credits_are_never_rounded_up(ucredits: int, text: str) -> None:
    assert credits_text(ucredits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0:00"), (0.9, "0:00"), (42, "0:42"), (725, "12:05"), (3725, "1:02:05")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_nouns_agree_with_their_number() -> None:
    assert [count_text(n, "round") for n in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            AuditStarted(1, 4, 90, "cd" * 32, "12D3KooWabcdefgh", 40, 1),
            "round 5: replaying 40 steps of abcdefgh",
        ),
        (
            AuditReported(1, 4, "cd" * 32, 640, accepted=True),
            "round 5: replay of cdcdcdcdcdcd reported, 640 tokens",
        ),
        (
            AuditReported(1, 4, "cd" * 32, 0, False, "ARES-E086", "too late"),
            "round 5: report on cdcdcdcdcdcd not taken: too late [ARES-E086]",
        ),
        (
            AuditSettled(1, 4, "cd" * 32, 1_500_000, 9_000_000),
            "round 5: replay of cdcdcdcdcdcd paid: +1.50, balance 9.00",
        ),
        (
            AuditSettled(1, 4, "cd" * 32, 0, 9_000_000, "ARES-E078", "wrong"),
            "round 5: replay of cdcdcdcdcdcd not paid, balance 9.00: wrong [ARES-E078]",
        ),
    ],
)
def test_an_auditor_reads_what_became_of_each_replay(event: Event, text: str) -> None:
    assert sentence(event) == text
