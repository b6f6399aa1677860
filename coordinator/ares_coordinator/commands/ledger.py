"""`ares-coordinator ledger`: check the books, give them away, prove a posting, look at a worker.

All of it only reads, one moment of the database, also while a coordinator runs on it. Whose
signatures count is said by `identity.key` and `config.toml` of the data directory; without them,
by the database itself.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ares_coordinator.commands.shared import AsJson, DataDir, folder_of, progress_bars, target_of
from ares_p2p.errors import ConfigFault, DiskFull, LedgerTampered, UnknownWorker

if TYPE_CHECKING:
    from ares_coordinator.ledger.findings import Finding
    from ares_coordinator.ledger.signed import Authority
    from ares_coordinator.store.snapshot import Snapshot
    from ares_p2p.domain import Posting

MAX_SHOWN = 100  # findings that are printed; all are counted
NEWEST = 20  # postings of a worker that are shown

app = typer.Typer(
    help="The ledger: verify every row, export it, prove a posting, show a worker.",
    no_args_is_help=True,
)


@app.command()
def verify(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Rebuild log, balances and standings, and hold every row against what was signed.

    Names each row that is wrong. Ends with exit code 70 if there is one.
    """
    from ares_coordinator.ledger.verify import verify_ledger

    with _opened(data_dir) as snapshot:
        authority, findings = _authority(snapshot, data_dir)
        postings, workers, rounds = snapshot.counts_of_ledger()
        head = snapshot.log_head()
        with _progress(quiet=as_json, totals=_totals(postings, rounds)) as progress:
            for finding in verify_ledger(snapshot, authority, progress=progress):
                findings.append(finding)
    sealed = 0 if head is None else head.size
    if as_json:
        facts = {
            "ok": not findings,
            "network_id": authority.network_id,
            "coordinator": authority.coordinator,
            "postings": postings,
            "sealed_postings": sealed,
            "workers": workers,
            "rounds": rounds,
            "findings": [
                {"table": one.table, "row": one.row, "problem": one.problem} for one in findings
            ],
        }
        typer.echo(json.dumps(facts))
        if findings:
            raise SystemExit(LedgerTampered.exit_code)
        return
    typer.echo(f"Ledger of network {authority.network_id}")
    typer.echo(f"  postings      {postings:,}, of them under a signed head: {sealed:,}")
    typer.echo(f"  workers       {workers:,}")
    typer.echo(f"  rounds        {rounds:,}")
    _show_findings(findings)
    if findings:
        raise LedgerTampered(f"{len(findings):,} rows are not what they were, or not signed")
    typer.echo("Every row is in order: log, signed heads, totals, standings, facts.")


def _show_findings(findings: list[Finding]) -> None:
    for finding in findings[:MAX_SHOWN]:
        typer.echo(f"  {finding}")
    if len(findings) > MAX_SHOWN:
        typer.echo(f"  and {len(findings) - MAX_SHOWN:,} more; --json lists all")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it; it is replaced.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole ledger to a file that anybody can check: one JSON object a line.

    The first line names network and coordinator; then every posting as the log hashed it, with
    its hash, and the signed heads where they stand. `ares-peer credits verify --ledger FILE`
    compares it with a volunteer's own evidence.
    """
    from ares_coordinator.ledger.export import export_lines
    from ares_coordinator.ledger.verify import Part

    lines = 0
    with _opened(data_dir) as snapshot:
        authority, _ = _authority(snapshot, data_dir)
        size = snapshot.log_size()
        with _progress(quiet=as_json, totals={Part.LOG: size}) as progress, _replacing(file) as out:
            for line in export_lines(snapshot, authority):
                out(line + "\n")
                lines += 1
                progress(Part.LOG, 1)
    if as_json:
        typer.echo(json.dumps({"file": str(file), "postings": size, "lines": lines}))
        return
    typer.echo(f"{size:,} postings and {lines - 1 - size:,} signed heads are in {file}.")
    typer.echo(f"Volunteers check it with:  ares-peer credits verify --ledger {file}")


@app.command()
def proof(
    posting_id: Annotated[int, typer.Argument(min=1, help="Number of the posting.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a posting is in the log: its audit path under the newest signed head."""
    from ares_p2p.crypto.merkle import check_inclusion
    from ares_p2p.proofs.ledger import leaf_of

    with _opened(data_dir) as snapshot:
        posting, head = snapshot.posting(posting_id), snapshot.log_head()
        if posting is None:
            raise ConfigFault(
                f"there is no posting {posting_id}, the newest is {snapshot.log_size()}",
                hint="ares-coordinator ledger show WORKER",
            )
        if head is None or head.size < posting_id:
            raise ConfigFault(
                f"no signed head covers posting {posting_id} yet",
                hint="Ask again when the next round is settled.",
            )
        path = snapshot.inclusion_proof(posting_id - 1, head.size)
    leaf = leaf_of(posting)
    check_inclusion(leaf, index=posting_id - 1, count=head.size, proof=path, root=head.root)
    if as_json:
        facts = {
            "posting": _posting(posting),
            "index": posting_id - 1,
            "leaf": base64.b64encode(leaf).decode(),
            "size": head.size,
            "root": head.root.hex(),
            "head": base64.b64encode(head.envelope).decode(),
            "proof": [node.hex() for node in path],
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"Posting {posting_id} is in the log of {head.size:,} postings.")
    _show_posting(posting)
    typer.echo(f"  root   {head.root.hex()} (signed in cycle {head.cycle} round {head.round})")
    for node in path:
        typer.echo(f"  proof  {node.hex()}")


