"""Rounds that a group averages: sessions and keeper, with members that miss, die and come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ares_p2p.domain import EntryStatus
from ares_p2p.errors import ConfigFault, GroupMissed
from ares_peer.events import CommitSent, CycleDone, ErrorRaised, RoundDone
from ares_peer.session import Session
from sim.group_world import GroupWorld
from sim.samples import COORDINATOR


async def ends(world: GroupWorld, rounds: int) -> str:
    """Wait for the cycle's end; return its signed state."""
    await world.over()
    manifest, _ = await world.manifest(rounds - 1)
    assert manifest.final
    return manifest.next_state.hex()


async def test_members_go_on_from_their_own_sum_and_end_where_the_signed_chain_does(
    tmp_path: Path,
) -> None:
    async with GroupWorld(tmp_path, rounds=4, peers=3) as world:
        peers = [world.peer().start() for _ in range(3)]
        world.start()
        state = await ends(world, 4)
        for peer in peers:
            done = await peer.hears(CycleDone)
            assert done.state == state
            assert [event.coefficient for event in peer.heard(RoundDone)] == [
                pytest.approx(1 / 3)
            ] * 4
            assert not peer.heard(ErrorRaised)  # its own sum was the signed one, every time
        losses = world.losses()
        assert losses[-1] < losses[0]
        assert np.isfinite(losses).all()
        assert world.table.calls == 4


async def test_a_torn_average_is_made_again(tmp_path: Path) -> None:
    """What the members got of the first call does not count, although it looked whole to them."""
    async with GroupWorld(tmp_path, rounds=2, peers=3) as world:
        peers = [world.peer().start() for _ in range(3)]
        slow = peers[1].peer_id
        world.table.mishap = lambda call, _: {COORDINATOR.peer_id: 7, slow: 7} if call == 1 else {}
        world.start()
        state = await ends(world, 2)
        assert world.table.barred == [set(), {slow}, set()]
        for peer in peers:
            assert (await peer.hears(CycleDone)).state == state
            assert not peer.heard(ErrorRaised)


async def test_who_misses_a_part_loses_that_round_only(tmp_path: Path) -> None:
    async with GroupWorld(tmp_path, rounds=3, peers=3) as world:
        peers = [world.peer().start() for _ in range(3)]
        unlucky = peers[2]
        world.table.mishap = lambda call, _: {unlucky.peer_id: 5} if call == 2 else {}
        world.start()
        state = await ends(world, 3)
        assert unlucky.said("the signed state is to be fetched: 5 numbers did not come")
        for peer in peers:
            assert (await peer.hears(CycleDone)).state == state
            assert peer.rig.trained == [0, 1, 2]
            assert not peer.heard(ErrorRaised)


async def test_who_dies_after_its_commit_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    async with GroupWorld(tmp_path, rounds=3, peers=2) as world:
        peers = [world.peer().start() for _ in range(3)]
        victim = peers[0]
        world.start()
        await victim.hears(CommitSent)
        await victim.kill()
        manifest = await world.finished(0)
        entries = {entry.peer: entry for entry in manifest.entries}
        assert entries[victim.peer_id].status is EntryStatus.REFUSED
        assert entries[victim.peer_id].code == GroupMissed.code
        state = await ends(world, 3)
        for peer in peers[1:]:
            assert (await peer.hears(CycleDone)).state == state


async def test_who_comes_back_after_its_commit_brings_what_it_promised(tmp_path: Path) -> None:
    async with GroupWorld(tmp_path, rounds=1, peers=2) as world:
        peers = [world.peer().start() for _ in range(2)]
        victim = peers[0]
        world.start()
        await victim.hears(CommitSent)
        await victim.kill()
        victim.start()
        manifest = await world.finished(0)
        assert [entry.status for entry in manifest.entries] == [EntryStatus.ACCEPTED] * 2
        assert (await victim.hears(CycleDone)).state == manifest.next_state.hex()
        assert victim.rig.trained == [0]  # once: the second run brought the first one's work


async def test_a_coordinator_that_starts_again_calls_the_group_anew(tmp_path: Path) -> None:
    async with GroupWorld(tmp_path, rounds=2, peers=2) as world:
        peers = [world.peer().start() for _ in range(2)]
        world.start()
        world.table.mishap = lambda call, _: {COORDINATOR.peer_id: 1} if call == 1 else {}
        await world.until(lambda: world.table.calls == 1)
        await world.kill()  # the members have a sum, the coordinator has none
        await world.pass_s(30)
        world.start()
        state = await ends(world, 2)
        for peer in peers:
            assert (await peer.hears(CycleDone)).state == state
            assert peer.rig.trained == [0, 1]
            assert not peer.heard(ErrorRaised)


async def test_a_peer_without_p2p_is_told_at_once(tmp_path: Path) -> None:
    async with GroupWorld(tmp_path, rounds=1, peers=1) as world:
        peer = world.peer()
        peer.session_class = Session
        peer.start()
        world.start()
        assert peer.task is not None
        with pytest.raises(ConfigFault, match="needs P2P"):
            await peer.task
        assert peer.rig.trained == []
        world.tasks.remove(peer.task)
