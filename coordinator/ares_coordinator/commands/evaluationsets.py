"""`ares-coordinator data index` and `data indices`: evaluation sets that no row may quote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ares_coordinator.commands.shared import AsJson, DataDir, folder_of
from ares_p2p.errors import ConfigFault

if TYPE_CHECKING:
    from ares_coordinator.layout import DataLayout


def index(
    name: Annotated[str, typer.Argument(help="Of the evaluation set.")],
    files: Annotated[
        list[Path], typer.Argument(help="JSON, JSON Lines, CSV, TSV or plain text; also .gz.")
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Index an evaluation set, so that no row holds text of it. The index is hashes only."""
    from ares_coordinator.distiller.benchtexts import read_texts
    from ares_coordinator.distiller.filters.contamination import MIN_WORDS, SUFFIX, NgramIndex

    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigFault(f"name {name[:40]!r}: letters, digits, '-', '_' and '.' expected")
    layout = _layout(data_dir)
    found = NgramIndex.of(name, (text for path in files for text in read_texts(path)))
    if not len(found):
        raise ConfigFault(
            f"no text of {MIN_WORDS} words or more in {', '.join(path.name for path in files)}: "
            "the index would keep nothing out"
        )
    layout.evaluation_sets.mkdir(parents=True, exist_ok=True)
    path = layout.evaluation_sets / f"{name}{SUFFIX}"
    found.save(path)
    if as_json:
        facts = {"name": name, "texts": found.texts, "runs": len(found), "path": str(path)}
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"{len(found):,} runs of words of {found.texts:,} different texts in {path}")


def indices(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show the evaluation sets that no row may quote."""
    from ares_coordinator.datasets import benchmarks_of

    layout = _layout(data_dir)
    found = {one.name: len(one) for one in benchmarks_of(layout)}
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, runs in found.items():
        typer.echo(f"{name}: {runs:,} runs of words")
    if not found:
        typer.echo("None. docs/filters.md says which to index: ares-coordinator data index.")


def _layout(data_dir: Path | None) -> DataLayout:
    """Return the files of a coordinator that is set up.

    Raises: NotInitialised, ConfigFault.
    """
    from ares_coordinator.layout import DataLayout
    from ares_coordinator.settings import load_settings

    folder = folder_of(data_dir)
    load_settings(folder)
    return DataLayout(folder)
