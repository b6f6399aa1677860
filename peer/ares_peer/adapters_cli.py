"""`ares-peer adapters`: what the network has trained, as a table, and one of them as a folder."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import typer

from ares_p2p.clock import SystemClock
from ares_p2p.crypto.keys import load_identity
from ares_p2p.errors import NotInitialised, NotYetReleased, UnknownPath
from ares_peer.adapters import AdapterShop, Progress, RemoteAdapter
from ares_peer.settings import IDENTITY_FILE, remembered_network

MB = 1_000_000


def show_or_fetch(data_dir: Path, *, api: str, get: int | None, to: Path, as_json: bool) -> None:
    """Print the list, or fetch the adapter of cycle `get` into `to`.

    Raises: NotInitialised, NotYetReleased, UnknownPath, CoordinatorAway, HashMismatch, PeerFault.
    """
    network_id, known_api = remembered_network(data_dir)
    api_url = api or known_api
    if not api_url:
        raise NotInitialised(
            "the address of the network's API is not known yet",
            hint="Join once, or name it: ares-peer adapters --api https://...",
        )
    identity = load_identity(data_dir / IDENTITY_FILE)
    shop = AdapterShop(api_url, network_id, identity, SystemClock())
    found = asyncio.run(shop.index())
    if get is None:
        _print_list(found, as_json=as_json)
        return
    adapter = next((one for one in found if one.cycle == get), None)
    if adapter is None:
        have = ", ".join(str(one.cycle) for one in found) or "none yet"
        raise UnknownPath(f"cycle {get} has no promoted adapter; there are: {have}")
    if not adapter.is_available:
        raise NotYetReleased(
            f"{adapter.version} becomes public on {_day(adapter.public_ms)}",
            hint="Settled credit opens it earlier: ares-peer credits shows your tier.",
        )
    with _progress(quiet=as_json) as progress:
        folder = asyncio.run(shop.fetch(adapter, to, progress=progress))
    if as_json:
        typer.echo(json.dumps({"cycle": adapter.cycle, "folder": str(folder.resolve())}))
    else:
        typer.echo(f"{adapter.version} is in {folder}, every file verified.")


def _print_list(found: Sequence[RemoteAdapter], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "cycle": one.cycle,
                "version": one.version,
                "size_bytes": one.size_bytes,
                "public_ms": one.public_ms,
                "available": one.is_available,
            }
            for one in found
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    if not found:
        typer.echo("No adapter has been promoted yet.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("cycle", "version", "size", "for you", "public from"):
        table.add_column(title, justify="right" if title in ("cycle", "size") else "left")
    for one in found:
        table.add_row(
            str(one.cycle),
            one.version,
            f"{one.size_bytes / MB:.1f} MB",
            "available" if one.is_available else "not yet",
            _day(one.public_ms),
        )
    Console().print(table)
    typer.echo(f"Next: ares-peer adapters --get {found[0].cycle} --to adapters")


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """Yield what shows how far each file is; on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield lambda _name, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    with Bars(console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield show
