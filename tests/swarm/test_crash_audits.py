"""SIGKILL of the coordinator in the middle of an audit's books: real processes, real replays.

A verdict that is known and not stored, a round that is settled in the database alone: after the
next start nothing is paid twice, nothing is lost, and every page of the ledger is there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_crash import check_kill_and_resume

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]


@pytest.mark.parametrize("moment", ["audit", "settle-1"])
async def test_coordinator_killed_while_it_audits_or_settles_pays_once(
    moment: str, tmp_path: Path, tiny_base: Path
) -> None:
    await check_kill_and_resume(moment, tmp_path, tiny_base, peers=1)
