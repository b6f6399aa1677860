"""SIGKILL of the coordinator inside a round, with two peers in the middle of their work.

Opened and not yet published, with one commit taken, closed and not yet published, finished and
not yet published: the round ends as if nothing had happened.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_crash import check_kill_and_resume

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]


@pytest.mark.parametrize("moment", ["round-1-open", "round-1-commit", "round-1-closed", "round-2"])
async def test_coordinator_killed_in_a_round_completes_the_cycle(
    moment: str, tmp_path: Path, tiny_base: Path
) -> None:
    await check_kill_and_resume(moment, tmp_path, tiny_base, peers=2)
