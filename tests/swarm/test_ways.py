"""Real processes over both ways: HTTPS alone, and HTTPS once the P2P node of a peer is gone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ares_coordinator.store.sql import open_store
from ares_p2p.domain import EntryStatus
from ares_p2p.network.invite import parse_invite
from localnet import Child, LocalNetwork
from swarm_crash import WAIT_S, finish_cycle
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(600)]
COUNTED = (EntryStatus.ACCEPTED, EntryStatus.CLIPPED)


def p2pds_of(child: Child) -> list[psutil.Process]:
    """Return the p2pd of a peer: it is a grandchild of its supervisor."""
    found = psutil.Process(child.process.pid).children(recursive=True)
    return [process for process in found if process.name() == "p2pd"]


def said(child: Child, event: str) -> list[dict[str, Any]]:
    return [record for record in child.said if record.get("event") == event]


def earnings(net: LocalNetwork, *, rounds: int) -> dict[str, tuple[int, int]]:
    """Return by peer: rounds that counted, and settled micro-credits."""
    store = open_store(net.coordinator_dir / "ares.db")
    try:
        found: dict[str, tuple[int, int]] = {}
        for number in range(rounds):
            for row in store.contributions(1, number):
                counted, _ = found.get(row.peer, (0, 0))
                found[row.peer] = (counted + (row.status in COUNTED), 0)
        return {
            peer: (counted, sum(total.settled_ucredits for total in store.totals(peer)))
            for peer, (counted, _) in found.items()
        }
    finally:
        store.close()


async def test_peers_behind_https_earn_like_an_open_one(tmp_path: Path, tiny_base: Path) -> None:
    """One that wants HTTPS alone, and one whose bootstrap peers do not answer: it finds out."""
    rounds = 3
    async with LocalNetwork(tmp_path) as net:
        await net.init(
            base=tiny_base, settings={**QUICK, "rounds.rounds": rounds, "rounds.min_peers": 3}
        )
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        opened = await net.start_peer("peer-open", arguments=("--exit-after-cycle",))
        hidden = await net.start_peer(
            "peer-hidden",
            arguments=("--exit-after-cycle", "--way", "http", "--api-url", net.api_url),
        )
        known = parse_invite(net.invite)
        nowhere = f"/ip4/127.0.0.1/tcp/1/p2p/{known.addresses[0].rpartition('/')[2]}"
        net.invite = replace(known, addresses=(nowhere,), api_url=net.api_url).encode()
        cut_off = await net.start_peer("peer-cut-off", arguments=("--exit-after-cycle",))
        for child in (hidden, cut_off):
            assert (await child.wait_for_event("way", timeout_s=WAIT_S))["way"] == "http"
        await hidden.wait_for_event("round_open", timeout_s=WAIT_S)
        assert p2pds_of(hidden) == []
        assert (await opened.wait_for_event("way", timeout_s=WAIT_S))["way"] == "p2p"
        await finish_cycle(net, coordinator)
        assert await net.close() == []
        found = earnings(net, rounds=rounds)
        assert [counted for counted, _ in found.values()] == [rounds] * 3
        less, _, more = sorted(ucredits for _, ucredits in found.values())
        assert more >= less > 0.8 * more  # the same steps; examples differ in their tokens
        peers = (opened, hidden, cut_off)
        states = {done["state"] for child in peers for done in said(child, "cycle_done")}
        assert len(states) == 1
        assert [said(child, "error") for child in peers] == [[], [], []]


async def test_a_peer_whose_node_is_killed_goes_on_over_https(
    tmp_path: Path, tiny_base: Path
) -> None:
    rounds = 4
    async with LocalNetwork(tmp_path) as net:
        await net.init(
            base=tiny_base, settings={**QUICK, "rounds.rounds": rounds, "rounds.min_peers": 2}
        )
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        await net.start_peer("peer-open", arguments=("--exit-after-cycle",))
        struck = await net.start_peer(
            "peer-struck", arguments=("--exit-after-cycle", "--api-url", net.api_url)
        )
        assert (await struck.wait_for_event("way", timeout_s=WAIT_S))["way"] == "p2p"
        await struck.wait_for_event("round_done", timeout_s=WAIT_S, round=0)
        (p2pd,) = p2pds_of(struck)
        os.kill(p2pd.pid, signal.SIGKILL)
        changed = await struck.wait_for_event("way", timeout_s=WAIT_S, way="http")
        assert changed["why"]
        await finish_cycle(net, coordinator)
        assert await net.close() == []
        found = earnings(net, rounds=rounds)
        assert [counted for counted, _ in found.values()] == [rounds, rounds]
        done = said(struck, "round_done")
        assert [record["round"] for record in done] == list(range(rounds))
        assert {record["status"] for record in done} <= {"accepted", "clipped"}
        assert not [note for note in said(struck, "supervisor") if note["what"] == "restarting"]
