"""`<data dir>/status.json`: the peer's picture on disk, for `ares-peer status` and for scripts.

Written in one step, so that a reader, or the next start after a SIGKILL, always finds valid
JSON. Urgent changes are written at once, the others at most once a second.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ares_p2p.errors import ConfigFault
from ares_p2p.files import write_atomically
from ares_p2p.processes import ProcessRef, is_alive
from ares_peer.progress import Status
from ares_peer.settings import STATUS_FILE, describe

MIN_INTERVAL_MS: Final = 1_000


class StatusFile:
    """The file of one data directory, written by its supervisor only."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / STATUS_FILE
        self._written: Status | None = None
        self._written_ms = 0

    def save(self, status: Status, *, now_ms: int, urgent: bool = False) -> bool:
        """Write `status` unless it is the written one or too soon. Returns: whether it wrote."""
        too_soon = now_ms - self._written_ms < MIN_INTERVAL_MS
        if status is self._written or (too_soon and not urgent):
            return False
        write_atomically(self._path, json.dumps(dataclasses.asdict(status), indent=1).encode())
        self._written, self._written_ms = status, now_ms
        return True


def load_status(data_dir: Path) -> Status | None:
    """Return the status that a peer left or writes in `data_dir`, or None without one.

    Raises: ConfigFault: the file is damaged or of another version.
    """
    path = data_dir / STATUS_FILE
    try:
        return _adapter().validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigFault(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigFault(
            f"{path}: {describe(error)}", hint=f"Remove {path}; the next join writes it anew."
        ) from error


def is_running(status: Status) -> bool:
    """Whether the supervisor that wrote `status` still runs."""
    return is_alive(ProcessRef(status.pid, status.started_s))


@cache
def _adapter() -> TypeAdapter[Status]:
    return TypeAdapter(Status)
