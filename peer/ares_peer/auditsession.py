"""The session of an auditor: it does not train, and no round waits for it.

It prepares for a cycle as a trainer does (base, adapters, data), announces itself as an auditor,
and from then on follows the audit plans. A person who wants to leave lets the running replay end.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ares_p2p.domain import RoundManifest, RoundSettlement
from ares_p2p.ids import Digest
from ares_p2p.rounds.audits import AUDITOR_ROLE
from ares_peer.auditor import Auditor
from ares_peer.events import Phase, PhaseChanged
from ares_peer.running import RunningCycle
from ares_peer.session import Session
from ares_peer.stopwish import Leaving

LOOK_S = 1.0  # between two looks at the audit plans
OVER_S = 2.0  # between two looks for the next cycle


class AuditorSession(Session):
    """One auditor's session; `run` returns when the stop wish is fulfilled."""

    role = AUDITOR_ROLE
    auditor_work: type[Auditor] = Auditor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._auditor = self.auditor_work(
            self._links,
            self._memory,
            self._shelf,
            self._profile,
            self._announcer.peers_online,
            self._emit,
        )

    async def _follow(self, running: RunningCycle) -> bool:
        """Do the next audit; True when the session is over."""
        if running.is_over:
            await self._wish.or_leave(self._links.clock.sleep(OVER_S))
            return False
        self._emit(PhaseChanged(Phase.WAITING, "for work to audit"))
        task = await self._wish.or_leave(self._auditor.look(running))
        if task is not None:
            self._is_in_round = True
            try:
                await self._auditor.work(running, task)
            finally:
                self._is_in_round = False
                self._tokens_per_s = self._auditor.tokens_per_s
                self._tell_traffic()
            return False
        final = await self._wish.or_leave(self._final_state(running))
        if final is not None:
            return await self._say_cycle_is_done(running, final)
        with contextlib.suppress(Leaving):
            await self._wish.or_leave(self._links.clock.sleep(LOOK_S))
        return False

    async def _final_state(self, running: RunningCycle) -> Digest | None:
        """Return the cycle's last state once all its audits are closed: nothing is asked then."""
        records, last = self._links.records, running.config.rounds - 1
        settled = await records.fetch(RoundSettlement, cycle=running.number, round=last)
        if settled is None:
            return None
        final = await records.fetch(RoundManifest, cycle=running.number, round=last)
        return None if final is None else final.payload.next_state
