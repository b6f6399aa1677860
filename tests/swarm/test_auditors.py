"""An auditor peer in a real swarm: real processes, real p2pd, a cheat and decoys to find."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.herald import payload_of
from ares_coordinator.store.auditor_rows import PAID_RESULTS, AssignmentRow, DecoyRow
from ares_coordinator.store.rows import AuditRow
from ares_coordinator.store.sql import open_store
from ares_p2p.crypto.keys import Identity, save_identity
from ares_p2p.domain import AuditOutcome, PostingKind, RoundSettlement
from ares_p2p.errors import AuditFailed
from ares_p2p.ids import Digest, PeerId
from localnet import LocalNetwork
from swarm_crash import WAIT_S
from swarm_settings import QUICK

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(240)]

HOSTILE = Path(__file__).with_name("hostile_peer.py")
ROUNDS = 3
AUDITOR = Identity.from_seed(b"auditor peer of the swarm tests.")
SETTINGS: dict[str, object] = {
    **QUICK,
    "rounds.rounds": ROUNDS,
    "rounds.min_peers": 2,
    "training.min_steps": 4,
    "training.max_steps": 4,
    "audit.auditors": [AUDITOR.peer_id],
    "audit.decoy_rate": 1.0,
    "audit.report_s": 60,
}


@dataclass(frozen=True)
class Run:
    """One finished swarm with an auditor."""

    honest: PeerId
    cheat: PeerId
    audits: tuple[AuditRow, ...]
    tasks: dict[Digest, AssignmentRow]
    settlements: tuple[RoundSettlement, ...]
    decoys: tuple[DecoyRow, ...]
    settled: dict[tuple[str, PostingKind], int]
    said: list[dict[str, Any]]  # by the auditor
    status: dict[str, Any]  # of the auditor, when it was done


async def _run(root: Path, base: Path) -> Run:
    async with LocalNetwork(root) as net:
        await net.init(base=base, settings=SETTINGS)
        await net.start_bootstrap()
        await net.start_coordinator()
        save_identity(AUDITOR, root / "auditor" / "identity.key")
        auditor = await net.start_peer(
            "auditor", arguments=("--role", "auditor", "--exit-after-cycle")
        )
        await auditor.wait_for_event("phase", timeout_s=WAIT_S, phase="waiting")
        await auditor.wait_for(
            lambda said: said.get("detail") == "for work to audit", timeout_s=WAIT_S
        )
        ending = ("--exit-after-cycle",)
        honest = await net.start_peer("honest", arguments=ending)
        cheat = await net.start_peer("cheat", arguments=ending, program=(str(HOSTILE), "half"))
        for child in (honest, cheat, auditor):
            assert await child.process.wait() == 0, child.log_tail()
        status = await _status(root / "auditor")
        await net.wait_for_phase("done", timeout_s=WAIT_S)
        found = _found(net, status, auditor.said)
        assert await net.close() == []
        ids = [next(r["peer_id"] for r in c.said if r.get("event") == "identity")
               for c in (honest, cheat)]  # fmt: skip
        return Run(PeerId(ids[0]), PeerId(ids[1]), **found)


async def _status(folder: Path) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ares_peer.cli", "status", "--data-dir", str(folder), "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return dict(json.loads(output))


def _found(net: LocalNetwork, status: Any, said: list[dict[str, Any]]) -> dict[str, Any]:
    store = open_store(net.coordinator_dir / "ares.db")
    try:
        rounds = range(ROUNDS)
        records = [store.record("settlement", 1, number) for number in rounds]
        decoys = [store.decoy(1, number) for number in rounds]
        tasks = [task for number in rounds for task in store.assignments(1, number)]
        return {
            "audits": tuple(audit for number in rounds for audit in store.audits(1, number)),
            "tasks": {task.commit_sha256: task for task in tasks},
            "settlements": tuple(payload_of(one, RoundSettlement) for one in records if one),
            "decoys": tuple(one for one in decoys if one is not None),
            "settled": {(one.worker, one.kind): one.settled_ucredits for one in store.totals()},
            "said": list(said),
            "status": status,
        }
    finally:
        store.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Run:
    """A swarm of an honest trainer, one that makes half the steps, decoys, and an auditor."""
    return asyncio.run(_run(tmp_path_factory.mktemp("auditors"), tiny_base))


def test_every_round_is_audited_by_the_auditor_and_settled(run: Run) -> None:
    assert len(run.settlements) == ROUNDS
    for settlement in run.settlements:
        assert {pay.auditor for pay in settlement.audits} == {AUDITOR.peer_id}
        assert {entry.commit_sha256 for entry in settlement.entries} == {
            pay.commit_sha256 for pay in settlement.audits
        }


def test_auditor_finds_the_cheat_and_passes_the_honest_peer(run: Run) -> None:
    by_peer = {(audit.peer, audit.outcome) for audit in run.audits if audit.auditor}
    assert (run.honest, AuditOutcome.PASS) in by_peer
    assert (run.cheat, AuditOutcome.FAIL) in by_peer
    outcomes = {audit.peer: set[object]() for audit in run.audits}
    for audit in run.audits:
        outcomes[audit.peer].add(audit.outcome)
    assert outcomes[run.honest] == {AuditOutcome.PASS}
    assert outcomes[run.cheat] == {AuditOutcome.FAIL}
    assert run.settled.get((run.cheat, PostingKind.CPU_TRAINING), 0) == 0


def test_decoy_fails_its_audit_and_is_never_paid(run: Run) -> None:
    handed_in = [decoy for decoy in run.decoys if decoy.commit_sha256 is not None]
    audits = {audit.commit_sha256: audit for audit in run.audits}
    audited = [decoy for decoy in handed_in if decoy.commit_sha256 in audits]
    assert audited
    for decoy in audited:
        assert decoy.commit_sha256 is not None
        assert audits[decoy.commit_sha256].code == AuditFailed.code
        assert run.settled.get((decoy.peer, PostingKind.CPU_TRAINING), 0) == 0


def test_auditor_is_paid_for_its_replays_and_can_read_it(run: Run) -> None:
    paid = [pay for one in run.settlements for pay in one.audits if pay.reward_ucredits]
    assert len(paid) == len([t for t in run.tasks.values() if t.result in PAID_RESULTS]) > 0
    earned = sum(pay.reward_ucredits for pay in paid)
    assert run.settled[AUDITOR.peer_id, PostingKind.AUDIT] == earned
    told = [one for one in run.said if one.get("event") == "audit_credit"]
    assert sum(one["reward_ucredits"] for one in told) == earned
    assert run.status["role"] == "auditor"
    assert run.status["totals"]["audits_paid"] == len(paid)
    assert run.status["totals"]["audits_reported"] == len(run.tasks)
    assert run.status["totals"]["audits_contradicted"] == 0
    assert run.status["settled_ucredits"] == earned


def test_auditor_does_not_train(run: Run) -> None:
    assert all(audit.peer != AUDITOR.peer_id for audit in run.audits)
    assert not [one for one in run.said if one.get("event") in ("round_open", "commit")]
