"""Attacks that are refused for what they are: each leaves its reason, and no trace in the states.

One test for each line of docs/attacks.md; `sim.attacks` says what is checked of all of them.
"""

from __future__ import annotations

import pytest

from ares_p2p.errors import (
    BadSignature,
    BeyondReach,
    CommitLate,
    CommitReplayed,
    CommitWithoutBlob,
    EnvelopeMalformed,
    Equivocation,
    HashMismatch,
    NonFinite,
    Oversize,
    PayloadMalformed,
    RateLimited,
    ShapeMismatch,
    StepsOutOfRange,
    WeakKey,
    WrongState,
)
from sim import behaviours as act
from sim.attacks import (
    BAD,
    FEW_ROUNDS,
    HONEST,
    attackers,
    check_no_trace,
    check_one_state_for_all,
    check_refused,
    clean,
    swarm,
)
from sim.samples import LIMITS

# --- contributions -----------------------------------------------------------------------------


def test_free_rider_that_sends_zeros_is_refused() -> None:
    check_refused(act.Zero, PayloadMalformed, says="nothing but zeros")


def test_free_rider_that_says_it_trained_from_another_state_is_refused() -> None:
    check_refused(act.StaleState, WrongState, says="trained from state")


def test_free_rider_that_chooses_its_examples_is_refused() -> None:
    check_refused(act.OtherData, StepsOutOfRange, says="the assignment starts at")


def test_sign_flip_times_ten_is_refused() -> None:
    """For its size already; of honest length it is `test_attacks_weighed`'s."""
    check_refused(lambda: act.Scaled(-10), BeyondReach, says="the round's steps reach")


def test_contribution_scaled_by_a_million_is_refused() -> None:
    check_refused(lambda: act.Scaled(1e6), BeyondReach, says="the round's steps reach")


def test_noise_ten_times_as_long_as_work_is_refused() -> None:
    check_refused(lambda: act.Noise(10), BeyondReach, says="the round's steps reach")


def test_nan_in_a_contribution_is_refused() -> None:
    check_refused(act.NanBlob, NonFinite, says="NaN")


def test_malformed_blob_of_another_shape_is_refused() -> None:
    check_refused(act.WrongShape, ShapeMismatch, says="elements")


def test_malformed_blob_that_is_cut_off_is_refused() -> None:
    check_refused(act.Truncated, PayloadMalformed, says="expected")


def test_malformed_blob_of_garbage_is_refused() -> None:
    check_refused(act.Garbage, PayloadMalformed, says="magic")


def test_malformed_blob_with_more_after_its_end_is_refused() -> None:
    check_refused(act.Trailing, Oversize, says="at most")


def test_oversized_blob_that_says_so_is_refused() -> None:
    played = check_refused(act.OversizeBlob, Oversize, says="a blob of")
    assert all(len(report.manifest.entries) == HONEST for report in played.reports)  # not fetched


def test_oversized_blob_that_says_otherwise_is_refused() -> None:
    check_refused(act.UnderstatedBlob, Oversize, says="at most")


def test_other_bytes_than_committed_are_refused() -> None:
    check_refused(act.OtherBytes, HashMismatch, says="these bytes are not blob")


def test_commit_without_blob_is_refused() -> None:
    check_refused(act.NoBlob, CommitWithoutBlob, says="nobody serves blob")


def test_free_rider_that_copies_a_blob_is_refused() -> None:
    """Before the close nobody has it; afterwards it says inside whose and for which round it is."""
    copiers: list[act.Copier] = []

    def copier() -> act.Copier:
        copiers.append(act.Copier())
        return copiers[-1]

    check_refused(copier, ShapeMismatch, says="contribution of layout")
    assert [copier.failures for copier in copiers] == [FEW_ROUNDS] * BAD


# --- commits -----------------------------------------------------------------------------------


def test_huge_declared_tokens_are_refused() -> None:
    check_refused(act.HugeTokens, StepsOutOfRange, says="tokens in")


def test_huge_declared_steps_are_refused() -> None:
    check_refused(act.HugeSteps, StepsOutOfRange, says="steps, 4 to 10 expected")


def test_negative_declared_tokens_are_refused() -> None:
    """There is no sign on the wire: what was -1 arrives as a number that is out of range."""
    check_refused(act.NegativeTokens, PayloadMalformed, says="tokens")