@app.command()
def show(
    worker: Annotated[str, typer.Argument(help="Peer id of a worker, 12D3KooW...")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a worker has, by kind of work, with its newest postings."""
    from ares_coordinator.ledger.rewards import credits_of
    from ares_p2p.ids import PeerId

    peer = PeerId(worker)
    with _opened(data_dir) as snapshot:
        standing, totals = snapshot.standing(peer), snapshot.totals(peer)
        newest = snapshot.newest_postings(peer, NEWEST)
    if standing is None:
        raise UnknownWorker(f"the ledger has no posting of {worker[:60]}")
    if as_json:
        facts = {
            "worker": worker,
            "settled_ucredits": standing.settled_ucredits,
            "pending_ucredits": standing.pending_ucredits,
            "recent_ucredits": standing.recent_ucredits,
            "recent_ms": standing.recent_ms,
            "streak": standing.streak,
            "kinds": {
                row.kind: {
                    "pending_ucredits": row.pending_ucredits,
                    "settled_ucredits": row.settled_ucredits,
                    "void_ucredits": row.void_ucredits,
                    "clawback_ucredits": row.clawback_ucredits,
                }
                for row in totals
            },
            "postings": [_posting(posting) for posting in newest],
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(worker)
    typer.echo(f"  settled  {credits_of(standing.settled_ucredits):,.6f} credits")
    typer.echo(f"  pending  {credits_of(standing.pending_ucredits):,.6f}")
    typer.echo(f"  streak   {standing.streak:,} settled since the last one that was not")
    for row in totals:
        typer.echo(
            f"  {row.kind:<13} settled {credits_of(row.settled_ucredits):,.6f}, "
            f"pending {credits_of(row.pending_ucredits):,.6f}, "
            f"void {credits_of(row.void_ucredits):,.6f}, "
            f"taken back {credits_of(row.clawback_ucredits):,.6f}"
        )
    for posting in newest:
        _show_posting(posting)


def _posting(posting: Posting) -> dict[str, Any]:
    return {
        "id": posting.id,
        "key": posting.key,
        "worker": posting.worker,
        "kind": posting.kind,
        "state": posting.state,
        "amount_ucredits": posting.amount_ucredits,
        "cycle": posting.cycle,
        "round": posting.round,
        "commit": posting.commit_sha256.hex(),
        "code": posting.code,
        "at_ms": posting.at_ms,
    }


def _show_posting(posting: Posting) -> None:
    from ares_coordinator.ledger.rewards import credits_of

    place = f"cycle {posting.cycle} round {posting.round}"
    amount = credits_of(posting.amount_ucredits)
    typer.echo(
        f"  {posting.id:>8}  {place:<20} {posting.kind:<13} {posting.state:<9} {amount:,.6f}  "
        f"{posting.code}".rstrip()
    )


# --- what they share ---------------------------------------------------------------------------


@contextmanager
def _opened(data_dir: Path | None) -> Iterator[Snapshot]:
    from ares_coordinator.store.snapshot import open_snapshot

    snapshot = open_snapshot(target_of(data_dir))
    try:
        yield snapshot
    finally:
        snapshot.close()


def _authority(snapshot: Snapshot, data_dir: Path | None) -> tuple[Authority, list[Finding]]:
    """Return whose word counts, and what is wrong if the database names somebody else.

    Raises: ConfigFault: neither the folder nor the database says it.
    """
    from ares_coordinator.ledger.findings import Finding
    from ares_coordinator.ledger.signed import Authority
    from ares_coordinator.settings import IDENTITY_FILE, load_settings
    from ares_coordinator.store.rows import MetaKey
    from ares_p2p.crypto.keys import load_identity
    from ares_p2p.ids import PeerId
    from ares_p2p.network.invite import network_id_of

    folder = folder_of(data_dir)
    stored = {key: snapshot.meta(key) for key in (MetaKey.COORDINATOR, MetaKey.NETWORK_ID)}
    if not (folder / IDENTITY_FILE).exists():
        coordinator, network_id = stored.values()
        if coordinator is None or network_id is None:
            raise ConfigFault(
                f"neither {folder} nor the database says whose ledger it is",
                hint="Give the coordinator's folder with --data-dir.",
            )
        return Authority(PeerId(coordinator), network_id), []
    peer = load_identity(folder / IDENTITY_FILE).peer_id
    network = network_id_of(peer, load_settings(folder).network.name)
    wanted = {MetaKey.COORDINATOR: peer, MetaKey.NETWORK_ID: network}
    findings = [
        Finding("meta", f"key {key}", f"is {stored[key]}, the data directory says {value}")
        for key, value in wanted.items()
        if stored[key] not in (None, value)
    ]
    return Authority(peer, network), findings


def _totals(postings: int, rounds: int) -> dict[str, int]:
    from ares_coordinator.ledger.verify import Part

    return {Part.LOG: postings, Part.PROJECTIONS: postings, Part.FACTS: rounds}


@contextmanager
def _progress(*, quiet: bool, totals: dict[str, int]) -> Iterator[Callable[[str, int], None]]:
    """Give what draws a bar for each part on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with progress_bars(*columns, quiet=quiet) as bar:
        tasks = {part: bar.add_task(part, total=total) for part, total in totals.items()}
        yield lambda part, rows: bar.advance(tasks[part], rows)


@contextmanager
def _replacing(path: Path) -> Iterator[Callable[[str], object]]:
    """Give what writes to a file that is there once everything is written, or not at all."""
    from ares_p2p.files import naming_full_disk

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming_full_disk(path), partial.open("w", encoding="utf-8") as out:
            yield out.write
        os.replace(partial, path)
    except DiskFull:
        raise
    except OSError as error:
        raise ConfigFault(
            f"cannot write {path}: {error.strerror}", hint="Choose another place for the file."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
