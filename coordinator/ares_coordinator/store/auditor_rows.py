"""What the database holds of auditor peers, as frozen dataclasses. Free of SQL.

Field names equal column names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ares_p2p.ids import Digest, PeerId


class AuditResult(StrEnum):
    """What became of an auditor's task."""

    AGREED = "agreed"  # our own replay says the same
    TRUSTED = "trusted"  # a pass that was not replayed a second time
    CONTRADICTED = "contradicted"  # our own replay says the opposite
    MISSED = "missed"  # no report came in time
    UNUSABLE = "unusable"  # nothing was compared, or the report fits neither way


PAID_RESULTS = (AuditResult.AGREED, AuditResult.TRUSTED)


class ReportResult(StrEnum):
    """What became of a report that was handed in."""

    NEW = "new"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class AssignmentRow:
    """A commit that an auditor was asked to replay, and what came of it."""

    commit_sha256: Digest
    auditor: PeerId
    cycle: int
    round: int
    assigned_ms: int
    deadline_ms: int
    report_envelope: bytes | None = field(default=None, repr=False)
    received_ms: int | None = None
    result: AuditResult | None = None  # None: nothing was decided yet
    code: str = ""  # why it is not paid
    message: str = ""


@dataclass(frozen=True, slots=True)
class RulingRow:
    """The decision about one task."""

    commit_sha256: Digest
    auditor: PeerId
    result: AuditResult
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class AuditorRow:
    """What the operator or an own fault made of a peer as an auditor.

    `named_ms`: the operator named it by hand. `dismissed_ms`: it passed forged work, and is no
    auditor until it is named again.
    """

    peer: PeerId
    named_ms: int | None = None
    dismissed_ms: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class TallyRow:
    """How many tasks of an auditor ended in one way."""

    auditor: PeerId
    result: AuditResult | None  # None: not decided yet
    tasks: int


@dataclass(frozen=True, slots=True)
class DecoyRow:
    """A forged contribution of ours in one round, and the identity that hands it in."""

    cycle: int
    round: int
    peer: PeerId
    key_seed: bytes = field(repr=False)
    commit_sha256: Digest | None = None  # None: it was never committed
    forgery: str = ""
