"""The postings about a round's work against the facts of the round.

A piece of work is training (its commit) or an audit (a task of an auditor). Its postings must name
its worker, kind and price, and each state must follow from something: pending from the manifest or
a report, settled from a pass or from the signed settlement, void and clawback from a verdict or a
failed audit of other work. And what follows must be there. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ares_coordinator.ledger.findings import Finding, by_commit, by_id
from ares_coordinator.ledger.postings import posting_key, training_kind
from ares_coordinator.ledger.signed import FactsReader, SignedRound
from ares_coordinator.store.auditor_rows import PAID_RESULTS, AssignmentRow
from ares_coordinator.store.credit_rows import HeadRow
from ares_coordinator.store.rows import AuditRow, ContributionRow, LotteryRow
from ares_p2p.domain import (
    AuditOutcome,
    AuditPay,
    AuditReport,
    Posting,
    PostingKind,
    PostingState,
    SettlementEntry,
)
from ares_p2p.errors import AuditForfeit, AuditVoid, PeerFault
from ares_p2p.ids import Digest, PeerId
from ares_p2p.proofs.price import reward_ucredits
from ares_p2p.wire.codec import decode_envelope, open_envelope

LOST = (PostingState.VOID, PostingState.CLAWBACK)


@dataclass(frozen=True, slots=True)
class Books:
    """The rows about one round's work, by commit."""

    contributions: Mapping[Digest, ContributionRow]
    lottery: Mapping[Digest, LotteryRow]
    audits: Mapping[Digest, AuditRow]
    assignments: Sequence[AssignmentRow]
    postings: Sequence[Posting]
    head: HeadRow | None  # that the round's settlement sealed


@dataclass(frozen=True, slots=True)
class _Work:
    """One piece of work: what its postings must say, and those that there are.

    Attributes:
        ucredits: its price; None when what gives the price is not there.
        is_proven: whether its author signed it.
        states: by state; the first posting of each.
    """

    commit_sha256: Digest
    worker: PeerId
    kind: PostingKind
    ucredits: int | None
    is_proven: bool = True
    states: dict[PostingState, Posting] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The work in words."""
        return f"{self.kind} of commit {self.commit_sha256.hex()}"

    def state_at(self, size: int | None) -> PostingState | None:
        """Return the highest state that the first `size` postings say; None: all of them."""
        there = [state for state, one in self.states.items() if size is None or one.id <= size]
        return max(there, key=lambda state: state.rank, default=None)


def check_payments(
    reader: FactsReader, signed: SignedRound, books: Books, *, network_id: str
) -> Iterator[Finding]:
    """Yield what is wrong with, or missing from, the postings about a round."""
    training = _training(signed)
    audits = _audit_work(signed, books, network_id)
    by_work = {(work.worker, work.kind, work.commit_sha256): work for work in training}
    by_work |= {(work.worker, work.kind, work.commit_sha256): work for work in audits}
    for posting in books.postings:
        work = by_work.get((posting.worker, posting.kind, posting.commit_sha256))
        if work is None:
            yield by_id(posting.id, "pays for work that its round does not have")
            continue
        work.states.setdefault(posting.state, posting)
        yield from _check_posting(posting, work)
    for work in training:
        yield from _check_training(reader, signed, books, work)
    tasks = {(task.auditor, task.commit_sha256): task for task in books.assignments}
    pays = _pays(signed)
    for work in audits:
        key = (work.worker, work.commit_sha256)
        yield from _check_audit_pay(signed, books, work, tasks[key], pays.get(key))
    for auditor, commit_sha256 in pays.keys() - tasks.keys():
        text = f"is missing: the signed settlement speaks of auditor {auditor}"
        yield by_commit("audit_assignments", commit_sha256, text)


def _training(signed: SignedRound) -> list[_Work]:
    found = []
    for commit_sha256 in signed.used:
        opened = signed.commits.get(commit_sha256)
        if opened is not None:
            peer, commit = opened
            kind = training_kind(gpu=commit.device.startswith("cuda"))
            price = _price(signed, commit.tokens)
            found.append(_Work(commit_sha256, peer, kind, price))
    return found


def _audit_work(signed: SignedRound, books: Books, network_id: str) -> list[_Work]:
    found = []
    for task in books.assignments:
        tokens = _reported_tokens(task, network_id)
        found.append(
            _Work(
                task.commit_sha256,
                task.auditor,
                PostingKind.AUDIT,
                _price(signed, tokens),
                is_proven=tokens is not None,
            )
        )
    return found


def _price(signed: SignedRound, tokens: int | None) -> int | None:
    if signed.config is None or tokens is None:
        return None
    per_hour = signed.config.reference_tokens_per_hour
    return reward_ucredits(tokens, reference_tokens_per_hour=per_hour)


def _reported_tokens(task: AssignmentRow, network_id: str) -> int | None:
    """Return what an auditor's signed report counts, None without a report that can be paid."""
    if task.report_envelope is None:
        return None
    try:
        report = open_envelope(
            decode_envelope(task.report_envelope),
            AuditReport,
            signer=task.auditor,
            network_id=network_id,
        )
    except PeerFault:
        return None
    is_this = report.commit_sha256 == task.commit_sha256
    return report.tokens if is_this and not report.code else None


def _pays(signed: SignedRound) -> dict[tuple[PeerId, Digest], AuditPay]:
    pays = () if signed.settlement is None else signed.settlement.audits
    return {(pay.auditor, pay.commit_sha256): pay for pay in pays}


