"""The commands: what they say, how they end, and what they do not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ares_p2p import __version__
from ares_p2p.crypto.keys import load_or_create_identity
from ares_p2p.datadir import DataDirLock
from ares_p2p.processes import reference
from ares_peer.cli import app
from ares_peer.progress import Status
from ares_peer.settings import IDENTITY_FILE
from ares_peer.statusfile import StatusFile

runner = CliRunner()


def test_help_and_version_import_nothing_heavy() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from ares_peer.cli import app\n"
        "for words in (['--help'], ['join', '--help'], ['version']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    heavy = {"torch", "hivemind", "transformers", "peft", "numpy", "aiohttp", "psutil"}
    assert loaded & heavy == set()


def test_supervisor_and_its_checks_need_neither_torch_nor_hivemind() -> None:
    program = "import sys, ares_peer.runner; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert loaded & {"torch", "hivemind", "transformers", "numpy"} == set()


def test_help_lists_the_commands() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("join", "status", "identity", "version"):
        assert command in result.stdout


def test_version() -> None:
    assert runner.invoke(app, ["version"]).stdout == f"ares-peer {__version__}, protocol 1\n"
    assert json.loads(runner.invoke(app, ["version", "--json"]).stdout)["protocol"] == 1


def test_join_without_any_invite(tmp_path: Path) -> None:
    result = runner.invoke(app, ["join", "--data-dir", str(tmp_path)])
    assert result.exit_code == 78
    assert result.stderr.splitlines() == [
        f"error [ARES-E020] {tmp_path} knows no network yet",
        "next: ares-peer join ares://...",
    ]


def test_join_error_in_json(tmp_path: Path) -> None:
    result = runner.invoke(app, ["join", "ares://x", "--json", "--data-dir", str(tmp_path)])
    assert result.exit_code == 78
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "ARES-E011"
    assert error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--device", "tpu"], "ARES-E010"), (["--port", "70000"], "ARES-E010")],
)
def test_join_with_an_impossible_option(tmp_path: Path, options: list[str], code: str) -> None:
    result = runner.invoke(app, ["join", *options, "--data-dir", str(tmp_path)])
    assert result.exit_code == 78
    assert code in result.stderr


def test_join_on_a_busy_data_dir(tmp_path: Path) -> None:
    with DataDirLock(tmp_path):
        result = runner.invoke(app, ["join", "--data-dir", str(tmp_path)])
    assert result.exit_code == 78
    assert f"in use by process {os.getpid()}" in result.stderr
    assert "next: Stop it" in result.stderr


def test_status_of_nobody(tmp_path: Path) -> None:
    result = runner.invoke(app, ["status", "--data-dir", str(tmp_path)])
    assert result.exit_code == 3
    assert "no peer has run" in result.stderr


def test_status_of_a_running_peer(tmp_path: Path) -> None:
    own = reference(os.getpid())
    assert own is not None
    running = Status(pid=own.pid, started_s=own.started_s, network="tiny-net")
    StatusFile(tmp_path).save(running, now_ms=1, urgent=True)
    result = runner.invoke(app, ["status", "--data-dir", str(tmp_path)])
    assert result.exit_code == 0
    assert "tiny-net" in result.stdout
    answer = json.loads(
        runner.invoke(app, ["status", "--json", "--data-dir", str(tmp_path)]).stdout
    )
    assert answer["running"] is True
    assert answer["pid"] == own.pid


def test_status_of_a_dead_peer(tmp_path: Path) -> None:
    dead = Status(pid=os.getpid(), started_s=1.0)
    StatusFile(tmp_path).save(dead, now_ms=1, urgent=True)
    result = runner.invoke(app, ["status", "--data-dir", str(tmp_path)])
    assert result.exit_code == 3
    assert "not running: ended without saying so" in result.stdout
    assert result.stdout.splitlines()[-1] == "next: ares-peer join"
    answer = json.loads(
        runner.invoke(app, ["status", "--json", "--data-dir", str(tmp_path)]).stdout
    )
    assert answer["running"] is False


def test_identity_is_shown_and_never_made(tmp_path: Path) -> None:
    result = runner.invoke(app, ["identity", "--data-dir", str(tmp_path)])
    assert result.exit_code == 78
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / IDENTITY_FILE
    peer_id = load_or_create_identity(path).peer_id
    result = runner.invoke(app, ["identity", "--data-dir", str(tmp_path)])
    assert result.stdout == f"{peer_id}\n{path}\n"
    path.chmod(0o640)
    result = runner.invoke(app, ["identity", "--json", "--data-dir", str(tmp_path)])
    assert result.exit_code == 78
    assert json.loads(result.stdout)["error"]["code"] == "ARES-E014"
