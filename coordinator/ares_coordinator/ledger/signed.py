"""What was signed about a round, opened and verified: the facts that rows are held against.

Pure; reads a `FactsReader`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ares_coordinator.ledger.findings import Finding, by_commit, by_round
from ares_coordinator.store.auditor_rows import AssignmentRow
from ares_coordinator.store.credit_rows import HeadRow
from ares_coordinator.store.rows import (
    AuditRow,
    CommitRow,
    ContributionRow,
    CycleRow,
    LotteryRow,
    RecordRow,
    RoundRow,
)
from ares_p2p.domain import (
    Commit,
    CommitSet,
    CycleConfig,
    EntryStatus,
    LedgerHead,
    ManifestEntry,
    Payload,
    Posting,
    RoundManifest,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import PeerFault
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.commits import open_commit
from ares_p2p.rounds.seedchain import check_revealed_seed
from ares_p2p.wire.codec import decode_envelope, kind_of, open_envelope

P = TypeVar("P", bound=Payload)
T = TypeVar("T")
COMMITS, MANIFEST = kind_of(CommitSet), kind_of(RoundManifest)
SETTLEMENT, HEAD = kind_of(RoundSettlement), kind_of(LedgerHead)


class FactsReader(Protocol):
    """One moment of everything that the ledger rests on."""

    def cycles(self) -> tuple[CycleRow, ...]:
        """Return all cycles, oldest first."""
        ...

    def rounds(self, cycle: int) -> tuple[RoundRow, ...]:
        """Return all rounds of a cycle, oldest first."""
        ...

    def record(self, kind: str, cycle: int, round_number: int, peer: str = "") -> RecordRow | None:
        """Return one record."""
        ...

    def commits(self, cycle: int, round_number: int) -> tuple[CommitRow, ...]:
        """Return a round's commits."""
        ...

    def contributions(self, cycle: int, round_number: int) -> tuple[ContributionRow, ...]:
        """Return what the aggregate did with each commit."""
        ...

    def lottery(self, cycle: int, round_number: int) -> tuple[LotteryRow, ...]:
        """Return a round's lottery."""
        ...

    def audits(self, cycle: int, round_number: int) -> tuple[AuditRow, ...]:
        """Return a round's audits."""
        ...

    def assignments(self, cycle: int, round_number: int) -> tuple[AssignmentRow, ...]:
        """Return the tasks of auditors."""
        ...

    def postings_of_round(self, cycle: int, round_number: int) -> tuple[Posting, ...]:
        """Return the postings about a round's work."""
        ...

    def head_of_round(self, cycle: int, round_number: int) -> HeadRow | None:
        """Return the signed head that a round's settlement sealed."""
        ...

    def failed_audit(self, peer: PeerId, *, at_ms: int) -> AuditRow | None:
        """Return the last audit of a peer up to a time that failed and counted."""
        ...

    def counts_of_ledger(self) -> tuple[int, int, int]:
        """Return how many postings, workers with postings and rounds there are."""
        ...

    def wrong_gpu_passes(self) -> Sequence[tuple[PeerId, int, int]]:
        """Return (worker, stored, counted) where `gpu_passes` is not what the audits say."""
        ...


@dataclass(frozen=True, slots=True)
class Authority:
    """Whose word counts: the coordinator of one network."""

    coordinator: PeerId
    network_id: str


@dataclass(slots=True)
class SignedRound:
    """What was signed about one round, as far as it came. Mutable while it is read.

    Attributes:
        commits: by digest, each opened and verified.
        problems: rows whose signature or place is not right.
    """

    cycle: int
    round: int
    config: CycleConfig | None
    commits: dict[Digest, tuple[PeerId, Commit]] = field(default_factory=dict)
    commit_set: CommitSet | None = None
    manifest: RoundManifest | None = None
    manifest_sha256: Digest | None = None
    settlement: RoundSettlement | None = None
    problems: list[Finding] = field(default_factory=list)

    @property
    def entries(self) -> dict[Digest, ManifestEntry]:
        """What the manifest says of each commit."""
        entries = () if self.manifest is None else self.manifest.entries
        return {entry.commit_sha256: entry for entry in entries}

    @property
    def used(self) -> tuple[Digest, ...]:
        """The commits that the manifest did not refuse."""
        return tuple(
            commit_sha256
            for commit_sha256, entry in self.entries.items()
            if entry.status is not EntryStatus.REFUSED
        )

    @property
    def settled(self) -> dict[Digest, SettlementEntry]:
        """What the settlement says of each commit."""
        entries = () if self.settlement is None else self.settlement.entries
        return {entry.commit_sha256: entry for entry in entries}


def open_config(row: CycleRow, authority: Authority) -> tuple[CycleConfig | None, list[Finding]]:
    """Return the signed config of a cycle; None when there is none yet, or not a right one."""
    if row.config_envelope is None:
        return None, []
    try:
        config = open_envelope(
            decode_envelope(row.config_envelope),
            CycleConfig,
            signer=authority.coordinator,
            network_id=authority.network_id,
        )
        if config.header.cycle == row.cycle:
            return config, []
        problem = f"config_envelope is that of cycle {config.header.cycle}"
    except PeerFault as fault:
        problem = f"config_envelope is not what was signed: {fault.message}"
    return None, [Finding("cycles", f"cycle {row.cycle}", problem)]


