"""One round's evidence, link by link: every signature, digest, rule and proof in it.

What takes more than one round to see (that the heads of the log agree, that each payment has its
posting, that streaks and balances go on) is in `check_log`.

It refuses nothing: it returns what it found, so that one broken link does not hide the next.
Pure. Source: docs/adr/0001; RFC 9162, section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ares_p2p.averaging.runs import part_sizes
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.merkle import check_consistency, check_inclusion, fold_frontier
from ares_p2p.domain import (
    NO_PAGE,
    AuditOutcome,
    AuditPlan,
    AuditReport,
    Commit,
    CommitAck,
    CommitSet,
    CycleConfig,
    DatasetManifest,
    EntryStatus,
    LedgerHead,
    Payload,
    Posting,
    RoundManifest,
    RoundPlan,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import EvidenceBroken, PeerFault
from ares_p2p.ids import Digest
from ares_p2p.proofs.checked import CheckedCycle, CheckedHead, CheckedRound
from ares_p2p.proofs.evidence import CycleEvidence, LogLink, RoundEvidence
from ares_p2p.proofs.findings import Finding, Link, Severity, Volunteer
from ares_p2p.proofs.ledger import ProvenLeaf, read_leaf
from ares_p2p.rounds.commits import SignedCommit, check_commit, check_commit_set
from ares_p2p.rounds.lottery import audit_rate, is_drawn
from ares_p2p.rounds.manifest import check_manifest
from ares_p2p.rounds.parts import check_plan_parts
from ares_p2p.rounds.plan import check_plan
from ares_p2p.rounds.seedchain import check_revealed_seed
from ares_p2p.wire.codec import decode_envelope, decode_payload, open_envelope

P = TypeVar("P", bound=Payload)
R = TypeVar("R")


def check_cycle(
    evidence: CycleEvidence, volunteer: Volunteer, *, quick: bool = False
) -> CheckedCycle:
    """Verify a cycle's configuration and that its data set is the one it names."""
    config, digest, examples = None, b"", None
    try:
        config, envelope = _open(evidence.config, CycleConfig, volunteer, quick=quick)
        if config.header.cycle != evidence.cycle:
            raise EvidenceBroken(f"it is the configuration of cycle {config.header.cycle}")
        digest = envelope.payload_sha256
        dataset, envelope = _open(evidence.dataset, DatasetManifest, volunteer, quick=quick)
        if envelope.payload_sha256 != config.dataset_sha256:
            raise EvidenceBroken("the data set is not the one that the configuration names")
        examples = dataset.content.examples
    except PeerFault as fault:
        finding = Finding(
            Severity.BROKEN, Link.CONFIG, fault.message, evidence.cycle, file=evidence.origin
        )
        return CheckedCycle(findings=(finding,))
    return CheckedCycle(config, digest, examples)


def check_round(
    evidence: RoundEvidence,
    cycle: CheckedCycle | None,
    volunteer: Volunteer,
    *,
    quick: bool = False,
) -> CheckedRound:
    """Verify one round's evidence.

    Args:
        cycle: of the round; None when nothing of it is held.
        quick: read, and verify neither signatures nor proofs: for a table, not for a check.
    """
    return _Round(evidence, cycle or CheckedCycle(), volunteer, quick=quick).run()


def check_head(data: bytes, volunteer: Volunteer, *, origin: str = "") -> CheckedHead:
    """Return a signed head that came alone.

    Raises: PeerFault.
    """
    head, _ = _open(data, LedgerHead, volunteer, quick=False)
    header = head.header
    return CheckedHead(head.size, head.root, header.seq, header.issued_ms, origin=origin)


