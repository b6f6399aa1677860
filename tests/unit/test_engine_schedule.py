"""Schedules: what people write, and when it comes, across both changes of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.engine.schedule import (
    Missed,
    Schedule,
    parse_schedule,
    schedule_from_json,
)
from ares_p2p.errors import ScheduleRefused

BERLIN = "Europe/Berlin"
HOUR_MS = 3_600_000


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return round(moment.timestamp() * 1000)


def parsed(value: str | float | None, *, zone: str = "UTC", now: str = "2026-11-24") -> Schedule:
    found = parse_schedule(value, timezone=zone, missed=Missed.ONCE, now_ms=at(now))
    assert found is not None
    return found


def moments(schedule: Schedule, start_ms: int, count: int) -> list[str]:
    found = []
    for _ in range(count):
        start_ms = schedule.next_after(start_ms)
        found.append(f"{datetime.fromtimestamp(start_ms / 1000, UTC):%m-%d %H:%M}")
    return found


def test_daily_and_weekly_are_times_of_day_in_the_zone() -> None:
    daily, weekly = parsed("daily", zone=BERLIN), parsed(" Weekly", zone=BERLIN)
    assert moments(daily, at("2026-11-24"), 2) == ["11-24 02:00", "11-25 02:00"]
    assert moments(weekly, at("2026-11-24"), 2) == ["11-30 02:00", "12-07 02:00"]


@pytest.mark.parametrize("value", [6, 6.0, "6", "6h"])
def test_hours_count_from_when_the_schedule_was_set(value: str | float) -> None:
    schedule = parsed(value, now="2026-11-24T01:30")
    assert schedule.text == "6h"
    assert moments(schedule, at("2026-11-24T01:30"), 2) == ["11-24 07:30", "11-24 13:30"]
    assert moments(schedule, at("2026-11-25T00:00"), 1) == ["11-25 01:30"]


def test_cron_is_read_in_the_zone() -> None:
    schedule = parsed("15 22 * * 1-5", zone="America/New_York")
    assert moments(schedule, at("2026-11-27T12:00"), 2) == ["11-28 03:15", "12-01 03:15"]


def test_a_time_that_the_clocks_skip_comes_when_they_have_moved() -> None:
    schedule = parsed("30 2 * * *", zone=BERLIN, now="2026-03-01")
    night = at("2026-03-28T12:00", BERLIN)
    # On the 29th 02:00 becomes 03:00 (01:00 UTC).
    assert moments(schedule, night, 2) == ["03-29 01:00", "03-30 00:30"]


def test_a_time_that_comes_twice_begins_one_cycle() -> None:
    schedule = parsed("30 2 * * *", zone=BERLIN)
    night = at("2026-10-24T12:00", BERLIN)
    first, second = schedule.next_after(night), schedule.next_after(schedule.next_after(night))
    # On the 25th 03:00 becomes 02:00 again (01:00 UTC).
    assert first in (at("2026-10-25T02:30", BERLIN), at("2026-10-25T02:30", BERLIN, fold=1))
    assert second == at("2026-10-26T02:30", BERLIN)


@pytest.mark.parametrize("day", ["2026-03-28T20:00", "2026-10-24T20:00"])
def test_hours_are_real_hours_across_both_changes(day: str) -> None:
    start = at(day)
    schedule = Schedule("4h", BERLIN, set_ms=start)
    for step in range(1, 7):
        assert schedule.next_after(start + (step - 1) * 4 * HOUR_MS) == start + step * 4 * HOUR_MS


@given(
    st.sampled_from(["daily", "weekly", "4h", "*/20 * * * *", "0 2 * * 0", "30 2 29 3 *"]),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe"]),
    st.integers(at("2025-01-01"), at("2028-01-01")),
)
def test_the_next_moment_is_always_later_and_nothing_lies_between(
    text: str, zone: str, now_ms: int
) -> None:
    schedule = Schedule(text, zone)
    following = schedule.next_after(now_ms)
    assert following > now_ms
    assert schedule.next_after(following - 1) == following


@pytest.mark.parametrize("value", [None, "", " off ", "null", "none"])
def test_no_schedule(value: str | None) -> None:
    assert parse_schedule(value, timezone="UTC", missed=Missed.ONCE, now_ms=0) is None


@pytest.mark.parametrize(
    "value",
    [
        "sometimes",
        "0 3 * *",
        "0 0 3 * * *",  # with seconds: a cycle a second is no wish of anybody's
        "61 3 * * *",
        "0 3 30 2 *",  # never
        0,
        -3,
        0.01,
        "nan",
        float("inf"),
        1e6,
        True,
        "0 3 * * *" + " " * 4 + "x" * 200,
    ],
)
def test_what_cannot_be_understood_is_refused(value: str | float) -> None:
    with pytest.raises(ScheduleRefused) as refused:
        parse_schedule(value, timezone="UTC", missed=Missed.ONCE, now_ms=at("2026-11-24"))
    assert "daily" in refused.value.hint


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "/etc/localtime"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ScheduleRefused, match="no time zone"):
        parse_schedule("daily", timezone=zone, missed=Missed.ONCE, now_ms=0)


def test_a_schedule_is_stored_whole() -> None:
    schedule = Schedule("6h", BERLIN, Missed.SKIP, 12_345)
    assert schedule_from_json(schedule.to_json()) == schedule
    assert schedule_from_json("") is None
