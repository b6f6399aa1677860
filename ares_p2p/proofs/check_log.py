"""What takes all rounds together: the log's heads, each payment's posting, streaks, balances.

Heads with pages make *runs*: page after page, each going on from the very head before it. Within
a run every own posting is known, so a payment without its posting is a broken link, and so is a
streak or a balance that does not go on. Where a run begins in the middle of the log, what a
volunteer had before is taken from the first settlement that says it, and checked from there.

Pure. Source: docs/adr/0001, "Ledger".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ares_p2p.domain import AuditPay, EntryStatus, Posting, PostingKind, PostingState
from ares_p2p.ids import Digest
from ares_p2p.proofs.checked import CheckedHead, CheckedRound
from ares_p2p.proofs.findings import Finding, Link, Severity

_ENDS_A_STREAK = (PostingState.VOID, PostingState.CLAWBACK)
WorkKey = tuple[Digest, bool]  # commit, and whether the work is an audit of it


@dataclass(slots=True)
class Run:
    """Consecutive pages of the log: leaves `first` to `size`.

    Attributes:
        is_whole: all own postings in it are known; not so when a file with leaves was changed.
    """

    first: int
    heads: list[CheckedHead] = field(default_factory=list)
    postings: list[Posting] = field(default_factory=list)  # own ones, by id
    is_whole: bool = True

    @property
    def size(self) -> int:
        """Leaves of the log after the last page."""
        return self.heads[-1].size

    def before(self, posting_id: int) -> int:
        """Return how many own postings of the run come before one."""
        return bisect_left(self.postings, posting_id, key=lambda posting: posting.id)


@dataclass(slots=True)
class Log:
    """All that is held of the log."""

    runs: list[Run] = field(default_factory=list)
    postings: dict[WorkKey, list[Posting]] = field(default_factory=dict)  # by id
    findings: list[Finding] = field(default_factory=list)

    def of(self, commit_sha256: Digest, *, audit: bool = False) -> Sequence[Posting]:
        """Return the own postings of a piece of work, by id."""
        return self.postings.get((commit_sha256, audit), ())

    def run_of(self, head: CheckedHead | None) -> Run | None:
        """Return the run that a page belongs to."""
        if head is None:
            return None
        return next((run for run in self.runs if head in run.heads), None)


def work_key(posting: Posting) -> WorkKey:
    """Return the piece of work that a posting of one worker speaks of."""
    return posting.commit_sha256, posting.kind is PostingKind.AUDIT


def highest(postings: Iterable[Posting]) -> Posting | None:
    """Return the posting that says what a piece of work is worth."""
    return max(postings, key=lambda posting: (posting.state.rank, -posting.id), default=None)


def check_log(rounds: Sequence[CheckedRound], heads: Iterable[CheckedHead] = ()) -> Log:
    """Check what the rounds say about the log; findings go to the rounds and to the log.

    Args:
        rounds: all of them, by (cycle, round).
        heads: signed heads that came without a page.
    """
    log = Log()
    pages = [one.head for one in rounds if one.head is not None]
    _check_heads([*pages, *heads], log)
    log.runs = _runs_of(pages, log)
    _collect_postings(rounds, log)
    _check_order(rounds)
    for one in rounds:
        _check_postings(one, log)
        _check_paid(one, log)
    for run in log.runs:
        settled = [one for one in rounds if one.head in run.heads]
        if run.is_whole:  # else one broken leaf would look like many
            _check_streaks(settled, run)
            _check_balances(settled, run)
    _find_gaps(rounds, log)
    return log


def _check_order(rounds: Sequence[CheckedRound]) -> None:
    """Verify that each round's plan goes on from the manifest of the round before."""
    for before, one in pairwise(rounds):
        follows = one.key == (before.cycle, before.round + 1)
        named, there = one.previous_manifest_sha256, before.manifest_sha256
        if follows and named is not None and there is not None and named != there:
            one.broken(
                Link.PLAN,
                f"it goes on from manifest {named.hex()[:12]}, the round before ended with "
                f"{there.hex()[:12]} ({before.origin})",
            )


