"""Auditor peers, honest and not, against the coordinator's own rounds, audits and ledger."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.audit.assignments import MISSES_TO_REST
from ares_coordinator.store.auditor_rows import AssignmentRow, AuditResult
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import (
    AuditOutcome,
    AuditReport,
    Commit,
    Header,
    PeerStatus,
    Posting,
    PostingKind,
    PostingState,
)
from ares_p2p.errors import (
    AuditForfeit,
    AuditReportWrong,
    Equivocation,
    NotAnAuditor,
    PayloadMalformed,
    PeerFault,
    ReportLate,
    StepsOutOfRange,
    WrongSigner,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.proofs.sketch import ReplayComparison
from ares_p2p.rounds.lottery import ranked_auditors
from ares_p2p.rounds.plan import NO_DIGEST
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.training.replay import Replay
from ares_p2p.wire.codec import class_of, encode_envelope, seal
from ares_peer.auditor import Auditor, Task
from ares_peer.events import (
    AuditReported,
    AuditSettled,
    AuditStarted,
    CycleDone,
    ErrorRaised,
    RoundDone,
    RoundOpened,
)
from sim.audit_world import AuditWorld, HalfSession, Office
from sim.samples import COORDINATOR, CYCLE, SECRET
from sim.session_world import NETWORK, Peer

TRAINING, AUDIT = PostingKind.CPU_TRAINING, PostingKind.AUDIT


class Liar(Auditor):
    """Replays nothing and reports what it likes."""

    says = ReplayComparison(rho=0.01, norm_ratio=1.0, cosine=1.0, cosine_drop=0.0)

    async def _replay(self, running: Any, task: Task) -> Replay:
        return Replay(self.says, task.signed.commit.tokens, NO_DIGEST)


class Slanderer(Liar):
    """Says that everybody cheats."""

    says = ReplayComparison(rho=1.4, norm_ratio=1.0, cosine=0.0, cosine_drop=0.9)


class Picky(Liar):
    """Reports on some commits only, and lies about those."""

    @staticmethod
    def wants(commit: Digest) -> bool:
        """Whether to report; a test says."""
        raise NotImplementedError

    async def work(self, running: Any, task: Task) -> None:
        if self.wants(task.commit_sha256):
            await super().work(running, task)
        else:
            self._remember(task, b"", is_over=True)


class Silent(Auditor):
    """Is there, and never does anything."""

    async def look(self, running: Any) -> Task | None:
        return None


async def tasks_asked(office: Office, auditor: Peer, *, number: int = 0) -> list[AssignmentRow]:
    """Return the tasks of an auditor in a round, once they are given."""
    await office.world.until(lambda: office.plan(number) is not None)
    return [task for task in office.tasks_of(auditor.peer_id) if task.round == number]


def report(office: Office, task: AssignmentRow, **changes: Any) -> AuditReport:
    """Return a report that would be taken, with fields changed."""
    now_ms = office.world.clock.now_ms()
    record = office.store.record("audits", CYCLE, task.round)
    assert record is not None
    made = AuditReport(
        header=Header(NETWORK.network_id, CYCLE, task.round, now_ms, now_ms),
        audit_plan_sha256=record.payload_sha256,
        commit_sha256=task.commit_sha256,
        tokens=640,
        rho=0.0,
        norm_ratio=1.0,
        cosine_drop=0.0,
        replay_sha256=NO_DIGEST,
        profile="toy",
        code="",
        message="",
    )
    return dataclasses.replace(made, **changes)


async def submit(peer: Peer, envelope: Envelope) -> Envelope:
    return await peer.links.control.submit(envelope, to=COORDINATOR.peer_id)


def ledger(office: Office, peer: PeerId) -> list[Posting]:
    """Return what the ledger says of a peer's replays."""
    found = office.store.postings_of(peer, limit=10_000)
    return [one for one in found if one.kind is AUDIT]


def is_dismissed(office: Office, peer: PeerId) -> bool:
    known = office.store.auditor(peer)
    return known is not None and known.dismissed_ms is not None


def trainers_are_paid(office: Office, *trainers: Peer) -> bool:
    """Whether each has all of its work settled, and nothing lost."""
    for peer in trainers:
        pending, settled, void, taken = office.totals(peer.peer_id, TRAINING)
        if pending or void or taken or not settled:
            return False
    return True


