"""Sessions of peers: late, killed, left alone, lied to. Each must end where the signed chain does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Commit, Header, NetworkDescriptor
from ares_p2p.errors import (
    BaseDigestMismatch,
    BlobUnavailable,
    CommitLate,
    DiskFull,
    HashMismatch,
    NodeDied,
    RpcTimeout,
    StateMismatch,
    VersionRefused,
)
from ares_p2p.files import NoSpaceLeft
from ares_p2p.ids import PeerId
from ares_p2p.network.blobs_memory import Misbehaviour
from ares_p2p.network.invite import Invite
from ares_p2p.network.record_keys import RECORD_KINDS, RecordKey, key_of_kind
from ares_p2p.network.record_rules import encode_stored_envelope
from ares_p2p.training.state import TrainingState, state_digest
from ares_p2p.wire.codec import decode_envelope, seal
from ares_peer.announcer import Announcer
from ares_peer.events import (
    CommitSent,
    CreditSettled,
    CycleDone,
    ErrorRaised,
    Phase,
    PhaseChanged,
    RoundDone,
    RoundOpened,
)
from ares_peer.patience import AWAY
from payloads import identity
from sim.samples import COORDINATOR
from sim.session_world import NETWORK, Peer, World, make_base, statuses


def fails(error: Exception, *, times: int, then):  # type: ignore[no-untyped-def]
    """Return an async function that raises so often, and then is `then`."""
    left = [times]

    async def act(*args, **kwargs):  # type: ignore[no-untyped-def]
        if left[0]:
            left[0] -= 1
            raise error
        return await then(*args, **kwargs)

    return act


async def test_two_peers_play_a_cycle_to_its_signed_end(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=3) as world:
        peers = [world.peer().start(exit_after_cycle=True) for _ in range(2)]
        for number in range(3):
            manifest = await world.host.play_round(number, wanted=2)
            assert [entry.status.value for entry in manifest.entries] == ["accepted"] * 2
            await world.host.settle(number)
        for peer in peers:
            assert peer.task is not None
            await peer.task
            assert peer.rig.trained == [0, 1, 2]
            assert [event.round for event in peer.heard(CreditSettled)] == [0, 1, 2]
            assert [event.state for event in peer.heard(CycleDone)] == [manifest.next_state.hex()]
            assert not peer.heard(ErrorRaised)


async def test_one_bit_peers_keep_what_they_lost_and_send_it_later(tmp_path: Path) -> None:
    """The residuals of the last two rounds are there: the older one for a round made again."""
    async with World(tmp_path, rounds=3, bits=1) as world:
        peers = [world.peer().start(exit_after_cycle=True) for _ in range(2)]
        for number in range(3):
            manifest = await world.host.play_round(number, wanted=2)
            assert [entry.status.value for entry in manifest.entries] == ["accepted"] * 2
        for peer in peers:
            assert peer.task is not None
            await peer.task
            assert [event.state for event in peer.heard(CycleDone)] == [manifest.next_state.hex()]
            kept = sorted(path.name for path in (peer.folder / "residual").iterdir())
            assert kept == ["residual-3-1.bin", "residual-3-2.bin"]


# --- A, B: late ---------------------------------------------------------------------------------


async def test_newcomer_does_not_train_on_a_plan_whose_commits_are_closed(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        first = world.peer().start()
        await world.host.open_round(0)
        await world.host.collect()
        await world.host.close()
        late = world.peer().start()
        await world.pass_s(5)
        assert world.clock.now_ms() < (world.host._closed.plan.commit_deadline_ms)
        assert late.said("for the next round")
        assert not late.heard(RoundOpened)
        await world.host.finish()
        await world.host.play_round(1, wanted=2)
        await late.hears(RoundDone)
        assert late.rig.trained == [1]
        assert first.rig.trained == [0, 1]


async def test_peer_that_never_trained_ends_with_the_signed_state(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        world.peer().start()
        manifest = await world.host.play_round(0)
        late = world.peer().start()
        done = await late.hears(CycleDone)
        assert done.state == manifest.next_state.hex()
        assert late.rig.trained == []
        assert manifest.next_state in late.blobs_held()
        await world.pass_s(60)
        assert len(late.heard(CycleDone)) == 1


async def test_end_of_the_cycle_is_told_once_although_records_fail_meanwhile(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(CycleDone)
        world.records.is_down = True
        await world.pass_s(60)
        world.records.is_down = False
        await world.pass_s(60)
        assert len(peer.heard(CycleDone)) == 1


async def test_final_state_is_fetched_again_and_again_until_somebody_serves_it(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=1) as world:
        world.peer().start()
        manifest = await world.host.play_round(0)
        await world.pass_s(5)
        for source in list(world.blobs.servers):
            if source != COORDINATOR.peer_id:
                world.blobs.misbehaviour[source] = Misbehaviour.AWAY
        world.host.links.blobs.withhold(manifest.next_state)
        late = world.peer().start()
        error = await late.hears(ErrorRaised)
        assert error.code == BlobUnavailable.code
        await world.pass_s(30)
        assert len(late.heard(ErrorRaised)) == 1  # said once
        world.host.links.blobs.release(manifest.next_state)
        done = await late.hears(CycleDone)
        assert done.state == manifest.next_state.hex()


# --- C: killed after the commit -----------------------------------------------------------------


async def _killed_after_commit(world: World) -> Peer:
    peer = world.peer().start()
    await world.host.open_round(0)
    await peer.hears(CommitSent)
    await peer.kill()
    return peer


async def test_killed_after_its_commit_it_hands_in_the_same_bytes(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = await _killed_after_commit(world)
        (commit,) = world.host.submissions
        world.host.book.commits.clear()  # type: ignore[union-attr]  # it never arrived
        peer.start()
        again = await peer.hears(CommitSent, 2)
        assert again.accepted
        assert world.host.submissions[1] == commit
        assert peer.rig.trained == [0]
        await world.host.close()
        manifest = await world.host.finish()
        done = await peer.hears(RoundDone)
        assert (done.status, done.state) == ("accepted", manifest.next_state.hex())
        await world.host.play_round(1)
        assert peer.rig.trained == [0, 1]
        assert not world.host.manifests[1][0].entries[0].code


@pytest.mark.parametrize("after_deadline", [False, True])
async def test_killed_and_back_after_the_close_it_serves_what_it_promised(
    tmp_path: Path, *, after_deadline: bool
) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = await _killed_after_commit(world)
        await world.host.close()
        if after_deadline:
            await world.pass_s(70)
        peer.start()
        manifest = await world.host.finish()
        done = await peer.hears(CycleDone)
        assert done.state == manifest.next_state.hex()
        assert statuses(peer.heard(RoundDone)) == [(0, "accepted")]
        assert len(world.host.submissions) == 1
        assert [sent.accepted for sent in peer.heard(CommitSent)] == [True, True]
        assert peer.rig.trained == [0]


async def test_killed_before_it_could_send_it_sends_what_it_signed(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        world.host.go_away()
        peer.links.records.publish = fails(RpcTimeout("x"), times=99, then=None)  # type: ignore[method-assign]
        await world.host.open_round(0)
        session = peer.session
        assert session is not None
        await world.until(lambda: session._memory.kept_commit is not None)
        await peer.kill()
        assert not world.host.submissions
        kept = session._memory.kept_commit
        assert kept is not None
        world.host.come_back()
        peer.start()
        await peer.hears(CommitSent)
        assert world.host.submissions == [decode_envelope(kept.envelope)]
        assert peer.rig.trained == [0]


async def test_lost_contribution_is_not_trained_a_second_time(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = await _killed_after_commit(world)
        for path in (peer.folder / "blobs").glob("*.blob"):
            path.unlink()
        peer.start()
        error = await peer.hears(ErrorRaised)
        assert error.code == BlobUnavailable.code
        assert peer.rig.trained == [0]
        assert len(world.host.submissions) == 1


# --- D: no answer is no refusal -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["away", "not ready"])
async def test_coordinator_that_starts_again_gets_the_commit_at_last(
    tmp_path: Path, how: str
) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        book, world.host.book = world.host.book, None
        if how == "away":
            world.host.go_away()
        await world.pass_s(20)
        assert peer.rig.trained == [0]
        assert not peer.heard(CommitSent)
        world.host.come_back()
        world.host.book = book
        sent = await peer.hears(CommitSent)
        assert (sent.accepted, sent.message) == (True, "")


async def test_commit_in_the_dht_speaks_for_a_peer_whose_coordinator_was_away(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        world.host.go_away()
        sent = await peer.hears(CommitSent)
        assert (sent.accepted, sent.message) == (True, "sent by the DHT only")
        world.host.come_back()
        await world.host.close()
        await world.host.finish()
        assert (await peer.hears(RoundDone)).status == "accepted"


async def test_refused_contribution_is_served_if_it_was_closed_with_the_others(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        taken = world.host.handle

        async def refuse(envelope: Envelope, remote: PeerId) -> Envelope:
            ack = await taken(envelope, remote)
            if world.host.submissions:
                raise CommitLate("a liar, or a confused coordinator")
            return ack

        world.control.handlers[COORDINATOR.peer_id] = refuse
        await world.host.open_round(0)
        sent = await peer.hears(CommitSent)
        assert (sent.accepted, sent.code) == (False, CommitLate.code)
        await world.host.close()
        await world.host.finish()
        assert (await peer.hears(RoundDone)).status == "accepted"


# --- E: the disk --------------------------------------------------------------------------------


async def test_disk_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=6) as world:
        peers = [world.peer().start() for _ in range(2)]
        held = []
        for number in range(6):
            await world.host.play_round(number, wanted=2)
            for peer in peers:
                await peer.hears(RoundDone, number + 1)
            await world.pass_s(2)
            held.append(len(peers[0].blobs_held()))
        base = 2
        assert max(held) <= base + 3 + 2 * 2  # three states, two rounds of two contributions
        assert held[-1] == held[-2]


async def test_start_deletes_what_is_not_needed_and_keeps_the_base_once(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=3) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        await world.pass_s(2)
        await peer.kill()
        store = peer.links.blobs.store
        stray = store.put(b"of an earlier life")
        (store.folder / f"{b'x'.hex() * 32}.part").write_bytes(b"begun and never ended")
        states = world.host.config.initial_state, world.host.manifests[0][0].next_state
        peer.start()
        await world.pass_s(5)
        held = peer.blobs_held()
        assert stray not in held
        assert held >= set(states)
        assert not list(store.folder.glob("*.part"))
        for file in world.host.config.base.files:
            assert store.path(file.blob_id).stat().st_nlink == 2


# --- F, G: outages ------------------------------------------------------------------------------


@pytest.mark.parametrize("dht_too", [False, True])
async def test_long_outage_loses_nothing(tmp_path: Path, *, dht_too: bool) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        await peer.hears(CommitSent)
        world.host.go_away()
        world.records.is_down = dht_too
        await world.pass_s(1500)
        assert [e.detail for e in peer.heard(PhaseChanged)].count(AWAY) == 1
        assert not peer.heard(ErrorRaised)
        world.records.is_down = False
        world.host.come_back()
        await world.host.close()
        manifest = await world.host.finish()
        done = await peer.hears(RoundDone)
        assert (done.status, done.state) == ("accepted", manifest.next_state.hex())
        await world.host.publish_cycle()  # as a coordinator does when it starts again
        assert peer.rig.trained == [0]


async def test_commit_outlives_its_lifetime_in_the_dht(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        world.host.go_away()
        await peer.hears(CommitSent)
        assert not world.host.submissions
        await world.pass_s(1.2 * RECORD_KINDS[Commit].lifetime_s)
        await world.host.close()
        await world.host.finish()
        assert (await peer.hears(RoundDone)).status == "accepted"


async def test_finish_in_a_long_outage_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        await peer.hears(CommitSent)
        assert peer.session is not None
        assert peer.task is not None
        peer.session.finish()
        world.host.go_away()
        await world.pass_s(60)
        assert not peer.task.done()  # the round may still end well
        await world.pass_s(60)
        assert peer.task.done()
        assert peer.said("leaving without the end of round 1")


async def test_another_plan_for_the_round_ends_the_wait(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        await peer.hears(CommitSent)
        await world.host.open_round(0)
        await peer.hears(CommitSent, 2)
        assert peer.said("opened another plan")
        assert peer.rig.trained == [0, 0]


@pytest.mark.parametrize("method", ["fetch", "fetch_peers", "publish"])
async def test_calls_that_fail_now_and_then_lose_no_round(tmp_path: Path, method: str) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        works, chance, failed = getattr(peer.links.records, method), random.Random(1), 0

        async def shaky(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal failed
            if chance.random() < 0.3:
                failed += 1
                raise RpcTimeout("too slow")
            return await works(*args, **kwargs)

        setattr(peer.links.records, method, shaky)
        for number in range(2):
            await world.host.play_round(number)
            await peer.hears(RoundDone, number + 1)
        assert statuses(peer.heard(RoundDone)) == [(0, "accepted"), (1, "accepted")]
        assert failed


async def test_death_of_the_node_ends_the_session_with_it(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.pass_s(3)
        assert peer.task is not None
        peer.links.control.submit = fails(NodeDied("p2pd ended"), times=99, then=None)  # type: ignore[method-assign]
        world.tasks.remove(peer.task)
        await world.until(peer.task.done)
        with pytest.raises(NodeDied):
            peer.task.result()


class Shaky:
    """An announcer whose disk is full, so many times."""

    def __init__(self, inner: Announcer, *, times: int) -> None:
        self.announce = fails(NoSpaceLeft("no space left"), times=times, then=inner.announce)
        self.leave, self.peers_online = inner.leave, inner.peers_online


async def test_fault_of_a_helper_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.pass_s(3)
        assert peer.session is not None
        peer.session._announcer = Shaky(peer.session._announcer, times=3)  # type: ignore[assignment]
        before = len(world.host.announced)
        await world.pass_s(80)
        (error,) = peer.heard(ErrorRaised)
        assert (error.code, error.fatal) == (DiskFull.code, False)
        assert len(world.host.announced) == before + 2
        await world.host.play_round(0)
        assert (await peer.hears(RoundDone)).status == "accepted"


# --- I, N: credit -------------------------------------------------------------------------------


async def test_credit_of_a_round_before_a_restart_is_reported(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        await peer.kill()
        peer.start()
        await world.host.settle(0)
        credit = await peer.hears(CreditSettled)
        assert (credit.round, credit.outcome, credit.reward_ucredits) == (0, "pass", 6400)
        await world.pass_s(60)
        assert len(peer.heard(CreditSettled)) == 1


async def test_credit_of_a_round_that_ended_while_the_peer_was_dead_is_reported(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=2) as world:
        helper = world.peer().start()
        peer = world.peer().start()
        await world.host.open_round(0)
        await world.host.collect(2)
        await world.host.close()
        await world.host.finish()
        await peer.kill()
        await helper.hears(RoundDone)
        await world.host.open_round(1)
        await world.host.settle(0)
        peer.start()
        assert (await peer.hears(CreditSettled)).round == 0


async def test_round_that_counted_is_reported_although_the_next_state_cannot_be_made(
    tmp_path: Path,
) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer, other = world.peer().start(), world.peer().start()
        await world.host.open_round(0)
        await world.host.collect(2)
        peer.links.blobs.fetch = fails(BlobUnavailable("gone"), times=10**6, then=None)  # type: ignore[method-assign]
        await world.host.close()
        await world.host.finish()
        assert (await peer.hears(RoundDone)).status == "accepted"
        assert (await other.hears(RoundDone)).status == "accepted"
        await world.until(lambda: peer.said("not all of the round could be fetched"))
        await world.host.settle(0)
        assert (await peer.hears(CreditSettled)).outcome == "pass"


async def test_exit_after_the_cycle_waits_three_minutes_for_the_credit(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer().start(exit_after_cycle=True)
        await world.host.play_round(0)
        await peer.hears(CycleDone)
        assert peer.task is not None
        await world.pass_s(170)
        assert not peer.task.done()
        await world.pass_s(15)
        assert peer.task.done()
        peer.task.result()
        assert peer.said("still being audited, it comes without us: 3.1")


# --- L, M: states and plans ---------------------------------------------------------------------


async def test_lying_manifest_is_told_and_the_signed_state_is_used(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.open_round(0)
        await world.host.collect()
        await world.host.close()
        state = world.host.state
        lie = TrainingState(state.cycle, 1, state.layout_sha256, state.theta + 1, state.mu)
        await world.host.finish(next_state=state_digest(lie))
        error = await peer.hears(ErrorRaised)
        assert error.code == StateMismatch.code
        assert statuses(peer.heard(RoundDone)) == [(0, "accepted")]
        world.host.state = lie
        manifest = await world.host.play_round(1)
        assert (await peer.hears(CycleDone)).state == manifest.next_state.hex()
        assert len(peer.heard(ErrorRaised)) == 1


async def test_plan_from_another_state_than_the_computed_one_is_told(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        state = world.host.state
        world.host.state = TrainingState(
            state.cycle, 1, state.layout_sha256, state.theta + 1, state.mu
        )
        manifest = await world.host.play_round(1)
        assert (await peer.hears(ErrorRaised)).code == StateMismatch.code
        assert (await peer.hears(CycleDone)).state == manifest.next_state.hex()


async def test_plan_that_follows_another_manifest_is_refused(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        await world.host.open_round(1, previous_manifest_sha256=bytes(31) + b"x")
        error = await peer.hears(ErrorRaised)
        assert error.code == HashMismatch.code
        await world.pass_s(30)
        assert peer.rig.trained == [0]
        assert len(peer.heard(ErrorRaised)) == 1
        await world.host.play_round(1)
        assert peer.rig.trained == [0, 1]


async def test_snapshot_that_fails_is_fetched_again_within_the_plan(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        first = world.peer().start()
        await world.host.play_round(0)
        await first.hears(RoundDone)
        late = world.peer().start()
        await world.pass_s(3)
        late.links.blobs.fetch = fails(  # type: ignore[method-assign]
            BlobUnavailable("nobody has it"), times=3, then=late.links.blobs.fetch
        )
        await world.host.play_round(1, wanted=2)
        assert (await late.hears(RoundDone)).status == "accepted"
        assert late.rig.trained == [1]


# --- P: slow ------------------------------------------------------------------------------------


async def test_machine_too_slow_stops_early_and_follows_the_round(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=2) as world:
        slow, fast = world.peer().start(), world.peer().start()
        slow.rig.step_s = 25.0  # four steps in 60 s do not fit
        await world.host.open_round(0)
        await world.host.collect(2)
        await world.host.close()
        manifest = await world.host.finish()
        done = await slow.hears(RoundDone)
        assert (done.status, done.state) == ("missed", manifest.next_state.hex())
        assert "does not fit" in done.message
        assert not slow.heard(CommitSent)
        assert not slow.heard(ErrorRaised)
        assert (await fast.hears(RoundDone)).status == "accepted"
        slow.rig.step_s = 0.5
        await world.host.play_round(1, wanted=2)
        assert (await slow.hears(RoundDone, 2)).status == "accepted"


async def test_slow_first_step_alone_does_not_give_the_round_up(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        peer = world.peer()

        def warm_up(round_number: int) -> None:
            world.clock.pass_s(20.0)

        peer.rig.on_round = warm_up
        peer.start()
        await world.host.play_round(0)
        assert (await peer.hears(RoundDone)).status == "accepted"


# --- bad input, and nobody there ----------------------------------------------------------------


@pytest.mark.parametrize("protocol", [(2, 3), (0, 0)])
async def test_refused_version_ends_the_session(tmp_path: Path, protocol: tuple[int, int]) -> None:
    async with World(tmp_path) as world:
        await world.host.publish_network(protocol=protocol)
        peer = world.peer().start()
        assert peer.task is not None
        with pytest.raises(VersionRefused) as caught:
            await peer.task
        assert (caught.value.code, caught.value.exit_code) == ("ARES-E021", 78)
        world.tasks.clear()


async def test_another_base_ends_the_session(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        other = make_base(tmp_path / "other", text='{"other": 1}')
        peer = world.peer().start(base=other)
        assert peer.task is not None
        with pytest.raises(BaseDigestMismatch, match=r"config\.json differ") as caught:
            await peer.task
        assert caught.value.code == "ARES-E016"
        world.tasks.clear()


async def test_descriptor_of_another_network_is_ignored(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.records._values.clear()
        mallory = identity(666)
        foreign = Invite("session-world", mallory.peer_id).network
        header = Header(foreign.network_id, 0, 0, 1, world.clock.now_ms())
        descriptor = NetworkDescriptor(
            header, "session-world", mallory.peer_id, ("/ip4/127.0.0.1",), 9, 9, ""
        )
        key = key_of_kind(NetworkDescriptor, network_id=NETWORK.network_id)
        expires_s = world.clock.now_ms() / 1000 + 1000
        stored = encode_stored_envelope(
            seal(mallory, descriptor), RecordKey(key), publisher=mallory, expiration_s=expires_s
        )
        world.records._values[key] = (stored, expires_s)
        peer = world.peer().start()
        await world.pass_s(60)
        assert peer.task is not None
        assert not peer.task.done()
        assert peer.said(AWAY)
        assert peer.links.records.refused
        del world.records._values[key]
        await world.host.publish_network()
        await world.host.publish_cycle()
        await world.until(lambda: peer.said("for the next round"))


async def test_coordinator_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    async with World(tmp_path, rounds=1) as world:
        world.host.go_away()
        world.records.is_down = True
        peer = world.peer().start()
        await world.pass_s(3600)
        assert peer.heard(PhaseChanged)[-1] == PhaseChanged(Phase.WAITING, AWAY)
        assert len(peer.heard(PhaseChanged)) == 2
        world.records.is_down = False
        world.host.come_back()
        await world.host.publish_network()
        await world.host.publish_cycle()
        await world.host.play_round(0)
        assert (await peer.hears(RoundDone)).status == "accepted"


async def test_finish_before_anything_runs_ends_at_once(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.records.is_down = True
        peer = world.peer().start()
        await world.pass_s(60)
        assert peer.session is not None
        assert peer.task is not None
        peer.session.finish()
        await world.pass_s(10)
        assert peer.task.done()
        assert not peer.task.exception()


async def test_finish_breaks_a_download_off(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.blobs.misbehaviour[COORDINATOR.peer_id] = Misbehaviour.SILENT
        peer = world.peer().start()
        await world.until(lambda: peer.said("cycle 3"))
        assert peer.session is not None
        assert peer.task is not None
        peer.session.finish()
        await peer.task
