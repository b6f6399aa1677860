"""Two volunteers of a real network check their credit, and then a ledger that was tampered with."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ares_coordinator.cli import app as coordinator_app
from ares_peer.cli import app as peer_app
from localnet import LocalNetwork
from swarm_crash import finish_cycle
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]
ROUNDS = 4


def verify(folder: Path, *words: str) -> tuple[int, Any]:
    arguments = ["credits", "verify", "--json", "--data-dir", str(folder), *words]
    result = CliRunner().invoke(peer_app, arguments)
    return result.exit_code, json.loads(result.stdout)


def export(net: LocalNetwork, path: Path) -> None:
    arguments = ["ledger", "export", str(path), "--data-dir", str(net.coordinator_dir)]
    result = CliRunner().invoke(coordinator_app, arguments)
    assert result.exit_code == 0, result.output


def tamper(database: Path, row: int) -> None:
    """Change a row as somebody who owns the file can."""
    with closing(sqlite3.connect(database)) as connection, connection:
        triggers = connection.execute("select name from sqlite_master where type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"drop trigger {name}")
        connection.execute("update postings set amount_ucredits = 1 where id = ?", (row,))


async def test_volunteers_check_their_credit_and_find_the_row_that_was_changed(
    tmp_path: Path, tiny_base: Path
) -> None:
    async with LocalNetwork(tmp_path) as net:
        settings = {**QUICK, "rounds.rounds": ROUNDS, "rounds.min_peers": 2}
        await net.init(base=tiny_base, settings=settings)
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        for name in ("peer-1", "peer-2"):
            await net.start_peer(name, arguments=("--exit-after-cycle",))
        await finish_cycle(net, coordinator)
        assert await net.close() == []
    honest = tmp_path / "honest.jsonl"
    export(net, honest)
    for name in ("peer-1", "peer-2"):
        code, found = verify(tmp_path / name)
        assert (code, found["broken"], found["gaps"]) == (0, [], []), found
        assert found["rounds"] == ROUNDS
        assert found["postings"] == 2 * ROUNDS
        assert found["settled_ucredits"] == found["said_ucredits"] > 0
        assert found["unpaid"] == []
        code, found = verify(tmp_path / name, "--ledger", str(honest))
        assert (code, found["broken"]) == (0, []), found
        assert found["ledger"]["own_rows"] == 2 * ROUNDS
    with closing(sqlite3.connect(net.coordinator_dir / "ares.db")) as connection:
        owner = connection.execute("select worker from postings where id = 3").fetchone()[0]
    tamper(net.coordinator_dir / "ares.db", 3)
    changed = tmp_path / "changed.jsonl"
    export(net, changed)
    for name in ("peer-1", "peer-2"):
        code, found = verify(tmp_path / name, "--ledger", str(changed))
        assert code == 76
        messages = [one["message"] for one in found["broken"]]
        assert messages[0].startswith("row 3 does not hash to what the log has for it")
        is_own = found["peer_id"] == owner
        assert len(messages) == (2 if is_own else 1)
        assert not is_own or "in the own page" in messages[1]
