"""A volunteer's credit in words: the sums, one line a round, what a check found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ares_p2p.domain import PostingKind
from ares_p2p.proofs.accounts import Account, RoundOutcome
from ares_p2p.proofs.check import Report
from ares_p2p.proofs.findings import Finding, Severity
from ares_p2p.rounds.lottery import audit_rate
from ares_peer.events import clean_text
from ares_peer.reasons import advice_on, meaning_of
from ares_peer.summary import Row
from ares_peer.tierask import TierView
from ares_peer.wording import count_text, exact_credits_text

KINDS: Final = {
    PostingKind.GPU_TRAINING: "GPU training",
    PostingKind.CPU_TRAINING: "CPU training",
    PostingKind.AUDIT: "audits",
}
_AUDITS: Final = {
    "pass": "passed its audit",
    "void": "audit void",
    "fail": "failed its audit",
    "not_drawn": "not drawn",
}


def sum_rows(report: Report, tier: TierView | None) -> list[Row]:
    """Return what the rounds add up to, line by line."""
    balance = report.balance
    rows = [("settled", _by_kind(report, "settled", balance.settled))]
    said = balance.said_ucredits
    if said is not None and said != balance.settled:
        text = f"{exact_credits_text(said)} settled, says the newest settlement that is held"
        rows.append(("coordinator", f"{text}; the rest is of rounds that are not"))
    rows.append(("pending", _by_kind(report, "pending", balance.pending)))
    for name, label in (("void", "void"), ("clawback", "taken back")):
        total = sum(getattr(one, name) for one in balance.by_kind.values())
        if total:
            rows.append((label, _by_kind(report, name, total)))
    if balance.streak is not None:
        rate = audit_rate(balance.streak)
        streak = f"{count_text(balance.streak, 'settled round')} in a row: "
        rows.append(("streak", f"{streak}{rate:.0%} of your next rounds are audited"))
    if tier is not None:
        rows.append(("tier", tier_text(tier)))
    return rows


def _by_kind(report: Report, name: str, total: int) -> str:
    parts = [
        f"{KINDS[kind]} {exact_credits_text(getattr(one, name))}"
        for kind, one in report.balance.by_kind.items()
        if getattr(one, name)
    ]
    return exact_credits_text(total) + (f" ({', '.join(parts)})" if parts else "")


def tier_text(tier: TierView) -> str:
    """Return a tier, and what is missing to the next."""
    if not tier.next_tier:
        return tier.tier
    needs = [f"{tier.missing_credits:,.2f} more settled credits"] if tier.missing_credits else []
    needs += ["GPU work that passed an audit"] if tier.missing_gpu else []
    return f"{tier.tier}, to {tier.next_tier}: {' and '.join(needs) or 'nothing missing'}"


def place_text(cycle: int, round_number: int) -> str:
    """Return a round as a person counts: "3.13" is cycle 3, its 13th round."""
    return f"{cycle}.{round_number + 1}"


def amount_text(account: Account) -> str:
    """Return what an account paid or may pay; nothing for work that never was worth anything."""
    return exact_credits_text(account.ucredits) if account.ucredits else ""


def work_text(account: Account) -> str:
    """Return what kind of work it was, how much, and whether it was audited."""
    if account.kind is PostingKind.AUDIT:
        return f"audit of {account.commit_sha256.hex()[:12]}"
    parts = [KINDS[account.kind]] if account.tokens else []
    parts += [count_text(account.tokens, "token")] if account.tokens else []
    parts += [_AUDITS[account.audit]] if account.audit in _AUDITS else []
    return ", ".join(parts)


def why_text(account: Account) -> str:
    """Return why a round paid nothing, or what else is to be said of it."""
    if account.outcome is RoundOutcome.SETTLED and not account.code:
        return ""
    said = clean_text(account.message) or meaning_of(account.code)
    if not said and not account.is_paid:
        said = "no reason given"
    return f"{said} [{account.code}]" if account.code else said


def advice_rows(accounts: Sequence[Account]) -> list[Row]:
    """Return what to do about each code that these accounts carry."""
    codes = sorted({one.code for one in accounts if one.code})
    return [(code, f"{meaning_of(code)} {advice_on(code)}".strip()) for code in codes]


def finding_text(finding: Finding) -> str:
    """Return a finding in one line: where, which link, what was expected."""
    where = ""
    if finding.cycle is not None:
        where = f"cycle {finding.cycle}"
        if finding.round is not None:
            where = f"round {place_text(finding.cycle, finding.round)}"
    parts = [where, str(finding.link), clean_text(finding.message)]
    text = ": ".join(part for part in parts if part)
    return f"{text} ({finding.file})" if finding.file else text


def unpaid(report: Report) -> list[Account]:
    """Return the rounds that paid nothing, oldest first."""
    return [one for one in report.accounts if not one.is_paid]


def verdict_text(report: Report, *, findings: Sequence[Finding]) -> str:
    """Return what a check came to, in one sentence."""
    checked = (
        f"{count_text(report.rounds, 'round')}, {count_text(len(report.postings), 'own posting')}, "
        f"{count_text(len(report.heads), 'signed head')}"
    )
    broken = sum(one.severity is Severity.BROKEN for one in findings)
    gaps = sum(one.severity is Severity.GAP for one in findings)
    missing = f"; {count_text(gaps, 'gap')}, where nothing is wrong and nothing is proven"
    ending = missing if gaps else ""
    if not broken:
        return f"{checked}: every link that is held holds{ending}"
    return f"{checked}: {count_text(broken, 'broken link')}{ending}"


# --- JSON --------------------------------------------------------------------------------------


def account_json(account: Account) -> dict[str, Any]:
    """Return an account for scripts; rounds count from 0 there, as on the wire."""
    return {
        "cycle": account.cycle,
        "round": account.round,
        "kind": str(account.kind),
        "outcome": str(account.outcome),
        "paid": account.outcome is RoundOutcome.SETTLED,
        "ucredits": account.ucredits,
        "tokens": account.tokens,
        "audit": account.audit,
        "streak": account.streak,
        "code": account.code,
        "message": account.message or meaning_of(account.code),
        "commit": account.commit_sha256.hex(),
    }


def balance_json(report: Report) -> dict[str, Any]:
    """Return the sums for scripts."""
    balance = report.balance
    return {
        "settled_ucredits": balance.settled,
        "pending_ucredits": balance.pending,
        "said_ucredits": balance.said_ucredits,
        "by_kind": {
            str(kind): {
                "settled": one.settled,
                "pending": one.pending,
                "void": one.void,
                "clawback": one.clawback,
            }
            for kind, one in balance.by_kind.items()
        },
        "streak": balance.streak,
        "audit_rate": None if balance.streak is None else audit_rate(balance.streak),
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return a finding for scripts."""
    return {
        "severity": str(finding.severity),
        "link": str(finding.link),
        "cycle": finding.cycle,
        "round": finding.round,
        "file": finding.file,
        "message": finding.message,
    }
