"""`ares-coordinator auditors`: who replays others' work, what came of it, and who may.

A peer may audit when its tier may, when `audit.auditors` in config.toml lists it, or when it was
named here. One that let forged work through may not, until it is named again. A running
coordinator asks the database at every round, so a name counts from the next one on.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ares_coordinator.commands.shared import AsJson, DataDir, target_of
from ares_p2p.errors import ConfigFault, PayloadMalformed
from ares_p2p.ids import PeerId, public_key_of

app = typer.Typer(
    help="Auditor peers: list them with what came of their reports, name one.",
    no_args_is_help=True,
)


@app.command(name="list")
def list_auditors(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show every auditor: how its replays ended, and whether it was named or dismissed."""
    from ares_coordinator.store.sql import open_store

    store = open_store(target_of(data_dir), read_only=True)
    try:
        known = {row.peer: row for row in store.auditors()}
        tallies: dict[PeerId, dict[str, int]] = {peer: {} for peer in known}
        for row in store.audit_tallies():
            result = "open" if row.result is None else row.result.value
            tallies.setdefault(row.auditor, {})[result] = row.tasks
    finally:
        store.close()
    found = [
        {
            "peer": peer,
            "tasks": tally,
            "named_ms": known[peer].named_ms if peer in known else None,
            "dismissed_ms": known[peer].dismissed_ms if peer in known else None,
            "reason": known[peer].message if peer in known else "",
        }
        for peer, tally in sorted(tallies.items())
    ]
    if as_json:
        typer.echo(json.dumps(found))
        return
    if not found:
        typer.echo("No peer has audited yet, and none was named.")
        typer.echo("next: ares-coordinator auditors name PEER")
    for one in found:
        _show(one)


def _show(one: dict[str, Any]) -> None:
    tasks = ", ".join(f"{count:,} {result}" for result, count in one["tasks"].items())
    typer.echo(one["peer"])
    typer.echo(f"  replays    {tasks or 'none yet'}")
    if one["dismissed_ms"] is not None:
        typer.echo(f"  dismissed  {one['reason']}")
        typer.echo(f"next: ares-coordinator auditors name {one['peer']}")
    elif one["named_ms"] is not None:
        typer.echo("  named      by the operator")


@app.command()
def name(
    peer: Annotated[str, typer.Argument(help="Its id, as `ares-peer identity` shows it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a peer audit whatever its tier, also one that was dismissed."""
    from ares_coordinator.store.sql import open_store
    from ares_p2p.clock import SystemClock

    try:
        public_key_of(peer)
    except PayloadMalformed as error:
        raise ConfigFault(
            f"{peer[:60]!r} is no peer id", hint="ares-peer identity shows a peer's own."
        ) from error
    store = open_store(target_of(data_dir))
    try:
        store.name_auditor(PeerId(peer), now_ms=SystemClock().now_ms())
    finally:
        store.close()
    if as_json:
        typer.echo(json.dumps({"peer": peer}))
    else:
        typer.echo(f"{peer} may audit from the next round on.")
