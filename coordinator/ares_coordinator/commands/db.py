"""`ares-coordinator db`: look at the database, bring it up to date, move it to PostgreSQL.

Which database: ARES_DATABASE_URL, else `database.url` of the settings, else `ares.db` in the data
directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ares_coordinator.commands.shared import (
    AsJson,
    DataDir,
    folder_of,
    nobody_runs,
    progress_bars,
    target_of,
)
from ares_p2p.errors import ConfigFault

if TYPE_CHECKING:
    from ares_coordinator.store.transfer import OnProgress

app = typer.Typer(
    help="The coordinator's database: look, bring up to date, move to PostgreSQL.",
    no_args_is_help=True,
)


@app.command()
def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show revision, size and rows of the database. Works while a coordinator runs."""
    from ares_coordinator.store.admin import database_status

    found = database_status(target_of(data_dir))
    if as_json:
        facts = {
            "database": found.database,
            "kind": found.kind,
            "revision": found.revision,
            "newest_revision": found.newest_revision,
            "size_bytes": found.size_bytes,
            "rows": dict(found.rows),
            "in_use_by": found.in_use_by,
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{found.kind} database {found.database}")
    typer.echo(f"  revision  {found.revision or 'none'} (newest: {found.newest_revision})")
    typer.echo(f"  size      {found.size_bytes / 1024**2:.1f} MiB")
    if found.in_use_by:
        typer.echo(f"  in use    {found.in_use_by}")
    for name, count in found.rows:
        typer.echo(f"  {name:<20} {count:>12,}")
    if found.revision != found.newest_revision:
        typer.echo("Next: ares-coordinator db migrate")


@app.command()
def migrate(
    data_dir: DataDir = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Rehearse: run it, undo it, print the statements.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the newest revision, in one transaction."""
    from ares_coordinator.store.admin import migrate_database
    from ares_coordinator.store.connect import shown

    target = target_of(data_dir)
    with nobody_runs(folder_of(data_dir)):
        done = migrate_database(target, rehearsal=sql)
    if as_json:
        facts = {"database": shown(target), "from": done.before, "to": done.after}
        typer.echo(json.dumps(facts | ({"statements": done.statements} if sql else {})))
    elif sql:
        for statement in done.statements:
            typer.echo(f"{statement};")
    elif done.before == done.after:
        typer.echo(f"{shown(target)} is at the newest revision, {done.after}.")
    else:
        typer.echo(f"{shown(target)}: {done.before or 'empty'} -> {done.after}")


@app.command()
def copy(
    to: Annotated[
        str,
        typer.Option(
            envvar="ARES_DATABASE_URL", help="postgresql://user@host/name of an empty database."
        ),
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Move the books from ares.db into an empty PostgreSQL database, and compare every row.

    Stop the coordinator first. A password is better given in ARES_DATABASE_URL or PGPASSWORD: other
    users of the machine can read a command line. Afterwards ares.db can only be read.
    """
    from ares_coordinator.settings import DATABASE_FILE
    from ares_coordinator.store.connect import shown, url_of
    from ares_coordinator.store.transfer import copy_database

    folder = folder_of(data_dir)
    source = folder / DATABASE_FILE
    if url_of(to).get_backend_name() != "postgresql":
        raise ConfigFault(
            f"a postgresql database expected, {shown(to)} came",
            hint="ares-coordinator db copy --to postgresql://user@host/name",
        )
    with nobody_runs(folder), _progress_bar(quiet=as_json) as on_progress:
        done = copy_database(source, to, on_progress=on_progress)
    if as_json:
        facts = {"from": str(source), "to": shown(to), "rows": dict(done.rows)}
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"Copied {done.total:,} rows of {len(done.rows)} tables to {shown(to)}.")
    typer.echo("Every row was read back and compared. Next, so that the coordinator uses it:")
    typer.echo(f"  put  url = '{shown(to)}'  under [database] in {folder / 'config.toml'}")
    typer.echo("  or set ARES_DATABASE_URL, which may hold the password")
    typer.echo(f"{source} stays as a backup; no coordinator starts on it any more.")


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[OnProgress]:
    """Give what draws on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with progress_bars(*columns, quiet=quiet) as bar:
        task = bar.add_task("rows", total=None)

        def show(table: str, done: int, total: int) -> None:
            bar.update(task, description=f"{table:<20}", completed=done, total=total)

        yield show
