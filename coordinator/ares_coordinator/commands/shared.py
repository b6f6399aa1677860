"""What the commands share: their options, which folder and database they mean, a progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where this coordinator keeps everything.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def folder_of(data_dir: Path | None) -> Path:
    """Return the data directory that was given, or the default one."""
    from ares_coordinator.settings import default_data_dir

    return default_data_dir() if data_dir is None else data_dir


def target_of(data_dir: Path | None) -> str | Path:
    """Return the database of a coordinator: of the folder given, or of the default one.

    Raises: NotInitialised, ConfigFault: nothing says which, or its settings do not read.
    """
    from ares_coordinator.settings import load_settings
    from ares_coordinator.store.connect import DATABASE_URL, database_target

    folder = folder_of(data_dir)
    url = "" if os.environ.get(DATABASE_URL) else load_settings(folder).database.url
    return database_target(folder, url)


def nobody_runs(folder: Path) -> AbstractContextManager[object]:
    """Hold a data directory, if there is one: no coordinator runs on it meanwhile.

    Raises: ConfigFault: one does, and which.
    """
    from ares_p2p.datadir import DataDirLock

    return DataDirLock(folder) if folder.is_dir() else nullcontext()


@contextmanager
def progress_bars(*columns: ProgressColumn, quiet: bool) -> Iterator[Progress]:
    """Give bars of these columns, drawn on a terminal's stderr and nowhere else."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True) as bars:
        yield bars
