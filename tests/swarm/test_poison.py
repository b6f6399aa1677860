"""A poisoner in a real swarm: found by the held-out loss, taken out, and paid by its audit alone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.store.alarm_rows import AlarmRow
from ares_coordinator.store.sql import open_store
from ares_p2p.crypto.keys import Identity, save_identity
from ares_p2p.domain import PostingState
from ares_p2p.errors import AuditFailed, PoisonFound, RoundSetAside
from localnet import Child, LocalNetwork
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(420)]

HOSTILE = Path(__file__).with_name("hostile_peer.py")
BASE = Path(__file__).parents[2] / "data" / "base"
ROUNDS, POISONED = 4, 2
DEEDS = ["poison" if number == POISONED else "none" for number in range(ROUNDS)]
HONEST, CHEAT = ("peer-1",), "mallory"
SETTINGS = {
    **QUICK,
    "rounds.rounds": ROUNDS,
    "rounds.min_peers": 2,
    "rounds.train_s": 40,
    "rounds.serve_s": 30,
    "rounds.held_out_examples": 64,
    "data.seed": 7,
    "data.examples_per_category": 120,
    "training.rank": 16,
    "training.alpha": 32,
    "training.sequence_length": 128,
    "training.min_steps": 10,
    "training.max_steps": 10,
}


@dataclass(frozen=True, slots=True)
class Played:
    """One finished swarm."""

    said: dict[str, list[dict[str, Any]]]  # events, by peer's name
    ids: dict[str, str]
    rounds: list[dict[str, Any]]  # as the API shows them
    alarms: tuple[AlarmRow, ...]
    verdicts: dict[tuple[str, int], str]  # code of the audit, by (peer id, round)
    settled: dict[str, set[int]]  # rounds that were paid, by peer id


async def _play(root: Path) -> Played:
    async with LocalNetwork(root) as net:
        await net.init(base=BASE, settings=SETTINGS)
        await net.start_bootstrap()
        coordinator = await net.start_coordinator()
        for number, name in enumerate((*HONEST, CHEAT)):  # the same ids, so the same examples
            folder = root / name
            save_identity(Identity.from_seed(bytes([number + 1]) * 32), folder / "identity.key")
        ending = ("--exit-after-cycle",)
        peers = [await net.start_peer(name, arguments=ending) for name in HONEST]
        program = (str(HOSTILE), ",".join(DEEDS))
        peers.append(await net.start_peer(CHEAT, arguments=ending, program=program))
        for child in peers:
            await child.process.wait()
        await net.wait_for_phase("done", timeout_s=120)
        training = await net.get("/api/ares/training")
        await coordinator.stop()
        played = _read(net, peers, training["rounds"])
        assert await net.close() == []
        return played


def _read(net: LocalNetwork, peers: list[Child], rounds: list[dict[str, Any]]) -> Played:
    store = open_store(net.coordinator_dir / "ares.db")
    verdicts, settled = {}, defaultdict(set)
    for number in range(ROUNDS):
        for audit in store.audits(1, number):
            assert audit.outcome is not None
            verdicts[audit.peer, number] = audit.code
    for posting in store.postings():
        if posting.state is PostingState.SETTLED:
            settled[posting.worker].add(posting.round)
    alarms = store.alarms(1)
    store.close()
    ids = {
        child.name: next(r["peer_id"] for r in child.said if r.get("event") == "identity")
        for child in peers
    }
    return Played({c.name: c.said for c in peers}, ids, rounds, alarms, verdicts, settled)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return asyncio.run(_play(tmp_path_factory.mktemp("poisoned")))


def events(played: Played, name: str, kind: str) -> list[dict[str, Any]]:
    return [record for record in played.said[name] if record.get("event") == kind]


def test_poisoned_round_is_found_and_corrected_by_the_next(played: Played) -> None:
    (alarm,) = played.alarms
    assert (alarm.round, alarm.corrected_in_round) == (POISONED, POISONED + 1)
    assert alarm.held_out_bad > 1.1 * alarm.held_out_before
    assert alarm.held_out_after is not None
    assert alarm.held_out_after < alarm.held_out_before + 0.02
    shown = played.rounds[POISONED]["alarm"]
    assert shown["corrected_in_round"] == POISONED + 1
    assert [one["peer"] for one in shown["taken_out"]] == [played.ids[CHEAT]]


def test_loss_recovers_and_everybody_holds_the_same_state(played: Played) -> None:
    losses = [row["held_out_loss"] for row in played.rounds]
    assert losses[POISONED] > losses[POISONED - 1]
    assert losses[-1] < losses[POISONED - 1]
    finals = {events(played, name, "cycle_done")[0]["state"] for name in played.ids}
    assert len(finals) == 1
    assert not [error for name in played.ids for error in events(played, name, "error")]


def test_every_peer_is_told_and_the_culprit_why(played: Played) -> None:
    for name in played.ids:
        (event,) = events(played, name, "round_corrected")
        assert (event["round"], event["in_round"]) == (POISONED, POISONED + 1)
        assert event["taken_out"] == [played.ids[CHEAT]]
        assert event["code"] == (PoisonFound.code if name == CHEAT else "")
        aside = next(r for r in events(played, name, "round_done") if r["round"] == POISONED + 1)
        assert (aside["status"], aside["code"]) == ("accepted", RoundSetAside.code)


def test_pay_is_decided_by_the_audits_alone(played: Played) -> None:
    cheat = played.ids[CHEAT]
    assert played.verdicts[cheat, POISONED] == AuditFailed.code
    others = {place: code for place, code in played.verdicts.items() if place != (cheat, POISONED)}
    assert set(others.values()) == {""}  # the unused round, too
    for name in HONEST:
        assert played.settled[played.ids[name]] == set(range(ROUNDS))
    assert POISONED not in played.settled[cheat]
