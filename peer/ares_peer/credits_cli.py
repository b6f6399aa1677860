"""`ares-peer credits` and `credits verify`: what the rounds paid, and whether it is all proven.

Both read the files that a peer leaves, and need neither the peer nor the network; only the tier
is asked of the network's API, because the thresholds are the network's own. Exit code 76: a link
of the chain is broken, somebody changed a file or the coordinator contradicts itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ares_p2p.domain import PostingKind
from ares_p2p.errors import ConfigFault, EvidenceBroken, NotInitialised, PeerFault
from ares_p2p.proofs.accounts import Account, RoundOutcome
from ares_p2p.proofs.check import Report, check_contradiction, check_evidence
from ares_p2p.proofs.check_export import ExportCheck
from ares_p2p.proofs.evidence import RoundEvidence
from ares_p2p.proofs.export import MAX_LINE_BYTES
from ares_p2p.proofs.findings import Finding, Link, Severity, Volunteer
from ares_p2p.proofs.ledger import leaf_of
from ares_peer.creditview import (
    account_json,
    advice_rows,
    amount_text,
    balance_json,
    finding_json,
    finding_text,
    place_text,
    sum_rows,
    unpaid,
    verdict_text,
    why_text,
    work_text,
)
from ares_peer.evidence import (
    FOLDER,
    read_contradictions,
    read_cycles,
    read_heads,
    read_rounds,
    read_volunteer,
    round_paths,
)
from ares_peer.settings import remembered_network
from ares_peer.summary import Row
from ares_peer.tierask import TierView, ask_tier

DEFAULT_LIMIT = 20  # rounds: one screen
_STYLES = {
    RoundOutcome.SETTLED: ("green", "✓", "+"),
    RoundOutcome.PENDING: ("yellow", "◌", "o"),
    RoundOutcome.OPEN: ("cyan", "▶", ">"),
    RoundOutcome.MISSED: ("yellow", "·", "-"),
    RoundOutcome.UNKNOWN: ("yellow", "?", "?"),
}
_BAD = ("red", "✗", "x")
Progress = Callable[[int], None]  # so many more are done


def show_credits(data_dir: Path, *, limit: int | None, offline: bool, as_json: bool) -> None:
    """Print what the rounds paid, newest first.

    Raises: NotInitialised: there is nothing yet. ConfigFault: a damaged file.
    """
    folder, volunteer = _whose(data_dir)
    unreadable: list[Finding] = []
    report = check_evidence(
        volunteer,
        cycles=read_cycles(folder, unreadable.append),
        rounds=read_rounds(folder, unreadable.append),
        quick=True,
    )
    tier = None if offline else _tier(data_dir, volunteer)
    accounts = list(reversed(report.accounts))
    if as_json:
        shown = accounts if limit is None else accounts[:limit]
        typer.echo(json.dumps(_credits_json(volunteer, report, tier, shown), indent=2))
        return
    shown = accounts[: DEFAULT_LIMIT if limit is None else limit]
    rows = [("peer", volunteer.peer), *sum_rows(report, tier)]
    more = len(accounts) - len(shown)
    notes = [f"{more} earlier ones: ares-peer credits --limit {len(accounts)}"] if more else []
    notes += [finding_text(one) for one in [*report.findings, *unreadable] if _is_broken(one)]
    notes.append("next: ares-peer credits verify")
    if sys.stdout.isatty():
        _draw(Console(), rows, shown, notes)
    else:
        _write(rows, shown, notes)


def verify_credits(data_dir: Path, *, ledger: Path | None, as_json: bool) -> int:
    """Check the whole chain offline, and a file with the whole ledger if there is one.

    Returns: the exit code: 76 when a link is broken.
    Raises: NotInitialised: there is nothing yet. ConfigFault: a file cannot be read.
    """
    folder, volunteer = _whose(data_dir)
    findings: list[Finding] = []
    with _progress(len(round_paths(folder)), "rounds", quiet=as_json) as advance:
        report = check_evidence(
            volunteer,
            cycles=read_cycles(folder, findings.append),
            rounds=_counted(read_rounds(folder, findings.append), advance),
            heads=read_heads(folder),
        )
    findings += report.findings
    for contradiction, origin in read_contradictions(folder, findings.append):
        try:
            found = check_contradiction(contradiction, volunteer, origin=origin)
        except PeerFault as fault:
            found = Finding(Severity.BROKEN, Link.FILE, fault.message, file=origin)
        findings += [found] if found is not None else []
    export = None
    if ledger is not None:
        export = _check_ledger(ledger, volunteer, report, quiet=as_json)
        findings += export.findings
    is_broken = any(_is_broken(one) for one in findings)
    if as_json:
        reply = _verify_json(volunteer, report, findings, export)
        typer.echo(json.dumps({"whole": not is_broken, **reply}, indent=2))
    else:
        _say_verdict(report, findings, export)
    return EvidenceBroken.exit_code if is_broken else 0


def _whose(data_dir: Path) -> tuple[Path, Volunteer]:
    folder = data_dir / FOLDER
    volunteer = read_volunteer(folder)
    if volunteer is None:
        raise NotInitialised(
            f"{data_dir} holds no evidence of any round yet",
            hint="ares-peer join ares://... leaves some with its first round.",
        )
    return folder, volunteer


def _tier(data_dir: Path, volunteer: Volunteer) -> TierView | None:
    try:
        _, api_url = remembered_network(data_dir)
    except NotInitialised:
        return None
    return ask_tier(api_url, volunteer.peer) if api_url else None


def _is_broken(finding: Finding) -> bool:
    return finding.severity is Severity.BROKEN


# --- a ledger file -----------------------------------------------------------------------------


def _check_ledger(path: Path, volunteer: Volunteer, report: Report, *, quiet: bool) -> ExportCheck:
    """Return the check of a file from `ares-coordinator ledger export`, done."""
    check = ExportCheck(
        volunteer,
        own={posting.id - 1: leaf_of(posting) for posting in report.postings},
        heads=report.heads,
        file=path.name,
    )
    try:
        with path.open("rb") as file, _progress(path.stat().st_size, "ledger", quiet=quiet) as told:
            while line := file.readline(MAX_LINE_BYTES + 2):
                check.line(line.rstrip(b"\n"))
                told(len(line))
    except OSError as error:
        raise ConfigFault(
            f"{path}: {error.strerror}",
            hint="The operator writes it: ares-coordinator ledger export",
        ) from error
    check.finish()
    return check


# --- for people --------------------------------------------------------------------------------


def _draw(
    console: Console, rows: Sequence[Row], accounts: Sequence[Account], notes: Sequence[str]
) -> None:
    plain = console.options.ascii_only
    grid = Table.grid(padding=(0, 2))
    for label, value in rows:
        grid.add_row(Text(label, style="bold"), Text(value))
    console.print(Panel(grid, title="credit", title_align="left", expand=False))
    if accounts:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("round", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("credits", justify="right", no_wrap=True)
        table.add_column("work")
        table.add_column("why", ratio=1)
        for one in accounts:
            style, glyph, sign = _STYLES.get(one.outcome, _BAD)
            table.add_row(
                Text(place_text(one.cycle, one.round)),
                Text(f"{sign if plain else glyph} {one.outcome}", style=style),
                Text(amount_text(one), style=style if one.is_paid else f"{style} strike"),
                Text(work_text(one), style="dim"),
                Text(why_text(one)),
            )
        console.print(table)
    for code, advice in advice_rows(accounts):
        console.print(Text.assemble((f"{code}  ", "bold"), advice))
    for note in notes:
        console.print(Text(note, style="dim"))


def _write(rows: Sequence[Row], accounts: Sequence[Account], notes: Sequence[str]) -> None:
    for label, value in rows:
        typer.echo(f"{label:<14}{value}")
    for one in accounts:
        head = f"{place_text(one.cycle, one.round):<8}{one.outcome:<10}{amount_text(one):>12}"
        tail = "; ".join(text for text in (work_text(one), why_text(one)) if text)
        typer.echo(f"{head}  {tail}".rstrip())
    for code, advice in advice_rows(accounts):
        typer.echo(f"{code}  {advice}")
    for note in notes:
        typer.echo(note)


def _say_verdict(report: Report, findings: Sequence[Finding], export: ExportCheck | None) -> None:
    console = Console(soft_wrap=True, highlight=False)
    broken = [one for one in findings if _is_broken(one)]
    for one in broken:
        console.print(Text.assemble(("broken ", "bold red"), finding_text(one)))
    for one in findings:
        if not _is_broken(one):
            console.print(Text.assemble(("gap    ", "yellow"), finding_text(one)))
    for account in unpaid(report):
        place = place_text(account.cycle, account.round)
        what = "an audit in round" if account.kind is PostingKind.AUDIT else "round"
        text = f"{what} {place} ({account.outcome}): {why_text(account)}"
        console.print(Text.assemble(("unpaid ", "cyan"), text))
    if export is not None:
        console.print(
            Text(
                f"{export.file}: {export.rows:,} rows, {export.own_rows:,} of them this peer's, "
                f"{export.heads_checked:,} signed heads compared"
            )
        )
    style = "bold red" if broken else "bold green"
    console.print(Text(verdict_text(report, findings=findings), style=style))
    if broken:
        console.print("next: keep a copy of the data folder, and show this to the operator")
    elif export is None and len(broken) < len(findings):
        console.print("next: ares-peer credits verify --ledger FILE, with the operator's export")


@contextmanager
def _progress(total: int, what: str, *, quiet: bool) -> Iterator[Progress]:
    """Show a bar on a terminal; nothing anywhere else."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=max(1, total))
        yield lambda more: bar.advance(task, more)


