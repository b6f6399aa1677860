"""What only the operator may do: start, pause, resume, and the schedule.

The token comes as `Authorization: Bearer TOKEN` or `X-Aries-Key: TOKEN`, never in the address,
where logs and histories would keep it. It is compared in constant time, and before the body is read.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Protocol

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, ValidationError

from ares_coordinator.api.edge import json_reply
from ares_coordinator.api.schemas_base import Reply
from ares_coordinator.engine.schedule import Schedule
from ares_coordinator.store.rows import CycleRow
from ares_p2p.errors import OperatorRefused, PayloadMalformed

BEARER = "Bearer "
KEY_HEADER = "X-Aries-Key"


class Controls(Protocol):
    """What the routes need; see `ares_coordinator.engine.conductor`."""

    @property
    def schedule(self) -> Schedule | None:
        """When cycles begin by themselves."""
        ...

    @property
    def next_ms(self) -> int | None:
        """When the next one does."""
        ...

    async def start(self) -> CycleRow:
        """Begin a cycle, or go on with the unfinished one."""
        ...

    async def pause(self) -> None:
        """Let nothing new begin."""
        ...

    async def resume(self) -> None:
        """Go on after a pause."""
        ...

    async def set_schedule(self, value: str | float | None) -> Schedule | None:
        """Begin cycles by themselves from now on."""
        ...


class ScheduleBody(BaseModel):
    """What a schedule is asked for with; see `engine.schedule`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schedule: str | int | float | None


class StartReply(Reply):
    """The cycle that runs now."""

    cycle: int
    phase: str


class PauseReply(Reply):
    """Whether nothing new begins."""

    paused: bool


class ScheduleReply(Reply):
    """When cycles begin by themselves; null: they do not."""

    schedule: str | None
    timezone: str | None
    missed: str | None
    next_ms: int | None


@dataclass(frozen=True, slots=True)
class OperatorRoutes:
    """The controls of one coordinator."""

    controls: Controls
    token: str

    def __post_init__(self) -> None:
        if not self.token:
            raise ValueError("an empty token opens nothing")

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to a router."""
        return [
            web.post("/training/start", self.start),
            web.post("/training/pause", self.pause),
            web.post("/training/resume", self.resume),
            web.get("/schedule", self.show_schedule),
            web.post("/schedule", self.schedule),
        ]

    def _check(self, request: web.Request) -> None:
        """Refuse whoever is not the operator.

        Raises: OperatorRefused.
        """
        given = request.headers.get(hdrs.AUTHORIZATION, "")
        token = given[len(BEARER) :].strip() if given.startswith(BEARER) else ""
        token = token or request.headers.get(KEY_HEADER, "").strip()
        if not token:
            raise OperatorRefused("this is for the operator: a token expected")
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise OperatorRefused("this token is not the operator's")

    async def start(self, request: web.Request) -> web.Response:
        """Begin a cycle, or go on with the unfinished one."""
        self._check(request)
        row = await self.controls.start()
        return json_reply(request, StartReply(cycle=row.cycle, phase=row.phase.value))

    async def pause(self, request: web.Request) -> web.Response:
        """Let nothing new begin; the open round comes to its end."""
        self._check(request)
        await self.controls.pause()
        return json_reply(request, PauseReply(paused=True))

    async def resume(self, request: web.Request) -> web.Response:
        """Go on after a pause."""
        self._check(request)
        await self.controls.resume()
        return json_reply(request, PauseReply(paused=False))

    async def show_schedule(self, request: web.Request) -> web.Response:
        """When cycles begin by themselves."""
        return json_reply(request, self._schedule())

    async def schedule(self, request: web.Request) -> web.Response:
        """Begin cycles by themselves from now on, or no more."""
        self._check(request)
        try:
            body = ScheduleBody.model_validate_json(await request.read())
        except ValidationError as error:
            raise PayloadMalformed(
                "the body is no schedule",
                hint='{"schedule": "daily"}, "weekly", hours, a cron expression, or null',
            ) from error
        await self.controls.set_schedule(body.schedule)
        return json_reply(request, self._schedule())

    def _schedule(self) -> ScheduleReply:
        schedule = self.controls.schedule
        return ScheduleReply(
            schedule=None if schedule is None else schedule.text,
            timezone=None if schedule is None else schedule.timezone,
            missed=None if schedule is None else schedule.missed.value,
            next_ms=self.controls.next_ms,
        )
