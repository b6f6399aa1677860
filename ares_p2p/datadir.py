"""One process per data directory.

The lock is the kernel's (`flock`): it is gone with its holder, however that ends. The pid inside
the file is for the message only.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final

from ares_p2p.errors import ConfigFault, DataDirLocked

LOCK_FILE: Final = "ares.lock"


class DataDirLock:
    """Holds a data directory from `with` to its end."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_FILE
        self._descriptor = -1

    def __enter__(self) -> DataDirLock:
        """Take the lock.

        Raises: DataDirLocked: another process holds it. ConfigFault: the file system has no locks.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise DataDirLocked(
                f"{self._path.parent} is in use by process {holder}",
                hint="Stop it, or use another --data-dir.",
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise ConfigFault(
                f"{self._path} cannot be locked: {error.strerror}",
                hint="Use a --data-dir on a local disk.",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back. The file stays: removing it would let two holders lock two files."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = -1