def _counted(rounds: Iterator[RoundEvidence], advance: Progress) -> Iterator[RoundEvidence]:
    for evidence in rounds:
        yield evidence
        advance(1)


# --- for scripts -------------------------------------------------------------------------------


def _credits_json(
    volunteer: Volunteer, report: Report, tier: TierView | None, accounts: Sequence[Account]
) -> dict[str, object]:
    return {
        "peer_id": volunteer.peer,
        "network_id": volunteer.network_id,
        **balance_json(report),
        "tier": None if tier is None else tier.tier,
        "next_tier": None if tier is None else tier.next_tier or None,
        "rounds": [account_json(one) for one in accounts],
    }


def _verify_json(
    volunteer: Volunteer,
    report: Report,
    findings: Sequence[Finding],
    export: ExportCheck | None,
) -> dict[str, object]:
    return {
        "peer_id": volunteer.peer,
        "network_id": volunteer.network_id,
        "coordinator": volunteer.coordinator,
        "rounds": report.rounds,
        "postings": len(report.postings),
        "heads": len(report.heads),
        "broken": [finding_json(one) for one in findings if _is_broken(one)],
        "gaps": [finding_json(one) for one in findings if not _is_broken(one)],
        "unpaid": [account_json(one) for one in unpaid(report)],
        "ledger": None
        if export is None
        else {
            "file": export.file,
            "rows": export.rows,
            "own_rows": export.own_rows,
            "heads_checked": export.heads_checked,
        },
        **balance_json(report),
    }