# --- heads -------------------------------------------------------------------------------------


def _check_heads(heads: Sequence[CheckedHead], log: Log) -> None:
    """Compare signed heads with each other: one size has one root, and a log never shrinks."""
    by_size: dict[int, CheckedHead] = {}
    for head in heads:
        known = by_size.setdefault(head.size, head)
        if known.root != head.root:
            _broken(
                log,
                Link.HEAD,
                f"two signed heads of {head.size} postings with different roots, "
                f"{known.root.hex()[:12]} ({known.origin}) and {head.root.hex()[:12]}: the "
                "coordinator rewrote its ledger",
                head,
            )
    in_time = sorted(heads, key=lambda head: head.seq)
    for earlier, later in pairwise(in_time):
        if later.size < earlier.size:
            _broken(
                log,
                Link.HEAD,
                f"a later signed head has {later.size} postings, an earlier one "
                f"({earlier.origin}) has {earlier.size}: postings were taken out",
                later,
            )


def _runs_of(pages: Sequence[CheckedHead], log: Log) -> list[Run]:
    runs: list[Run] = []
    for head in sorted(set(pages), key=lambda head: (head.size, head.seq)):
        assert head.first is not None
        before = runs[-1].heads[-1] if runs else None
        if before is not None and before.size == head.size:
            continue  # the same page under two rounds, or reported already
        if before is not None and before.size == head.first and before.root == head.root_before:
            runs[-1].heads.append(head)
            continue
        if before is not None and before.size == head.first:
            _broken(
                log,
                Link.CONSISTENCY,
                f"its page goes on from a log of {head.first} postings with root "
                f"{head.root_before.hex()[:12]}, the signed head of {before.size} "
                f"({before.origin}) has root {before.root.hex()[:12]}: the coordinator rewrote "
                "its ledger",
                head,
            )
        elif before is not None and head.first > before.size:
            log.findings.append(
                Finding(
                    Severity.GAP,
                    Link.CONSISTENCY,
                    f"postings {before.size + 1} to {head.first}: their pages are not held, so "
                    "it is not shown that the log only grew there",
                    file=head.origin,
                )
            )
        runs.append(Run(head.first, [head]))
    return runs


def _broken(log: Log, link: Link, message: str, head: CheckedHead) -> None:
    log.findings.append(Finding(Severity.BROKEN, link, message, file=head.origin))


# --- postings ----------------------------------------------------------------------------------


def _collect_postings(rounds: Sequence[CheckedRound], log: Log) -> None:
    for run in log.runs:
        run.is_whole = not any(one.has_bad_leaves for one in rounds if one.head in run.heads)
    by_id: dict[int, Posting] = {}
    for one in rounds:
        for posting in one.postings:
            if by_id.setdefault(posting.id, posting) != posting:
                one.broken(Link.POSTING, f"posting {posting.id} reads otherwise in another page")
    for posting in sorted(by_id.values(), key=lambda posting: posting.id):
        log.postings.setdefault(work_key(posting), []).append(posting)
        for run in log.runs:
            if run.first < posting.id <= run.size:
                run.postings.append(posting)


def _check_postings(one: CheckedRound, log: Log) -> None:
    """Compare the postings of a round's work with its commit, its price and its place."""
    for posting in log.of(one.commit_sha256):
        if posting.kind is not one.kind:
            one.broken(
                Link.POSTING,
                f"posting {posting.id} pays {posting.kind}, the commit's device makes it "
                f"{one.kind}",
            )
        if (posting.cycle, posting.round) != one.key:
            one.broken(
                Link.POSTING,
                f"posting {posting.id} names cycle {posting.cycle} round {posting.round}",
            )
        if one.price_ucredits is not None and posting.amount_ucredits != one.price_ucredits:
            one.broken(
                Link.PRICE,
                f"the commit's tokens are worth {one.price_ucredits} micro-credits in this cycle, "
                f"posting {posting.id} says {posting.amount_ucredits}",
            )
    for posting in one.postings:
        if posting.state in _ENDS_A_STREAK and not posting.code:
            one.broken(Link.POSTING, f"posting {posting.id} is {posting.state} without a reason")


