"""What a session leaves on the disk must verify offline, whatever happened on the way."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import AuditOutcome, LedgerHead, PostingState
from ares_p2p.errors import (
    AuditFailed,
    AuditForfeit,
    CommitLate,
    DiskFull,
    EvidenceBroken,
)
from ares_p2p.ids import PeerId, blob_id_of, sha256
from ares_p2p.proofs.accounts import RoundOutcome
from ares_p2p.proofs.check import Report, check_contradiction, check_evidence
from ares_p2p.proofs.evidence import PARTS
from ares_p2p.proofs.findings import Finding, Link, Severity
from ares_p2p.proofs.ledger import encode_page
from ares_p2p.wire.codec import decode_payload, seal
from ares_peer.events import (
    CommitSent,
    CreditSettled,
    CreditTaken,
    CycleDone,
    ErrorRaised,
    RoundDone,
)
from ares_peer.evidence import (
    FOLDER,
    read_contradictions,
    read_cycles,
    read_heads,
    read_rounds,
    read_volunteer,
)
from sim.samples import COORDINATOR, CYCLE
from sim.session_world import Peer, World

PRICE = 6400  # of the toy's ten steps


def report_of(peer: Peer) -> Report:
    """Return the offline check of what lies in the peer's folder."""
    folder, unreadable = peer.folder / FOLDER, list[Finding]()
    volunteer = read_volunteer(folder)
    assert volunteer is not None
    assert volunteer.peer == peer.peer_id
    report = check_evidence(
        volunteer,
        cycles=read_cycles(folder, unreadable.append),
        rounds=read_rounds(folder, unreadable.append),
        heads=read_heads(folder),
    )
    assert unreadable == []
    return report


def evidence_of(peer: Peer, number: int) -> Any:
    return next(one for one in read_rounds(peer.folder / FOLDER, print) if one.round == number)


def account(report: Report, number: int) -> Any:
    (found,) = [one for one in report.accounts if one.round == number]
    return found


async def test_session_leaves_evidence_of_every_link(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=3) as world:
        peers = [world.peer().start(exit_after_cycle=True) for _ in range(2)]
        for number in range(3):
            await world.host.play_round(number, wanted=2)
            await world.host.settle(number)
        for peer in peers:
            assert peer.task is not None
            await peer.task
            report = report_of(peer)
            assert report.findings == ()
            assert [one.outcome for one in report.accounts] == [RoundOutcome.SETTLED] * 3
            assert report.balance.settled == 3 * PRICE == report.balance.said_ucredits
            assert len(report.postings) == 6
            for number in range(3):
                evidence = evidence_of(peer, number)
                assert all(getattr(evidence, part) for part in PARTS[:6]), "each link is there"
            assert not peer.heard(ErrorRaised)
            held = peer.blobs_held()
            assert not {page_id(world, number) for number in range(3)} & held, "pages are not kept"


def page_id(world: World, number: int) -> bytes:
    return blob_id_of(encode_page(world.host.pages[number]))


# --- killed, away ------------------------------------------------------------------------------