def test_late_commit_is_refused() -> None:
    check_refused(act.Late, CommitLate, says="after the deadline")


def test_forged_envelope_is_refused_and_listed_under_who_sent_it() -> None:
    played = check_refused(act.Forger, BadSignature, says="signature")
    victim = played.peers[0]
    assert played.codes_of(victim) == {}
    assert played.weight_of(victim) > 0


def test_small_order_key_is_refused() -> None:
    check_refused(act.SmallOrderKey, WeakKey, says="key")


def test_what_is_no_envelope_is_turned_away() -> None:
    played = swarm(*(act.NoEnvelope() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS))
    for report in played.reports:
        assert set(report.turned_away) == {EnvelopeMalformed.code, Oversize.code}


def test_replayed_commit_of_another_round_is_refused_in_every_later_round() -> None:
    played = swarm(*(act.Replayer() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_one_state_for_all(played)
    bad = attackers(played)
    assert played.codes_of(*bad) == {CommitReplayed.code: BAD * (FEW_ROUNDS - 1)}
    assert all("a commit for cycle" in sentence for _, sentence in played.reasons_of(*bad))
    for report in played.reports[1:]:
        assert len(report.manifest.entries) == HONEST


def test_replayed_commits_of_other_peers_are_listed_under_who_sent_them() -> None:
    played = swarm(act.Stranger(), rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS))
    bad = attackers(played)
    assert played.codes_of(*bad) == {CommitReplayed.code: FEW_ROUNDS}  # once a round
    assert any("sent by another peer" in sentence for _, sentence in played.reasons_of(*bad))
    assert played.codes_of(*played.peers[:HONEST]) == clean(FEW_ROUNDS).codes()


def test_two_commits_are_listed_and_only_the_first_counts() -> None:
    played = swarm(*(act.TwoCommits() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_one_state_for_all(played)
    bad = attackers(played)
    assert played.codes_of(*bad)[Equivocation.code] == BAD * FEW_ROUNDS
    sentence = "a second, different commit for the same round"
    assert (Equivocation.code, sentence) in played.reasons_of(*bad)
    for report in played.reports:
        assert len(report.manifest.entries) == HONEST + BAD
    assert set(played.coordinator.book.equivocations) == {peer.peer_id for peer in bad}
    assert played.loss < 1.02 * clean(FEW_ROUNDS).loss


def test_crowd_of_fresh_identities_cannot_keep_a_round_from_closing() -> None:
    lies = [act.HugeTokens() for _ in range(LIMITS.max_peers_per_round + 10)]
    played = swarm(*lies, honest=3, rounds=1)
    report = played.reports[0]
    assert report.turned_away == {StepsOutOfRange.code: len(lies)}
    assert 20 < len(report.commit_set.refusals) <= 64
    assert len(report.manifest.entries) == 3
    check_no_trace(played, clean(1, honest=3))


def test_crowd_of_fresh_identities_that_fills_the_round_is_told_that_it_is_full() -> None:
    """Seats are for whoever comes; what those who sit there are paid is the audits' matter."""
    played = swarm(*(act.Noise(1.0) for _ in range(LIMITS.max_peers_per_round)), honest=4, rounds=1)
    report = played.reports[0]
    assert len(report.manifest.entries) == LIMITS.max_peers_per_round
    assert report.turned_away == {RateLimited.code: 4}
    refused = [item for item in report.commit_set.refusals if item.code == RateLimited.code]
    assert refused[0].message == f"the round is full ({LIMITS.max_peers_per_round} peers)"


def test_all_of_them_at_once() -> None:
    refused = (
        act.Zero, act.NanBlob, act.WrongShape, act.Truncated, act.Garbage, act.Trailing,
        act.OversizeBlob, act.UnderstatedBlob, act.OtherBytes, act.NoBlob, act.HugeTokens,
        act.HugeSteps, act.NegativeTokens, act.OtherData, act.StaleState, act.Late, act.Forger,
        act.SmallOrderKey,
    )  # fmt: skip
    played = swarm(*(factory() for factory in refused), rounds=2)
    check_no_trace(played, clean(2))


@pytest.mark.parametrize("honest", [1, 2])
def test_contribution_scaled_by_a_million_cannot_even_hurt_a_tiny_round(honest: int) -> None:
    """One or two peers have no median; what steps can make is known all the same."""
    played = swarm(act.Scaled(-1e6), honest=honest, rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS, honest=honest))
