"""A round that makes the model worse: found, corrected, and nobody's pay is touched.

Real rounds and real sessions in played time. The poison is gradient ascent in half of the tensors:
it passes the vote and the norm bound of the robust mean, and it really hurts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ares_coordinator.ledger.rewards import reward_ucredits
from ares_coordinator.store.rows import DrawReason
from ares_p2p.domain import EntryStatus, ManifestEntry, PostingState, RoundManifest
from ares_p2p.errors import (
    AresError,
    CommitReplayed,
    HashMismatch,
    InternalFault,
    PayloadMalformed,
    PoisonFound,
    RoundSetAside,
    StateMismatch,
)
from ares_p2p.ids import Digest
from ares_p2p.rounds.lottery import is_drawn
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.training.replica import bind_layout, corrected_state, open_contribution
from ares_p2p.training.state import decode_snapshot, state_digest
from ares_peer.events import CycleDone, ErrorRaised, RoundCorrected, RoundDone
from ares_peer.wording import sentence
from sim.keeper_world import KeeperWorld, poisoner
from sim.samples import CYCLE, SECRET
from sim.session_world import Peer, the_task

ROUNDS, POISONED = 6, 3


async def played(
    world: KeeperWorld, *, honest: int, poisoned: tuple[int, ...] = (POISONED,), bad: int = 1
) -> tuple[list[Peer], list[Peer]]:
    """Let honest peers and poisoners play the cycle to its end; return both."""
    good, cheats = people(world, honest=honest, poisoned=poisoned, bad=bad)
    world.start()
    await world.over()
    await ended(world, [*good, *cheats])
    return good, cheats


def people(
    world: KeeperWorld, *, honest: int, poisoned: tuple[int, ...] = (POISONED,), bad: int = 1
) -> tuple[list[Peer], list[Peer]]:
    good = [world.peer().start() for _ in range(honest)]
    return good, [poisoner(world, *poisoned).start() for _ in range(bad)]


async def ended(world: KeeperWorld, everybody: list[Peer]) -> None:
    """Check that every peer holds the signed final state, by its own sums."""
    final, _ = await world.manifest(world.settings.rounds.rounds - 1)
    for peer in everybody:
        done = await peer.hears(CycleDone)
        assert done.state == final.next_state.hex()
        assert not peer.heard(ErrorRaised)


async def corrections(world: KeeperWorld) -> dict[int, RoundManifest]:
    """The manifests that correct something, by their rounds."""
    found = {}
    for row in world.rows():
        manifest, _ = await world.manifest(row.round)
        if manifest.corrections:
            found[row.round] = manifest
    return found


def codes(entries: tuple[ManifestEntry, ...]) -> dict[str, str]:
    return {entry.peer: entry.code for entry in entries}


# --- honest -------------------------------------------------------------------------------------


async def test_sixty_honest_rounds_raise_no_alarm(tmp_path: Path) -> None:
    steps = {"max_steps": 10}  # short paths, so rounds that are more noise than work
    async with KeeperWorld(tmp_path, rounds=60, peers=3, training=steps) as world:
        await played(world, honest=3, bad=0)
        assert world.store.alarms(CYCLE) == ()
        assert await corrections(world) == {}
        losses = world.losses()
        assert not np.isnan(losses).any()
        assert max(np.diff(losses[20:])) > 0.02  # honest rounds do make it a little worse
        assert world.worker.evaluations == 60 + 1 + 1  # S_0, and the last state before its end


# --- poison -------------------------------------------------------------------------------------


async def test_poisoner_is_found_and_taken_out_and_the_loss_recovers(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, (cheat,) = await played(world, honest=2)
        (alarm,) = world.store.alarms(CYCLE)
        assert (alarm.round, alarm.corrected_in_round) == (POISONED, POISONED + 1)
        assert alarm.evaluations <= 3
        ((carrier, manifest),) = (await corrections(world)).items()
        assert carrier == POISONED + 1
        (correction,) = manifest.corrections
        out = codes(correction.entries)
        assert out.pop(cheat.peer_id) == PoisonFound.code
        assert set(out) == {peer.peer_id for peer in good}
        assert PoisonFound.code not in out.values()
        losses = world.losses()
        assert losses[POISONED] > losses[POISONED - 1] + 0.05
        assert losses[carrier] < losses[POISONED - 1] + 0.02
        assert losses[carrier] == pytest.approx(correction.held_out_after)
        assert manifest.next_state == await recomputed(world, POISONED, correction.entries)


async def recomputed(world: KeeperWorld, number: int, entries: tuple[ManifestEntry, ...]) -> Digest:
    """The corrected state as anybody computes it: from S_r, the blobs and the manifest alone."""
    store, task = world.host.links.blobs.store, the_task()
    row = world.rows()[number]
    start = decode_snapshot(store.read(row.state_digest), layout=task.layout)
    used = []
    for signed in world.signed_commits(number):
        entry = next(one for one in entries if one.commit_sha256 == signed.sha256)
        if entry.coefficient:
            layout = bind_layout(task.layout, plan_sha256=row.plan_sha256, peer=signed.peer)
            data = store.read(signed.commit.blob_id)
            vector = open_contribution(data, layout=layout, training=world.host.config.training)
            used.append((vector, entry.coefficient))
    return state_digest(corrected_state(start, used, world.host.config.training))


async def test_peers_say_what_happened_and_the_culprit_reads_why(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, (cheat,) = await played(world, honest=2)
        for peer in good:
            (event,) = peer.heard(RoundCorrected)
            assert (event.round, event.in_round) == (POISONED, POISONED + 1)
            assert event.taken_out == (cheat.peer_id,)
            assert event.held_out_after < event.held_out_bad
            assert event.code == ""
            said = sentence(event)
            assert f"round {POISONED + 1} is corrected, without {cheat.peer_id[:16]}" in said
            assert "audited and paid, but not used" in said
        (event,) = cheat.heard(RoundCorrected)
        assert event.code == PoisonFound.code
        assert f"{event.held_out_bad:.4f}" in event.message
        assert "depends on its audit alone" in sentence(event)
        for peer in (*good, cheat):
            own = {done.round: done for done in peer.heard(RoundDone)}
            aside = own[POISONED + 1]
            assert (aside.status, aside.code) == ("accepted", RoundSetAside.code)
            assert "accepted as work, but not used" in sentence(aside)
            assert {done.status for done in own.values()} <= {"accepted", "clipped"}


async def test_two_poisoners_that_need_each_other_are_both_found(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=4) as world:
        good, cheats = await played(world, honest=2, bad=2)
        (manifest,) = (await corrections(world)).values()
        out = codes(manifest.corrections[0].entries)
        assert {peer for peer, code in out.items() if code == PoisonFound.code} == {
            cheat.peer_id for cheat in cheats
        }
        losses = world.losses()
        assert losses[POISONED] > losses[POISONED - 1] + 0.2
        assert losses[POISONED + 1] < losses[POISONED - 1] + 0.02
        for cheat in cheats:
            assert cheat.heard(RoundCorrected)[0].code == PoisonFound.code
        for peer in good:
            assert peer.heard(RoundCorrected)[0].code == ""


async def test_round_after_round_of_poison_is_corrected_every_time(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=9, peers=3) as world:
        await played(world, honest=2, poisoned=(3, 4, 5, 6))
        # the work of 4 and 6 was set aside, whatever it was: it comes from a poisoned state
        assert set(await corrections(world)) == {4, 6}
        assert world.losses()[-1] < world.losses()[2]


# --- the last rounds ----------------------------------------------------------------------------


async def test_poison_in_the_last_round_is_left_out_of_its_own_manifest(tmp_path: Path) -> None:
    last = 5
    async with KeeperWorld(tmp_path, rounds=last + 1, peers=3) as world:
        good, (cheat,) = await played(world, honest=2, poisoned=(last,))
        assert await corrections(world) == {}
        manifest, _ = await world.manifest(last)
        assert codes(manifest.entries) == {
            cheat.peer_id: PoisonFound.code,
            **{peer.peer_id: "" for peer in good},
        }
        (alarm,) = world.store.alarms(CYCLE)
        assert (alarm.round, alarm.corrected_in_round) == (last, last)
        assert world.losses()[last] < alarm.held_out_bad - 0.05
        assert world.losses()[last] == alarm.held_out_after
        done = cheat.heard(RoundDone)[-1]
        assert (done.status, done.coefficient, done.code) == ("accepted", 0.0, PoisonFound.code)
        assert f"{alarm.held_out_bad:.4f}" in done.message
        audited = {audit.peer for audit in world.store.audits(CYCLE, last)}
        assert cheat.peer_id in audited


async def test_poison_in_the_last_round_but_one_is_corrected_by_the_last(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=POISONED + 2, peers=3) as world:
        await played(world, honest=2)
        ((carrier, manifest),) = (await corrections(world)).items()
        assert carrier == POISONED + 1
        assert manifest.final
        assert world.losses()[carrier] < world.losses()[POISONED] - 0.05


# --- nobody is guilty ---------------------------------------------------------------------------


async def test_a_round_that_hurts_though_nobody_cheats_is_only_told(tmp_path: Path) -> None:
    """The outer step is far too long: all of them together overshoot."""
    async with KeeperWorld(tmp_path, rounds=4, peers=3, training={"outer_lr": 12.0}) as world:
        good, _ = await played(world, honest=3, bad=0)
        alarms = world.store.alarms(CYCLE)
        assert alarms
        assert {alarm.corrected_in_round for alarm in alarms} == {None}
        assert {alarm.held_out_after for alarm in alarms} == {None}
        assert {alarm.message for alarm in alarms} == {"no few contributions explain it"}
        assert await corrections(world) == {}
        for row in world.rows():
            assert drawn_by_alarm(world, row.round) == set()
        for peer in good:
            assert not peer.heard(RoundCorrected)


async def test_when_most_of_a_round_is_poison_nobody_is_accused(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        await played(world, honest=1, bad=2)
        (alarm,) = world.store.alarms(CYCLE)
        assert (alarm.round, alarm.corrected_in_round) == (POISONED, None)
        assert await corrections(world) == {}


async def test_without_a_look_at_every_round_there_are_no_alarms(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3, held_out_every=2) as world:
        await played(world, honest=2)
        assert world.store.alarms(CYCLE) == ()
        looked = [not np.isnan(loss) for loss in world.losses()]
        assert looked == [False, True] * 3


# --- pay ----------------------------------------------------------------------------------------


def drawn_by_alarm(world: KeeperWorld, number: int) -> set[str]:
    rows = world.store.lottery(CYCLE, number)
    return {row.peer for row in rows if row.reason is DrawReason.ALARM and row.drawn}


async def test_pay_is_what_it_would_be_without_the_alarm(tmp_path: Path) -> None:
    """Every contribution, the culprit's and those of the unused round: pending at its price."""
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, (cheat,) = await played(world, honest=2)
        price = world.host.config.reference_tokens_per_hour
        expected, posted = defaultdict(int), defaultdict(int)
        for row in world.rows():
            for work in world.store.contributions(CYCLE, row.round):
                assert work.status is not EntryStatus.REFUSED
                expected[work.peer, row.round] += reward_ucredits(
                    work.tokens, reference_tokens_per_hour=price
                )
        for posting in world.store.postings():
            assert (posting.state, posting.code) == (PostingState.PENDING, "")
            posted[posting.worker, posting.round] += posting.amount_ucredits
        assert posted == expected
        assert len(posted) == ROUNDS * 3
        assert {peer for peer, _ in posted} == {peer.peer_id for peer in (*good, cheat)}


