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
from ares_p2p.crypto.keys import Identity, save_identity
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
BASE = Path(__file__).parents[2] / "data" / "base"
ATTACKS = ("nan", "flip", "replay", "forge", "no-blob", "overwrite")
# two cheats, three rounds apart in the list: in every round one of them plays each half of it
HOSTILE_PEERS = {"mallory": ATTACKS, "trudy": ATTACKS[3:] + ATTACKS[:3]}
ROUNDS = len(ATTACKS)
SETTINGS = {
    **QUICK,
    "rounds.rounds": ROUNDS,
    "rounds.serve_s": 5,
    "data.seed": 7,  # both runs learn from, and are asked about, the same examples
    "data.examples_per_category": 120,
    "training.sequence_length": 128,
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
Codes = dict[tuple[str, int], set[str]]  # (peer, round) -> codes


@dataclass(frozen=True, slots=True)
class Run:
    """One finished swarm."""

    cycle: CycleRow
    told: Codes  # by peer's name: what the peer itself could read
    published: Codes  # by peer id: what the coordinator recorded
    ids: dict[str, str]
    final_states: set[str]
    dht_refusals: dict[str, int]


async def _run(root: Path, cheats: dict[str, tuple[str, ...]]) -> Run:
    async with LocalNetwork(root) as net:
        peers = len(HONEST) + len(cheats)
        await net.init(base=BASE, settings={**SETTINGS, "rounds.min_peers": peers})
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        ending = ("--exit-after-cycle",)
        for number, name in enumerate(HONEST):  # the same ids get the same examples in each run
            save_identity(Identity.from_seed(bytes([number]) * 32), root / name / "identity.key")
        honest = [await net.start_peer(name, arguments=ending) for name in HONEST]
        hostile = [
            await net.start_peer(name, arguments=ending, program=(str(HOSTILE), ",".join(attacks)))
            for name, attacks in cheats.items()
        ]
        for child in (*honest, *hostile):
            await child.process.wait()
        status = await net.get("/api/ares/training")
        await coordinator.stop()
        run = Run(
            cycle=_cycle(net),
            told=_told(hostile),
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


def _published(net: LocalNetwork) -> Codes:
    found: Codes = defaultdict(set)
    store = open_store(net.coordinator_dir / "ares.db")
    for number in range(ROUNDS):
        for refusal in store.refusals(1, number):
            found[refusal.peer, number].add(refusal.code)
        for row in store.contributions(1, number):
            if row.code:
                found[row.peer, number].add(row.code)
    store.close()
    return found


def _told(children: list[Child]) -> Codes:
    found: Codes = defaultdict(set)
    for child in children:
        for record in child.said:
            if record.get("event") in ("commit", "round_done") and record["code"]:
                found[child.name, record["round"]].add(record["code"])
    return found


def _peer_id(child: Child) -> str:
    return next(r["peer_id"] for r in child.said if r.get("event") == "identity")


def _final_state(child: Child) -> str:
    return next(r["state"] for r in child.said if r.get("event") == "cycle_done")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A swarm without cheats."""
    return asyncio.run(_run(tmp_path_factory.mktemp("clean"), {}))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same swarm with two cheats beside the honest peers, another attack in every round."""
    folder = tmp_path_factory.mktemp("attacked")
    return asyncio.run(_run(folder, HOSTILE_PEERS))


def test_attacked_swarm_learns_as_much_as_a_clean_one(clean: Run, attacked: Run) -> None:
    assert clean.cycle.loss_after is not None
    assert attacked.cycle.loss_after is not None
    assert attacked.cycle.loss_after <= clean.cycle.loss_after * 1.02


def test_honest_peers_of_an_attacked_swarm_end_with_one_state(attacked: Run) -> None:
    assert len(attacked.final_states) == 1


@pytest.mark.parametrize("name", HOSTILE_PEERS)
@pytest.mark.parametrize("attack", EXPECTED)
def test_attack_is_refused_with_its_reason(attack: str, name: str, attacked: Run) -> None:
    number = HOSTILE_PEERS[name].index(attack)
    assert EXPECTED[attack] in attacked.told[name, number]  # its sender can read it
    assert EXPECTED[attack] in attacked.published[attacked.ids[name], number]  # and everybody


def test_forged_cycle_record_is_refused_and_counted(attacked: Run) -> None:
    assert attacked.dht_refusals.get(WrongSigner.code, 0) > 0
    assert attacked.cycle.rounds_total == ROUNDS


def test_honest_peers_are_never_refused(attacked: Run) -> None:
    honest = {attacked.ids[name] for name in HONEST}
    assert not [place for place in attacked.published if place[0] in honest]