async def test_killed_after_its_commit_it_has_the_whole_chain_in_the_end(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        await peer.hears(CommitSent)
        await peer.kill()
        assert evidence_of(peer, 0).commit
        await world.host.close()
        peer.start()
        await world.host.finish()
        await peer.hears(RoundDone)
        await world.host.settle(0)
        await peer.hears(CreditSettled)
        await world.pass_s(10)
        report = report_of(peer)
        assert report.findings == ()
        assert account(report, 0).outcome is RoundOutcome.SETTLED


async def test_end_and_settlement_that_came_while_it_was_dead_are_fetched(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        helper, peer = world.peer().start(), world.peer().start()
        await world.host.open_round(0)
        await world.host.collect(2)
        await world.host.close()
        await world.host.finish()
        await peer.kill()
        assert not evidence_of(peer, 0).manifest
        await helper.hears(RoundDone)
        await world.host.settle(0)
        await world.host.open_round(1)
        peer.start()
        await peer.hears(CreditSettled)
        await world.pass_s(10)
        report = report_of(peer)
        assert report.is_whole
        assert account(report, 0).outcome is RoundOutcome.SETTLED
        assert not [one for one in report.findings if one.round == 0]


async def test_pages_that_were_missed_are_fetched_so_that_the_log_has_no_gap(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=5) as world:
        helper, peer = world.peer().start(), world.peer().start()
        await world.host.play_round(0, wanted=2)
        await world.host.settle(0)
        await peer.hears(CreditSettled)
        await world.pass_s(6)
        await peer.kill()
        for number in (1, 2):
            await world.host.play_round(number)
            await helper.hears(RoundDone, number + 1)
            await world.host.settle(number)
        peer.start()
        await world.pass_s(3)
        await world.host.play_round(3, wanted=2)
        await world.host.settle(3)
        await peer.hears(CreditSettled, 2)
        await world.pass_s(30)
        report = report_of(peer)
        assert report.findings == (), report.findings
        assert [one.round for one in report.accounts] == [0, 3], "others' rounds are not its own"
        assert report.rounds == 4, "and yet their pages are there"


async def test_page_that_is_not_served_is_a_gap_until_it_is(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        await world.host.settle(0, serves=False)
        await peer.hears(CreditSettled)
        await world.pass_s(20)
        report = report_of(peer)
        assert report.is_whole
        assert {one.link for one in report.of(Severity.GAP)} == {Link.POSTING}
        assert account(report, 0).outcome is RoundOutcome.SETTLED, "the settlement says so"
        await peer.kill()
        peer.start()
        world.host.links.blobs.store.put(encode_page(world.host.pages[0]))
        await world.until(lambda: evidence_of(peer, 0).link is not None)
        assert report_of(peer).findings == ()
        assert not peer.heard(ErrorRaised)


# --- rounds that paid nothing ------------------------------------------------------------------


async def test_every_round_that_paid_nothing_says_why(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=5) as world:
        peer, other = world.peer().start(), world.peer().start()
        me = peer.peer_id
        await world.host.play_round(0, wanted=2)
        await world.host.settle(0, fails={me: (AuditOutcome.FAIL, "another update")})
        peer.rig.step_s = 25.0  # four steps in 60 s do not fit
        await world.host.open_round(1)
        await world.host.collect(2)
        await world.host.close()
        await world.host.finish()
        await peer.hears(RoundDone, 2)
        await world.host.settle(1)
        peer.rig.step_s = 0.5
        taken = world.host.handle

        async def refuse(envelope: Envelope, remote: PeerId) -> Envelope:
            if remote == me:
                raise CommitLate("3.0 s after the deadline")
            return await taken(envelope, remote)

        world.control.handlers[COORDINATOR.peer_id] = refuse
        publish = peer.links.records.publish

        async def lost(envelope: Envelope, *, keep: bool = True) -> None:
            if "commit" not in envelope.payload_type:
                await publish(envelope, keep=keep)

        peer.links.records.publish = lost  # type: ignore[method-assign]
        await world.host.open_round(2)
        await other.hears(CommitSent, 3)
        await peer.hears(CommitSent, 2)
        await world.host.close()
        await world.host.finish()
        await peer.hears(RoundDone, 3)
        await world.host.settle(2)
        await world.pass_s(30)
        report = report_of(peer)
        assert report.findings == ()
        failed, slow, late = (account(report, number) for number in range(3))
        assert (failed.outcome, failed.code) == (RoundOutcome.VOID, AuditFailed.code)
        assert failed.message == "another update"
        assert slow.outcome is RoundOutcome.MISSED
        assert "does not fit" in slow.message
        assert (late.outcome, late.code) == (RoundOutcome.REFUSED, CommitLate.code)
        assert late.message == "3.0 s after the deadline"
        assert report.balance.settled == 0


async def test_round_lost_in_an_outage_is_noted(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        await peer.hears(CommitSent)
        await world.host.open_round(0)  # given up, and opened again
        await peer.hears(CommitSent, 2)
        await world.host.collect()
        await world.host.close()
        await world.host.finish()
        await peer.hears(RoundDone)
        await world.host.settle(0)
        await peer.hears(CreditSettled)
        await world.pass_s(10)
        assert [note.what for note in evidence_of(peer, 0).notes] == ["lost", "lost"]
        report = report_of(peer)
        assert report.findings == ()
        assert account(report, 0).outcome is RoundOutcome.SETTLED


async def test_clawback_of_a_settled_round_is_told_and_kept(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await world.host.settle(0)
        await peer.hears(CreditSettled)
        await world.host.play_round(1)
        await peer.hears(RoundDone, 2)
        (first,) = [one for one in world.host.works.values() if one.commit.header.round == 0]
        world.host.post(first, PostingState.CLAWBACK, code=AuditForfeit.code)
        await world.host.settle(1, fails={peer.peer_id: (AuditOutcome.FAIL, "x")})
        lost = await peer.hears(CreditTaken)
        assert (lost.round, lost.ucredits, lost.code) == (0, PRICE, AuditForfeit.code)
        report = report_of(peer)
        assert report.findings == ()
        assert account(report, 0).outcome is RoundOutcome.CLAWBACK
        await world.pass_s(60)
        assert len(peer.heard(CreditTaken)) == 1


# --- a coordinator that rewrites its ledger ----------------------------------------------------


async def test_rewritten_ledger_is_reported_with_a_proof_that_anybody_can_check(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await world.host.settle(0)
        await peer.hears(CreditSettled)
        await world.pass_s(6)
        postings = world.host.books.postings
        postings[0] = dataclasses.replace(postings[0], amount_ucredits=1)
        await world.host.play_round(1)
        await peer.hears(RoundDone, 2)
        await world.host.settle(1)
        error = await peer.hears(ErrorRaised)
        assert error.code == EvidenceBroken.code
        assert "LEDGER WAS REWRITTEN" in error.message
        (found,) = read_contradictions(peer.folder / FOLDER, print)
        contradiction, name = found
        assert name in error.message
        volunteer = read_volunteer(peer.folder / FOLDER)
        assert volunteer is not None
        finding = check_contradiction(contradiction, volunteer, origin=name)
        assert finding is not None
        assert finding.severity is Severity.BROKEN
        await world.pass_s(300)
        assert len(peer.heard(ErrorRaised)) == 1
        assert (await peer.hears(CycleDone)).state, "and the training went on"
        assert not report_of(peer).is_whole


async def test_head_in_the_dht_that_contradicts_is_reported(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await world.host.settle(0)
        await peer.hears(CreditSettled)
        await world.pass_s(70)
        assert not peer.heard(ErrorRaised)
        envelope = world.host.books.heads[0][1]
        head = decode_payload(envelope.payload_type, envelope.payload, LedgerHead)
        lie = dataclasses.replace(head, header=world.host.header(0), root=sha256(b"other"))
        await world.host.links.records.publish(seal(COORDINATOR, lie))
        error = await peer.hears(ErrorRaised)
        assert f"two signed heads of {head.size} postings" in error.message
        (found,) = read_contradictions(peer.folder / FOLDER, print)
        assert found[0].page is None


async def test_page_that_does_not_hold_is_refused_and_told(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        seal_page = world.host.books.seal
        world.host.books.seal = lambda header: seal_page(  # type: ignore[method-assign]
            header, changes={"root": sha256(b"other")}
        )
        await world.host.settle(0)
        error = await peer.hears(ErrorRaised)
        assert error.code == EvidenceBroken.code
        assert "the ledger page of round 1 of cycle 3 does not hold" in error.message
        assert evidence_of(peer, 0).link is None


async def test_newest_head_is_kept_between_settlements(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        page = world.host.books.seal(world.host.header(0))
        await world.host.links.records.publish(page.head)
        await world.pass_s(70)
        assert len(read_heads(peer.folder / FOLDER)) == 1
        assert report_of(peer).heads[-1].size == len(world.host.books.postings)


# --- the disk ----------------------------------------------------------------------------------


async def test_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if FOLDER in Path(target).parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.pass_s(5)
        monkeypatch.setattr(os, "replace", full)
        await world.host.play_round(0)
        assert (await peer.hears(RoundDone)).status == "accepted"
        monkeypatch.undo()
        await world.host.settle(0)
        assert (await peer.hears(CreditSettled)).is_paid
        (error,) = peer.heard(ErrorRaised)
        assert error.code == DiskFull.code
        assert "evidence" in error.message
        await world.pass_s(20)
        assert report_of(peer).is_whole, "what could be written later was"


async def test_damaged_file_is_moved_aside_and_not_overwritten(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        await peer.hears(CommitSent)
        await peer.kill()
        path = peer.folder / FOLDER / f"cycle-{CYCLE:04}" / "round-0000.json.zst"
        path.write_bytes(b"torn")
        peer.start()
        await world.host.close()
        await world.host.finish()
        await peer.hears(RoundDone)
        assert path.with_name(path.name + ".damaged").read_bytes() == b"torn"
        found: list[Finding] = []
        assert [one.round for one in read_rounds(peer.folder / FOLDER, found.append)] == [0]
        assert [one.link for one in found] == [Link.FILE]


async def test_evidence_of_another_identity_is_left_alone(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        first, second = world.peer(), world.peer()
        first.start()
        await world.host.play_round(0)
        await first.hears(RoundDone)
        await first.kill()
        (first.folder / FOLDER).rename(second.folder / FOLDER)
        second.start()
        await world.pass_s(5)
        aside = second.folder / f"{FOLDER}-of-{first.peer_id}"
        assert [one.round for one in read_rounds(aside, print)] == [0]
        volunteer = read_volunteer(second.folder / FOLDER)
        assert volunteer is not None
        assert volunteer.peer == second.peer_id