def open_round(
    reader: FactsReader, row: RoundRow, config: CycleConfig | None, authority: Authority
) -> SignedRound:
    """Return what was signed about a round."""
    signed = SignedRound(row.cycle, row.round, config)
    commit_set = _open(reader, signed, COMMITS, CommitSet, authority)
    manifest = _open(reader, signed, MANIFEST, RoundManifest, authority)
    settlement = _open(reader, signed, SETTLEMENT, RoundSettlement, authority)
    if commit_set is not None:
        signed.commit_set = commit_set[0]
    if manifest is not None:
        signed.manifest, signed.manifest_sha256 = manifest
    if settlement is not None:
        signed.settlement = settlement[0]
    _open_commits(reader, signed, authority)
    _check_links(signed, None if commit_set is None else commit_set[1])
    return signed


def _open(
    reader: FactsReader, signed: SignedRound, kind: str, cls: type[P], authority: Authority
) -> tuple[P, Digest] | None:
    place = (signed.cycle, signed.round)
    record = reader.record(kind, *place)
    if record is None:
        return None
    name = f"kind {kind} cycle {place[0]} round {place[1]}"
    try:
        envelope = decode_envelope(record.envelope)
        payload = open_envelope(
            envelope, cls, signer=authority.coordinator, network_id=authority.network_id
        )
    except PeerFault as fault:
        text = f"its envelope is not what was signed: {fault.message}"
        signed.problems.append(Finding("records", name, text))
        return None
    header = payload.header
    if (header.cycle, header.round) != place:
        text = f"it was signed for cycle {header.cycle} round {header.round}"
        signed.problems.append(Finding("records", name, text))
        return None
    if record.payload_sha256 != envelope.payload_sha256 or record.seq != header.seq:
        signed.problems.append(Finding("records", name, "payload_sha256 or seq is not its own"))
    return payload, envelope.payload_sha256


def _open_commits(reader: FactsReader, signed: SignedRound, authority: Authority) -> None:
    place = (signed.cycle, signed.round)
    held = set[bytes]()
    for row in reader.commits(*place):
        try:
            opened = open_commit(decode_envelope(row.envelope), network_id=authority.network_id)
        except PeerFault as fault:
            text = f"its envelope is not what was signed: {fault.message}"
            signed.problems.append(by_commit("commits", row.commit_sha256, text))
            continue
        header = opened.commit.header
        said = (row.commit_sha256, row.peer, row.cycle, row.round)
        if said != (opened.sha256, opened.peer, header.cycle, header.round):
            text = "digest, peer, cycle or round is not that of its envelope"
            signed.problems.append(by_commit("commits", row.commit_sha256, text))
        signed.commits[opened.sha256] = (opened.peer, opened.commit)
        held.add(row.envelope)
    listed = () if signed.commit_set is None else signed.commit_set.commits
    for data in listed:
        if data not in held:
            digest = decode_envelope(data).payload_sha256
            text = "is missing, or not as the signed commit set has it"
            signed.problems.append(by_commit("commits", digest, text))


def _check_links(signed: SignedRound, commit_set_sha256: Digest | None) -> None:
    place = (signed.cycle, signed.round)
    manifest, settlement = signed.manifest, signed.settlement
    if manifest is not None and manifest.commit_set_sha256 != commit_set_sha256:
        text = "the signed manifest is about another commit set"
        signed.problems.append(by_round("records", *place, text))
    if settlement is not None and settlement.manifest_sha256 != signed.manifest_sha256:
        text = "the signed settlement is about another manifest"
        signed.problems.append(by_round("records", *place, text))
    if signed.commit_set is None or signed.config is None:
        return
    try:
        check_revealed_seed(
            signed.commit_set.revealed_seed,
            anchor=signed.config.seed_anchor,
            round_number=signed.round,
        )
    except PeerFault as fault:
        signed.problems.append(by_round("records", *place, fault.message))


def read_rows(read: Callable[[], Sequence[T]], table: str, place: tuple[int, int]) -> tuple[
    Sequence[T], list[Finding]
]:  # fmt: skip
    """Return rows of a round, or the finding that one of them cannot be read."""
    try:
        return read(), []
    except ValueError as error:
        return (), [by_round(table, *place, f"holds what nothing here writes: {error}")]


def check_head_record(
    reader: FactsReader, signed: SignedRound, head: HeadRow | None
) -> list[Finding]:
    """Return what is wrong with the head that a settlement sealed, and with its record."""
    settlement, place = signed.settlement, (signed.cycle, signed.round)
    if settlement is None:
        return [] if head is None else [_head(head, "no settlement names it")]
    is_sealed = settlement.page_size_bytes > 0
    if not is_sealed:
        return [] if head is None else [_head(head, "the settlement of its round seals no page")]
    if head is None:
        return [by_round("log_heads", *place, "is missing: the signed settlement names its page")]
    found = []
    page = (settlement.page, settlement.page_size_bytes)
    if (head.page_blob_id, head.page_size_bytes) != page:
        text = "page_blob_id or page_size_bytes is not that of the signed settlement"
        found.append(_head(head, text))
    record = reader.record(HEAD, *place)
    if record is None or record.envelope != head.envelope:
        name = f"kind {HEAD} cycle {place[0]} round {place[1]}"
        found.append(Finding("records", name, "is not the envelope of the row in log_heads"))
    return found


def _head(head: HeadRow, problem: str) -> Finding:
    return Finding("log_heads", f"size {head.size}", problem)
