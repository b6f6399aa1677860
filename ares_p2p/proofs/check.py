"""The whole chain of a volunteer's evidence, from each commit to the log, checked offline.

    commit, signed by the volunteer, for the plan            check_round
    -> acknowledgement -> commit set (Merkle root)           check_round
    -> the seed of the chain that was fixed beforehand       check_round
    -> manifest entry -> lottery, from streak and seed       check_round
    -> settlement: the price of the tokens, or a reason      check_round
    -> posting -> inclusion under a signed head              check_round
    -> heads that agree, each log the start of the next      check_log
    -> no payment without posting, streaks and balances      check_log

It needs the volunteer's files and the network's id and coordinator, and nobody's word.
Pure. Source: docs/adr/0001, "Contribution proofs, audits, credit".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import LedgerHead, Posting
from ares_p2p.errors import PeerFault
from ares_p2p.proofs.accounts import Account, Balance, accounts_of, balance_of
from ares_p2p.proofs.check_log import check_log
from ares_p2p.proofs.check_round import check_cycle, check_head, check_round
from ares_p2p.proofs.checked import CheckedHead, CheckedRound
from ares_p2p.proofs.evidence import CycleEvidence, RoundEvidence
from ares_p2p.proofs.findings import Finding, Link, Severity, Volunteer
from ares_p2p.proofs.ledger import HeadsContradict, LedgerPage, check_page, open_head


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        rounds: how many were read, those that were only followed included.
        heads: signed heads that hold, smallest first.
        postings: own ones whose inclusion was verified, by id.
    """

    accounts: tuple[Account, ...]
    balance: Balance
    findings: tuple[Finding, ...]
    rounds: int
    heads: tuple[CheckedHead, ...]
    postings: tuple[Posting, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(one for one in self.findings if one.severity is severity)

    @property
    def is_whole(self) -> bool:
        """Whether no link is broken; gaps may remain."""
        return not self.of(Severity.BROKEN)


def check_evidence(
    volunteer: Volunteer,
    *,
    cycles: Mapping[int, CycleEvidence],
    rounds: Iterable[RoundEvidence],
    heads: Iterable[tuple[bytes, str]] = (),
    quick: bool = False,
) -> Report:
    """Check everything that a volunteer holds.

    Args:
        rounds: read one by one, so that years of them fit in memory.
        heads: envelopes of `LedgerHead`s that came alone, each with its origin.
        quick: read, and verify neither signatures nor proofs: for a table of accounts.
    """
    opened = {
        number: check_cycle(evidence, volunteer, quick=quick) for number, evidence in cycles.items()
    }
    findings = [finding for one in opened.values() for finding in one.findings]
    checked = [
        check_round(evidence, opened.get(evidence.cycle), volunteer, quick=quick)
        for evidence in rounds
    ]
    checked.sort(key=lambda one: one.key)
    alone: list[CheckedHead] = []
    for data, origin in heads:
        try:
            alone.append(check_head(data, volunteer, origin=origin))
        except PeerFault as fault:
            findings.append(Finding(Severity.BROKEN, Link.HEAD, fault.message, file=origin))
    log = check_log(checked, alone)
    findings += log.findings
    findings += [finding for one in checked for finding in one.findings]
    accounts = accounts_of(checked, log)
    return Report(
        accounts=accounts,
        balance=balance_of(accounts, checked, log),
        findings=tuple(sorted(findings, key=_place)),
        rounds=len(checked),
        heads=_heads_of(checked, alone),
        postings=tuple(sorted((one for items in log.postings.values() for one in items), key=_id)),
    )


def _id(posting: Posting) -> int:
    return posting.id


def _place(finding: Finding) -> tuple[bool, int, int]:
    cycle = -1 if finding.cycle is None else finding.cycle
    return finding.severity is Severity.GAP, cycle, -1 if finding.round is None else finding.round


def _heads_of(
    checked: Iterable[CheckedRound], alone: Iterable[CheckedHead]
) -> tuple[CheckedHead, ...]:
    found = [*(one.head for one in checked if one.head is not None), *alone]
    return tuple(sorted(found, key=lambda head: head.size))


# --- two heads of which one is false -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two signed heads that exclude each other, with what shows it.

    Attributes:
        page: leads to `later`, and covers the size of `earlier`; None: the heads alone show it.
    """

    earlier: Envelope
    later: Envelope
    page: LedgerPage | None = None


def check_heads_agree(earlier: LedgerHead, later: LedgerHead) -> None:
    """Compare two verified heads of one coordinator, in the order of their sequence.

    Raises: HeadsContradict: one size with two roots, or a log that shrank.
    """
    if earlier.size == later.size and earlier.root != later.root:
        raise HeadsContradict(
            f"two signed heads of {later.size} postings with different roots, "
            f"{earlier.root.hex()[:12]} and {later.root.hex()[:12]}"
        )
    if later.header.seq >= earlier.header.seq and later.size < earlier.size:
        raise HeadsContradict(f"the signed log shrank from {earlier.size} to {later.size} postings")


def check_contradiction(
    found: Contradiction, volunteer: Volunteer, *, origin: str = ""
) -> Finding | None:
    """Return the finding that a kept contradiction proves; None when it proves nothing.

    Raises: PeerFault: it is not what the coordinator signed.
    """
    coordinator, network_id = volunteer.coordinator, volunteer.network_id
    try:
        earlier = open_head(found.earlier, coordinator=coordinator, network_id=network_id)
        later = open_head(found.later, coordinator=coordinator, network_id=network_id)
        if found.page is None:
            check_heads_agree(earlier, later)
        else:
            check_page(
                found.page, coordinator=coordinator, network_id=network_id, head_before=earlier
            )
    except HeadsContradict as fault:
        return Finding(Severity.BROKEN, Link.HEAD, fault.message, file=origin)
    return None
