"""Where a replay may come from besides our own worker: what auditor peers report.

`Reports` is all that the queue and the settlement ask. Its methods, but for `prepare`, run in the
store's thread, in one call with the verdict or the settlement that they belong to, and may be
repeated after a kill. `NoReports` is a network without auditor peers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ares_coordinator.audit.verdicts import Measures, Verdict
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import AuditRow
from ares_p2p.domain import Posting
from ares_p2p.ids import Digest, PeerId


@dataclass(frozen=True, slots=True)
class Report:
    """What an auditor peer says about one commit."""

    auditor: PeerId
    measures: Measures | None  # None: it could compare nothing
    check: bool  # replay it here as well, even if it says that all is well


@dataclass(frozen=True, slots=True)
class AuditorDue:
    """One assignment of a round that is being settled: what its auditor gets, or why nothing."""

    commit_sha256: Digest
    auditor: PeerId
    code: str  # "" when it is paid
    message: str
    pay: Posting | None  # pending: to be settled now


class Reports(Protocol):
    """The reports of a cycle's auditors."""

    async def prepare(self) -> None:
        """Ask auditors for what was drawn since the last call; the only one that may wait."""
        ...

    def awaited(self, store: Store, cycle: int, *, now_ms: int) -> Collection[Digest]:
        """Return the commits whose auditor still has time to report: nobody else replays them."""
        ...

    def report_on(self, store: Store, audit: AuditRow) -> Report | None:
        """Return what came in time about an audit; None: replay it here."""
        ...

    def judged(
        self, store: Store, audit: AuditRow, verdict: Verdict, *, replayed_here: bool, at_ms: int
    ) -> Sequence[Posting]:
        """Note how an auditor's report stands to the verdict; return its postings.

        They are stored in the transaction of the verdict. Called right before it, whether
        there was a report or not.

        Args:
            replayed_here: the verdict rests on our own replay, not on the report.
        """
        ...

    def dues(self, store: Store, cycle: int, round_number: int) -> Sequence[AuditorDue]:
        """Return every assignment of a round whose audits are closed, in commit order."""
        ...


class NoReports:
    """Implements `Reports` without auditors: our own worker replays everything."""

    async def prepare(self) -> None:
        """Ask nobody."""

    def awaited(self, store: Store, cycle: int, *, now_ms: int) -> Collection[Digest]:  # noqa: ARG002
        return ()

    def report_on(self, store: Store, audit: AuditRow) -> Report | None:  # noqa: ARG002
        return None

    def judged(
        self,
        store: Store,  # noqa: ARG002
        audit: AuditRow,  # noqa: ARG002
        verdict: Verdict,  # noqa: ARG002
        *,
        replayed_here: bool,  # noqa: ARG002
        at_ms: int,  # noqa: ARG002
    ) -> Sequence[Posting]:
        return ()

    def dues(self, store: Store, cycle: int, round_number: int) -> Sequence[AuditorDue]:  # noqa: ARG002
        return ()
