"""`ares-coordinator data`: the rows of cycles: make some, look at them, bring and take some.

What is made or brought here goes into the next cycle whose rows are not made yet; the teacher of the
settings, or a program, adds what is missing when that cycle begins.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ares_coordinator.commands.evaluationsets import index, indices
from ares_coordinator.commands.shared import (
    AsJson,
    DataDir,
    folder_of,
    nobody_runs,
    progress_bars,
    target_of,
)
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import ConfigFault

if TYPE_CHECKING:
    from ares_coordinator.distiller.estimates import Estimate
    from ares_coordinator.layout import DataLayout
    from ares_coordinator.rowbook import Imported
    from ares_coordinator.settings import CoordinatorSettings
    from ares_coordinator.store.rows import DatasetRow
    from ares_p2p.shards import Example

app = typer.Typer(
    help="Rows of the cycles: generate, stats, teacher, inspect, import, export, index, indices.",
    no_args_is_help=True,
)

Side = Literal["train", "eval", "raw"]
Category = Annotated[str, typer.Option(help=f"One of: {', '.join(CATEGORIES)}.")]
CycleOption = Annotated[
    int | None, typer.Option("--cycle", min=1, help="The newest, if not given.")
]
SideOption = Annotated[
    str, typer.Option("--side", help="train, eval (held out), or raw: brought, not yet split.")
]


# --- make --------------------------------------------------------------------------------------


@app.command()
def generate(
    category: Category,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Rows.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate what a paid teacher would cost.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before money is spent.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have the configured teacher write rows of one category for the next cycle."""
    settings, files = _opened(data_dir)
    _check_category(category)
    if settings.teacher.kind != "procedural":
        from ares_coordinator.distiller.estimates import estimate_run

        found = asyncio.run(estimate_run(settings.teacher, counts={category: count}, seed=0))
        if dry_run and as_json:
            typer.echo(json.dumps(_estimate_facts(found)))
        elif dry_run or not yes:
            _show_estimate(found)
        if dry_run:
            return
        if not yes and not typer.confirm("Ask the teacher now?", default=False, err=True):
            raise typer.Exit(1)
    elif dry_run:
        typer.echo(json.dumps({"microusd": 0}) if as_json else "The procedural teacher is free.")
        return
    from ares_coordinator.rowmaking import write_rows

    with (
        nobody_runs(folder_of(data_dir)),
        _bar(f"{category} rows", quiet=as_json, total=count) as show,
    ):
        result = asyncio.run(
            write_rows(settings, files, target_of(data_dir), category, count, on_progress=show)
        )
    _show_imported(result, as_json=as_json, wanted=count)
    if result.fault is not None:
        raise result.fault


def _estimate_facts(found: Estimate) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "likely_microusd": found.likely_microusd,
        "worst_microusd": sum(one.worst_microusd for one in found.categories),
        "prices_as_of": found.prices_as_of,
        "warnings": list(found.warnings),
    }


def _show_estimate(found: Estimate) -> None:
    facts = _estimate_facts(found)
    typer.echo(
        f"About {facts['requests']:,} requests, {facts['likely_microusd'] / 1e6:.2f} USD; at most "
        f"{facts['worst_microusd'] / 1e6:.2f} USD are reserved (prices of {found.prices_as_of}).",
        err=True,
    )
    for warning in found.warnings:
        typer.echo(f"  {warning}", err=True)


# --- look --------------------------------------------------------------------------------------


