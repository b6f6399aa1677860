"""Cheating peers in a real swarm: real processes, real p2pd, one lie each.

What must hold: honest peers train on, the loss is as good as in a run without cheats, and every
attack leaves its reason where its sender and everybody else can read it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from ares_coordinator.store.rows import CycleRow
from ares_coordinator.store.sql import open_store
from ares_p2p.errors import (
    BadSignature,
    CommitReplayed,
    CommitWithoutBlob,
    NonFinite,
    OpposesOthers,
    WrongSigner,
)
from localnet import Child, LocalNetwork
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(420)]

HOSTILE = Path(__file__).with_name("hostile_peer.py")
ROUNDS = 5
SETTINGS = {
    **QUICK,
    "rounds.rounds": ROUNDS,
    "rounds.min_peers": 3,
    "rounds.serve_s": 5,
    "training.min_steps": 10,
    "training.max_steps": 10,
}
EXPECTED = {
    "nan": NonFinite.code,
    "flip": OpposesOthers.code,
    "replay": CommitReplayed.code,
    "forge": BadSignature.code,
    "no-blob": CommitWithoutBlob.code,
}
HONEST = ("peer-1", "peer-2", "peer-3")


@dataclass(frozen=True, slots=True)
class Run:
    """One finished swarm."""

    cycle: CycleRow
    reasons: dict[str, set[str]]  # peer's name -> codes it was told
    published: dict[str, set[str]]  # peer id -> codes that the coordinator recorded
    ids: dict[str, str]
    final_states: set[str]
    dht_refusals: dict[str, int]


async def _run(root: Path, base: Path, attacks: tuple[str, ...]) -> Run:
    async with LocalNetwork(root) as net:
        await net.init(base=base, settings={**SETTINGS, "rounds.min_peers": 3 + len(attacks)})
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        ending = ("--exit-after-cycle",)
        honest = [await net.start_peer(name, arguments=ending) for name in HONEST]
        hostile = [
            await net.start_peer(attack, arguments=ending, program=(str(HOSTILE), attack))
            for attack in attacks
        ]
        for child in (*honest, *hostile):
            await child.process.wait()
        status = await net.get("/api/ares/training")
        await coordinator.stop()
        run = Run(
            cycle=_cycle(net),
            reasons={child.name: _told(child) for child in hostile},
            published=_published(net),
            ids={child.name: _peer_id(child) for child in (*honest, *hostile)},
            final_states={_final_state(child) for child in honest},
            dht_refusals=status["swarm"]["refusedRecords"],
        )
        assert await net.close() == []
        return run


def _cycle(net: LocalNetwork) -> CycleRow:
    store = open_store(net.coordinator_dir / "ares.db")
    try:
        cycle = store.latest_cycle()
        assert cycle is not None
        return cycle
    finally:
        store.close()


def _published(net: LocalNetwork) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    store = open_store(net.coordinator_dir / "ares.db")
    for number in range(ROUNDS):
        for refusal in store.refusals(1, number):
            found[refusal.peer].add(refusal.code)
        for row in store.contributions(1, number):
            if row.code:
                found[row.peer].add(row.code)
    store.close()
    return found


def _told(child: Child) -> set[str]:
    return {
        record["code"]
        for record in child.said
        if record.get("event") in ("commit", "round_done") and record["code"]
    }


def _peer_id(child: Child) -> str:
    return next(r["peer_id"] for r in child.said if r.get("event") == "identity")


def _final_state(child: Child) -> str:
    return next(r["state"] for r in child.said if r.get("event") == "cycle_done")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Run:
    """A swarm without cheats."""
    return asyncio.run(_run(tmp_path_factory.mktemp("clean"), tiny_base, ()))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Run:
    """The same swarm with one cheat of each kind beside the honest peers."""
    attacks = (*EXPECTED, "overwrite")
    return asyncio.run(_run(tmp_path_factory.mktemp("attacked"), tiny_base, attacks))


def test_attacked_swarm_learns_as_much_as_a_clean_one(clean: Run, attacked: Run) -> None:
    assert clean.cycle.loss_after is not None
    assert attacked.cycle.loss_after is not None
    assert attacked.cycle.loss_after <= clean.cycle.loss_after * 1.02


def test_honest_peers_of_an_attacked_swarm_end_with_one_state(attacked: Run) -> None:
    assert len(attacked.final_states) == 1


@pytest.mark.parametrize("attack", EXPECTED)
def test_attack_is_refused_with_its_reason(attack: str, attacked: Run) -> None:
    assert EXPECTED[attack] in attacked.reasons[attack]  # its sender can read it
    assert EXPECTED[attack] in attacked.published[attacked.ids[attack]]  # and so can everybody


def test_forged_cycle_record_is_refused_and_counted(attacked: Run) -> None:
    assert attacked.dht_refusals.get(WrongSigner.code, 0) > 0
    assert attacked.cycle.rounds_total == ROUNDS


def test_honest_peers_are_never_refused(attacked: Run) -> None:
    for name in HONEST:
        assert not attacked.published.get(attacked.ids[name]), name
