"""A round's judgement made anew without some of it, and the state that this leads to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from ares_coordinator.alarm.remake import (
    paid_although_poison,
    reason_of,
    set_aside,
    suspects_of,
    used_vectors,
    without,
)
from ares_coordinator.judge import MAX_MESSAGE_CHARS, Judged, judge_contributions
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import EntryStatus
from ares_p2p.errors import CommitWithoutBlob, NormClipped, PeerFault, PoisonFound, RoundSetAside
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.replica import (
    bind_layout,
    corrected_state,
    encode_contribution,
    next_state,
    open_contribution,
)
from ares_p2p.training.state import TrainingState, state_digest
from payloads import identity
from sim.samples import TRAINING, open_round

LAYOUT = layout_of_shapes({f"t{i}": (8, 16) for i in range(6)})
ROUND = open_round(layout_sha256=LAYOUT.digest_sha256)
RNG = np.random.default_rng(0)
COMMON: Vector = RNG.standard_normal(LAYOUT.size, dtype=np.float32) * np.float32(0.01)
GONE = CommitWithoutBlob("nobody served the committed blob")


def commits(count: int) -> list[SignedCommit]:
    made = [ROUND.signed(identity(number)) for number in range(count)]
    return sorted(made, key=lambda signed: signed.sha256)


def contribution(factor: float = 1.0) -> VectorSource:
    noise = RNG.standard_normal(LAYOUT.size, dtype=np.float32) * np.float32(0.003)
    vector = np.float32(factor) * (COMMON + noise)
    layout = bind_layout(LAYOUT, plan_sha256=bytes(32), peer=identity(1).peer_id)
    data = encode_contribution(np.zeros_like(vector), -vector, layout=layout, training=TRAINING)
    return open_contribution(data, layout=layout, training=TRAINING)


def judged(outcomes: Sequence[VectorSource | PeerFault]) -> list[Judged]:
    return judge_contributions(commits(len(outcomes)), outcomes, layout=LAYOUT)


ROUND_OF_FIVE = judged([contribution(), contribution(4.0), GONE, contribution(), contribution()])
NAMES = [item.signed.sha256 for item in ROUND_OF_FIVE]


def test_the_suspects_are_what_counts_the_least_weighted_first() -> None:
    assert ROUND_OF_FIVE[1].entry.code == NormClipped.code
    suspects = suspects_of(ROUND_OF_FIVE)
    assert suspects[0] == NAMES[1]
    assert set(suspects) == set(NAMES) - {NAMES[2]}


def test_without_a_contribution_the_others_are_judged_as_if_it_had_never_come() -> None:
    kept = without(ROUND_OF_FIVE, {NAMES[1]}, layout=LAYOUT, message="it hurt")
    assert [item.signed for item in kept] == [item.signed for item in ROUND_OF_FIVE]
    out, gone = kept[1].entry, kept[2].entry
    assert (out.status, out.coefficient, out.code, out.message) == (
        EntryStatus.REFUSED,
        0.0,
        PoisonFound.code,
        "it hurt",
    )
    assert gone == ROUND_OF_FIVE[2].entry
    rest = [ROUND_OF_FIVE[number] for number in (0, 3, 4)]
    alone = judge_contributions(
        [item.signed for item in rest],
        [item.vector for item in rest if item.vector is not None],
        layout=LAYOUT,
    )
    assert [kept[number].entry for number in (0, 3, 4)] == [item.entry for item in alone]
    assert len(used_vectors(kept)) == 3


def test_without_everything_nothing_counts() -> None:
    kept = without(ROUND_OF_FIVE, NAMES, layout=LAYOUT)
    assert used_vectors(kept) == []
    assert suspects_of(kept) == []


def test_what_was_refused_is_not_brought_back_when_a_liar_is_gone() -> None:
    flipped = judged([contribution(), contribution(), contribution(), contribution(-1.0)])
    refused = flipped[3]
    assert refused.entry.coefficient == 0.0
    others = {item.signed.sha256 for item in flipped[:2]}
    assert without(flipped, others, layout=LAYOUT)[3] == refused  # of two nobody opposes


def test_a_round_is_set_aside_with_the_number_that_people_count() -> None:
    aside = set_aside(ROUND_OF_FIVE, corrected_round=4)
    assert aside[2] == ROUND_OF_FIVE[2]
    for item in (*aside[:2], *aside[3:]):
        entry = item.entry
        assert (entry.status, entry.coefficient) == (EntryStatus.ACCEPTED, 0.0)
        assert entry.code == RoundSetAside.code
        assert "round 5 was corrected" in entry.message
    assert used_vectors(aside) == []


def test_what_the_last_round_leaves_out_is_accepted_for_its_audit() -> None:
    kept = without(ROUND_OF_FIVE, {NAMES[1]}, layout=LAYOUT, message="it hurt")
    paid = paid_although_poison(kept)
    entry = paid[1].entry
    assert (entry.status, entry.coefficient) == (EntryStatus.ACCEPTED, 0.0)
    assert (entry.code, entry.message) == (PoisonFound.code, "it hurt")
    assert [paid[n] for n in (0, 2, 3, 4)] == [kept[n] for n in (0, 2, 3, 4)]


@pytest.mark.parametrize("removed", [1, 2, 50])
def test_the_reason_holds_the_numbers_and_fits_a_record(removed: int) -> None:
    text = reason_of(before=10.1234, bad=19.87654, after=10.1, removed=removed)
    assert "10.1234" in text
    assert "19.8765" in text
    assert text.endswith("10.1000")
    assert len(text) <= MAX_MESSAGE_CHARS


def test_the_corrected_state_is_the_clean_one_under_the_number_of_the_round_that_follows() -> None:
    vectors = used_vectors(without(ROUND_OF_FIVE, {NAMES[1]}, layout=LAYOUT))
    theta = RNG.standard_normal(LAYOUT.size, dtype=np.float32)
    mu = RNG.standard_normal(LAYOUT.size, dtype=np.float32)
    start = TrainingState(1, 6, LAYOUT.digest_sha256, theta, mu)
    clean = next_state(start, vectors, TRAINING)
    corrected = corrected_state(start, vectors, TRAINING)
    assert (clean.round, corrected.round) == (7, 8)
    assert np.array_equal(corrected.theta, clean.theta)
    assert np.array_equal(corrected.mu, clean.mu)
    assert not np.array_equal(corrected.mu, mu)  # the momentum moves on, too
    assert state_digest(corrected) == state_digest(dataclasses.replace(clean, round=8))
    assert state_digest(corrected) != state_digest(clean)
    nothing = corrected_state(start, [], TRAINING)
    assert np.array_equal(nothing.theta, theta)
    assert np.array_equal(nothing.mu, mu)
