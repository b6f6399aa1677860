"""Files on the volunteer's disk: complete or absent, and never growing without bound."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO, Final

MAX_LOG_BYTES: Final = 4 * 1024**2  # per file; with the kept ones at most 16 MiB of log
KEPT_LOGS: Final = 3


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` in one step; readers see the old file or the new one.

    Not synchronised to the disk: after a power cut the old file may be back, which its users
    (a view of the state, remembered settings) can live with.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def open_log(path: Path) -> BinaryIO:
    """Return the log at `path` for appending; a large one moves to `path`.1, .2, .3 first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        for number in range(KEPT_LOGS, 0, -1):
            older = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            if older.exists():
                os.replace(older, path.with_name(f"{path.name}.{number}"))
    return path.open("ab")
