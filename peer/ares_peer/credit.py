"""Reports the credit of own rounds as the coordinator publishes it, over restarts too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ares_p2p.domain import RoundSettlement
from ares_p2p.errors import NetworkFault, NodeDied
from ares_peer.events import AuditSettled, CreditSettled, Event
from ares_peer.ledgerwatch import LedgerWatch
from ares_peer.links import Links
from ares_peer.memory import RoundKey, SessionMemory

WAIT_S = 180.0  # for the audits of the last rounds, before a peer that may leave does
PAGE_WAIT_S = 15.0  # for their ledger pages after that: evidence, no credit depends on it


@dataclass(frozen=True, slots=True)
class CreditWatch:
    """One per session."""

    links: Links
    memory: SessionMemory
    emit: Callable[[Event], None]
    ledger: LedgerWatch

    async def settle(self) -> None:
        """Look once at every round whose credit is to come, and at the ledger.

        Raises: NodeDied.
        """
        await self._report()
        await self.ledger.follow()

    async def _report(self) -> None:
        """Report what was settled."""
        for key in self.memory.unsettled:
            try:
                await self._settle_round(key)
            except NodeDied:
                raise
            except NetworkFault:
                return  # the next look is soon

    async def wait(self, *, is_finishing: Callable[[], bool]) -> tuple[RoundKey, ...]:
        """Wait a while for all credit; return the rounds that are still being audited.

        Then wait a little for the ledger pages of what was settled.
        """
        await self._wait_while(lambda: bool(self.memory.unsettled), WAIT_S, is_finishing)
        await self._wait_while(lambda: self.ledger.is_behind, PAGE_WAIT_S, is_finishing)
        return self.memory.unsettled

    async def _wait_while(
        self, is_missing: Callable[[], bool], seconds: float, is_finishing: Callable[[], bool]
    ) -> None:
        until_ms = self.links.clock.now_ms() + int(seconds * 1000)

        async def ask() -> bool | None:
            await self.settle()
            return None if is_missing() else True

        await self.links.wait_for(
            ask, until=lambda: is_finishing() or self.links.clock.now_ms() >= until_ms
        )

    async def _settle_round(self, key: RoundKey) -> None:
        cycle, round_number = key
        found = await self.links.records.fetch(RoundSettlement, cycle=cycle, round=round_number)
        if found is None or key not in self.memory.unsettled:
            return
        self.ledger.evidence.keep(key, durable=True, settlement=found.envelope)
        self.memory.expect_page(key)
        self.ledger.hurry()
        self.memory.forget_credit(key)
        me = self.links.identity.peer_id
        for entry in found.payload.entries:
            if entry.peer == me:
                self.emit(
                    CreditSettled(
                        cycle,
                        round_number,
                        entry.outcome.value,
                        entry.reward_ucredits,
                        entry.balance_ucredits,
                        entry.code,
                        entry.message,
                    )
                )
        for pay in found.payload.audits:
            if pay.auditor == me:
                self.emit(
                    AuditSettled(
                        cycle,
                        round_number,
                        pay.commit_sha256.hex(),
                        pay.reward_ucredits,
                        pay.balance_ucredits,
                        pay.code,
                        pay.message,
                    )
                )


def rounds_text(keys: tuple[RoundKey, ...]) -> str:
    """Return the rounds as a person counts them: "1.3, 1.4" is cycle 1, rounds 3 and 4."""
    return ", ".join(f"{cycle}.{round_number + 1}" for cycle, round_number in keys)
