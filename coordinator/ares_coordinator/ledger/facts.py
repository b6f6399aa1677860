"""Rows about a round's work against what was signed: contributions, lottery, audits.

    contributions   the signed commit (tokens, steps, device), the signed manifest (status, ...)
    lottery         the rule with the revealed seed; the signed settlement (streak)
    audits          the lottery; the signed settlement (outcome, code)
    postings        in `payments`: the price of the signed tokens, verdicts, the settlement

Pure; reads a `FactsReader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ares_coordinator.ledger.findings import Finding, by_commit, by_id, by_round, by_worker
from ares_coordinator.ledger.payments import Books, check_payments
from ares_coordinator.ledger.signed import (
    Authority,
    FactsReader,
    SignedRound,
    check_head_record,
    open_config,
    open_round,
    read_rows,
)
from ares_coordinator.store.rows import (
    AuditRow,
    ContributionRow,
    DrawReason,
    LotteryRow,
    RoundState,
)
from ares_p2p.domain import AuditOutcome, Commit, ManifestEntry, SettlementEntry
from ares_p2p.errors import AuditFailed, AuditForfeit, AuditVoid
from ares_p2p.ids import PeerId
from ares_p2p.rounds.lottery import audit_rate, is_drawn

T = TypeVar("T")
Progress = Callable[[int], None]  # told how many more rounds are done
CODE_OF = {
    AuditOutcome.PASS: "",
    AuditOutcome.VOID: AuditVoid.code,
    AuditOutcome.FAIL: AuditFailed.code,
}


def verify_facts(
    reader: FactsReader, authority: Authority, *, progress: Progress
) -> Iterator[Finding]:
    """Yield every row that contradicts what was signed, and every posting without a fact.

    Args:
        progress: told of every round.
    """
    count, _, _ = reader.counts_of_ledger()
    seen = bytearray(count + 1)  # by posting id: 1 once a round's books held it
    for cycle in reader.cycles():
        config, problems = open_config(cycle, authority)
        yield from problems
        rounds = reader.rounds(cycle.cycle)
        if rounds and cycle.config_envelope is None:
            yield Finding("cycles", f"cycle {cycle.cycle}", "config_envelope is missing")
        for row in rounds:
            signed = open_round(reader, row, config, authority)
            yield from signed.problems
            books, problems = _read_books(reader, signed)
            yield from problems
            for posting in books.postings:
                if posting.id <= count:  # one beyond is found by the log
                    seen[posting.id] = 1
            is_over = row.state is RoundState.AGGREGATED
            if is_over and signed.manifest is None:
                yield by_round("records", row.cycle, row.round, "the signed manifest is missing")
            yield from _check_contributions(signed, books)
            yield from _check_lottery(signed, books)
            yield from _check_audits(signed, books)
            yield from check_head_record(reader, signed, reader.head_of_round(row.cycle, row.round))
            yield from check_payments(reader, signed, books, network_id=authority.network_id)
            progress(1)
    for number in range(1, len(seen)):
        if not seen[number]:
            yield by_id(number, "speaks of a round that is not there, or is missing itself")
    for worker, stored, counted in reader.wrong_gpu_passes():
        text = f"gpu_passes is {stored}, the audits say {counted}"
        yield by_worker("workers", worker, text)


def _read_books(reader: FactsReader, signed: SignedRound) -> tuple[Books, list[Finding]]:
    problems: list[Finding] = []
    place = (signed.cycle, signed.round)

    def read(rows: Callable[[int, int], Sequence[T]], table: str) -> Sequence[T]:
        found, unreadable = read_rows(lambda: rows(*place), table, place)
        problems.extend(unreadable)
        return found

    contributions = read(reader.contributions, "contributions")
    lottery = read(reader.lottery, "lottery")
    audits = read(reader.audits, "audits")
    books = Books(
        contributions={row.commit_sha256: row for row in contributions},
        lottery={row.commit_sha256: row for row in lottery},
        audits={row.commit_sha256: row for row in audits},
        assignments=read(reader.assignments, "audit_assignments"),
        postings=read(reader.postings_of_round, "postings"),
        head=reader.head_of_round(*place),
    )
    return books, problems


# --- contributions -----------------------------------------------------------------------------


def _check_contributions(signed: SignedRound, books: Books) -> Iterator[Finding]:
    entries = signed.entries
    for commit_sha256, entry in entries.items():
        row = books.contributions.get(commit_sha256)
        if row is None:
            yield by_commit("contributions", commit_sha256, "is missing: the manifest has it")
            continue
        commit = signed.commits.get(commit_sha256)
        wrong = [*_unlike_entry(row, entry), *_unlike_commit(row, commit)]
        if wrong:
            text = f"{', '.join(wrong)} differ from the signed commit and manifest"
            yield by_commit("contributions", commit_sha256, text)
    if signed.manifest is not None:
        for commit_sha256 in books.contributions.keys() - entries.keys():
            yield by_commit("contributions", commit_sha256, "is not in the signed manifest")


def _unlike_entry(row: ContributionRow, entry: ManifestEntry) -> list[str]:
    names = ("peer", "coefficient", "status", "code", "message")
    return [name for name in names if getattr(row, name) != getattr(entry, name)]


def _unlike_commit(row: ContributionRow, opened: tuple[PeerId, Commit] | None) -> list[str]:
    if opened is None:
        return ["commit_sha256"]
    _, commit = opened
    wanted = {
        "steps": commit.steps,
        "tokens": commit.tokens,
        "mean_loss": commit.mean_loss,
        "device": commit.device,
        "gpu": commit.device.startswith("cuda"),
        "blob_bytes": commit.blob_size_bytes,
    }
    return [name for name, value in wanted.items() if getattr(row, name) != value]


# --- the lottery -------------------------------------------------------------------------------


def _check_lottery(signed: SignedRound, books: Books) -> Iterator[Finding]:
    if signed.manifest is None:
        return
    settled = signed.settled
    for commit_sha256 in signed.used:
        row = books.lottery.get(commit_sha256)
        if row is not None:
            problem = _lottery_problem(row, signed, settled.get(commit_sha256))
            if problem:
                yield by_commit("lottery", commit_sha256, problem)
        elif books.lottery or commit_sha256 not in books.audits:
            # in a round of before there was a lottery, everything was audited
            yield by_commit("lottery", commit_sha256, "is missing: the manifest used it")
    for commit_sha256 in books.lottery.keys() - set(signed.used):
        yield by_commit("lottery", commit_sha256, "is about work that the manifest did not use")


def _lottery_problem(row: LotteryRow, signed: SignedRound, entry: SettlementEntry | None) -> str:
    opened = signed.commits.get(row.commit_sha256)
    if opened is not None and row.peer != opened[0]:
        return f"peer is {row.peer}, the commit was signed by {opened[0]}"
    if entry is not None and row.streak != entry.streak:
        return f"streak is {row.streak}, the signed settlement says {entry.streak}"
    if row.rate != audit_rate(row.streak):
        return f"rate is {row.rate}, a streak of {row.streak} gives {audit_rate(row.streak)}"
    if signed.commit_set is None:
        return ""
    by_lot = is_drawn(signed.commit_set.revealed_seed, row.commit_sha256, row.rate)
    if row.reason is DrawReason.LOTTERY and row.drawn != by_lot:
        return f"drawn is {row.drawn}, the revealed seed says {by_lot}"
    if row.reason is not DrawReason.LOTTERY and (by_lot or not row.drawn):
        return f"reason is {row.reason}, the lottery itself decided"
    return ""


# --- audits ------------------------------------------------------------------------------------


def _check_audits(signed: SignedRound, books: Books) -> Iterator[Finding]:
    if signed.manifest is None:
        return
    for commit_sha256 in signed.used:
        audit, drawn = books.audits.get(commit_sha256), books.lottery.get(commit_sha256)
        if audit is None:
            if drawn is not None and drawn.drawn:
                yield by_commit("audits", commit_sha256, "is missing: the lottery drew it")
            continue
        if drawn is not None and not drawn.drawn:
            yield by_commit("audits", commit_sha256, "is about work that nobody drew")
        entry = signed.settled.get(commit_sha256)
        problem = _audit_problem(audit, signed, entry, drawn)
        if problem:
            yield by_commit("audits", commit_sha256, problem)
    for commit_sha256 in books.audits.keys() - set(signed.used):
        yield by_commit("audits", commit_sha256, "is about work that the manifest did not use")
    for commit_sha256, entry in signed.settled.items():
        if commit_sha256 not in books.audits and entry.outcome is not AuditOutcome.NOT_DRAWN:
            text = f"is missing: the signed settlement says {entry.outcome}"
            yield by_commit("audits", commit_sha256, text)


def _audit_problem(
    audit: AuditRow,
    signed: SignedRound,
    entry: SettlementEntry | None,
    drawn: LotteryRow | None,
) -> str:
    opened = signed.commits.get(audit.commit_sha256)
    if opened is not None and audit.peer != opened[0]:
        return f"peer is {audit.peer}, the commit was signed by {opened[0]}"
    if audit.outcome is not None and audit.code != CODE_OF.get(audit.outcome):
        return f"code {audit.code!r} is not that of outcome {audit.outcome}"
    if entry is None:
        return ""
    if entry.outcome is AuditOutcome.NOT_DRAWN:
        asked = drawn is not None and drawn.reason is not DrawReason.LOTTERY
        return "" if asked else "the signed settlement says that it was not drawn"
    said = (audit.outcome, audit.shadow)
    if said != (entry.outcome, entry.shadow):
        return (
            f"outcome {audit.outcome}, shadow {audit.shadow}; the signed settlement says "
            f"{entry.outcome}, {entry.shadow}"
        )
    if entry.code not in (audit.code, AuditForfeit.code):
        return f"code is {audit.code!r}, the signed settlement says {entry.code!r}"
    return ""
