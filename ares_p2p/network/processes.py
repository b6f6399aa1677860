"""Process hygiene: nothing of ours survives the process that started it.

A node is three processes: ours, hivemind's DHT process (a fork), and p2pd. The kernel tells each
child when its parent dies (PR_SET_PDEATHSIG, Linux), also after SIGKILL: the DHT process removes
the sockets and ends, p2pd is killed. The sockets lie in one private folder per node, held by a
file lock: what a SIGKILL of everything left behind is found by the next start and removed.

It refuses to start a node from another thread than the main one: the kernel's signal comes when
the *thread* that forked ends, and a pool's thread may end at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

from ares_p2p.errors import InternalFault
from ares_p2p.processes import signal_on_parent_death

SOCKET_FOLDER_PREFIX = "ares-net-"
MAX_SOCKET_FOLDER_CHARS = 64  # the kernel allows 107 for a socket's whole path
UNLOCKED_GRACE_S = 60.0  # a folder this young may belong to a node that is about to lock it


def check_main_thread() -> None:
    """Refuse any thread but the main one.

    Raises: InternalFault.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InternalFault("a node starts on the main thread: its processes die with the thread")


def _socket_root() -> Path:
    root = Path(tempfile.gettempdir())
    return root if len(str(root)) <= MAX_SOCKET_FOLDER_CHARS - 30 else Path("/tmp")  # noqa: S108 (only private folders are made in it)


class SocketFolder:
    """A private folder for one node's Unix sockets, locked while any of its processes lives."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @staticmethod
    def create() -> SocketFolder:
        """Return a new folder, after removing those that dead nodes left behind."""
        remove_stale_folders()
        path = Path(
            tempfile.mkdtemp(prefix=f"{SOCKET_FOLDER_PREFIX}{os.getpid()}-", dir=_socket_root())
        )
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return SocketFolder(path, lock)

    def remove(self) -> None:
        """Remove the folder; calling it twice does no harm."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _is_stale(folder: Path) -> bool:
    """Whether no process holds the folder's lock."""
    try:
        status = folder.stat()
        if status.st_uid != os.getuid():
            return False
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return folder.exists() and time.time() - folder.stat().st_mtime > UNLOCKED_GRACE_S
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def remove_stale_folders() -> int:
    """Remove the socket folders of nodes that are gone; return how many there were."""
    removed = 0
    for folder in _socket_root().glob(f"{SOCKET_FOLDER_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if _is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
    return removed


def die_with_parent(parent_pid: int, folder: Path | None) -> None:
    """Make this (child) process end when its parent does, and remove `folder` then.

    SIGTERM does the same, so that `terminate()` leaves no sockets either.
    """

    def leave(_signal: int, _frame: FrameType | None) -> None:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + signal.SIGTERM)  # no clean-up handlers of the parent's in this fork

    signal.signal(signal.SIGTERM, leave)
    if sys.platform == "linux":
        signal_on_parent_death(signal.SIGTERM)
        if os.getppid() != parent_pid:
            leave(signal.SIGTERM, None)