async def test_the_culprit_is_audited_although_the_lottery_left_it_out(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        everybody = [*people(world, honest=2)[0], world.peers[-1]]
        cheat = everybody[-1]
        world.trust(everybody)  # a long history: the lottery draws one of twenty
        world.start()
        await world.over()
        await ended(world, everybody)
        audited = {audit.peer for audit in world.store.audits(CYCLE, POISONED)}
        assert cheat.peer_id in audited
        by_alarm = {row.round: drawn_by_alarm(world, row.round) for row in world.rows()}
        (own,) = (r for r in world.store.lottery(CYCLE, POISONED) if r.peer == cheat.peer_id)
        seed = revealed_seed(SECRET, rounds=ROUNDS, round_number=POISONED)
        if is_drawn(seed, own.commit_sha256, own.rate):  # one of twenty, by its own luck
            assert by_alarm.pop(POISONED) == set()
        else:
            assert by_alarm.pop(POISONED) == {cheat.peer_id}
        assert set().union(*by_alarm.values()) == set()


# --- slow, failing, killed ----------------------------------------------------------------------


LOOKS = POISONED + 2  # evaluations until the poisoned state is looked at


def hang_at(world: KeeperWorld, number: int) -> asyncio.Event:
    """Let an evaluation hang; return what is set when it is reached."""
    reached = asyncio.Event()

    def hang(count: int) -> None:
        if count == number:
            reached.set()
            world.worker.hold = asyncio.Event()

    world.worker.before_answer = hang
    return reached


@pytest.mark.parametrize(("evaluation", "serve_times"), [(LOOKS, 1), (LOOKS + 1, 4)])
async def test_a_look_that_hangs_holds_a_round_only_so_long_and_corrects_nothing_later(
    tmp_path: Path, evaluation: int, serve_times: int
) -> None:
    """In the look itself: as long as serving may take; once there is an alarm: four times that."""
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, cheats = people(world, honest=2)
        reached = hang_at(world, evaluation)
        world.start()
        manifest = await world.finished(POISONED + 1)
        assert reached.is_set()
        assert not manifest.corrections
        row = world.rows()[POISONED + 1]
        assert row.closed_ms is not None
        assert row.finished_ms is not None
        limit_ms = serve_times * 1000 * world.settings.rounds.serve_s
        assert limit_ms <= row.finished_ms - row.closed_ms < limit_ms + 6_000
        assert world.worker.hold is not None
        world.worker.hold.set()
        world.worker.hold = None
        await world.over()
        await ended(world, [*good, *cheats])
        (alarm,) = world.store.alarms(CYCLE)
        assert (alarm.round, alarm.corrected_in_round) == (POISONED, None)
        assert "too l" in alarm.message
        assert await corrections(world) == {}
        assert world.rows()[POISONED].held_out_loss == pytest.approx(alarm.held_out_bad)
        assert drawn_by_alarm(world, POISONED) == set()


async def test_a_worker_that_fails_raises_no_alarm_and_stops_no_round(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:

        def fail(number: int) -> None:
            raise InternalFault("the worker process died twice")

        world.worker.before_answer = fail
        await played(world, honest=2)
        assert world.store.alarms(CYCLE) == ()
        assert np.isnan(world.losses()).all()
        assert list(world.scratch.iterdir()) == []


class Killed(Exception):
    """Stands for SIGKILL: the coordinator goes no further."""


MOMENTS = {
    "in the look": LOOKS,
    "in the search": LOOKS + 1,
    "in the search, later": LOOKS + 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_while_it_looks_it_looks_again(tmp_path: Path, moment: str) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=4) as world:
        good, cheats = people(world, honest=2, bad=2)
        reached = hang_at(world, MOMENTS[moment])
        world.start()
        await world.until(reached.is_set)
        await world.kill()
        assert world.rows()[POISONED].held_out_loss is None
        assert list(world.store.alarms(CYCLE)) == []
        world.worker.hold = None
        world.start()
        await world.over()
        await ended(world, [*good, *cheats])
        ((carrier, manifest),) = (await corrections(world)).items()
        assert carrier == POISONED + 1
        assert len(world.store.alarms(CYCLE)) == 1
        assert world.losses()[carrier] < world.losses()[POISONED - 1] + 0.02
        assert manifest.next_state == await recomputed(
            world, POISONED, manifest.corrections[0].entries
        )
        assert list(world.scratch.iterdir()) == []


async def test_killed_between_the_decision_and_the_manifest_it_signs_the_decision(
    tmp_path: Path,
) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, cheats = people(world, honest=2)
        world.start()
        await world.until(lambda: bool(world.store.alarms(CYCLE)))
        await world.kill()
        (alarm,) = world.store.alarms(CYCLE)
        assert world.rows()[POISONED].held_out_loss == alarm.held_out_bad
        evaluations, then = world.worker.evaluations, []

        def note(payload: Any) -> Any:
            if isinstance(payload, RoundManifest):
                then.append(world.worker.evaluations)
            return payload

        world.before_sign = note
        world.start()
        manifest = await world.finished(POISONED + 1)
        assert then == [evaluations]  # it was decided: nothing is looked at again
        assert manifest.corrections[0].held_out_after == alarm.held_out_after
        await world.over()
        await ended(world, [*good, *cheats])


async def test_killed_with_the_manifest_stored_but_not_published_it_publishes_that_one(
    tmp_path: Path,
) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, cheats = people(world, honest=2)
        world.before_publish = killed_at_the_correction
        world.start()
        with contextlib.suppress(Killed):
            await world.over()
        await world.kill()
        stored, digest = await world.manifest(POISONED + 1)
        assert stored.corrections
        for peer in (*good, *cheats):
            assert not peer.heard(RoundCorrected)
        world.before_publish = lambda payload: None
        world.start()
        await world.over()
        await ended(world, [*good, *cheats])
        assert (await world.manifest(POISONED + 1))[1] == digest
        assert set(await corrections(world)) == {POISONED + 1}
        for peer in (*good, *cheats):
            assert len(peer.heard(RoundCorrected)) == 1


def killed_at_the_correction(payload: Any) -> None:
    if isinstance(payload, RoundManifest) and payload.corrections:
        raise Killed


async def test_killed_after_the_last_round_the_culprit_is_audited_all_the_same(
    tmp_path: Path,
) -> None:
    last = 5
    async with KeeperWorld(tmp_path, rounds=last + 1, peers=3) as world:
        good, (cheat,) = people(world, honest=2, poisoned=(last,))

        def killed_at_the_end(payload: Any) -> None:
            if isinstance(payload, RoundManifest) and payload.final:
                raise Killed

        world.before_publish = killed_at_the_end
        world.trust([*good, cheat])
        world.start()
        with contextlib.suppress(Killed):
            await world.over()
        await world.kill()
        assert drawn_by_alarm(world, last) == set()
        world.before_publish = lambda payload: None
        world.start()
        await world.over()
        await ended(world, [*good, cheat])
        audited = {audit.peer for audit in world.store.audits(CYCLE, last)}
        assert cheat.peer_id in audited


# --- what a correction looks like from outside ---------------------------------------------------


async def test_a_peer_that_was_away_goes_on_from_the_corrected_state(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS + 1, peers=3) as world:
        good, cheats = people(world, honest=2)
        world.start()
        await world.until(lambda: len(world.rows()) > POISONED + 1)  # the round that corrects
        await good[0].kill()  # and forgets what it knew of the poisoned round
        good[0].start()
        late = world.peer().start()
        await world.over()
        await ended(world, [*good, *cheats, late])
        assert set(await corrections(world)) == {POISONED + 1}
        trained = {done.round for done in late.heard(RoundDone) if done.status == "accepted"}
        assert trained >= {POISONED + 2, POISONED + 3}


async def test_a_peer_that_lacks_a_contribution_fetches_the_signed_state(tmp_path: Path) -> None:
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, cheats = people(world, honest=2)
        world.start()
        await world.finished(POISONED)
        await good[0].hears(RoundDone, POISONED + 1)
        for signed in world.signed_commits(POISONED):
            good[0].links.blobs.store.delete(signed.commit.blob_id)
        await world.over()
        await ended(world, [*good, *cheats])
        told = f"the corrected state of round {POISONED + 1} is to be fetched"
        assert good[0].said(told)
        assert not good[1].said(told)
        for peer in good:
            assert peer.rig.trained == list(range(ROUNDS))


Forgery = Callable[[RoundManifest], RoundManifest]
FORGERIES: dict[str, tuple[Forgery, type[AresError]]] = {
    "of another manifest": (
        lambda m: with_correction(m, manifest_sha256=bytes(32)),
        CommitReplayed,
    ),
    "in another order": (
        lambda m: with_correction(m, entries=m.corrections[0].entries[::-1]),
        HashMismatch,
    ),
    "with other weights": (
        lambda m: with_correction(m, entries=halved(m.corrections[0].entries)),
        StateMismatch,
    ),
    "that uses its own work": (
        lambda m: dataclasses.replace(m, entries=used(m.entries)),
        PayloadMalformed,
    ),
}


def with_correction(manifest: RoundManifest, **fields: Any) -> RoundManifest:
    forged = dataclasses.replace(manifest.corrections[0], **fields)
    return dataclasses.replace(manifest, corrections=(forged,))


def halved(entries: tuple[ManifestEntry, ...]) -> tuple[ManifestEntry, ...]:
    return tuple(dataclasses.replace(one, coefficient=one.coefficient / 2) for one in entries)


def used(entries: tuple[ManifestEntry, ...]) -> tuple[ManifestEntry, ...]:
    return tuple(dataclasses.replace(one, coefficient=0.25, code="") for one in entries)


@pytest.mark.parametrize("how", FORGERIES)
async def test_a_forged_correction_is_refused_by_every_peer(tmp_path: Path, how: str) -> None:
    """A coordinator that lies about a correction: everybody says so, and goes on as it signs."""
    async with KeeperWorld(tmp_path, rounds=ROUNDS, peers=3) as world:
        good, cheats = people(world, honest=2)
        forge, fault = FORGERIES[how]
        world.before_sign = lambda p: (
            forge(p) if isinstance(p, RoundManifest) and p.corrections else p
        )
        world.start()
        await world.over()
        final, _ = await world.manifest(ROUNDS - 1)
        for peer in (*good, *cheats):
            done = await peer.hears(CycleDone)
            assert done.state == final.next_state.hex()
            assert [error.code for error in peer.heard(ErrorRaised)] == [fault.code]
            assert POISONED + 2 in peer.rig.trained
