"""When cycles begin by themselves. Pure: no clock, no store.

A schedule is written as people say it, and means

    "daily"          every day at 03:00
    "weekly"         every Monday at 03:00
    6, "6", "6h"     every 6 hours, counted from when the schedule was set
    "0 3 * * 1-5"    cron: minute, hour, day of the month, month, day of the week
    null, "", "off"  none

Times of day are those of the schedule's time zone. Where a clock change skips one, the cycle begins
as soon as the clocks have moved; where one comes twice, it begins once (the rules of Debian's cron,
which cronsim keeps). Hours are real hours, whatever the clocks do.
"""

from __future__ import annotations

import json
import math
import zoneinfo
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from cronsim import CronSim, CronSimError

from ares_p2p.errors import ScheduleRefused

DAILY: Final = "0 3 * * *"
WEEKLY: Final = "0 3 * * 1"
HOUR_MS: Final = 3_600_000
MAX_HOURS: Final = 24 * 366
MIN_HOURS: Final = 0.25  # a cycle is data, rounds and an evaluation: less is a slip of the pen
_OFF: Final = ("", "off", "none", "null", "never")


class Missed(StrEnum):
    """What becomes of a cycle whose time came while the coordinator was not running."""

    ONCE = "once"  # one begins at the next start, however many were missed
    SKIP = "skip"  # the next one begins when its time comes


@dataclass(frozen=True, slots=True)
class Schedule:
    """When cycles begin.

    Attributes:
        text: as it was asked for: "daily", "weekly", "6h" or a cron expression.
        timezone: an IANA name, e.g. "Europe/Berlin".
        missed: see `Missed`.
        set_ms: when it was set; hours are counted from there.
    """

    text: str
    timezone: str = "UTC"
    missed: Missed = Missed.ONCE
    set_ms: int = 0

    def next_after(self, now_ms: int) -> int:
        """Return the first moment after `now_ms` at which a cycle is to begin, in ms."""
        hours = _hours_of(self.text)
        if hours is not None:
            every_ms = round(hours * HOUR_MS)
            passed = max(0, now_ms - self.set_ms) // every_ms
            return self.set_ms + (passed + 1) * every_ms
        zone = _zone_of(self.timezone)
        now = datetime.fromtimestamp(now_ms / 1000, zone)
        try:
            moment = next(CronSim(_cron_of(self.text), now))
        except StopIteration:
            raise ScheduleRefused(f"{self.text!r} names no moment that ever comes") from None
        return round(moment.astimezone(UTC).timestamp() * 1000)

    def to_json(self) -> str:
        """Return what `schedule_from_json` reads."""
        return json.dumps(asdict(self))


def schedule_from_json(text: str | None) -> Schedule | None:
    """Return a stored schedule; None where nothing or "" is stored."""
    if not text:
        return None
    values = json.loads(text)
    return Schedule(**{**values, "missed": Missed(values["missed"])})


def parse_schedule(
    value: str | float | None, *, timezone: str, missed: Missed, now_ms: int
) -> Schedule | None:
    """Return the schedule that a person asked for, None for none.

    Args:
        value: see the module.
        timezone: an IANA name.
        now_ms: when it is set.
    Raises: ScheduleRefused: it cannot be understood, or names no moment; says how to write it.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _OFF):
        return None
    if isinstance(value, bool):
        raise ScheduleRefused(f"{value} is no schedule")
    text = " ".join(str(value).split())
    if len(text) > 100:
        raise ScheduleRefused(f"a schedule of {len(text)} characters, at most 100")
    _zone_of(timezone)
    hours = _hours_of(text)
    if hours is not None:
        if not MIN_HOURS <= hours <= MAX_HOURS:
            raise ScheduleRefused(f"every {hours:g} hours: {MIN_HOURS} to {MAX_HOURS} expected")
        text = f"{hours:g}h"
    elif text.lower() in ("daily", "weekly"):
        text = text.lower()
    schedule = Schedule(text, timezone, missed, now_ms)
    schedule.next_after(now_ms)
    return schedule


def _hours_of(text: str) -> float | None:
    """Return the hours that "6" and "6h" name, None for everything else."""
    try:
        hours = float(text.removesuffix("h"))
    except ValueError:
        return None
    return hours if math.isfinite(hours) else None


def _cron_of(text: str) -> str:
    """Return the cron expression of what is no number of hours.

    Raises: ScheduleRefused.
    """
    cron = {"daily": DAILY, "weekly": WEEKLY}.get(text, text)
    if len(cron.split()) != 5:  # cronsim also takes six, with seconds
        raise ScheduleRefused(f"{text!r} is no schedule")
    try:
        CronSim(cron, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        raise ScheduleRefused(f"{text!r} is no schedule: {error}") from error
    return cron


def _zone_of(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleRefused(
            f"{name[:60]!r} is no time zone",
            hint='Use an IANA name, e.g. "Europe/Berlin" or "UTC".',
        ) from error
