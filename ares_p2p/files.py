"""Files on the volunteer's disk: complete or absent, and never growing without bound."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from ares_p2p.errors import DiskFull

MAX_LOG_BYTES: Final = 4 * 1024**2  # per file; with the kept ones at most 16 MiB of log
KEPT_LOGS: Final = 3
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoSpaceLeft(DiskFull, OSError):
    """The disk or the quota is full; an OSError too, for those who can live without the file."""


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn the system's "no space left" into an error that says where and what to do.

    Raises: NoSpaceLeft. Other errors of the system pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise NoSpaceLeft(f"no space left to write {path}: {os.strerror(error.errno)}") from error


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Replace `path` by `data` in one step; readers see the old file or the new one.

    Args:
        durable: wait until the disk has it. Without it the old file may be back after a power
            cut, which most users (a view of the state, remembered settings) can live with.
    Raises: NoSpaceLeft (a DiskFull): the old file stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with naming_full_disk(path):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, path)
            if durable:
                _sync_folder(path.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_log(path: Path) -> BinaryIO:
    """Return the log at `path` for appending; a large one moves to `path`.1, .2, .3 first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        for number in range(KEPT_LOGS, 0, -1):
            older = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            if older.exists():
                os.replace(older, path.with_name(f"{path.name}.{number}"))
    return path.open("ab")