# --- honest auditors ---------------------------------------------------------------------------


async def test_auditor_replays_what_the_lottery_drew_and_is_paid(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        honest, cheat = world.peer().start(), world.peer(HalfSession).start()
        await office.settled(3)
        tasks = office.tasks_of(auditor.peer_id)
        assert {task.commit_sha256 for task in tasks} == {a.commit_sha256 for a in office.audits()}
        assert {task.result for task in tasks} == {AuditResult.AGREED}
        outcomes = {(audit.peer, audit.outcome) for audit in office.audits()}
        assert outcomes == {
            (honest.peer_id, AuditOutcome.PASS),
            (cheat.peer_id, AuditOutcome.FAIL),
        }
        pending, settled, void, taken = office.totals(auditor.peer_id, AUDIT)
        assert (pending, void, taken) == (0, 0, 0)
        assert settled == 6 * office.totals(honest.peer_id, TRAINING)[1] // 3  # the same tokens
        await world.until(lambda: len(auditor.heard(AuditSettled)) == 6)
        assert sum(event.reward_ucredits for event in auditor.heard(AuditSettled)) == settled
        assert auditor.heard(AuditSettled)[-1].balance_ucredits == settled


async def test_fail_of_an_auditor_and_of_ours_are_the_two_replays_it_takes(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, report_s=600) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        cheat = world.peer(HalfSession).start()
        world.peer().start()
        await office.settled(3)
        failed = [audit for audit in office.audits() if audit.outcome is AuditOutcome.FAIL]
        assert {audit.peer for audit in failed} == {cheat.peer_id}
        assert {audit.auditor for audit in failed} == {auditor.peer_id}
        # as a newcomer the auditor is checked each time: one replay of ours for each report
        assert office.worker.replays == len(office.audits())


async def test_no_round_waits_for_an_auditor_and_it_does_not_train(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        auditor = world.auditor(Silent)
        office = world.open(auditor)
        await world.with_auditors(auditor)
        trainers = world.train(2)
        began_ms = world.clock.now_ms()
        for peer in trainers:
            await peer.hears(RoundDone, 3)
        assert world.clock.now_ms() - began_ms < 3 * 20_000  # five seconds of training each
        assert office.presence.auditors_of(CYCLE, now_ms=world.clock.now_ms())
        assert not auditor.heard(RoundOpened)


async def test_seed_chooses_the_auditor_and_never_the_author(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        auditors = [world.auditor() for _ in range(3)]
        office = world.open(*auditors)
        await world.with_auditors(*auditors)
        world.train(2)
        await office.settled(3)
        ids = tuple(peer.peer_id for peer in auditors)
        chosen = set()
        for number in range(3):
            plan = office.plan(number)
            assert plan is not None
            seed = revealed_seed(SECRET, rounds=3, round_number=number)
            for item in plan.assignments:
                assert item.auditor == ranked_auditors(seed, item.commit_sha256, ids)[0]
                chosen.add(item.auditor)
        assert len(chosen) > 1


async def test_auditor_that_is_killed_in_a_replay_reports_after_its_restart(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, report_s=600) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        world.train(2)
        await world.until(lambda: bool(auditor.heard(AuditStarted)))
        await auditor.kill()
        auditor.start()
        await office.settled(3)
        assert {task.result for task in office.tasks_of(auditor.peer_id)} == {AuditResult.AGREED}


async def test_report_whose_receipt_was_lost_is_handed_in_again_and_not_replayed_twice(
    tmp_path: Path,
) -> None:
    async with AuditWorld(tmp_path, rounds=1, report_s=600) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        world.train(2)
        taken: list[Envelope] = []

        async def without_receipt(envelope: Envelope, remote: PeerId) -> Envelope:
            reply = await office.handle(envelope, remote)
            if class_of(envelope) is AuditReport:
                taken.append(envelope)
                await asyncio.Event().wait()
            return reply

        world.control.handlers[COORDINATOR.peer_id] = without_receipt
        await world.until(lambda: bool(taken))
        await auditor.kill()
        world.control.handlers[COORDINATOR.peer_id] = office.handle
        replayed = len(auditor.rig.trained)
        auditor.start()
        await office.settled(1)
        tasks = office.tasks_of(auditor.peer_id)
        assert {task.result for task in tasks} == {AuditResult.AGREED}
        assert len(auditor.rig.trained) - replayed == len(tasks) - 1  # the other one only
        assert encode_envelope(taken[0]) in {task.report_envelope for task in tasks}
        done = [event.commit for event in auditor.heard(AuditReported) if event.accepted]
        assert sorted(done) == sorted(task.commit_sha256.hex() for task in tasks)


# --- the coordinator goes away -----------------------------------------------------------------


async def test_coordinator_that_restarts_waits_for_the_reports_it_asked_for(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, report_s=600) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        auditor.rig.step_s = 4.0  # 40 s for a replay
        trainers = world.train(2)
        await tasks_asked(office, auditor)
        office = await world.reopen(auditor)
        await office.settled(3)
        tasks = [task for task in office.tasks_of(auditor.peer_id) if task.round == 0]
        assert {task.result for task in tasks} == {AuditResult.AGREED}
        assert trainers_are_paid(office, *trainers)


# --- auditors that lie -------------------------------------------------------------------------


async def test_auditor_that_passes_everything_is_caught_by_a_decoy(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, decoy_rate=1.0) as world:
        lazy = world.auditor(Liar)
        office = world.open(lazy)
        await world.with_auditors(lazy)
        trainers = world.train(2)
        await office.settled(3)
        decoys = office.decoy_commits()
        tasks = office.tasks_of(lazy.peer_id)
        caught = [task for task in tasks if task.result is AuditResult.CONTRADICTED]
        assert [task.commit_sha256 in decoys for task in caught] == [True]
        assert caught[0].code == AuditReportWrong.code
        assert is_dismissed(office, lazy.peer_id)
        later = [number for number in range(3) if number > caught[0].round]
        assert [office.plan(number) for number in later][-1] is None  # nobody asks it any more
        assert trainers_are_paid(office, *trainers)
        await world.until(
            lambda: any(e.code == AuditReportWrong.code for e in lazy.heard(AuditSettled))
        )
        await world.until(lambda: any(e.code == NotAnAuditor.code for e in lazy.heard(ErrorRaised)))


async def test_caught_auditor_loses_what_was_paid_since_its_last_confirmed_report(
    tmp_path: Path,
) -> None:
    async with AuditWorld(tmp_path, rounds=30) as world:
        lazy = world.auditor(Picky)
        office = world.open(lazy)
        await world.with_auditors(lazy)
        trainers, me = world.train(3), lazy.peer_id
        Picky.wants = staticmethod(lambda _: True)
        await world.until(lambda: office.store.audit_streak(me) > 15)
        while not (unconfirmed := await at_rest(office, me)):
            office.keeper.paused.clear()
            await world.pass_s(10)
        office = await world.reopen(lazy, decoy_rate=1.0)
        Picky.wants = staticmethod(lambda commit: commit in office.decoy_commits())
        await world.until(lambda: is_dismissed(office, me))
        lost = [one for one in ledger(office, me) if one.state is PostingState.CLAWBACK]
        assert {one.commit_sha256 for one in lost} == unconfirmed
        assert {one.code for one in lost} == {AuditForfeit.code}
        kept = [one for one in ledger(office, me) if one.state is PostingState.SETTLED]
        assert len(kept) > len(lost)  # what our replay confirmed stays paid
        assert all(office.totals(peer.peer_id, TRAINING)[2:] == (0, 0) for peer in trainers)


async def at_rest(office: Office, auditor: PeerId) -> set[Digest]:
    """Open no more rounds, settle those that there are, and return what nothing confirms."""
    office.keeper.paused.set()
    await office.world.until(lambda: office.desk.book is None)
    await office.world.until(lambda: office.store.unsettled_round(CYCLE) is None)
    return {one.commit_sha256 for one in office.store.unconfirmed_audits(auditor)}


async def test_dismissed_auditor_audits_again_once_it_is_named(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, rounds=12, decoy_rate=1.0) as world:
        lazy = world.auditor(Liar)
        office = world.open(lazy)
        await world.with_auditors(lazy)
        world.train(2)
        me = lazy.peer_id
        await world.until(lambda: is_dismissed(office, me))
        asked = {task.round for task in office.tasks_of(me)}
        await world.until(lambda: office.settlement(max(asked) + 1) is not None)
        assert {task.round for task in office.tasks_of(me)} == asked
        office.store.name_auditor(me, now_ms=world.clock.now_ms())
        await world.until(lambda: {task.round for task in office.tasks_of(me)} > asked)


async def test_auditor_that_fails_honest_work_is_overruled_and_not_paid(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        slanderer = world.auditor(Slanderer)
        office = world.open(slanderer)
        await world.with_auditors(slanderer)
        trainers = world.train(2)
        await office.settled(3)
        tasks = office.tasks_of(slanderer.peer_id)
        assert {(task.result, task.code) for task in tasks} == {
            (AuditResult.CONTRADICTED, AuditReportWrong.code)
        }
        assert trainers_are_paid(office, *trainers)
        pending, settled, void, _ = office.totals(slanderer.peer_id, AUDIT)
        assert (pending, settled) == (0, 0)
        assert void > 0
        await world.until(lambda: len(slanderer.heard(AuditSettled)) == 6)
        assert {event.code for event in slanderer.heard(AuditSettled)} == {AuditReportWrong.code}
        assert office.store.auditor(slanderer.peer_id) is None  # mistaken is not dismissed


async def test_slanderer_is_not_paid_for_a_cheat_that_it_did_not_replay(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        slanderer = world.auditor(Slanderer)
        office = world.open(slanderer)
        await world.with_auditors(slanderer)
        world.train(1)
        world.peer(HalfSession).start()
        await office.settled(3)
        results = {task.result for task in office.tasks_of(slanderer.peer_id)}
        assert results == {AuditResult.CONTRADICTED, AuditResult.UNUSABLE}
        assert office.totals(slanderer.peer_id, AUDIT)[1] == 0


async def test_auditor_that_never_reports_holds_nothing_up_and_then_rests(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, rounds=6, report_s=5) as world:
        silent = world.auditor(Silent)
        office = world.open(silent)
        await world.with_auditors(silent)
        trainers = world.train(2)
        await office.settled(6)
        tasks = office.tasks_of(silent.peer_id)
        assert {(task.result, task.code) for task in tasks} == {
            (AuditResult.MISSED, ReportLate.code)
        }
        assert MISSES_TO_REST <= len(tasks) < 12  # it got none for a while
        assert trainers_are_paid(office, *trainers)
        settlement = office.settlement(0)
        assert settlement is not None
        assert {pay.code for pay in settlement.audits} == {ReportLate.code}


async def test_auditor_that_goes_away_is_not_waited_for(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, report_s=3_000) as world:
        auditor = world.auditor(Silent)
        office = world.open(auditor)
        await world.with_auditors(auditor)
        trainers = world.train(2)
        await tasks_asked(office, auditor)
        gone_ms = world.clock.now_ms()
        await auditor.kill()
        await office.settled(3)
        assert world.clock.now_ms() - gone_ms < 300_000
        assert trainers_are_paid(office, *trainers)


async def test_peer_that_may_not_audit_is_told_and_never_asked(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        stranger = world.auditor()
        office = world.open()
        await world.with_auditors(stranger)
        world.train(2)
        await office.settled(3)
        assert [office.plan(number) for number in range(3)] == [None] * 3
        told = [event for event in stranger.heard(ErrorRaised) if event.code == NotAnAuditor.code]
        assert len(told) == 1
        assert "FREE" in told[0].message


# --- reports that are refused ------------------------------------------------------------------


async def refused(peer: Peer, made: AuditReport, **sender: Peer) -> PeerFault:
    with pytest.raises(PeerFault) as caught:
        await submit(sender.get("sender", peer), seal(peer.identity, made))
    return caught.value


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rho": 1e308}, PayloadMalformed),
        ({"norm_ratio": 1e12}, PayloadMalformed),
        ({"cosine_drop": 3.0}, PayloadMalformed),
        ({"profile": "x" * 300}, PayloadMalformed),
        ({"message": "x" * 300}, PayloadMalformed),
        ({"code": "because"}, PayloadMalformed),
        ({"tokens": 10**9}, StepsOutOfRange),
        ({"audit_plan_sha256": NO_DIGEST}, NotAnAuditor),
        ({"commit_sha256": NO_DIGEST}, NotAnAuditor),
    ],
)
async def test_report_that_cannot_be_is_refused_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], fault: type[PeerFault]
) -> None:
    async with AuditWorld(tmp_path, report_s=600) as world:
        auditor = world.auditor(Silent)
        office = world.open(auditor)
        await world.with_auditors(auditor)
        world.train(2)
        task = (await tasks_asked(office, auditor))[0]
        found = await refused(auditor, report(office, task, **changes))
        assert type(found) is fault
        assert fault.code in office.refusals(auditor.peer_id)
        assert office.tasks_of(auditor.peer_id)[0].report_envelope is None
        assert office.totals(auditor.peer_id, AUDIT) == (0, 0, 0, 0)


async def test_report_with_numbers_that_are_none_cannot_even_be_signed(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        auditor = world.auditor(Silent)
        office = world.open(auditor)
        await world.with_auditors(auditor)
        world.train(2)
        task = (await tasks_asked(office, auditor))[0]
        with pytest.raises(PayloadMalformed):
            seal(auditor.identity, report(office, task, rho=float("nan")))


async def test_copied_report_is_refused_under_whoever_sent_it(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, report_s=600) as world:
        first, second = world.auditor(Silent), world.auditor(Silent)
        office = world.open(first, second)
        await world.with_auditors(first, second)
        world.train(4)
        plan_tasks = await tasks_asked(office, first), await tasks_asked(office, second)
        owner, thief = (first, second) if plan_tasks[0] else (second, first)
        task = (plan_tasks[0] or plan_tasks[1])[0]
        made = report(office, task)
        await submit(owner, seal(owner.identity, made))
        # as it is, over its own connection; and with its own signature
        assert type(await refused(owner, made, sender=thief)) is WrongSigner
        assert type(await refused(thief, made)) is NotAnAuditor
        assert office.refusals(thief.peer_id) == {WrongSigner.code, NotAnAuditor.code}
        assert office.refusals(owner.peer_id) == set()
        assert office.totals(thief.peer_id, AUDIT) == (0, 0, 0, 0)


async def test_second_report_of_an_audit_changes_nothing(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, report_s=600) as world:
        auditor = world.auditor(Silent)
        office = world.open(auditor)
        await world.with_auditors(auditor)
        world.train(2)
        task = (await tasks_asked(office, auditor))[0]
        envelope = seal(auditor.identity, report(office, task))
        receipt = await submit(auditor, envelope)
        again = await submit(auditor, envelope)  # its receipt was lost
        assert receipt.signer == again.signer == COORDINATOR.peer_id
        pending = office.totals(auditor.peer_id, AUDIT)
        assert type(await refused(auditor, report(office, task, rho=0.2))) is Equivocation
        assert office.totals(auditor.peer_id, AUDIT) == pending
        assert pending[0] > 0


async def test_late_report_is_refused_and_not_paid(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, report_s=30) as world:
        auditor = world.auditor(Silent)
        office = world.open(auditor)
        await world.with_auditors(auditor)
        trainers = world.train(2)
        task = (await tasks_asked(office, auditor))[0]
        await world.pass_s(31)
        assert type(await refused(auditor, report(office, task))) is ReportLate
        await office.settled(3)
        assert office.totals(auditor.peer_id, AUDIT) == (0, 0, 0, 0)
        assert trainers_are_paid(office, *trainers)


async def test_report_that_nobody_asked_for_is_refused_under_a_round_that_exists(
    tmp_path: Path,
) -> None:
    async with AuditWorld(tmp_path) as world:
        stranger = world.peer()
        office = world.open()
        world.train(2)
        await office.settled(1)
        now_ms = world.clock.now_ms()
        header = Header(NETWORK.network_id, CYCLE, 2**31, now_ms, now_ms)
        made = AuditReport(header, NO_DIGEST, NO_DIGEST, 1, 0.0, 1.0, 0.0, NO_DIGEST, "", "", "")
        assert type(await refused(stranger, made)) is NotAnAuditor
        rows = office.store.refusals_of(stranger.peer_id, 10)
        assert [(row.code, row.count) for row in rows] == [(NotAnAuditor.code, 1)]
        assert rows[0].round < 3


# --- decoys ------------------------------------------------------------------------------------


async def test_decoy_looks_like_a_volunteer_and_is_never_paid(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, rounds=1, decoy_rate=1.0) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        trainers = world.train(2)
        await office.settled(1)
        decoy = office.store.decoy(CYCLE, 0)
        assert decoy is not None
        records = world.host.links.records
        announced = {item.signer for item in await records.fetch_peers(PeerStatus)}
        committed = {i.signer for i in await records.fetch_peers(Commit, cycle=CYCLE, round=0)}
        assert {peer.peer_id for peer in trainers} | {decoy.peer} <= announced
        assert committed == set()  # the coordinator answered everybody: nobody leaves one there
        assert office.totals(decoy.peer, TRAINING)[:2] == (0, 0)
        assert office.totals(decoy.peer, TRAINING)[2] > 0
        assert decoy.peer not in {row.peer for row in office.store.leaderboard(10)}
        assert trainers_are_paid(office, *trainers)


@pytest.mark.parametrize(("seats", "decoys"), [(3, 1), (2, 0)])
async def test_decoy_takes_nobodys_seat(tmp_path: Path, seats: int, decoys: int) -> None:
    async with AuditWorld(tmp_path, rounds=1, decoy_rate=1.0) as world:
        limits = dataclasses.replace(world.host.config.limits, max_peers_per_round=seats)
        world.host.config = dataclasses.replace(world.host.config, limits=limits)
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        trainers = world.train(2)
        await office.settled(1)
        peers = {row.peer for row in office.store.commits(CYCLE, 0)}
        assert {peer.peer_id for peer in trainers} <= peers
        assert len(peers) == 2 + decoys


async def test_decoy_enters_behind_a_volunteer_and_never_makes_a_round_by_itself(
    tmp_path: Path,
) -> None:
    async with AuditWorld(tmp_path, rounds=1, decoy_rate=1.0) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        await world.with_auditors(auditor)
        trainers = world.train(2)
        for peer in trainers:
            peer.rig.step_s = 1_000.0  # nobody gets ready in time
        await world.until(lambda: bool(office.store.rounds(CYCLE)))
        plan_sha256 = office.store.rounds(CYCLE)[0].plan_sha256
        await world.until(lambda: office.store.rounds(CYCLE)[0].plan_sha256 != plan_sha256)
        assert office.worker.forgeries == 1  # it was ready
        assert not office.store.commits(CYCLE, 0)  # and the empty round was opened anew


async def test_no_decoy_is_made_while_no_auditor_is_present(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, decoy_rate=1.0) as world:
        office = world.open()
        world.train(2)
        await office.settled(3)
        assert office.worker.forgeries == 0


# --- the mode without consequences -------------------------------------------------------------


async def test_shadow_mode_tells_what_it_would_do_and_pays(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path, decoy_rate=1.0, mode="shadow") as world:
        lazy = world.auditor(Liar)
        office = world.open(lazy)
        await world.with_auditors(lazy)
        world.train(2)
        await office.settled(3)
        results = {task.result for task in office.tasks_of(lazy.peer_id)}
        assert AuditResult.CONTRADICTED in results
        assert office.store.auditor(lazy.peer_id) is None
        pending, settled, void, taken = office.totals(lazy.peer_id, AUDIT)
        assert (pending, void, taken) == (0, 0, 0)
        assert settled > 0


# --- the auditor's own end ---------------------------------------------------------------------


async def test_auditor_ends_with_the_cycle_once_everything_is_settled(tmp_path: Path) -> None:
    async with AuditWorld(tmp_path) as world:
        auditor = world.auditor()
        office = world.open(auditor)
        auditor.start(exit_after_cycle=True)
        world.train(2)
        await office.settled(3)
        assert auditor.task is not None
        await world.until(auditor.task.done)
        assert auditor.heard(CycleDone)
        asked = office.tasks_of(auditor.peer_id)
        assert len(auditor.heard(AuditReported)) == len(auditor.heard(AuditSettled)) == len(asked)
