"""Cycles that are averaged on hivemind: real processes, deaths, restarts."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.ledger.balances import fold_balances, verify_balances
from ares_coordinator.store.rows import CyclePhase
from ares_coordinator.store.sql import open_store
from ares_p2p.errors import StateMismatch
from ares_p2p.processes import descendants, is_alive
from localnet import Child, LocalNetwork
from swarm_crash import WAIT_S
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(600)]

HIVEMIND: dict[str, object] = {
    **QUICK,
    "averaging.strategy": "hivemind",
    "audit.mode": "off",
    "rounds.rounds": 8,
    "rounds.min_peers": 2,
    "rounds.serve_s": 30,
}


def in_a_group_of_three(record: dict[str, Any]) -> bool:
    is_done = record.get("event") == "round_done" and record["status"] == "accepted"
    return is_done and abs(record["coefficient"] - 1 / 3) < 1e-6


def is_exchanging(record: dict[str, Any]) -> bool:
    return (record.get("event"), record.get("phase")) == ("phase", "exchanging")


def own_sums_that_differed(peer: Child) -> list[dict[str, Any]]:
    """Return what a peer said of sums that were not the signed one, bit for bit."""
    return [one for one in peer.said if one.get("code") == StateMismatch.code]


def check_that_nothing_was_paid(net: LocalNetwork) -> None:
    """The cycle is over, the model learned, and the books hold no credit."""
    store = open_store(net.coordinator_dir / "ares.db")
    try:
        cycle = store.latest_cycle()
        assert cycle is not None
        assert cycle.phase is CyclePhase.DONE
        assert cycle.loss_before is not None
        assert cycle.loss_after is not None
        assert cycle.loss_after < cycle.loss_before
        postings = store.postings(limit=1000)
        assert postings
        assert {item.state for item in postings} <= {"pending", "void"}
        assert verify_balances(store) == len(fold_balances(postings))
    finally:
        store.close()


async def test_peers_average_and_one_of_them_dies(tmp_path: Path, tiny_base: Path) -> None:
    async with LocalNetwork(tmp_path) as net:
        await net.init(base=tiny_base, settings=HIVEMIND)
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        peers = [await net.start_peer(f"peer-{number}") for number in range(3)]
        for peer in peers:
            await peer.wait_for(in_a_group_of_three, timeout_s=WAIT_S)
        seen = len(peers[2].said)
        await peers[2].wait_for(is_exchanging, timeout_s=WAIT_S, after=seen)
        net.note_processes()
        victim = peers[2].process.pid
        family = descendants(victim)
        peers[2].kill()
        for peer in peers[:2]:
            await peer.wait_for_event("cycle_done", timeout_s=WAIT_S)
        await net.wait_for_phase("done", timeout_s=WAIT_S)
        assert not any(is_alive(process) for process in family)
        for peer in peers[:2]:
            assert await peer.stop(signal.SIGINT) == 0, peer.log_tail()
            assert own_sums_that_differed(peer) == []
        assert await coordinator.stop() == 0, coordinator.log_tail()
        assert await net.close() == []
    check_that_nothing_was_paid(net)


async def test_rounds_go_on_after_a_restart_and_with_a_late_peer(
    tmp_path: Path, tiny_base: Path
) -> None:
    """The coordinator dies when the commits are closed: the group is called by its next start."""
    async with LocalNetwork(tmp_path) as net:
        await net.init(base=tiny_base, settings={**HIVEMIND, "rounds.rounds": 60})
        await net.start_bootstrap()
        first = await net.start_coordinator(env={"ARES_FAILPOINT": "round-1-closed"})
        peers = [await net.start_peer(f"peer-{number}") for number in range(2)]
        assert await first.process.wait() == -signal.SIGKILL, first.log_tail()
        second = await net.start_coordinator()
        for peer in peers:
            done = await peer.wait_for_event("round_done", timeout_s=WAIT_S, round=1)
            assert done["status"] == "accepted", done
        late = await net.start_peer("peer-late")
        done = await late.wait_for_event("round_done", timeout_s=WAIT_S, status="accepted")
        for peer in peers:
            same = await peer.wait_for_event("round_done", timeout_s=WAIT_S, round=done["round"])
            assert same["state"] == done["state"]
            assert same["coefficient"] == done["coefficient"]
        for peer in (*peers, late):
            assert own_sums_that_differed(peer) == []
            assert await peer.stop(signal.SIGINT) == 0, peer.log_tail()
        assert await second.stop() == 0, second.log_tail()
        assert await net.close() == []
