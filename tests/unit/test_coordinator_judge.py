"""One manifest entry per commit, whatever the contributions hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.judge import MAX_MESSAGE_CHARS, Judged, judge_contributions
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import EntryStatus, ManifestEntry, RoundManifest
from ares_p2p.errors import CommitWithoutBlob, NonFinite, PeerFault, ShapeMismatch
from ares_p2p.ids import sha256
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.rounds.manifest import build_manifest, check_manifest
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.replica import (
    bind_layout,
    encode_contribution,
    open_contribution,
)
from ares_p2p.wire.codec import open_envelope, seal
from payloads import identity
from sim.samples import COORDINATOR, TRAINING, header, open_round

LAYOUT = layout_of_shapes({f"t{i}": (8, 16) for i in range(6)})
ROUND = open_round(layout_sha256=LAYOUT.digest_sha256)
RNG = np.random.default_rng(0)
SCALE = np.float32(0.001)  # a hundredth of what the sample's steps reach: room for long ones
COMMON: Vector = RNG.standard_normal(LAYOUT.size, dtype=np.float32) * SCALE


def commits(count: int) -> list[SignedCommit]:
    made = [ROUND.signed(identity(number)) for number in range(count)]
    return sorted(made, key=lambda signed: signed.sha256)


def honest() -> Vector:
    noise = RNG.standard_normal(LAYOUT.size, dtype=np.float32) * SCALE
    vector: Vector = COMMON + np.float32(0.3) * noise
    return vector


def contribution(vector: Vector) -> VectorSource:
    """Return `vector` as it arrives: encoded, checked."""
    layout = bind_layout(LAYOUT, plan_sha256=bytes(32), peer=identity(1).peer_id)
    data = encode_contribution(np.zeros_like(vector), -vector, layout=layout, training=TRAINING)
    return open_contribution(data, layout=layout, training=TRAINING)


def judged(outcomes: Sequence[VectorSource | PeerFault]) -> list[Judged]:
    """Judge, and check what must hold of every judgement: a manifest that everybody accepts."""
    closed = commits(len(outcomes))
    result = judge_contributions(closed, outcomes, layout=LAYOUT)
    assert [item.signed for item in result] == closed
    manifest = build_manifest(
        header=header(),
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=sha256(b"set"),
        entries=[item.entry for item in result],
        next_state=sha256(b"next"),
        next_state_size_bytes=1,
        final=False,
    )
    opened = open_envelope(seal(COORDINATOR, manifest), RoundManifest, signer=COORDINATOR.peer_id)
    assert opened == manifest
    check_manifest(
        opened,
        commits=closed,
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=sha256(b"set"),
    )
    return result


def entries(outcomes: Sequence[VectorSource | PeerFault]) -> list[ManifestEntry]:
    return [item.entry for item in judged(outcomes)]


def test_honest_contributions_are_accepted_and_keep_their_vectors() -> None:
    outcomes = [contribution(honest()) for _ in range(5)]
    result = judged(outcomes)
    assert [item.entry.status for item in result] == [EntryStatus.ACCEPTED] * 5
    assert [item.vector for item in result] == outcomes
    assert sum(item.entry.coefficient for item in result) == pytest.approx(1, abs=0.05)
    assert {(item.entry.code, item.entry.message) for item in result} == {("", "")}


def test_each_fate_has_its_status_code_and_reason_in_the_place_of_its_commit() -> None:
    outcomes: list[VectorSource | PeerFault] = [
        contribution(honest()),
        CommitWithoutBlob("nobody served it"),
        contribution(honest()),
        contribution(np.zeros(LAYOUT.size, dtype=np.float32)),
        contribution(honest()),
        contribution(-honest()),
        contribution(honest()),
        contribution(np.float32(20) * honest()),
        ShapeMismatch("another layout"),
    ]
    found = [(entry.status.value, entry.code) for entry in entries(outcomes)]
    assert found == [
        ("accepted", ""),
        ("refused", "ARES-E067"),
        ("accepted", ""),
        ("refused", "ARES-E058"),
        ("accepted", ""),
        ("refused", "ARES-E070"),
        ("accepted", ""),
        ("clipped", "ARES-E073"),
        ("refused", "ARES-E066"),
    ]
    for entry in entries(outcomes):
        assert bool(entry.message) == bool(entry.code)


def test_faulty_outcomes_have_no_vector_and_do_not_count() -> None:
    result = judged([contribution(honest()), NonFinite("NaN")])
    assert result[0].entry.coefficient == 1.0
    assert result[1].vector is None
    assert result[1].entry.coefficient == 0.0


def test_nothing_usable_at_all() -> None:
    assert judged([]) == []
    refused = entries([NonFinite("NaN"), CommitWithoutBlob("none")])
    assert {entry.status for entry in refused} == {EntryStatus.REFUSED}


def test_messages_are_short_and_printable_whatever_a_remote_said() -> None:
    long, strange = entries([NonFinite("x" * 999), NonFinite("a\nb\x07\u00e4")])
    assert len(long.message) == MAX_MESSAGE_CHARS
    assert strange.message == "a?b??"


def test_outcomes_and_commits_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        judge_contributions(commits(2), [contribution(honest())], layout=LAYOUT)


@given(
    st.lists(
        st.sampled_from(["honest", "zero", "flip", "noise", "huge", "tiny", "fault"]), max_size=9
    ),
    st.integers(0, 2**32),
)
def test_any_mixture_gives_a_manifest_that_everybody_accepts(kinds: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)

    def made(kind: str) -> VectorSource | PeerFault:
        noise = rng.standard_normal(LAYOUT.size, dtype=np.float32)
        vectors: dict[str, Vector] = {
            "honest": COMMON + SCALE * noise / 2,
            "zero": np.zeros_like(noise),
            "flip": np.float32(-10) * COMMON,
            "noise": SCALE * noise,
            "huge": noise * np.float32(0.085 / np.abs(noise).max()),  # as far as the steps reach
            "tiny": np.float32(1e-7) * noise,
        }
        return NonFinite("NaN") if kind == "fault" else contribution(vectors[kind])

    for item in judged([made(kind) for kind in kinds]):
        assert 0 <= item.entry.coefficient <= 1
        assert dataclasses.is_dataclass(item)
