"""Whole cycles in memory: one state for everybody, and what each attack comes to.

Two kinds of attack differ in what must hold. What is refused for what it *is* (signature, time,
shape, size, missing) leaves no trace: the first state is bit for bit that of the honest peers
alone. (Later ones differ in the last bit: refusals change the digests of plans and commits, and
those are the order of the sum.) What is a well-formed lie can only be weighed: the loss must stay
within 2 % of the honest peers'.
The attackers are three of ten; the honest seven are the same peers with the same data in both.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from ares_p2p.domain import CommitSet, RoundManifest
from ares_p2p.errors import (
    BadSignature,
    CommitLate,
    CommitReplayed,
    CommitWithoutBlob,
    EnvelopeMalformed,
    Equivocation,
    HashMismatch,
    NonFinite,
    NormClipped,
    OpposesOthers,
    Oversize,
    PayloadMalformed,
    PeerFault,
    ShapeMismatch,
    StateMismatch,
    StepsOutOfRange,
    WeakKey,
    WrongState,
)
from ares_p2p.ids import sha256
from ares_p2p.wire.codec import decode_envelope, encode_envelope, open_envelope, seal
from sim import behaviours as act
from sim.samples import COORDINATOR, LIMITS
from sim.swarm import Behaviour, Peer, Swarm

HONEST, BAD = 7, 3
ROUNDS = 16  # enough for nine tenths of what thirty rounds learn
FEW_ROUNDS = 4


def swarm(*others: Behaviour, honest: int = HONEST, rounds: int = ROUNDS) -> Swarm:
    return Swarm([*(Behaviour() for _ in range(honest)), *others], rounds=rounds).run()


@cache
def clean(rounds: int = ROUNDS, honest: int = HONEST) -> Swarm:
    """The honest peers alone."""
    return swarm(honest=honest, rounds=rounds)


def attackers(played: Swarm) -> list[Peer]:
    return played.peers[HONEST:]


def check_one_state_for_all(played: Swarm) -> None:
    for report in played.reports:
        assert set(report.digests.values()) == {report.manifest.next_state}


def check_no_trace(played: Swarm, honest: Swarm) -> None:
    check_one_state_for_all(played)
    assert played.digests[0] == honest.digests[0]
    for ours, theirs in zip(played.reports, honest.reports, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=2e-3)


# --- honest swarms ----------------------------------------------------------------------------


def test_a_swarm_learns() -> None:
    played = clean()
    check_one_state_for_all(played)
    assert played.first_loss > 2.2
    assert played.loss < 1.31
    losses = [report.loss for report in played.reports]
    assert losses[9] < losses[0] < played.first_loss
    assert played.reports[-1].manifest.final
    assert not any(report.manifest.final for report in played.reports[:-1])
    assert sum(played.codes().values()) <= 2  # honest work refused: one or two of 140


def test_the_same_seed_gives_the_same_states_and_another_seed_others() -> None:
    people = [Behaviour(), act.Slow(), act.Noise(3.0), act.LateJoiner(2)]
    first = Swarm(people, seed=5, rounds=FEW_ROUNDS).run()
    assert Swarm(people, seed=5, rounds=FEW_ROUNDS).run().digests == first.digests
    assert Swarm(people, seed=6, rounds=FEW_ROUNDS).run().digests != first.digests


def test_the_order_of_arrival_changes_nothing() -> None:
    people = [Behaviour(), act.Slow(), Behaviour(), act.Late(), act.Scaled(-10), act.NoBlob()]
    runs = [Swarm(people, arrival_seed=n, rounds=FEW_ROUNDS).run() for n in range(3)]
    for other in runs[1:]:
        assert other.digests == runs[0].digests
        for ours, theirs in zip(other.reports, runs[0].reports, strict=True):
            assert ours.manifest == theirs.manifest
            assert ours.commit_set.commits == theirs.commit_set.commits


def test_late_joiners_and_returners_hold_the_same_state() -> None:
    played = swarm(
        act.LateJoiner(7), act.Crasher(dies=5, returns=9), act.Slow(), honest=4, rounds=14
    )
    check_one_state_for_all(played)
    late, crashed, slow = played.peers[4:]
    assert (late.snapshots_fetched, crashed.snapshots_fetched, slow.snapshots_fetched) == (1, 1, 0)
    assert played.codes_of(crashed) == {CommitWithoutBlob.code: 1}  # the round that it died in
    assert sum(crashed.peer_id in report.digests for report in played.reports) == 14 - 4
    assert late.peer_id not in played.reports[6].digests
    assert late.peer_id in played.reports[7].digests
    assert played.loss < 1.02 * clean(14).loss


def test_a_lone_peer_and_a_pair_train_too() -> None:
    for honest in (1, 2):
        played = swarm(honest=honest, rounds=8)
        check_one_state_for_all(played)
        assert played.reports[-1].loss < played.first_loss - 0.5


def test_rounds_without_usable_work_keep_the_parameters() -> None:
    played = swarm(act.NoBlob(), act.NanBlob(), honest=0, rounds=2)
    check_one_state_for_all(played)
    assert [report.loss for report in played.reports] == [played.first_loss] * 2


# --- refused for what it is: no trace in the states -------------------------------------------

Factory = Callable[[], Behaviour]
WITHOUT_TRACE: dict[str, tuple[Factory, type[PeerFault]]] = {
    "zero update": (act.Zero, PayloadMalformed),
    "NaN": (act.NanBlob, NonFinite),
    "wrong shape": (act.WrongShape, ShapeMismatch),
    "truncated": (act.Truncated, PayloadMalformed),
    "garbage": (act.Garbage, PayloadMalformed),
    "trailing byte": (act.Trailing, Oversize),
    "oversize blob": (act.OversizeBlob, Oversize),
    "more than committed": (act.UnderstatedBlob, Oversize),
    "other bytes": (act.OtherBytes, HashMismatch),
    "commit without blob": (act.NoBlob, CommitWithoutBlob),
    "huge declared tokens": (act.HugeTokens, StepsOutOfRange),
    "huge declared steps": (act.HugeSteps, StepsOutOfRange),
    "data of its own choice": (act.OtherData, StepsOutOfRange),
    "stale state": (act.StaleState, WrongState),
    "late": (act.Late, CommitLate),
}


@pytest.mark.parametrize("name", WITHOUT_TRACE)
def test_what_is_refused_leaves_no_trace_but_its_reason(name: str) -> None:
    factory, fault = WITHOUT_TRACE[name]
    played = swarm(*(factory() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS))
    bad = attackers(played)
    assert played.codes_of(*bad) == {fault.code: BAD * FEW_ROUNDS}
    assert played.codes_of(*played.peers[:HONEST]) == clean(FEW_ROUNDS).codes()
    assert played.weight_of(*bad) == 0


UNSIGNED: dict[str, tuple[Factory, type[PeerFault]]] = {
    "forged envelope": (act.Forger, BadSignature),
    "small-order key": (act.SmallOrderKey, WeakKey),
}


@pytest.mark.parametrize("name", UNSIGNED)
def test_what_nobody_signed_is_listed_under_who_sent_it(name: str) -> None:
    factory, fault = UNSIGNED[name]
    played = swarm(*(factory() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS))
    assert played.codes_of(*attackers(played)) == {fault.code: BAD * FEW_ROUNDS}
    assert played.codes_of(*played.peers[:HONEST]) == clean(FEW_ROUNDS).codes()


def test_what_is_no_envelope_is_turned_away() -> None:
    played = swarm(*(act.NoEnvelope() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS))
    for report in played.reports:
        assert set(report.turned_away) == {EnvelopeMalformed.code, Oversize.code}


def test_all_of_them_at_once() -> None:
    crowd = [factory() for factory, _ in (*WITHOUT_TRACE.values(), *UNSIGNED.values())]
    played = swarm(*crowd, rounds=2)
    check_no_trace(played, clean(2))


# --- commits that are sent twice ---------------------------------------------------------------


def test_a_replayed_commit_is_refused_in_every_later_round() -> None:
    played = swarm(*(act.Replayer() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_one_state_for_all(played)
    codes = played.codes_of(*attackers(played))
    assert codes == {CommitReplayed.code: BAD * (FEW_ROUNDS - 1)}
    for report in played.reports[1:]:
        assert len(report.manifest.entries) == HONEST


def test_the_commits_of_others_sent_again_are_listed_under_who_sent_them() -> None:
    played = swarm(act.Stranger(), rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS))
    assert played.codes_of(*attackers(played)) == {CommitReplayed.code: FEW_ROUNDS}  # once a round
    assert played.codes_of(*played.peers[:HONEST]) == clean(FEW_ROUNDS).codes()


def test_two_commits_are_listed_and_only_the_first_counts() -> None:
    played = swarm(*(act.TwoCommits() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_one_state_for_all(played)
    assert played.codes_of(*attackers(played))[Equivocation.code] == BAD * FEW_ROUNDS
    for report in played.reports:
        assert len(report.manifest.entries) == HONEST + BAD
    assert set(played.coordinator.book.equivocations) == {p.peer_id for p in attackers(played)}
    assert played.loss < 1.02 * clean(FEW_ROUNDS).loss


# --- well-formed lies: weighed ----------------------------------------------------------------

LIES: dict[str, tuple[Callable[[], list[Behaviour]], set[str], float]] = {
    # name -> three attackers, the reasons that must show, and most weight of 16 rounds
    "sign flip x10": (lambda: [act.Scaled(-10)] * BAD, {OpposesOthers.code}, 0.1),
    "sign flip": (lambda: [act.Scaled(-1)] * BAD, {OpposesOthers.code}, 0.3),
    "colluding flip x10": (lambda: [act.ColludingFlip(10)] * BAD, {OpposesOthers.code}, 0.1),
    "scaled x1e6": (lambda: [act.Scaled(1e6)] * BAD, {NormClipped.code}, 0.1),
    "noise x10": (
        lambda: [act.Noise(10) for _ in range(BAD)],
        {OpposesOthers.code, NormClipped.code},
        1.2,
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_costs_less_than_two_percent(name: str) -> None:
    make, codes, most_weight = LIES[name]
    played = swarm(*make())
    check_one_state_for_all(played)
    bad = attackers(played)
    shown = played.codes_of(*bad)
    assert codes <= set(shown)
    assert sum(shown.values()) > 0.95 * BAD * ROUNDS
    assert played.weight_of(*bad) < most_weight
    assert played.loss < 1.02 * clean().loss
    assert sum(played.codes_of(*played.peers[:HONEST]).values()) <= 4  # of 140


def test_colluding_label_flippers_are_contained_not_stopped() -> None:
    """Their loss falls on their own labels: a direction like another. Audits have to find them."""
    played = swarm(*(act.LabelFlip() for _ in range(BAD)))
    check_one_state_for_all(played)
    bad = attackers(played)
    shown = played.codes_of(*bad)
    assert shown[OpposesOthers.code] > 0.25 * BAD * ROUNDS
    share = BAD / (HONEST + BAD)
    assert played.weight_of(*bad) < 0.75 * share * ROUNDS
    assert 1.005 * clean().loss < played.loss < 1.05 * clean().loss


# --- what the aggregate cannot see: audits must ------------------------------------------------


def test_fewer_steps_than_declared_are_accepted_here() -> None:
    played = swarm(*(act.HalfTheSteps() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_one_state_for_all(played)
    assert played.codes_of(*attackers(played)) == Counter()
    assert played.weight_of(*attackers(played)) > 0


def test_a_blob_cannot_be_copied_before_the_close_and_its_name_is_worth_nothing() -> None:
    """The commit shows the blob's hash, but inside the blob is whose and for which round it is."""
    copiers = [act.Copier() for _ in range(BAD)]
    played = swarm(*copiers)
    check_one_state_for_all(played)
    assert [copier.failures for copier in copiers] == [ROUNDS] * BAD  # no bytes before the close
    assert played.codes_of(*attackers(played)) == {ShapeMismatch.code: BAD * ROUNDS}
    assert played.weight_of(*attackers(played)) == 0
    check_no_trace(played, clean())


