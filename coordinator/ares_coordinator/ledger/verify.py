"""The whole check of a ledger: log, projections, facts. Every row that is wrong is named.

    log           `log`          postings, log_nodes, log_heads as one Merkle tree, signed heads, pages
    projections   `projections`  worker_totals, standings, streaks of the lottery: folds of postings
    facts         `facts`        contributions, lottery, audits, postings against what was signed

What a dishonest coordinator signed itself is not found here; a volunteer finds what contradicts
its own evidence. Pure; reads one moment of the database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from typing import Protocol

from ares_coordinator.ledger.facts import verify_facts
from ares_coordinator.ledger.findings import Finding
from ares_coordinator.ledger.log import LogReader, verify_log
from ares_coordinator.ledger.projections import ProjectionReader, verify_projections
from ares_coordinator.ledger.signed import Authority, FactsReader


class LedgerReader(LogReader, ProjectionReader, FactsReader, Protocol):
    """One moment of the whole ledger."""


class Part(StrEnum):
    """What is checked, one after another."""

    LOG = "log"
    PROJECTIONS = "projections"
    FACTS = "facts"


Progress = Callable[[Part, int], None]  # told how many more postings (facts: rounds) are done


def verify_ledger(
    reader: LedgerReader, authority: Authority, *, progress: Progress
) -> Iterator[Finding]:
    """Yield everything that is wrong with a ledger; nothing at all when it is in order."""
    yield from verify_log(
        reader,
        coordinator=authority.coordinator,
        network_id=authority.network_id,
        progress=partial(progress, Part.LOG),
    )
    yield from verify_projections(reader, progress=partial(progress, Part.PROJECTIONS))
    yield from verify_facts(reader, authority, progress=partial(progress, Part.FACTS))
