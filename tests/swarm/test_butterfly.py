"""Rounds by parts between real processes: everybody in time, and one killed in the middle of a round."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ares_coordinator.herald import payload_of
from ares_coordinator.store.sql import open_store
from ares_p2p.domain import RoundManifest
from localnet import Child, LocalNetwork
from swarm_crash import WAIT_S
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(600)]

ROUNDS, PARTS, PEERS = 3, 4, 4
KILLED_IN = 1
SETTINGS = {
    **QUICK,
    "rounds.rounds": ROUNDS,
    "rounds.min_peers": PEERS,  # so nothing begins before all are there
    "rounds.clock": "fixed",
    "rounds.train_s": 15,
    "rounds.serve_s": 10,
    "training.rank": 128,  # 262,144 parameters: four frames, so four parts
    "training.alpha": 128,
    "training.inner_lr": 1e-4,
    "training.codec_bits": 8,  # two chunks, so that reducers fetch less than all of it
    "averaging.exchange": "butterfly",
    "averaging.parts": PARTS,
}


def manifests(net: LocalNetwork) -> list[RoundManifest]:
    store = open_store(net.coordinator_dir / "ares.db")
    records = [store.record("manifest", 1, number) for number in range(ROUNDS)]
    store.close()
    return [payload_of(record, RoundManifest) for record in records if record is not None]


def said(child: Child, event: str) -> list[dict[str, object]]:
    return [record for record in child.said if record.get("event") == event]


async def test_rounds_by_parts_go_on_when_a_reducer_is_killed(
    tmp_path: Path, tiny_base: Path
) -> None:
    async with LocalNetwork(tmp_path) as net:
        await net.init(base=tiny_base, settings=SETTINGS)
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        ending = ("--exit-after-cycle",)
        *peers, victim = [
            await net.start_peer(f"peer-{number}", arguments=ending) for number in range(PEERS)
        ]
        committed = await victim.wait_for_event("commit", timeout_s=WAIT_S, round=KILLED_IN)
        assert committed["accepted"]
        victim.kill()  # every peer makes one part and checks another
        await asyncio.gather(*(child.process.wait() for child in peers))
        await net.wait_for_phase("done", timeout_s=WAIT_S)
        assert await coordinator.stop() == 0, coordinator.log_tail()
        assert await net.close() == []
        signed = manifests(net)
    assert len(signed) == ROUNDS
    assert [len(manifest.parts) for manifest in signed] == [PARTS] * ROUNDS
    assert [len(manifest.entries) for manifest in signed[: KILLED_IN + 1]] == [PEERS] * 2
    final = signed[-1].next_state.hex()
    for child in peers:
        assert [record["state"] for record in said(child, "cycle_done")] == [final]
        assert said(child, "error") == [], child.log_tail()
        assert len(said(child, "round_done")) == ROUNDS
