"""The evidence of trainers, a cheat and an auditor against the coordinator's own books.

Rounds, audits, decoys, settlements and the ledger are the coordinator's real parts; what every
peer has on its disk in the end must verify, and agree with an export of the whole ledger.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ares_coordinator.ledger.export import export_lines
from ares_coordinator.ledger.signed import Authority
from ares_coordinator.ledger.verify import verify_ledger
from ares_coordinator.store.snapshot import open_snapshot
from ares_p2p.domain import PostingKind
from ares_p2p.errors import AuditFailed, AuditForfeit, AuditVoid
from ares_p2p.proofs.accounts import RoundOutcome
from ares_p2p.proofs.check import Report, check_evidence
from ares_p2p.proofs.check_export import ExportCheck
from ares_p2p.proofs.findings import Finding, Volunteer
from ares_p2p.proofs.ledger import leaf_of
from ares_p2p.rounds import lottery
from ares_peer.evidence import FOLDER, read_cycles, read_heads, read_rounds, read_volunteer
from sim.audit_world import AuditWorld, HalfSession
from sim.samples import COORDINATOR
from sim.session_world import NETWORK, Peer

ROUNDS = 8


def read(peer: Peer) -> tuple[Volunteer, Report]:
    folder, unreadable = peer.folder / FOLDER, list[Finding]()
    volunteer = read_volunteer(folder)
    assert volunteer is not None
    report = check_evidence(
        volunteer,
        cycles=read_cycles(folder, unreadable.append),
        rounds=read_rounds(folder, unreadable.append),
        heads=read_heads(folder),
    )
    assert unreadable == []
    return volunteer, report


def has_all(peer: Peer) -> bool:
    """Whether nothing that the peer waits for is still to come."""
    assert peer.session is not None
    memory = peer.session._memory
    return not memory.unsettled and not memory.due


async def test_every_peers_evidence_holds_and_agrees_with_the_whole_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lottery, "NEWCOMER_ROUNDS", 2)  # so that few rounds are soon left out
    async with AuditWorld(tmp_path, rounds=ROUNDS) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        honest = world.train(2)
        cheat = world.peer(HalfSession).start()
        await office.settled(ROUNDS)
        peers = [*honest, cheat, auditor]
        await world.until(lambda: all(has_all(peer) for peer in peers))
        authority = Authority(COORDINATOR.peer_id, NETWORK.network_id)
        with closing(open_snapshot(world.folder / "ares.db")) as snapshot:
            lines = list(export_lines(snapshot, authority))
        for peer in peers:
            volunteer, report = read(peer)
            assert report.findings == (), report.findings
            pending, settled, void, taken = (
                sum(amounts)
                for amounts in zip(
                    *(office.totals(peer.peer_id, kind) for kind in PostingKind), strict=True
                )
            )
            totals = report.balance.by_kind.values()
            assert report.balance.settled == settled
            assert report.balance.pending == pending == 0
            assert sum(one.void for one in totals) == void
            assert sum(one.clawback for one in totals) == taken
            check = ExportCheck(
                volunteer,
                own={posting.id - 1: leaf_of(posting) for posting in report.postings},
                heads=report.heads,
            )
            for line in lines:
                check.line(line.encode())
            assert check.finish() == ()
            assert check.own_rows == len(report.postings), "no posting of its own is missing"
        for peer in honest:
            _, report = read(peer)
            assert [one.outcome for one in report.accounts] == [RoundOutcome.SETTLED] * ROUNDS
            assert {one.audit for one in report.accounts} == {"pass", "not_drawn"}
            assert report.balance.streak == ROUNDS
        _, report = read(cheat)
        assert not any(one.outcome is RoundOutcome.SETTLED for one in report.accounts)
        assert {one.code for one in report.accounts} <= {AuditFailed.code, AuditForfeit.code}
        assert all(one.message or one.code for one in report.accounts)
        _, report = read(auditor)
        assert {one.kind for one in report.accounts} == {PostingKind.AUDIT}
        assert report.balance.settled > 0


async def test_without_audits_the_evidence_says_that_nothing_was_verified(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, rounds=2, mode="off") as world:
        office = world.open()
        (honest,) = world.train(1)
        cheat = world.peer(HalfSession).start()
        await office.settled(2)
        for peer in (honest, cheat):
            await world.until(lambda peer=peer: has_all(peer))
            _, report = read(peer)
            assert report.findings == ()
            assert [one.outcome for one in report.accounts] == [RoundOutcome.VOID] * 2
            assert {one.code for one in report.accounts} == {AuditVoid.code}
            assert all("does not audit" in one.message for one in report.accounts)
            assert report.balance.settled == report.balance.pending == 0
        authority = Authority(COORDINATOR.peer_id, NETWORK.network_id)
        with closing(open_snapshot(world.folder / "ares.db")) as snapshot:
            found = list(verify_ledger(snapshot, authority, progress=lambda *_: None))
        assert [one for one in found if one.table != "cycles"] == []  # this world stores no config


async def test_verdicts_in_shadow_pay_and_the_evidence_says_so(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, rounds=3, mode="shadow") as world:
        office = world.open()
        world.train(1)
        cheat = world.peer(HalfSession).start()
        await office.settled(3)
        await world.until(lambda: has_all(cheat))
        _, report = read(cheat)
        assert report.findings == ()
        assert [one.outcome for one in report.accounts] == [RoundOutcome.SETTLED] * 3
        assert {one.code for one in report.accounts} == {AuditFailed.code}
