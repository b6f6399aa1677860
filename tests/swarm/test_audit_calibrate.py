"""`audit calibrate` with its real processes: killed in the middle, it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from ares_p2p.errors import ConfigFault, DataDirLocked
from ares_p2p.proofs.profile import Relation, RelationKind
from ares_p2p.proofs.sketch import ReplayComparison, judge
from ares_p2p.proofs.thresholds import load_calibration

BASE = Path(__file__).resolve().parents[2] / "data" / "base"
UPDATES = "work/updates"


def command(out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "ares_coordinator.cli", "audit", "calibrate", "--json"),
        *("--base", str(BASE), "--out", str(out), "--builds", "eager", "--bits", "2"),
        *("--rounds", "1", "--peers", "1", "--steps", "3", "--rows", "2"),
        *("--sequence-length", "128", *more),
    ]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Return when the file is there; a process that ends before is an error."""
    while not path.exists():
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"it ended with {process.returncode} before {path.name} was there")


@pytest.mark.swarm
@pytest.mark.timeout(300)
def test_calibration_killed_in_the_middle_goes_on_and_is_usable(tmp_path: Path) -> None:
    out = tmp_path / "calibration"
    first = out / UPDATES / "float32-reference" / "0-0.npy"
    with subprocess.Popen(command(out), stdout=subprocess.PIPE, text=True) as killed:
        wait_for(first, killed)
        second = subprocess.run(command(out), capture_output=True, text=True, check=False)
        assert json.loads(second.stdout)["error"]["code"] == DataDirLocked.code
        children = psutil.Process(killed.pid).children()
        os.kill(killed.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(children, timeout=60)
    assert children
    assert not left, "a child outlived the run that started it"
    made_ns = first.stat().st_mtime_ns

    other = subprocess.run(
        command(out, "--rounds", "2"), capture_output=True, text=True, check=False
    )
    answer = json.loads(other.stdout)["error"]
    assert answer["code"] == ConfigFault.code
    assert "other settings" in answer["message"]

    done = subprocess.run(
        command(out, "--keep-work"), capture_output=True, text=True, check=True, timeout=250
    )
    assert first.stat().st_mtime_ns == made_ns, "finished work was done again"
    facts = json.loads(done.stdout)
    assert Path(facts["file"]) == out / "cpu.json"
    assert all(Path(path).stat().st_size > 10_000 for path in facts["pictures"])
    relations = {(entry["relation"], entry["codec_bits"]) for entry in facts["entries"]}
    assert relations == {("same-build", 2), ("same-device", 2)}

    bounds = load_calibration(out).thresholds_for(
        2, Relation(RelationKind.SAME_DEVICE, "cpu", "float32")
    )
    (entry,) = [item for item in facts["entries"] if item["relation"] == "same-device"]
    assert bounds.pass_cosine_drop == entry["thresholds"]["pass_cosine_drop"]
    cheats = {item["name"]: item for item in _entry(out)["cheats"]}
    for name in ("skip-1", "skip-2", "half-batch", "zero", "sign-flip"):
        assert cheats[name]["pass"] == 0, name
    assert _entry(out)["honest"]["pass"] == _entry(out)["honest"]["comparisons"] > 0
    assert judge(ReplayComparison(1.0, 1.0, 0.0, 0.5, 0.5), bounds) == "fail"


def _entry(out: Path) -> dict[str, Any]:
    content = json.loads((out / "cpu.json").read_bytes())
    (entry,) = [item for item in content["entries"] if item["relation"] == "same-device"]
    return entry