# --- a crowd, and a lying coordinator ----------------------------------------------------------


def test_a_crowd_of_fresh_identities_cannot_keep_a_round_from_closing() -> None:
    crowd = [act.HugeTokens() for _ in range(LIMITS.max_peers_per_round + 10)]
    played = swarm(*crowd, honest=3, rounds=1)
    report = played.reports[0]
    assert report.turned_away == {StepsOutOfRange.code: len(crowd)}
    assert 20 < len(report.commit_set.refusals) <= 64
    assert len(report.manifest.entries) == 3
    check_no_trace(played, clean(1, honest=3))


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


def test_a_coordinator_that_signs_another_state_is_found_by_everybody() -> None:
    played, commit_set, manifest_data = one_round_open()
    manifest = open_envelope(decode_envelope(manifest_data), RoundManifest)
    entries = list(manifest.entries)
    entries[0] = dataclasses.replace(entries[0], coefficient=entries[0].coefficient / 2)
    for lie in (
        dataclasses.replace(manifest, next_state=sha256(b"")),
        dataclasses.replace(manifest, entries=tuple(entries)),
    ):
        for peer in played.peers:
            with pytest.raises(StateMismatch):
                peer.follow(commit_set, encode_envelope(seal(COORDINATOR, lie)))


def test_a_coordinator_that_tampers_with_the_commits_is_found_by_everybody() -> None:
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


def test_nobody_but_the_coordinator_ends_a_round() -> None:
    played, set_data, manifest_data = one_round_open()
    manifest = open_envelope(decode_envelope(manifest_data), RoundManifest)
    usurped = encode_envelope(seal(played.peers[0].identity, manifest))
    with pytest.raises(PeerFault, match="signed by"):
        played.peers[1].follow(set_data, usurped)
    played.peers[1].follow(set_data, manifest_data)
