"""Rounds by parts, over a real coordinator's rounds and real peers' sessions.

The toy is wide here: four frames, so that there are four parts to make.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.settings import AveragingSection
from ares_p2p.domain import CommitSet, PartRef, RoundManifest
from ares_p2p.errors import BlobUnavailable, HashMismatch, PoisonFound, StateMismatch
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.blobs_memory import Misbehaviour
from ares_p2p.rounds.parts import ranked_reducers
from ares_p2p.training.replica import state_after
from ares_p2p.training.roundsum import encode_sum, join_parts, parts_of
from ares_p2p.training.state import encode_snapshot
from ares_peer.events import CycleDone, ErrorRaised, RoundCorrected, RoundDone
from ares_peer.evidence import FOLDER, read_rounds
from sim.keeper_world import KeeperWorld, poisoner
from sim.samples import COORDINATOR
from sim.session_world import Peer

RANK = 1295  # 261,590 parameters: four frames
PARTS = 4
ROUNDS = 3
TRAINING = {"max_steps": 6, "inner_lr": 4e-5, "codec_bits": 8}
BY_PARTS = AveragingSection(exchange="butterfly", down_bits=4, parts=PARTS)


def wide_world(folder: Path, *, peers: int, rounds: int = ROUNDS, **changes: Any) -> KeeperWorld:
    changes = {"averaging": BY_PARTS, "training": TRAINING, "rank": RANK, "examples": 32} | changes
    return KeeperWorld(folder, rounds=rounds, peers=peers, **changes)


async def ended(world: KeeperWorld, peers: list[Peer]) -> None:
    final, _ = await world.manifest(world.settings.rounds.rounds - 1)
    for peer in peers:
        done = await peer.hears(CycleDone)
        assert done.state == final.next_state.hex()


def sent_by_coordinator(world: KeeperWorld) -> int:
    return world.host.links.blobs.traffic.up_bytes


def asked_of_coordinator(world: KeeperWorld) -> set[Digest]:
    """The blobs of which the coordinator is asked for chunks from now on, as it goes."""
    asked: set[Digest] = set()
    server = world.blobs.servers[COORDINATOR.peer_id]
    chunks = server.chunks

    def recorded(remote: PeerId, blob_id: Digest, **where: int) -> AsyncGenerator[bytes, None]:
        asked.add(blob_id)
        return chunks(remote, blob_id, **where)

    server.chunks = recorded  # type: ignore[method-assign]
    return asked


async def test_everybody_ends_with_the_same_state_and_the_coordinator_sends_no_part(
    tmp_path: Path,
) -> None:
    async with wide_world(tmp_path, peers=4) as world:
        peers = [world.peer().start() for _ in range(4)]
        world.start()
        first = await world.finished(0)
        before = sent_by_coordinator(world)  # the base and the cycle's first things
        await world.over()
        await ended(world, peers)
        for peer in peers:
            assert not peer.heard(ErrorRaised)
            assert {done.status for done in peer.heard(RoundDone)} == {"accepted"}
        for number in range(ROUNDS):
            manifest, _ = await world.manifest(number)
            assert len(manifest.parts) == PARTS
        assert sent_by_coordinator(world) == before
        assert first.parts


# --- reducers that fail -------------------------------------------------------------------------


def makers(world: KeeperWorld, commit_set: CommitSet, part: int) -> tuple[PeerId, ...]:
    """The reducer and the spare of a part."""
    peers = [signed.peer for signed in world.signed_commits(commit_set.header.round)]
    return ranked_reducers(commit_set.revealed_seed, peers, parts=PARTS)[part][:2]


def when_decided(
    world: KeeperWorld, number: int, act: Callable[[tuple[PeerId, ...]], Any], *, part: int = 0
) -> None:
    """Do something to the makers of a part in the moment when a round's manifest comes out."""
    closed: dict[int, CommitSet] = {}

    def before_publish(payload: Any) -> None:
        if isinstance(payload, CommitSet):
            closed[payload.header.round] = payload
        elif isinstance(payload, RoundManifest) and payload.header.round == number:
            act(makers(world, closed[number], part))

    world.before_publish = before_publish


async def test_a_reducer_that_dies_is_replaced_by_its_spare(tmp_path: Path) -> None:
    async with wide_world(tmp_path, peers=4) as world:
        peers = {peer.peer_id: peer for peer in (world.peer().start() for _ in range(4))}
        killed: list[asyncio.Task[None]] = []

        def kill(pair: tuple[PeerId, ...]) -> None:
            killed.append(asyncio.create_task(peers.pop(pair[0]).kill()))

        when_decided(world, 1, kill)
        asked = asked_of_coordinator(world)
        world.start()
        await world.over()
        assert len(killed) == 1
        await ended(world, list(peers.values()))
        for peer in peers.values():
            assert not peer.heard(ErrorRaised)
        manifest, _ = await world.manifest(1)
        assert not asked & {part.blob_id for part in manifest.parts}


