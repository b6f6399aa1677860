"""What a round paid and why: its last postings, its settlement, its page of the ledger.

A round is settled when all its audits have verdicts, the rounds before it are settled, and the
holding time is over. What the lottery left out is settled then, on trust. Postings, signed head,
page and signed settlement are one transaction of the store; an entry says in words what became of
each contribution that the aggregate used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ares_coordinator.audit.reports import AuditorDue, Reports
from ares_coordinator.audit.verdicts import MAX_MESSAGE_CHARS
from ares_coordinator.herald import Herald
from ares_coordinator.ledger.postings import (
    deciding_postings,
    settling_postings,
    training_kind,
)
from ares_coordinator.store.base import Store
from ares_coordinator.store.credit_rows import PageToSign, SealRow
from ares_coordinator.store.rows import (
    AuditRow,
    ContributionRow,
    DrawReason,
    LotteryRow,
    RecordRow,
)
from ares_p2p.domain import (
    AuditOutcome,
    AuditPay,
    EntryStatus,
    Header,
    LedgerHead,
    Posting,
    PostingState,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import AuditForfeit, InternalFault
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.commits import reason_text

MAX_PAY_CHARS = 80  # of an auditor's entry; with a hundred of both kinds a record is full
_ASKED = {DrawReason.ALARM: "an alarm", DrawReason.OPERATOR: "request"}


@dataclass(frozen=True, slots=True)
class Headers:
    """Of the two payloads that a settlement signs; a header's sequence is used once."""

    settlement: Header
    head: Header


@dataclass(frozen=True, slots=True)
class _Paid:
    """One contribution that the aggregate used, and all that decides what it is paid."""

    work: ContributionRow
    draw: LotteryRow | None  # None: the round was finished before there was a lottery
    audit: AuditRow | None
    posting: Posting  # the one that decides
    lost_over: AuditRow | None = None  # the failed audit of other work that took this one along


def settle_round(
    store: Store,
    cycle: int,
    round_number: int,
    *,
    herald: Herald,
    headers: Headers,
    manifest_sha256: Digest,
    reports: Reports,
    at_ms: int,
) -> SealRow:
    """Settle a round, or return what was settled before. To be called in the store's thread.

    Raises: InternalFault: an audit of the round is still open.
    """
    paid = _paid(store, cycle, round_number)
    dues = reports.dues(store, cycle, round_number)
    pending = [item.posting for item in paid if item.posting.state is PostingState.PENDING]
    pending += [due.pay for due in dues if due.pay is not None]
    settling = settling_postings(pending, at_ms=at_ms)

    def sign_head(size: int, root: Digest) -> RecordRow:
        return herald.signed(LedgerHead(headers.head, size, root))

    def sign_settlement(page: PageToSign) -> RecordRow:
        return herald.signed(
            RoundSettlement(
                headers.settlement,
                manifest_sha256,
                entries=tuple(_entry(item, page.settled_ucredits) for item in paid),
                audits=tuple(_audit_pay(due, page.settled_ucredits) for due in dues),
                page=page.blob_id,
                page_size_bytes=page.size_bytes,
            )
        )

    return store.seal(
        cycle, round_number, settling, sign_head=sign_head, sign_settlement=sign_settlement
    )


def _paid(store: Store, cycle: int, round_number: int) -> tuple[_Paid, ...]:
    place = (cycle, round_number)
    draws = {row.commit_sha256: row for row in store.lottery(*place)}
    audits = {row.commit_sha256: row for row in store.audits(*place)}
    deciding = deciding_postings(store.postings_of_round(*place))
    found = []
    for work in store.contributions(*place):
        if work.status == EntryStatus.REFUSED:
            continue
        commit_sha256 = work.commit_sha256
        posting = deciding[work.peer, training_kind(gpu=work.gpu), commit_sha256]
        audit = audits.get(commit_sha256)
        if audit is not None and (audit.outcome is None or posting.state is PostingState.PENDING):
            raise InternalFault(f"the audit of {commit_sha256.hex()[:12]} is not closed")
        lost_over = None
        if posting.code == AuditForfeit.code:
            lost_over = store.failed_audit(work.peer, at_ms=posting.at_ms)
        found.append(_Paid(work, draws.get(commit_sha256), audit, posting, lost_over))
    return tuple(found)


def _entry(item: _Paid, settled_ucredits: Callable[[PeerId], int]) -> SettlementEntry:
    audit, posting = item.audit, item.posting
    is_lost = posting.state in (PostingState.VOID, PostingState.CLAWBACK)
    outcome = None if audit is None else audit.outcome
    code, message = _explained(item)
    return SettlementEntry(
        commit_sha256=item.work.commit_sha256,
        peer=item.work.peer,
        outcome=outcome or AuditOutcome.NOT_DRAWN,
        code=code,
        message=reason_text(message, limit=MAX_MESSAGE_CHARS),
        reward_ucredits=0 if is_lost else posting.amount_ucredits,
        balance_ucredits=settled_ucredits(item.work.peer),
        streak=0 if item.draw is None else item.draw.streak,
        shadow=audit is not None and audit.shadow,
    )


def _explained(item: _Paid) -> tuple[str, str]:
    """Return the reason's code, and in words what became of a contribution."""
    if item.posting.code == AuditForfeit.code:
        return AuditForfeit.code, f"lost because the audit of {_other(item)} failed"
    if item.audit is None:
        rate = 1.0 if item.draw is None else item.draw.rate
        return "", f"not drawn by the lottery ({rate:.0%}): paid on trust"
    code, message = item.audit.code, item.audit.message
    was_asked = item.draw is not None and item.draw.reason is not DrawReason.LOTTERY
    if item.draw is not None and was_asked and item.audit.rho is not None:
        message = f"audited on {_ASKED[item.draw.reason]}: {message}"
    return code, f"recorded only, paid: {message}" if item.audit.shadow and code else message


def _other(item: _Paid) -> str:
    other = item.lost_over
    if other is None:
        return "other work"
    of_cycle = "" if other.cycle == item.work.cycle else f" of cycle {other.cycle}"
    return f"round {other.round + 1}{of_cycle}"  # people count from 1


def _audit_pay(due: AuditorDue, settled_ucredits: Callable[[PeerId], int]) -> AuditPay:
    return AuditPay(
        commit_sha256=due.commit_sha256,
        auditor=due.auditor,
        code=due.code,
        message=reason_text(due.message, limit=MAX_PAY_CHARS),
        reward_ucredits=0 if due.pay is None else due.pay.amount_ucredits,
        balance_ucredits=settled_ucredits(due.auditor),
    )