def _open(data: bytes, cls: type[P], volunteer: Volunteer, *, quick: bool) -> tuple[P, Envelope]:
    """Return a payload and its envelope. Raises: PeerFault."""
    envelope = decode_envelope(data)
    if quick:
        return decode_payload(envelope.payload_type, envelope.payload, cls), envelope
    signer = volunteer.peer if cls in (Commit, AuditReport) else volunteer.coordinator
    payload = open_envelope(envelope, cls, signer=signer, network_id=volunteer.network_id)
    return payload, envelope


class _Round:
    """The check of one round, for one call of `run`."""

    def __init__(
        self, evidence: RoundEvidence, cycle: CheckedCycle, volunteer: Volunteer, *, quick: bool
    ) -> None:
        self.evidence, self.cycle, self.volunteer, self.quick = evidence, cycle, volunteer, quick
        self.out = CheckedRound(*evidence.key, origin=evidence.origin, notes=evidence.notes)
        self.plan: tuple[RoundPlan, Digest] | None = None
        self.commits: list[SignedCommit] | None = None
        self.commit_set_sha256: Digest | None = None

    def run(self) -> CheckedRound:
        worked = self.evidence.commit or self.evidence.commit_set
        if self.cycle.config is None and worked and not self.cycle.findings:
            self.out.gap(
                Link.CONFIG,
                "the cycle's signed configuration is not held: seed, assignment and price cannot "
                "be checked",
            )
        self._check_plan()
        self._check_commit()
        self._check_commit_set()
        self._check_ack()
        self._check_manifest()
        self._check_settlement()
        self._check_audits()
        if self.evidence.link is not None:
            self._tried(Link.HEAD, lambda: self._check_link(self.evidence.link))
        elif self.evidence.leaves:
            self.out.broken(Link.HEAD, "leaves of the ledger without the head that covers them")
        return self.out

    # --- helpers -------------------------------------------------------------------------------

    def _opened(self, link: Link, data: bytes, cls: type[P]) -> tuple[P, Digest] | None:
        """Return a payload of this very round with its digest, or note what is wrong with it."""
        if not data:
            return None
        opened = self._tried(link, lambda: _open(data, cls, self.volunteer, quick=self.quick))
        if opened is None:
            return None
        payload, envelope = opened
        place = (payload.header.cycle, payload.header.round)
        if place != self.evidence.key:
            self.out.broken(link, f"it is of cycle {place[0]} round {place[1]}")
            return None
        return payload, envelope.payload_sha256

    def _tried(self, link: Link, act: Callable[[], R]) -> R | None:
        try:
            return act()
        except PeerFault as fault:
            self.out.broken(link, fault.message)
            return None

    # --- plan, commit, acknowledgement ---------------------------------------------------------

    def _check_plan(self) -> None:
        self.plan = self._opened(Link.PLAN, self.evidence.plan, RoundPlan)
        if self.plan is not None:
            self.out.has_plan = True
            self.out.previous_manifest_sha256 = self.plan[0].previous_manifest_sha256
        if not self.evidence.plan and self.evidence.commit:
            self.out.gap(Link.PLAN, "the round's plan is not held")
        config, digest = self.cycle.config, self.cycle.config_sha256
        if self.plan is not None and config is not None and not self.quick:
            plan = self.plan[0]
            self._tried(Link.PLAN, lambda: check_plan(plan, config=config, config_sha256=digest))

    def _check_commit(self) -> None:
        found = self._opened(Link.COMMIT, self.evidence.commit, Commit)
        if found is None:
            return
        signed = SignedCommit(found[0], decode_envelope(self.evidence.commit))
        self._take_commit(signed)
        if self.plan is not None and not self.quick:
            self._tried(Link.COMMIT, lambda: self._check_commit_fits(signed))

    def _take_commit(self, signed: SignedCommit) -> None:
        self.out.commit, self.out.commit_sha256 = signed.commit, signed.sha256
        self.out.price_ucredits = self.cycle.price_of(signed.commit.tokens)

    def _check_commit_fits(self, signed: SignedCommit) -> None:
        assert self.plan is not None
        plan, plan_sha256 = self.plan
        if signed.commit.plan_sha256 != plan_sha256:
            raise EvidenceBroken(
                f"it was made for plan {signed.commit.plan_sha256.hex()[:12]}, the one that is "
                f"held is {plan_sha256.hex()[:12]}"
            )
        config, examples = self.cycle.config, self.cycle.examples
        if config is not None and examples:
            check_commit(
                signed, plan=plan, plan_sha256=plan_sha256, config=config, examples=examples
            )

    def _check_ack(self) -> None:
        found = self._opened(Link.ACK, self.evidence.ack, CommitAck)
        if found is None:
            return
        ack = found[0]
        if ack.commit_sha256 != self.out.commit_sha256 or ack.peer != self.volunteer.peer:
            self.out.broken(
                Link.ACK, f"it is for commit {ack.commit_sha256.hex()[:12]} of {ack.peer}"
            )
            return
        self.out.is_acknowledged = True
        if self.out.has_commit_set and not self.out.is_listed:
            self.out.broken(
                Link.COMMIT_SET,
                "the coordinator acknowledged the commit and left it out of the closed set: two "
                "signatures of its own that contradict each other",
            )

    # --- commit set ----------------------------------------------------------------------------

    def _check_commit_set(self) -> None:
        found = self._opened(Link.COMMIT_SET, self.evidence.commit_set, CommitSet)
        if found is None:
            return
        commit_set, self.commit_set_sha256 = found
        commits = self._tried(Link.COMMIT_SET, lambda: self._commits_of(commit_set))
        if commits is None:
            return
        self.commits = commits
        self.out.has_commit_set = True
        me = self.volunteer.peer
        own = next((signed for signed in commits if signed.peer == me), None)
        self.out.is_listed = own is not None
        self.out.refusal = next((item for item in commit_set.refusals if item.peer == me), None)
        if own is not None and self.out.commit is None:
            if not self.evidence.commit:
                self.out.gap(Link.COMMIT, "the own commit is not kept; it is in the commit set")
            self._take_commit(own)
        elif own is not None and own.sha256 != self.out.commit_sha256:
            self.out.broken(
                Link.COMMIT_SET,
                f"it holds another commit of this peer, {own.sha256.hex()[:12]}: the key is in "
                "use in two places, or somebody has it",
            )
            self.out.is_listed = False

    def _commits_of(self, commit_set: CommitSet) -> list[SignedCommit]:
        """Return the commits of a set that keeps all rules. Raises: PeerFault."""
        config, examples = self.cycle.config, self.cycle.examples
        if self.quick or config is None:
            return [_signed_unchecked(data) for data in commit_set.commits]
        seed, number = commit_set.revealed_seed, self.evidence.round
        try:
            check_revealed_seed(seed, anchor=config.seed_anchor, round_number=number)
        except PeerFault as fault:
            self.out.broken(Link.SEED, fault.message)
            return [_signed_unchecked(data) for data in commit_set.commits]
        self.out.seed = seed
        if self.plan is None or not examples:  # of work of others that this peer audited
            return [_signed_unchecked(data) for data in commit_set.commits]
        plan, plan_sha256 = self.plan
        return check_commit_set(
            commit_set, plan=plan, plan_sha256=plan_sha256, config=config, examples=examples
        )

    # --- manifest ------------------------------------------------------------------------------

    def _check_manifest(self) -> None:
        found = self._opened(Link.MANIFEST, self.evidence.manifest, RoundManifest)
        if found is None:
            return
        manifest, self.out.manifest_sha256 = found
        if self.commits is None:
            if not self.evidence.commit_set:
                self.out.gap(Link.COMMIT_SET, "the round's commit set is not held")
        elif not self.quick:
            self._tried(Link.MANIFEST, lambda: self._check_manifest_fits(manifest))
        self.out.finished_ms = manifest.header.issued_ms
        self.out.manifest_entry = next(
            (item for item in manifest.entries if item.commit_sha256 == self.out.commit_sha256),
            None,
        )
        self.out.corrections = tuple(
            entry
            for correction in manifest.corrections
            for entry in correction.entries
            if entry.peer == self.volunteer.peer
        )

    def _check_manifest_fits(self, manifest: RoundManifest) -> None:
        assert self.commits is not None
        plan_sha256 = manifest.plan_sha256 if self.plan is None else self.plan[1]
        commit_set_sha256 = self.commit_set_sha256
        assert commit_set_sha256 is not None
        check_manifest(
            manifest,
            commits=self.commits,
            plan_sha256=plan_sha256,
            commit_set_sha256=commit_set_sha256,
            previous_manifest_sha256=self.out.previous_manifest_sha256,
            part_sizes=self._part_sizes(manifest),
        )

    def _part_sizes(self, manifest: RoundManifest) -> tuple[int, ...] | None:
        """Return the bytes of the sum's parts, None when that cannot be known here.

        Those of a corrected round are of another plan than this round's.

        Raises: PayloadMalformed: the plan names parts that cannot be.
        """
        config = self.cycle.config
        if self.plan is None or config is None or manifest.corrections:
            return None
        plan, training = self.plan[0], config.training
        if not plan.parts:
            return ()
        check_plan_parts(plan, config=config)
        return part_sizes(
            config.parameters, plan.parts, bits=training.down_bits, block=training.codec_block
        )

    # --- settlement ----------------------------------------------------------------------------

    def _check_settlement(self) -> None:
        found = self._opened(Link.SETTLEMENT, self.evidence.settlement, RoundSettlement)
        if found is None:
            return
        settlement = found[0]
        out, me = self.out, self.volunteer.peer
        out.is_settled = True
        if self.out.manifest_sha256 is None:
            if not self.evidence.manifest and out.commit is not None:
                out.gap(Link.MANIFEST, "the round's manifest is not held")
        elif settlement.manifest_sha256 != self.out.manifest_sha256:
            out.broken(
                Link.SETTLEMENT,
                f"it settles manifest {settlement.manifest_sha256.hex()[:12]}, the one that is "
                f"held is {self.out.manifest_sha256.hex()[:12]}",
            )
        own = [item for item in settlement.entries if item.peer == me]
        out.entry = next((item for item in own if item.commit_sha256 == out.commit_sha256), None)
        if any(item is not out.entry for item in own):
            out.broken(Link.SETTLEMENT, "it has an entry of this peer for another commit")
        out.audit_pays = tuple(item for item in settlement.audits if item.auditor == me)
        if settlement.page != NO_PAGE and self.evidence.link is None:
            out.gap(
                Link.POSTING,
                "the ledger page of this settlement is not held: no posting in it can be checked",
            )
        accepted = out.manifest_entry
        if out.entry is not None:
            self._check_entry(out.entry)
        elif accepted is not None and accepted.status is not EntryStatus.REFUSED:
            out.broken(
                Link.SETTLEMENT,
                "the manifest counts the commit, and the settlement says nothing about it",
            )

    def _check_entry(self, entry: SettlementEntry) -> None:
        out, reward, price = self.out, entry.reward_ucredits, self.out.price_ucredits
        if entry.outcome in (AuditOutcome.PASS, AuditOutcome.NOT_DRAWN) or entry.shadow:
            may_differ = entry.code and not reward  # forfeited, with its reason
            if price is not None and reward != price and not may_differ:
                out.broken(
                    Link.PRICE,
                    f"the commit's tokens are worth {price} micro-credits in this cycle, the "
                    f"settlement says {reward}",
                )
        elif reward:
            out.broken(Link.SETTLEMENT, f"a reward of {reward} with outcome {entry.outcome}")
        if not reward and not entry.code and price:
            out.broken(Link.SETTLEMENT, f"outcome {entry.outcome}, no reward, and no reason")
        if out.seed is not None and entry.outcome is AuditOutcome.NOT_DRAWN:
            rate = audit_rate(entry.streak)
            if is_drawn(out.seed, entry.commit_sha256, rate):
                out.broken(
                    Link.LOTTERY,
                    f"with streak {entry.streak} (rate {rate:.2f}) the seed draws this commit, "
                    "the settlement says that it was not drawn",
                )

    # --- audits that this peer made ------------------------------------------------------------

    def _check_audits(self) -> None:
        """Verify the assignments and own reports, and note what the replays are worth."""
        found = self._opened(Link.AUDIT, self.evidence.audit_plan, AuditPlan)
        if found is not None and self.commit_set_sha256 is not None:
            plan = found[0]
            if plan.commit_set_sha256 != self.commit_set_sha256:
                self.out.broken(Link.AUDIT, "the audit plan is about another commit set")
        prices = self.out.audited_prices
        for signed in self.commits or ():
            price = self.cycle.price_of(signed.commit.tokens)
            if price is not None:
                prices[signed.sha256] = price
        for data in self.evidence.reports:
            report = self._opened(Link.AUDIT, data, AuditReport)
            price = None if report is None else self.cycle.price_of(report[0].tokens)
            if report is not None and price is not None:
                prices[report[0].commit_sha256] = price

    # --- the page's head and leaves ------------------------------------------------------------

    def _check_link(self, link: LogLink | None) -> None:
        assert link is not None
        head, _ = _open(link.head, LedgerHead, self.volunteer, quick=self.quick)
        header = head.header
        if (header.cycle, header.round) != self.evidence.key:
            raise EvidenceBroken(f"it seals cycle {header.cycle} round {header.round}")
        root_before = fold_frontier(link.frontier)
        if len(link.frontier) != link.first.bit_count():
            raise EvidenceBroken(
                f"{len(link.frontier)} nodes before posting {link.first + 1}, "
                f"{link.first.bit_count()} expected"
            )
        if not self.quick:
            try:
                check_consistency(
                    first=link.first,
                    second=head.size,
                    first_root=root_before,
                    second_root=head.root,
                    proof=link.proof,
                )
            except PeerFault as fault:
                self.out.broken(Link.CONSISTENCY, fault.message)
                return
        self.out.head = CheckedHead(
            head.size,
            head.root,
            header.seq,
            header.issued_ms,
            first=link.first,
            frontier=link.frontier,
            origin=self.evidence.origin,
        )
        read = (self._posting_in(item, head, link.first) for item in self.evidence.leaves)
        self.out.postings = tuple(posting for posting in read if posting is not None)
        self.out.has_bad_leaves = len(self.out.postings) < len(self.evidence.leaves)

    def _posting_in(self, item: ProvenLeaf, head: LedgerHead, first: int) -> Posting | None:
        """Return the posting of an own leaf that is in the log, or note why not."""
        try:
            posting = read_leaf(item.leaf)
            if posting.id != item.index + 1 or not first <= item.index < head.size:
                raise EvidenceBroken(
                    f"leaf {item.index} is posting {posting.id} of a page of leaves {first} to "
                    f"{head.size}"
                )
            if posting.worker != self.volunteer.peer:
                raise EvidenceBroken(f"posting {posting.id} is of {posting.worker}")
        except PeerFault as fault:
            self.out.broken(Link.POSTING, fault.message)
            return None
        if not self.quick:
            try:
                check_inclusion(
                    item.leaf, index=item.index, count=head.size, proof=item.proof, root=head.root
                )
            except PeerFault as fault:
                self.out.broken(Link.INCLUSION, f"posting {posting.id}: {fault.message}")
                return None
        return posting


def _signed_unchecked(data: bytes) -> SignedCommit:
    envelope = decode_envelope(data)
    return SignedCommit(decode_payload(envelope.payload_type, envelope.payload, Commit), envelope)