async def test_wrong_reducer_is_dropped_with_the_reason_and_the_spare_is_asked(
    tmp_path: Path,
) -> None:
    async with wide_world(tmp_path, peers=4, rounds=1) as world:
        peers = [world.peer().start() for _ in range(4)]
        by_id = {peer.peer_id: peer for peer in peers}
        liars: list[PeerId] = []

        def lie(pair: tuple[PeerId, ...]) -> None:
            liars.append(pair[0])
            world.blobs.misbehaviour[pair[0]] = Misbehaviour.LIES
            for data in parts:  # it has something to lie about before the spare is done
                by_id[pair[0]].links.blobs.store.put(data)

        def before_sign(payload: Any) -> Any:
            if isinstance(payload, RoundManifest):
                store = world.host.links.blobs.store
                parts.extend(store.read(part.blob_id) for part in payload.parts)
            return payload

        parts: list[bytes] = []
        world.before_sign = before_sign
        when_decided(world, 0, lie)
        world.start()
        await world.over()
        await ended(world, peers)
        manifest, _ = await world.manifest(0)
        part = manifest.parts[0].blob_id
        reasons = {
            (fault.source, fault.code)
            for peer in peers
            for fault in peer.links.blobs.faults
            if fault.blob_id == part and fault.code == HashMismatch.code
        }
        assert reasons == {(liars[0], HashMismatch.code)}
        for peer in peers:
            assert not peer.heard(ErrorRaised)


async def test_wrong_reducer_and_wrong_spare_leave_the_coordinator_as_the_last_source(
    tmp_path: Path,
) -> None:
    async with wide_world(tmp_path, peers=4, rounds=1) as world:
        peers = [world.peer().start() for _ in range(4)]

        def lie(pair: tuple[PeerId, ...]) -> None:
            for peer in pair:
                world.blobs.misbehaviour[peer] = Misbehaviour.LIES

        when_decided(world, 0, lie, part=2)
        world.start()
        manifest = await world.finished(0)
        before, at_ms = sent_by_coordinator(world), world.clock.now_ms()
        await world.over()
        await ended(world, peers)
        assert world.clock.now_ms() - at_ms >= 5_000  # it let the peers try first
        sent = sent_by_coordinator(world) - before
        assert 0 < sent < 2 * 4 * manifest.parts[2].size_bytes


async def test_the_coordinator_serves_parts_late_but_after_a_restart_at_once(
    tmp_path: Path,
) -> None:
    async with wide_world(tmp_path, peers=4, rounds=1) as world:
        peers = [world.peer().start() for _ in range(4)]

        def lie(pair: tuple[PeerId, ...]) -> None:
            for peer in pair:
                world.blobs.misbehaviour[peer] = Misbehaviour.LIES

        when_decided(world, 0, lie)
        world.start()
        manifest = await world.finished(0)
        await world.kill()
        greedy = world.peer().links.blobs
        for ref in manifest.parts:
            with pytest.raises(BlobUnavailable):
                await fetch_part(greedy, ref)
        assert not greedy.store.ids()
        world.start()
        await world.over()
        await ended(world, peers)
        for ref in manifest.parts:
            await fetch_part(greedy, ref)


async def fetch_part(blobs: Blobs, ref: PartRef) -> None:
    source = COORDINATOR.peer_id
    await blobs.fetch(ref.blob_id, sources=[source], max_bytes=ref.size_bytes, timeout_s=5)


# --- a coordinator that lies --------------------------------------------------------------------


def signed_lie(world: KeeperWorld, manifest: RoundManifest, part: int) -> RoundManifest:
    """The same manifest with another sum in one part, and the state that this leads to."""
    store, training = world.host.links.blobs.store, world.host.config.training
    data = [store.read(ref.blob_id) for ref in manifest.parts]
    forged = bytearray(data[part])
    forged[-100] ^= 0xFF  # other codes: as valid as the true ones
    data[part] = bytes(forged)
    refs = list(manifest.parts)
    refs[part] = PartRef(store.put(data[part]), len(forged))
    plan = world.plan(manifest.header.round)
    parts = parts_of(world.task.layout, plan=plan, plan_sha256=manifest.plan_sha256)
    total = join_parts(data, training, parts)
    state = state_after(world.state(plan.state), total, training)
    following = store.put(encode_snapshot(state))
    return dataclasses.replace(manifest, parts=tuple(refs), next_state=following)


