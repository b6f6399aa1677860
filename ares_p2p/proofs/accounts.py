"""What became of each round of a volunteer, and what all of them add up to. Pure.

The highest posting of a piece of work decides; where its page is not held, the settlement does;
before that, the manifest, the commit set, and at last what the peer noted itself. So every round
has a state, and every round that paid nothing has the code and the sentence of whoever said why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ares_p2p.domain import (
    AuditOutcome,
    EntryStatus,
    Posting,
    PostingKind,
    PostingState,
    SettlementEntry,
)
from ares_p2p.ids import Digest
from ares_p2p.proofs.check_log import Log, highest
from ares_p2p.proofs.checked import CheckedRound


class RoundOutcome(StrEnum):
    """What became of one piece of work."""

    SETTLED = "settled"
    PENDING = "pending"
    VOID = "void"
    CLAWBACK = "clawback"
    REFUSED = "refused"  # by the coordinator or the aggregate: no credit was ever pending
    MISSED = "missed"  # nothing was committed, or not in time
    OPEN = "open"  # still going on
    UNKNOWN = "unknown"  # committed, and its end was never seen


_OF_POSTING = {
    PostingState.PENDING: RoundOutcome.PENDING,
    PostingState.SETTLED: RoundOutcome.SETTLED,
    PostingState.VOID: RoundOutcome.VOID,
    PostingState.CLAWBACK: RoundOutcome.CLAWBACK,
}
_MAY_PAY = (RoundOutcome.SETTLED, RoundOutcome.PENDING, RoundOutcome.OPEN)


@dataclass(frozen=True, slots=True)
class Account:
    """One piece of work: a round's training, or an audit of another's work.

    Attributes:
        ucredits: what the work is or was worth; 0 when nothing was ever posted for it.
        code, message: why it paid nothing; or a remark, as for a contribution that was scaled.
        audit: what the replay said, "not_drawn", or "" while that is open.
        streak: settled rounds of this volunteer when the lottery was held.
    """

    cycle: int
    round: int
    kind: PostingKind
    outcome: RoundOutcome
    ucredits: int
    tokens: int = 0
    code: str = ""
    message: str = ""
    audit: str = ""
    streak: int | None = None
    commit_sha256: Digest = b""

    @property
    def is_paid(self) -> bool:
        """Whether it has paid, or may yet."""
        return self.outcome in _MAY_PAY


@dataclass(frozen=True, slots=True)
class KindTotals:
    """Micro-credits of one kind of work; the fields are named as the outcomes."""

    settled: int = 0
    pending: int = 0
    void: int = 0
    clawback: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """What the evidence adds up to.

    Attributes:
        said_ucredits: the settled balance that the newest settlement named; None: none seen.
        streak: training settled since the last void or clawback; None when the settlements
            and postings that are held do not say.
    """

    by_kind: Mapping[PostingKind, KindTotals]
    said_ucredits: int | None
    streak: int | None

    @property
    def settled(self) -> int:
        """Settled micro-credits of all kinds."""
        return sum(one.settled for one in self.by_kind.values())

    @property
    def pending(self) -> int:
        """Pending micro-credits of all kinds."""
        return sum(one.pending for one in self.by_kind.values())


def accounts_of(rounds: Sequence[CheckedRound], log: Log) -> tuple[Account, ...]:
    """Return every piece of work of the rounds, oldest first.

    Rounds that the peer only followed, to see the log grow, are none of its work.
    """
    corrected = {
        entry.commit_sha256: (entry.code, entry.message)
        for one in rounds
        for entry in one.corrections
        if entry.code
    }
    accounts: list[Account] = []
    newest = max((one.key for one in rounds if one.has_plan), default=(-1, -1))
    for one in rounds:
        if one.has_plan or one.commit is not None or one.notes:
            account = _training(one, log, corrected)
            is_over = account.outcome is RoundOutcome.OPEN and one.key < newest
            accounts.append(_never_ended(account, one) if is_over else account)
        accounts += _audits(one, log)
    return tuple(accounts)


def balance_of(accounts: Iterable[Account], rounds: Sequence[CheckedRound], log: Log) -> Balance:
    """Return what accounts add up to, and what the newest settlement says."""
    by_kind: dict[PostingKind, KindTotals] = {}
    for account in accounts:
        if account.outcome in _OF_POSTING.values():
            before, name = by_kind.get(account.kind, KindTotals()), str(account.outcome)
            by_kind[account.kind] = replace(
                before, **{name: getattr(before, name) + account.ucredits}
            )
    said = None
    for one in rounds:
        entries = [item for item in (one.entry, *one.audit_pays) if item is not None]
        if entries:
            said = entries[-1].balance_ucredits
    return Balance(by_kind, said, _streak(rounds, log))


def _streak(rounds: Sequence[CheckedRound], log: Log) -> int | None:
    """Return the streak now: what the newest settlement counted, and the postings after it."""
    for one in reversed(rounds):
        postings = log.of(one.commit_sha256)
        if one.entry is None or not postings:
            continue
        later = sorted(
            (item for items in log.postings.values() for item in items), key=lambda item: item.id
        )
        streak = one.entry.streak
        for posting in later:
            if posting.id < postings[0].id:
                continue
            if posting.state in (PostingState.VOID, PostingState.CLAWBACK):
                streak = 0
            elif posting.state is PostingState.SETTLED and posting.kind is not PostingKind.AUDIT:
                streak += 1
        return streak
    return None


# --- one piece of work -------------------------------------------------------------------------


def _training(one: CheckedRound, log: Log, corrected: Mapping[Digest, tuple[str, str]]) -> Account:
    top = highest(log.of(one.commit_sha256)) if one.commit_sha256 else None
    outcome, ucredits, code, message = _became(one, top)
    reason = corrected.get(one.commit_sha256)
    if reason is not None and outcome is not RoundOutcome.SETTLED and code in ("", reason[0]):
        code, message = reason
    entry = one.entry
    return Account(
        cycle=one.cycle,
        round=one.round,
        kind=one.kind,
        outcome=outcome,
        ucredits=ucredits,
        tokens=0 if one.commit is None else one.commit.tokens,
        code=code,
        message=message,
        audit="" if entry is None else str(entry.outcome),
        streak=None if entry is None else entry.streak,
        commit_sha256=one.commit_sha256,
    )


def _never_ended(account: Account, one: CheckedRound) -> Account:
    """Return the account of a round that must be over by now, and of which no end is held."""
    if one.commit is not None:
        why = account.message or "this peer never saw the end of the round"
        return replace(account, outcome=RoundOutcome.UNKNOWN, message=why)
    why = account.message or "nothing was committed: the peer was stopped in the round"
    return replace(account, outcome=RoundOutcome.MISSED, message=why)


def _became(one: CheckedRound, top: Posting | None) -> tuple[RoundOutcome, int, str, str]:
    """Return outcome, micro-credits, code and message of a round's training."""
    entry, listed = one.entry, one.manifest_entry
    if top is not None and (top.state is not PostingState.PENDING or entry is None):
        code, message = _reason_of(top, entry)
        if not code and listed is not None:
            code, message = listed.code, listed.message
        return _OF_POSTING[top.state], top.amount_ucredits, code, message
    if entry is not None:
        is_paid = entry.reward_ucredits > 0 or not entry.code
        outcome = RoundOutcome.SETTLED if is_paid else RoundOutcome.VOID
        worth = entry.reward_ucredits or one.price_ucredits or 0
        return outcome, worth, entry.code, entry.message
    if listed is not None and listed.status is EntryStatus.REFUSED:
        return RoundOutcome.REFUSED, 0, listed.code, listed.message
    if listed is not None:
        return RoundOutcome.PENDING, one.price_ucredits or 0, listed.code, listed.message
    return _not_counted(one)