def _check_paid(one: CheckedRound, log: Log) -> None:
    """Compare what the settlement says with what was posted."""
    entry = one.entry
    if entry is not None:
        postings = log.of(one.commit_sha256)
        _check_amount(one, postings, entry.reward_ucredits, log, what="the commit")
        top = highest(item for item in postings if one.head is None or item.id <= one.head.size)
        is_settled = top is not None and top.state is PostingState.SETTLED and top.amount_ucredits
        if top is not None and is_settled and not entry.reward_ucredits:
            one.broken(
                Link.SETTLEMENT,
                f"it pays nothing for the commit, posting {top.id} says that "
                f"{top.amount_ucredits} micro-credits are settled",
            )
    for pay in one.audit_pays:
        _check_audit_pay(one, pay, log)


def _check_audit_pay(one: CheckedRound, pay: AuditPay, log: Log) -> None:
    name = f"the audit of {pay.commit_sha256.hex()[:12]}"
    price = one.audited_prices.get(pay.commit_sha256)
    if pay.reward_ucredits and price is not None and pay.reward_ucredits != price:
        one.broken(
            Link.PRICE,
            f"{name} is worth {price} micro-credits, the settlement says {pay.reward_ucredits}",
        )
    if not pay.reward_ucredits and not pay.code and price:
        one.broken(Link.SETTLEMENT, f"{name}: no reward, and no reason")
    postings = log.of(pay.commit_sha256, audit=True)
    _check_amount(one, postings, pay.reward_ucredits, log, what=name)


def _check_amount(
    one: CheckedRound, postings: Sequence[Posting], reward: int, log: Log, *, what: str
) -> None:
    """Verify that a reward was posted as settled, in the page of its settlement or before."""
    if not reward or one.head is None:
        return
    size = one.head.size
    settled = [
        posting
        for posting in postings
        if posting.state is PostingState.SETTLED and posting.id <= size
    ]
    if settled and settled[0].amount_ucredits == reward:
        return
    if settled:
        one.broken(
            Link.POSTING,
            f"the settlement pays {reward} micro-credits for {what}, posting {settled[0].id} says "
            f"{settled[0].amount_ucredits}",
        )
        return
    message = f"the settlement pays {reward} micro-credits for {what}, and no posting says so"
    if _is_complete(one, postings, log):
        one.broken(Link.POSTING, message)
    else:
        one.gap(Link.POSTING, f"{message} in the pages that are held")


def _is_complete(one: CheckedRound, postings: Sequence[Posting], log: Log) -> bool:
    """Whether every page since the round's end, up to its settlement, is held."""
    run = log.run_of(one.head)
    if run is None or not run.is_whole:
        return False
    if run.first == 0 or any(run.first < posting.id <= run.size for posting in postings):
        return True
    if one.finished_ms is None:
        return False
    return any(head.issued_ms <= one.finished_ms for head in run.heads)


# --- streaks and balances ----------------------------------------------------------------------


def _check_streaks(settled: Sequence[CheckedRound], run: Run) -> None:
    """Verify that each settlement counted the streak as the postings give it.

    The lottery is held in the very transaction that posts the round's pending credit: the streak
    is the fold of the postings before that one.
    """
    base = 0 if run.first == 0 else None  # what it was before the run
    streaks = _streaks_of(run.postings)
    for one in settled:
        pending = next(
            (item for item in run.postings if item.commit_sha256 == one.commit_sha256), None
        )
        if one.entry is None or pending is None:
            continue
        count, is_known = streaks[run.before(pending.id)]
        said = one.entry.streak
        if base is None and not is_known and said >= count:
            base = said - count
        wanted = count if is_known else count + (base or 0)
        if said != wanted:
            one.broken(
                Link.STREAK,
                f"the settlement counts a streak of {said}, the postings before this round give "
                f"{wanted}",
            )