async def test_lying_coordinator_that_signs_another_part_is_found_by_those_who_make_it(
    tmp_path: Path,
) -> None:
    part = 2
    async with wide_world(tmp_path, peers=5, rounds=1) as world:
        peers = {peer.peer_id: peer for peer in (world.peer().start() for _ in range(5))}
        found: list[PeerId] = []
        when_decided(world, 0, found.extend, part=part)

        def lie(payload: Any) -> Any:
            return (
                signed_lie(world, payload, part) if isinstance(payload, RoundManifest) else payload
            )

        world.before_sign = lie
        world.start()
        await world.over()
        await ended(world, list(peers.values()))  # the signed state, whoever made it
        assert len(found) == 2
        for peer_id, peer in peers.items():
            errors = list(peer.heard(ErrorRaised))
            notes = [
                note.message
                for evidence in read_rounds(peer.folder / FOLDER, lambda finding: None)
                for note in evidence.notes
                if note.what == "mismatch"
            ]
            if peer_id not in found:
                assert not errors
                assert not notes
                continue
            assert [event.code for event in errors] == [StateMismatch.code]
            assert f"part {part} of {PARTS}" in errors[0].message
            assert notes == [errors[0].message]


# --- late, and corrected ------------------------------------------------------------------------


async def test_a_late_joiner_is_in_at_the_next_plan(tmp_path: Path) -> None:
    async with wide_world(tmp_path, peers=3) as world:
        peers = [world.peer().start() for _ in range(3)]
        world.start()
        await world.finished(0)
        late = world.peer().start()
        await world.over()
        await ended(world, [*peers, late])
        assert not late.heard(ErrorRaised)
        assert late.rig.trained[-1] == ROUNDS - 1


async def test_pieces_of_an_author_who_is_gone_come_from_the_coordinator(tmp_path: Path) -> None:
    async with wide_world(tmp_path, peers=4, rounds=1) as world:
        peers = {peer.peer_id: peer for peer in (world.peer().start() for _ in range(4))}

        def before_publish(payload: Any) -> None:
            if isinstance(payload, CommitSet):  # it sent its work to the coordinator, and left
                signed = world.signed_commits(0)[0]
                data = peers[signed.peer].links.blobs.store.read(signed.commit.blob_id)
                world.host.links.blobs.store.put(data)
                world.blobs.misbehaviour[signed.peer] = Misbehaviour.AWAY

        world.before_publish = before_publish
        world.start()
        manifest = await world.finished(0)
        assert all(entry.coefficient for entry in manifest.entries)
        before = sent_by_coordinator(world)
        await world.over()
        await ended(world, list(peers.values()))
        sent = sent_by_coordinator(world) - before
        assert 0 < sent < 4 * world.host.config.limits.max_blob_bytes


async def test_a_poisoned_round_is_corrected_from_the_parts_of_what_is_left(
    tmp_path: Path,
) -> None:
    training = TRAINING | {"max_steps": 30, "codec_bits": 2, "inner_lr": 2e-4}
    async with wide_world(tmp_path, peers=3, rounds=5, training=training, examples=128) as world:
        good = [world.peer().start() for _ in range(2)]
        cheat = poisoner(world, 2).start()
        asked = asked_of_coordinator(world)
        world.start()
        await world.over()
        await ended(world, [*good, cheat])
        manifest, _ = await world.manifest(3)
        assert manifest.next_state not in asked  # nobody needed a snapshot
        (correction,) = manifest.corrections
        assert len(manifest.parts) == PARTS
        assert PoisonFound.code in {entry.code for entry in correction.entries}
        for peer in (*good, cheat):
            assert len(peer.heard(RoundCorrected)) == 1
            assert not peer.heard(ErrorRaised)
        assert manifest.next_state == recomputed(world, 2, correction.entries)


def recomputed(world: KeeperWorld, number: int, entries: Any) -> Digest:
    """The corrected state as anybody computes it who holds the contributions."""
    training, layout, plan = world.host.config.training, world.task.layout, world.plan(number)
    used = [
        (world.contribution(signed), entry.coefficient)
        for signed, entry in zip(world.signed_commits(number), entries, strict=True)
        if entry.coefficient
    ]
    parts = parts_of(layout, plan=plan, plan_sha256=world.rows()[number].plan_sha256)
    total = join_parts(encode_sum(used, training, parts), training, parts)
    state = state_after(world.state(plan.state), total, training)
    return blob_id_of(encode_snapshot(dataclasses.replace(state, round=number + 2)))
