"""Waiting for the coordinator's word about a round: without limit, because nothing is lost.

A coordinator may be away for hours in the middle of a round and go on where it was. So a peer
waits until the record is there, or until it sees that the round was given up: a newer plan of
the cycle, or another cycle. Only a person who wants to leave shortens the wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import CommitSet, CycleConfig, RoundManifest, RoundPlan
from ares_p2p.ids import Digest
from ares_p2p.network.records import Verified
from ares_peer.events import Event, Phase, PhaseChanged
from ares_peer.links import MAX_POLL_S, POLL_S, Links
from ares_peer.submission import publish

R = TypeVar("R", CommitSet, RoundManifest)

AWAY_AFTER_MS = 5_000  # past the expected time, before the person is told
LEAVE_AFTER_MS = 20_000  # past the serve deadline, before a peer that is to end gives up
REPEAT_MS = 600_000  # a commit lives half an hour in the DHT; an outage may last longer
AWAY = "the coordinator is away; waiting, nothing is lost"


class RoundLost(Exception):
    """This round ends without this peer; the next plan is the next chance. Says why."""


class Patience:
    """Waits for the records of one round.

    Attributes:
        repeat: the own commit, left in the DHT again while the wait goes on.
    """

    def __init__(
        self,
        links: Links,
        plan: RoundPlan,
        plan_sha256: Digest,
        *,
        emit: Callable[[Event], None],
        is_finishing: Callable[[], bool],
    ) -> None:
        self.repeat: Envelope | None = None
        self._links = links
        self._plan = plan
        self._plan_sha256 = plan_sha256
        self._emit = emit
        self._is_finishing = is_finishing
        self._has_told = False
        self._repeated_ms = links.clock.now_ms()

    async def closed(self) -> CommitSet | None:
        """Return the round's closed commits, None while there are none."""
        found = await self._record(CommitSet)
        return None if found is None else found.payload

    async def wait_for(self, cls: type[R], *, expected_ms: int) -> Verified[R]:
        """Return the record of this round, whenever it comes.

        Args:
            expected_ms: when it should be there; a while later the person is told to wait.
        Raises: RoundLost: the coordinator gave the round up, or we are to end. NodeDied.
        """

        async def ask() -> Verified[R] | None:
            found = await self._record(cls)
            if found is None and await self._is_given_up():
                found = await self._record(cls)  # it may have come between the two questions
                if found is None:
                    raise RoundLost("the coordinator opened another plan")
            if found is None:
                await self._repeat_commit()
            return found

        def is_over() -> bool:
            self._tell_of_the_wait(expected_ms)
            return self._may_leave()

        def pause_s() -> float:
            return MAX_POLL_S if self._has_told else POLL_S

        found = await self._links.wait_for(ask, until=is_over, pause_s=pause_s)
        if found is None:
            raise RoundLost(
                f"leaving without the end of round {self._plan.header.round + 1}: "
                "the coordinator is away"
            )
        return found

    async def _record(self, cls: type[R]) -> Verified[R] | None:
        header = self._plan.header
        found = await self._links.records.fetch(cls, cycle=header.cycle, round=header.round)
        of_this_plan = found is not None and found.payload.plan_sha256 == self._plan_sha256
        return found if of_this_plan else None

    async def _is_given_up(self) -> bool:
        header = self._plan.header
        plan = await self._links.records.fetch(RoundPlan, cycle=header.cycle)
        if plan is not None and plan.payload.header.seq > header.seq:
            return True
        if self._links.clock.now_ms() <= self._plan.serve_deadline_ms:
            return False
        config = await self._links.records.fetch(CycleConfig)
        return config is not None and config.payload.header.cycle > header.cycle

    def _may_leave(self) -> bool:
        now_ms = self._links.clock.now_ms()
        return self._is_finishing() and now_ms > self._plan.serve_deadline_ms + LEAVE_AFTER_MS

    def _tell_of_the_wait(self, expected_ms: int) -> None:
        if not self._has_told and self._links.clock.now_ms() > expected_ms + AWAY_AFTER_MS:
            self._has_told = True
            self._emit(PhaseChanged(Phase.WAITING, AWAY))

    async def _repeat_commit(self) -> None:
        now_ms = self._links.clock.now_ms()
        if self.repeat is not None and now_ms > self._repeated_ms + REPEAT_MS:
            self._repeated_ms = now_ms
            await publish(self._links, self.repeat)
