"""SIGKILL of the coordinator in each phase of a cycle: the cycle completes, nothing counts twice.

The moment is the hardest one of each phase: its work is done, and nothing of it is recorded yet.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm_crash import check_kill_and_resume

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]

PHASES = ("generate", "prepare", "publish", "train", "stack", "evaluate", "promote", "settle")


@pytest.mark.parametrize("phase", PHASES)
async def test_coordinator_killed_in_phase_completes_the_cycle(
    phase: str, tmp_path: Path, tiny_base: Path
) -> None:
    await check_kill_and_resume(f"{phase}-end", tmp_path, tiny_base, peers=1)
