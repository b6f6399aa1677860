"""Who lies about what a round came to: the coordinator, a peer in its name, a peer that serves states.

Everybody fetches everything here, so every peer reduces for itself, and a wrong sum reaches others
only as a state that somebody signs or serves. Reducers of parts are in `test_butterfly`.
"""

from __future__ import annotations

import dataclasses

import pytest

from ares_p2p.crypto.envelope import sign_payload
from ares_p2p.domain import CommitSet, RoundManifest
from ares_p2p.errors import HashMismatch, PayloadMalformed, StateMismatch, WrongSigner
from ares_p2p.ids import sha256
from ares_p2p.training.state import encode_snapshot, state_digest
from ares_p2p.wire.codec import decode_envelope, encode_envelope, open_envelope, seal
from ares_p2p.wire.v1 import ares_pb2 as pb
from sim import behaviours as act
from sim.samples import COORDINATOR
from sim.swarm import Behaviour, Swarm


def one_round_open() -> tuple[Swarm, bytes, bytes]:
    """A round of four honest peers up to its end, and what the coordinator signed."""
    played = Swarm([Behaviour()] * 4, rounds=2)
    plan = played.coordinator.open_round(0)
    for peer in played.peers:
        for message in peer.work(plan):
            played.coordinator.submit(message, sender=peer.peer_id)
    commit_set = played.coordinator.close()
    for peer in played.peers:
        peer.serve()
    return played, commit_set, played.coordinator.finish(commit_set)


def signed(manifest: RoundManifest) -> bytes:
    return encode_envelope(seal(COORDINATOR, manifest))


# --- a lying coordinator -----------------------------------------------------------------------


def test_lying_coordinator_that_signs_another_state_is_found_by_everybody() -> None:
    played, commit_set, manifest_data = one_round_open()
    manifest = open_envelope(decode_envelope(manifest_data), RoundManifest)
    for peer in played.peers:
        lie = signed(dataclasses.replace(manifest, next_state=sha256(b"")))
        with pytest.raises(StateMismatch, match="another sum than the coordinator's"):
            peer.follow(commit_set, lie)


def test_lying_coordinator_that_favours_a_contribution_is_found_by_everybody() -> None:
    """The coefficients are its word, but the state that they lead to is everybody's to compute."""
    played, commit_set, manifest_data = one_round_open()
    manifest = open_envelope(decode_envelope(manifest_data), RoundManifest)
    first, *others = manifest.entries
    half = dataclasses.replace(first, coefficient=first.coefficient / 2)
    lie = signed(dataclasses.replace(manifest, entries=(half, *others)))
    for peer in played.peers:
        with pytest.raises(StateMismatch, match="another sum than the coordinator's"):
            peer.follow(commit_set, lie)


@pytest.mark.parametrize("coefficient", [-0.25, 1.5, 1e6])
def test_negative_or_huge_weight_in_a_manifest_is_refused_by_everybody(coefficient: float) -> None:
    played, commit_set, manifest_data = one_round_open()
    envelope = decode_envelope(manifest_data)
    message = pb.RoundManifest.FromString(envelope.payload)  # we ourselves could not encode it
    message.entries[0].coefficient = coefficient
    lie = sign_payload(COORDINATOR, envelope.payload_type, message.SerializeToString())
    for peer in played.peers:
        with pytest.raises(PayloadMalformed, match="coefficient"):
            peer.follow(commit_set, encode_envelope(lie))


def test_lying_coordinator_that_leaves_a_closed_contribution_out_is_found_by_everybody() -> None:
    played, commit_set, manifest_data = one_round_open()
    manifest = open_envelope(decode_envelope(manifest_data), RoundManifest)
    lie = signed(dataclasses.replace(manifest, entries=manifest.entries[1:]))
    for peer in played.peers:
        with pytest.raises(HashMismatch, match="does not list the closed commits"):
            peer.follow(commit_set, lie)


def test_lying_coordinator_that_tampers_with_the_commits_is_found_by_everybody() -> None:
    played, set_data, manifest = one_round_open()
    commit_set = open_envelope(decode_envelope(set_data), CommitSet)
    for lie in (
        dataclasses.replace(commit_set, root=sha256(b"")),
        dataclasses.replace(commit_set, commits=commit_set.commits[1:]),
        dataclasses.replace(commit_set, commits=commit_set.commits[::-1]),
        dataclasses.replace(commit_set, revealed_seed=sha256(b"a seed that suits me")),
    ):
        for peer in played.peers:
            with pytest.raises(HashMismatch):
                peer.follow(encode_envelope(seal(COORDINATOR, lie)), manifest)


# --- a peer that speaks for it -----------------------------------------------------------------


def test_nobody_but_the_coordinator_ends_a_round() -> None:
    played, set_data, manifest_data = one_round_open()
    manifest = open_envelope(decode_envelope(manifest_data), RoundManifest)
    usurped = encode_envelope(seal(played.peers[0].identity, manifest))
    with pytest.raises(WrongSigner, match="signed by"):
        played.peers[1].follow(set_data, usurped)
    played.peers[1].follow(set_data, manifest_data)


# --- a wrong reducer ---------------------------------------------------------------------------


def test_wrong_reducer_that_serves_its_own_sum_is_refused_and_the_true_state_is_taken() -> None:
    """A late joiner asks for the signed state, and gets another one under its name."""
    played = Swarm([*(Behaviour() for _ in range(3)), act.LateJoiner(2)], rounds=4)
    for _ in range(2):
        played.play_round()
    truth = played.coordinator.state
    wrong = dataclasses.replace(truth, theta=truth.theta + 1)
    plan = played.coordinator.open_round(2)
    played.world.blobs.serve(encode_snapshot(wrong), name=state_digest(truth))
    late = played.peers[3]
    with pytest.raises(HashMismatch, match="these bytes are not blob"):
        late.work(plan)
    assert late.state is None
    played.world.blobs.serve(encode_snapshot(truth))  # by anybody else
    late.work(plan)
    assert late.state is not None
    assert state_digest(late.state) == state_digest(truth)
    assert late.snapshots_fetched == 1


def test_wrong_reducer_that_computes_another_sum_says_so_and_fetches_the_signed_state() -> None:
    """A peer with a broken adder, or whose disk lies: it is told, and it does not drift away."""
    played = Swarm([Behaviour() for _ in range(4)], rounds=3)
    played.play_round()
    plan = played.coordinator.open_round(1)
    for peer in played.peers:
        for message in peer.work(plan):
            played.coordinator.submit(message, sender=peer.peer_id)
    commit_set = played.coordinator.close()
    for peer in played.peers:
        peer.serve()
    manifest = played.coordinator.finish(commit_set)
    broken, *others = played.peers
    assert broken.state is not None
    broken.state = dataclasses.replace(broken.state, mu=broken.state.mu + 1)
    fetched = broken.snapshots_fetched
    broken.follow(commit_set, manifest)  # it noticed that it did not hold S_r
    assert broken.snapshots_fetched == fetched + 1
    for peer in others:
        peer.follow(commit_set, manifest)
    assert len({state_digest(peer.state) for peer in played.peers if peer.state}) == 1