def _check_posting(posting: Posting, work: _Work) -> Iterator[Finding]:
    key = posting_key(work.worker, work.kind, commit_sha256=work.commit_sha256, state=posting.state)
    if posting.key != key:
        yield by_id(posting.id, f"key is {posting.key!r}, its content makes it {key!r}")
    if not work.is_proven:
        yield by_id(posting.id, "pays an audit of which there is no signed report")
    elif work.ucredits is not None and posting.amount_ucredits != work.ucredits:
        text = (
            f"amount is {posting.amount_ucredits}, the signed tokens are worth {work.ucredits} "
            "micro-credits at the signed price"
        )
        yield by_id(posting.id, text)
    if bool(posting.code) != (posting.state in LOST):
        yield by_id(posting.id, f"is {posting.state} with code {posting.code!r}")


# --- training ----------------------------------------------------------------------------------


def _check_training(
    reader: FactsReader, signed: SignedRound, books: Books, work: _Work
) -> Iterator[Finding]:
    audit = books.audits.get(work.commit_sha256)
    entry = signed.settled.get(work.commit_sha256)
    if PostingState.PENDING not in work.states:
        yield Finding("postings", work.name, "its pending posting is missing")
    settled = work.states.get(PostingState.SETTLED)
    if settled is not None and not _may_settle(audit, entry):
        yield by_id(settled.id, "is settled, and neither a verdict nor a signed settlement says so")
    for state in LOST:
        posting = work.states.get(state)
        if posting is not None and not _is_lost_rightly(reader, posting, audit):
            text = f"is {state} with code {posting.code!r}, and no audit says so"
            yield by_id(posting.id, text)
    yield from _check_followed(work, audit)
    if entry is not None:
        paid = (entry.reward_ucredits, entry.peer)
        yield from _check_reward(books, work, *paid)
    elif signed.settlement is not None:
        yield Finding("records", work.name, "the signed settlement of its round leaves it out")


def _may_settle(audit: AuditRow | None, entry: SettlementEntry | None) -> bool:
    if audit is not None and (audit.outcome is AuditOutcome.PASS or audit.shadow):
        return True
    # also of work that was paid on trust before somebody asked for an audit
    return entry is not None and (
        entry.reward_ucredits > 0 or entry.outcome is AuditOutcome.NOT_DRAWN
    )


def _is_lost_rightly(reader: FactsReader, posting: Posting, audit: AuditRow | None) -> bool:
    counts = audit is not None and not audit.shadow and audit.outcome is not AuditOutcome.PASS
    if audit is not None and counts and posting.code == audit.code:
        return True
    # taken along by a failed audit of other work of the same author
    return reader.failed_audit(posting.worker, at_ms=posting.at_ms) is not None


def _check_followed(work: _Work, audit: AuditRow | None) -> Iterator[Finding]:
    """Verify that a verdict had its consequence."""
    if audit is None or audit.outcome is None:
        return
    state = work.state_at(None)
    if audit.outcome is AuditOutcome.PASS or audit.shadow:
        if state is PostingState.PENDING:
            yield Finding("postings", work.name, "its audit passed, its settled posting is missing")
    elif state not in LOST:
        not_comparable = audit.rho is None and state is PostingState.SETTLED
        if not not_comparable:  # what was paid on trust stays so when it cannot be replayed
            text = f"its audit says {audit.outcome}, the posting that follows is missing"
            yield Finding("postings", work.name, text)


def _check_reward(
    books: Books, work: _Work, reward_ucredits: int, peer: PeerId
) -> Iterator[Finding]:
    """Verify that the log, as its settlement sealed it, says what the settlement pays."""
    size = None if books.head is None else books.head.size
    settled, state = work.states.get(PostingState.SETTLED), work.state_at(size)
    amount = settled.amount_ucredits if settled and state is PostingState.SETTLED else 0
    if peer != work.worker:
        yield Finding("postings", work.name, f"the signed settlement pays {peer}")
    if state is PostingState.PENDING:
        yield Finding("postings", work.name, "its round is settled, its last posting is missing")
    elif amount != reward_ucredits:
        text = f"{amount} micro-credits are settled, the signed settlement pays {reward_ucredits}"
        if settled is not None:
            yield by_id(settled.id, text)
        else:
            yield Finding("postings", work.name, text)


# --- audits ------------------------------------------------------------------------------------


def _check_audit_pay(
    signed: SignedRound, books: Books, work: _Work, task: AssignmentRow, pay: AuditPay | None
) -> Iterator[Finding]:
    if work.ucredits and PostingState.PENDING not in work.states:
        text = "a report came in, its pending posting is missing"
        yield Finding("postings", work.name, text)
    settled = work.states.get(PostingState.SETTLED)
    is_paid = task.result in PAID_RESULTS
    if settled is not None and not is_paid and (pay is None or not pay.reward_ucredits):
        yield by_id(settled.id, f"is settled, the auditor's task is {task.result}")
    for state in LOST:
        posting = work.states.get(state)
        if posting is not None and posting.code not in (task.code, AuditForfeit.code):
            yield by_id(posting.id, f"is {state}, the auditor's task says {task.code!r}")
    if pay is not None:
        codes = {task.code}
        if is_paid and not pay.reward_ucredits:  # lost over another report, or worth nothing
            codes |= {AuditForfeit.code, AuditVoid.code}
        if pay.code not in codes:
            text = f"is {task.result} with code {task.code!r}, the settlement says {pay.code!r}"
            yield by_commit("audit_assignments", task.commit_sha256, text)
        if work.states:
            yield from _check_reward(books, work, pay.reward_ucredits, pay.auditor)
    elif signed.settlement is not None:
        text = "the signed settlement of its round leaves it out"
        yield by_commit("audit_assignments", task.commit_sha256, text)