def _reason_of(top: Posting, entry: SettlementEntry | None) -> tuple[str, str]:
    """Return why a posting pays nothing; the settlement has the sentence to its code."""
    if top.state in (PostingState.VOID, PostingState.CLAWBACK):
        has_sentence = entry is not None and entry.code == top.code
        return top.code, entry.message if has_sentence and entry is not None else ""
    if entry is not None and entry.shadow and entry.code:
        return entry.code, entry.message
    return "", ""


def _not_counted(one: CheckedRound) -> tuple[RoundOutcome, int, str, str]:
    """Return the same for work that no manifest speaks of."""
    refused = next((note for note in reversed(one.notes) if note.what == "refused"), None)
    note = one.notes[-1] if one.notes else None
    if one.has_commit_set and not one.is_listed:
        if one.refusal is not None:
            return RoundOutcome.REFUSED, 0, one.refusal.code, one.refusal.message
        if refused is not None:
            return RoundOutcome.REFUSED, 0, refused.code, refused.message
        if note is not None:
            return RoundOutcome.MISSED, 0, note.code, note.message
        return RoundOutcome.MISSED, 0, "", "not among the round's commits"
    if one.is_listed or (one.commit is not None and refused is None):
        lost = note if note is not None and note.what == "lost" else None
        why = ("", "") if lost is None else (lost.code, lost.message)
        return RoundOutcome.OPEN, 0, *why
    if refused is not None:
        return RoundOutcome.REFUSED, 0, refused.code, refused.message
    if note is not None:
        return RoundOutcome.MISSED, 0, note.code, note.message
    return RoundOutcome.OPEN, 0, "", ""


def _audits(one: CheckedRound, log: Log) -> Iterable[Account]:
    """Yield the replays of others' work that a settlement speaks of."""
    for pay in one.audit_pays:
        top = highest(log.of(pay.commit_sha256, audit=True))
        if top is not None and top.state is not PostingState.PENDING:
            outcome, worth = _OF_POSTING[top.state], top.amount_ucredits
        else:
            is_paid = pay.reward_ucredits > 0 or not pay.code
            outcome = RoundOutcome.SETTLED if is_paid else RoundOutcome.VOID
            worth = pay.reward_ucredits or one.audited_prices.get(pay.commit_sha256, 0)
        has_code = top is not None and outcome is not RoundOutcome.SETTLED and top.code
        code = top.code if top is not None and has_code else pay.code
        yield Account(
            cycle=one.cycle,
            round=one.round,
            kind=PostingKind.AUDIT,
            outcome=outcome,
            ucredits=worth,
            code=code,
            message=pay.message if code == pay.code else "",
            audit=str(AuditOutcome.PASS) if outcome is RoundOutcome.SETTLED else "",
            commit_sha256=pay.commit_sha256,
        )