def _streaks_of(postings: Sequence[Posting]) -> list[tuple[int, bool]]:
    """Return, before each posting and after the last, the streak; False: since the run began."""
    count, is_known = 0, False
    streaks = [(count, is_known)]
    for posting in postings:
        if posting.state in _ENDS_A_STREAK:
            count, is_known = 0, True
        elif posting.state is PostingState.SETTLED and posting.kind is not PostingKind.AUDIT:
            count += 1
        streaks.append((count, is_known))
    return streaks


def _check_balances(settled: Sequence[CheckedRound], run: Run) -> None:
    """Verify that each settled balance is what the postings up to its page add up to."""
    base, base_era = (0, 0) if run.first == 0 else (None, 0)
    sums = _sums_of(run)
    for one in sorted(settled, key=lambda one: one.head.size if one.head else 0):
        assert one.head is not None
        total, era = sums[run.before(one.head.size + 1)]
        if era != base_era:
            base, base_era = None, era
        for item in (one.entry, *one.audit_pays):
            if item is None:
                continue
            if base is None:
                base = item.balance_ucredits - total
            if item.balance_ucredits != base + total:
                one.broken(
                    Link.BALANCE,
                    f"the settlement says a balance of {item.balance_ucredits} micro-credits, the "
                    f"postings add up to {base + total}",
                )
                base = item.balance_ucredits - total  # said once, not in every later round
                break


def _sums_of(run: Run) -> list[tuple[int, int]]:
    """Return, before each own posting and after the last, what settled since the run began.

    The second number counts how often that became unknown: when work of before the run is voided,
    it is not held whether it had been settled.
    """
    states: dict[WorkKey, Posting] = {}
    total, era = 0, 0
    sums = [(total, era)]
    for posting in run.postings:
        before = states.get(work_key(posting))
        if before is None or posting.state.rank > before.state.rank:
            states[work_key(posting)] = posting
            if posting.state is PostingState.SETTLED:
                total += posting.amount_ucredits
            elif before is not None and before.state is PostingState.SETTLED:
                total -= posting.amount_ucredits
            elif before is None and run.first and posting.state in _ENDS_A_STREAK:
                era += 1
        sums.append((total, era))
    return sums


# --- gaps --------------------------------------------------------------------------------------


def _find_gaps(rounds: Sequence[CheckedRound], log: Log) -> None:
    """Name what is not held although it must have been there, because later things are."""
    newest_settled = max((one.key for one in rounds if one.is_settled), default=(-1, -1))
    newest = rounds[-1].key if rounds else (-1, -1)
    for one in rounds:
        listed = one.manifest_entry
        is_accepted = listed is not None and listed.status is not EntryStatus.REFUSED
        if is_accepted and not one.is_settled and one.key < newest_settled:
            one.gap(Link.SETTLEMENT, "its settlement was never seen; later rounds have theirs")
        has_end = one.has_commit_set or one.manifest_entry is not None or one.is_settled
        if one.commit is not None and one.key < newest and not has_end:
            one.gap(Link.COMMIT_SET, "the end of the round was never seen")
    known = {one.commit_sha256 for one in rounds if one.commit_sha256}
    for (commit, is_audit), postings in sorted(log.postings.items()):
        if not is_audit and commit not in known:
            first = postings[0]
            log.findings.append(
                Finding(
                    Severity.GAP,
                    Link.COMMIT,
                    f"posting {first.id} is about work of this round, whose evidence is not held",
                    first.cycle,
                    first.round,
                )
            )
