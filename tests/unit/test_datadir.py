"""One process per data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ares_p2p.datadir import DataDirLock
from ares_p2p.errors import DataDirLocked


def test_second_holder_is_refused_and_told_the_pid(tmp_path: Path) -> None:
    with DataDirLock(tmp_path), pytest.raises(DataDirLocked, match=f"process {os.getpid()}"):
        DataDirLock(tmp_path).__enter__()


def test_lock_can_be_taken_again_after_its_end(tmp_path: Path) -> None:
    for _ in range(2):
        with DataDirLock(tmp_path):
            assert (tmp_path / "ares.lock").read_text() == f"{os.getpid()}\n"
    assert (tmp_path / "ares.lock").read_text() == ""