@app.command()
def stats(
    cycle: CycleOption = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Tokenize, and say how well the rows pack.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show rows and tokens by category, what was left out, and what the teacher cost."""
    from ares_coordinator.datacard import read_facts
    from ares_coordinator.store.sql import open_store

    settings, files = _opened(data_dir)
    store = open_store(target_of(data_dir), read_only=True)
    try:
        rows = [row for row in store.datasets() if cycle in (None, row.cycle)]
    finally:
        store.close()
    if not rows:
        which = "no cycle has rows yet" if cycle is None else f"cycle {cycle} has no rows yet"
        hint = (
            "ares-coordinator run begins a cycle; ares-coordinator data teacher: what it waits for."
        )
        raise ConfigFault(which, hint=hint)
    newest = rows[-1]
    facts = {**_stats_facts(newest), **read_facts(files.dataset(newest.cycle))}
    if packed:
        from ares_coordinator.rowmaking import packing_of

        facts["packed"] = packing_of(settings, files, newest.cycle)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    _show_stats(newest, facts)
    if len(rows) > 1:
        others = ", ".join(str(row.cycle) for row in rows[:-1])
        typer.echo(f"Earlier cycles: {others} (--cycle N)")


def _stats_facts(row: DatasetRow) -> dict[str, Any]:
    return {
        "cycle": row.cycle,
        "teacher": row.teacher,
        "cost_microusd": row.cost_microusd,
        "disk_bytes": row.disk_bytes,
        "rejected": dict(row.rejected),
        "categories": {
            one.category: {
                "train": one.train_examples,
                "held_out": one.held_out_examples,
                "tokens": one.tokens,
            }
            for one in row.categories
        },
    }


def _show_stats(row: DatasetRow, facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Cycle {row.cycle}, by {row.teacher}", title_justify="left")
    table.add_column("category")
    for name in ("train", "held out", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("")
    most = max((one.train_examples for one in row.categories), default=1)
    for one in row.categories:
        bar = "█" * max(1, round(24 * one.train_examples / max(1, most)))
        numbers = (one.train_examples, one.held_out_examples, one.tokens)
        table.add_row(one.category, *(f"{number:,}" for number in numbers), bar)
    Console().print(table)
    for reason, count in row.rejected:
        typer.echo(f"  left out: {count:,} {reason}")
    for cycle, count in facts.get("replayed", {}).items():
        typer.echo(f"  replayed: {count:,} of cycle {cycle}")
    if facts.get("compared_with"):
        typer.echo(f"  compared with: {', '.join(facts['compared_with'])}")
    if facts.get("fallback"):
        typer.echo(f"  a program made the rest: {facts['fallback']}")
    if row.cost_microusd:
        typer.echo(f"  cost: {row.cost_microusd / 1e6:.2f} USD")
    if "packed" in facts:
        found = facts["packed"]
        typer.echo(
            f"  packed: {found['tokens']:,} tokens, {found['learnt_tokens']:,} of them learnt; "
            f"{found['examples_per_sequence']:.1f} rows in a sequence of "
            f"{found['sequence_length']}, {found['fill']:.0%} full, {found['cut']:,} rows cut"
        )


@app.command()
def teacher(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show how the teacher is: ok, waited for, or done without, and why."""
    from dataclasses import asdict

    from ares_coordinator.store.sql import open_store
    from ares_coordinator.teacherstate import load_teacher_state

    store = open_store(target_of(data_dir), read_only=True)
    try:
        state = load_teacher_state(store)
    finally:
        store.close()
    if as_json:
        typer.echo(json.dumps(None if state is None else asdict(state)))
        return
    if state is None:
        typer.echo("No teacher was asked yet.")
        return
    typer.echo(
        f"{state.teacher}: {state.condition} since {_utc(state.since_ms)}, cycle {state.cycle}"
    )
    if state.code:
        typer.echo(f"  [{state.code}] {state.message}")
    if state.hint:
        typer.echo(f"  next: {state.hint}")
    if state.next_try_ms is not None:
        typer.echo(f"  asked in vain {state.tries} times, again at {_utc(state.next_try_ms)}")


def _utc(at_ms: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


@app.command()
def inspect(
    cycle: CycleOption = None,
    side: SideOption = "train",
    category: Annotated[str | None, typer.Option(help="Only of this category.")] = None,
    find: Annotated[str | None, typer.Option(help="Only rows that hold this text.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="At most so many.")] = 5,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print rows as a person reads them."""
    from ares_p2p.shards.format import encode_row

    if category is not None:
        _check_category(category)
    rows = _rows(data_dir, cycle, side)
    wanted = (
        row
        for row in rows
        if category in (None, row.category)
        and (find is None or any(find in message.content for message in row.messages))
    )
    shown = 0
    for row in islice(wanted, count):
        shown += 1
        if as_json:
            sys.stdout.write(encode_row(row).decode())
        else:
            _show_row(row)
    if not shown and not as_json:
        typer.echo("No row is like that.", err=True)


def _show_row(row: Example) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    source = f"{row.teacher} {row.teacher_version}".strip()
    console.print(Text(f"{row.category}  {row.key}", style="bold"))
    console.print(Text(f"  by {source}, {row.licence}", style="dim"))
    for message in row.messages:
        console.print(Text(f"  {message.role}", style="cyan"))
        for line in message.content.splitlines():
            console.print(Text(f"    {line}"))
    if row.check:
        console.print(Text(f"  checked by {row.check[:200]}", style="dim"))
    console.print()


# --- bring and take ----------------------------------------------------------------------------


@app.command(name="import")
def import_rows(
    files: Annotated[list[Path], typer.Argument(help="JSON or JSON Lines; ChatML or Alpaca.")],
    category: Annotated[str, typer.Option(help="Of rows that name none.")] = "",
    licence: Annotated[str, typer.Option(help="Of rows that name none (SPDX).")] = "",
    teacher: Annotated[str, typer.Option(help="Who wrote rows that do not say it.")] = "",
    permission_ref: Annotated[
        str, typer.Option(help="Under which permission they may train a model.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and filter, store nothing.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring rows into the next cycle. Rows that cannot be read or do not pass are counted and told."""
    from ares_coordinator.distiller.formats import ImportDefaults, read_rows
    from ares_coordinator.rowbook import bring_rows, next_cycle
    from ares_coordinator.store.sql import open_store

    if category:
        _check_category(category)
    settings, layout = _opened(data_dir)
    store = open_store(target_of(data_dir), read_only=True)
    try:
        cycle = next_cycle(store)
    finally:
        store.close()
    defaults = ImportDefaults(category, teacher, licence, permission_ref)
    rows = (row for path in files for row in read_rows(path, defaults))
    with _bar("rows", quiet=as_json, total=None) as show:
        result = bring_rows(
            rows, settings=settings, files=layout, cycle=cycle, on_progress=show, store=not dry_run
        )
    _show_imported(result, as_json=as_json)
    if not result.accepted:
        raise typer.Exit(1)


def _show_imported(result: Imported, *, as_json: bool, wanted: int | None = None) -> None:
    missing = 0 if wanted is None else max(0, wanted - result.accepted.total())
    if as_json:
        facts = {
            "cycle": result.cycle,
            "path": None if result.path is None else str(result.path),
            "accepted": dict(result.accepted),
            "rejected": dict(result.rejected),
            "missing": missing,
            "why": result.short,
            "unreadable": result.faulty,
            "faults": [
                {"row": one.row, "code": one.code, "message": one.message} for one in result.faults
            ],
        }
        typer.echo(json.dumps(facts))
        return
    for fault in result.faults[:20]:
        typer.echo(f"  row {fault.row}: {fault.message} [{fault.code}]", err=True)
    if result.faulty > 20:
        typer.echo(f"  and {result.faulty - 20:,} more that cannot be read (--json)", err=True)
    for reason, count in result.rejected.most_common():
        typer.echo(f"  left out: {count:,} {reason}", err=True)
    typer.echo(
        f"{result.accepted.total():,} rows for cycle {result.cycle}"
        + "".join(f"\n  {count:>6,} {name}" for name, count in sorted(result.accepted.items()))
    )
    if missing:
        typer.echo(f"{missing:,} of {wanted:,} are missing: {result.short}", err=True)
    if result.path is not None:
        typer.echo(f"They lie in {result.path}; delete the file to take them back.")


@app.command()
def export(
    cycle: CycleOption = None,
    side: SideOption = "train",
    form: Annotated[str, typer.Option("--format", help="ares, chatml or alpaca.")] = "chatml",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A file; else stdout.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a cycle's rows as JSON Lines for other trainers, with licence and teacher in every row."""
    from ares_coordinator.distiller.formats import encode_as
    from ares_p2p.files import write_atomically

    if form not in ("ares", "chatml", "alpaca"):
        raise ConfigFault(f"format {form[:20]!r}; ares, chatml or alpaca expected")
    lines = (encode_as(row, form) for row in _rows(data_dir, cycle, side))  # type: ignore[arg-type]
    if side == "eval":
        typer.echo(
            "These rows are held out: a model that trains on them cannot be measured.", err=True
        )
    if output is None:
        for line in lines:
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return
    written = list(lines)
    write_atomically(output, b"".join(written))
    typer.echo(f"{len(written):,} rows in {output}")


app.command()(index)
app.command()(indices)


# --- shared ------------------------------------------------------------------------------------


def _opened(data_dir: Path | None) -> tuple[CoordinatorSettings, DataLayout]:
    from ares_coordinator.layout import DataLayout
    from ares_coordinator.settings import load_settings

    folder = folder_of(data_dir)
    return load_settings(folder), DataLayout(folder)


def _check_category(category: str) -> None:
    if category not in CATEGORIES:
        raise ConfigFault(f"category {category[:40]!r}; one of {', '.join(CATEGORIES)} expected")


def _rows(data_dir: Path | None, cycle: int | None, side: str) -> Iterator[Example]:
    from ares_coordinator.rowbook import next_cycle, stored_rows
    from ares_coordinator.store.sql import open_store

    if side not in ("train", "eval", "raw"):
        raise ConfigFault(f"side {side[:20]!r}; train, eval or raw expected")
    _, layout = _opened(data_dir)
    if cycle is None:
        store = open_store(target_of(data_dir), read_only=True)
        try:
            made = [row.cycle for row in store.datasets()]
            cycle = next_cycle(store) if side == "raw" else max(made, default=1)
        finally:
            store.close()
    return stored_rows(layout, cycle, side)


@contextmanager
def _bar(what: str, *, quiet: bool, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with progress_bars(*columns, quiet=quiet) as bars:
        task = bars.add_task(what, total=total)

        def show(done: int) -> None:
            bars.update(task, completed=done)

        yield show
