"""What the laboratory says where it cannot run, and which namespaces it takes for abandoned."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from ares_p2p.errors import ConfigFault
from benchmarks.lab.__main__ import main
from benchmarks.lab.scenario import Link
from benchmarks.lab.spaces import Spaces, is_abandoned, why_not


def test_lab_without_root_says_so_and_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["home-4"]) == ConfigFault.exit_code
    said = capsys.readouterr()
    assert "network namespaces need root" in said.err
    assert "next: sudo" in said.err
    assert main(["home-4", "--json"]) == ConfigFault.exit_code
    assert '"ARES-E010"' in capsys.readouterr().out


def test_lab_without_its_tools_names_their_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_not() == "ip and tc not found: apt-get install iproute2"


def test_lab_takes_only_namespaces_of_the_dead_for_abandoned() -> None:
    mine = Spaces({}).name_of("hub")
    assert not is_abandoned(mine)
    started_ms = round(psutil.Process().create_time() * 1000)
    earlier_life = f"ares-lab.{os.getpid()}.{started_ms - 60_000}.hub"
    assert is_abandoned(earlier_life)  # the pid was given out again
    assert not is_abandoned("somebody-elses")
    assert not is_abandoned("ares-lab.not-ours.1.hub")


def test_lab_gives_every_node_an_address_of_its_own() -> None:
    link = Link(up_mbit=1, down_mbit=1)
    spaces = Spaces(dict.fromkeys(("coordinator", "bootstrap", "ada"), link))
    assert len(set(spaces.addresses.values())) == 3
