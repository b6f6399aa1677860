"""`ares-coordinator export`: the network's model for people, signed; and checking such a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ares_coordinator.commands.shared import AsJson, DataDir, folder_of, progress_bars, target_of

if TYPE_CHECKING:
    from ares_coordinator.exports.build import OnProgress
    from ares_coordinator.exports.manifest import ExportManifest


def export(
    kind: Annotated[
        Literal["peft", "merged", "gguf", "all"],
        typer.Option("--format", help="What to write; formats may be added one by one."),
    ] = "peft",
    cycle: Annotated[
        int | None, typer.Option(min=1, help="A promoted cycle; the newest by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; ares-exports/vN in the data directory by default.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="DIR", help="Check an export instead.")
    ] = None,
    signer: Annotated[
        str | None,
        typer.Option(help="With --verify: peer id of the coordinator that must have signed."),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a promoted model as PEFT adapter, merged model or GGUF adapter, with a signed manifest.

    Works while a coordinator runs. docs/exports.md says how to use the result.
    """
    if verify is not None:
        _verify(verify, signer=signer, as_json=as_json)
        return
    from ares_coordinator.exports.build import FORMATS, build_export
    from ares_coordinator.exports.subject import find_subject
    from ares_coordinator.layout import DataLayout
    from ares_coordinator.settings import IDENTITY_FILE, load_settings
    from ares_coordinator.store.sql import open_store
    from ares_p2p.clock import SystemClock
    from ares_p2p.crypto.keys import load_identity

    folder = folder_of(data_dir)
    settings, files = load_settings(folder), DataLayout(folder)
    identity = load_identity(folder / IDENTITY_FILE)
    store = open_store(target_of(data_dir), read_only=True)
    try:
        subject = find_subject(store, settings, files, cycle=cycle)
    finally:
        store.close()
    assert subject.row.version is not None
    with _bars(quiet=as_json) as on_progress:
        manifest = build_export(
            subject,
            files.export(subject.row.version) if out is None else out,
            formats=FORMATS if kind == "all" else (kind,),
            identity=identity,
            now_ms=SystemClock().now_ms(),
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps(_facts(manifest)))
        return
    typer.echo(f"{subject.version} of {subject.network} is in {manifest.folder}")
    for file in manifest.files:
        typer.echo(f"  {file.size_bytes:>14,}  {file.name}")
    typer.echo(f"Signed by {manifest.signer}. Anybody can check it with:")
    typer.echo(f"  ares-coordinator export --verify DIR --signer {manifest.signer}")


def _verify(folder: Path, *, signer: str | None, as_json: bool) -> None:
    from ares_coordinator.exports.manifest import check_export
    from ares_p2p.ids import PeerId

    manifest = check_export(folder, signer=None if signer is None else PeerId(signer))
    if as_json:
        typer.echo(json.dumps(_facts(manifest)))
        return
    size = sum(file.size_bytes for file in manifest.files)
    typer.echo(f"All {len(manifest.files)} files ({size:,} bytes) are as they were signed.")
    typer.echo(f"Signed by {manifest.signer}.")
    if signer is None:
        typer.echo("Compare that with the coordinator of the network, or give it as --signer.")


def _facts(manifest: ExportManifest) -> dict[str, Any]:
    return {"folder": str(manifest.folder), "signer": manifest.signer, **manifest.content}


@contextmanager
def _bars(*, quiet: bool) -> Iterator[OnProgress]:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with progress_bars(*columns, quiet=quiet) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
