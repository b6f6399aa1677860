"""status.json: whole, throttled, and readable again."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from ares_p2p.errors import ConfigFault
from ares_p2p.files import KEPT_LOGS, MAX_LOG_BYTES, open_log, write_atomically
from ares_p2p.processes import reference
from ares_peer.events import RoundDone, RoundOpened, StepDone
from ares_peer.progress import Status, advance
from ares_peer.settings import STATUS_FILE
from ares_peer.statusfile import StatusFile, is_running, load_status

STATUS = Status(pid=1, started_s=1.5)


def test_status_survives_the_file(tmp_path: Path) -> None:
    status = advance(STATUS, RoundOpened(1, 2, 3, 4, "ab"), now_ms=1)
    status = advance(status, StepDone(1, 2, math.nan, math.inf), now_ms=2)
    status = advance(status, RoundDone(1, 1, "refused", 0, "ARES-E070", "why", "cd"), now_ms=3)
    assert StatusFile(tmp_path).save(status, now_ms=5_000)
    assert load_status(tmp_path) == status
    text = (tmp_path / STATUS_FILE).read_text()
    assert "NaN" not in text
    assert json.loads(text)["phase"] == "starting"


def test_moving_numbers_are_written_once_a_second(tmp_path: Path) -> None:
    file = StatusFile(tmp_path)
    assert file.save(STATUS, now_ms=10_000)
    newer = dataclasses.replace(STATUS, restarts=1)
    assert not file.save(newer, now_ms=10_999)
    assert file.save(newer, now_ms=11_000)
    assert not file.save(newer, now_ms=20_000)
    urgent = dataclasses.replace(STATUS, restarts=2)
    assert file.save(urgent, now_ms=20_001, urgent=True)


def test_absent_status_is_none(tmp_path: Path) -> None:
    assert load_status(tmp_path) is None
    assert load_status(tmp_path / "absent") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "started_s": 1}'])
def test_damaged_status_is_a_config_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS_FILE).write_text(text)
    with pytest.raises(ConfigFault, match=STATUS_FILE):
        load_status(tmp_path)


def test_running_means_this_very_process() -> None:
    own = reference(os.getpid())
    assert own is not None
    assert is_running(Status(pid=own.pid, started_s=own.started_s))
    assert not is_running(Status(pid=own.pid, started_s=own.started_s - 60))


def test_atomic_write_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(source: object, target: object) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="fire"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_log_is_rotated_by_size_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "trainer.log"
    for number in range(KEPT_LOGS + 3):
        with open_log(path) as log:
            assert log.tell() == 0
            log.write(str(number).encode() * (MAX_LOG_BYTES + 1))
    assert len(list(path.parent.iterdir())) == KEPT_LOGS + 1
    newest = path.with_name("trainer.log.1").read_bytes()[:1]
    assert newest == str(KEPT_LOGS + 1).encode()


def test_small_log_goes_on(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with open_log(tmp_path / "trainer.log") as log:
            log.write(text)
    assert (tmp_path / "trainer.log").read_bytes() == b"one\ntwo\n"
