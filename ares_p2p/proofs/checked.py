"""What the check of a volunteer's evidence makes of it, cycle by cycle and round by round. Pure.

Only what was verified is filled in: a field that is None or empty says that the link is not held,
or does not hold, and then a finding says which.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ares_p2p.crypto.merkle import fold_frontier
from ares_p2p.domain import (
    AuditPay,
    Commit,
    CycleConfig,
    ManifestEntry,
    Posting,
    PostingKind,
    Refusal,
    SettlementEntry,
)
from ares_p2p.ids import Digest
from ares_p2p.proofs.evidence import Note
from ares_p2p.proofs.findings import Finding, Link, Severity
from ares_p2p.proofs.price import reward_ucredits


@dataclass(frozen=True, slots=True)
class CheckedCycle:
    """A cycle's configuration and the size of its training set."""

    config: CycleConfig | None = None
    config_sha256: Digest = b""
    examples: int | None = None
    findings: tuple[Finding, ...] = ()

    def price_of(self, tokens: int) -> int | None:
        """Return what so many tokens are worth in this cycle."""
        if self.config is None or self.config.reference_tokens_per_hour == 0:
            return None
        per_hour = self.config.reference_tokens_per_hour
        return reward_ucredits(tokens, reference_tokens_per_hour=per_hour)


@dataclass(frozen=True, slots=True)
class CheckedHead:
    """A signed head of the log and, when it came with a page, what the page went on from."""

    size: int
    root: Digest
    seq: int
    issued_ms: int
    first: int | None = None
    frontier: tuple[Digest, ...] = ()
    origin: str = ""

    @property
    def root_before(self) -> Digest:
        """The root of the log before the page."""
        return fold_frontier(self.frontier)


@dataclass(slots=True)
class CheckedRound:
    """One round."""

    cycle: int
    round: int
    origin: str = ""
    findings: list[Finding] = field(default_factory=list)
    notes: tuple[Note, ...] = ()
    has_plan: bool = False
    previous_manifest_sha256: Digest | None = None  # as the plan names it
    commit: Commit | None = None
    commit_sha256: Digest = b""
    price_ucredits: int | None = None  # of the commit's tokens
    is_acknowledged: bool = False
    has_commit_set: bool = False
    is_listed: bool = False  # the own commit, in the commit set
    refusal: Refusal | None = None  # the own one that the commit set lists
    seed: Digest | None = None
    audited_prices: dict[Digest, int] = field(default_factory=dict)  # of others' work, by commit
    manifest_sha256: Digest | None = None
    manifest_entry: ManifestEntry | None = None
    finished_ms: int | None = None
    corrections: tuple[ManifestEntry, ...] = ()  # own ones of the round before, as they are now
    is_settled: bool = False
    entry: SettlementEntry | None = None
    audit_pays: tuple[AuditPay, ...] = ()
    head: CheckedHead | None = None
    postings: tuple[Posting, ...] = ()
    has_bad_leaves: bool = False  # some of the page's own leaves could not be believed

    @property
    def key(self) -> tuple[int, int]:
        """(cycle, round)."""
        return self.cycle, self.round

    @property
    def kind(self) -> PostingKind:
        """The kind of work that the commit's device makes it."""
        on_gpu = self.commit is not None and self.commit.device.startswith("cuda")
        return PostingKind.GPU_TRAINING if on_gpu else PostingKind.CPU_TRAINING

    def broken(self, link: Link, message: str) -> None:
        """Note a link that does not hold."""
        self._find(Severity.BROKEN, link, message)

    def gap(self, link: Link, message: str) -> None:
        """Note a link that is not held."""
        self._find(Severity.GAP, link, message)

    def _find(self, severity: Severity, link: Link, message: str) -> None:
        self.findings.append(
            Finding(severity, link, message, self.cycle, self.round, file=self.origin)
        )
