"""Whole cycles in memory with honest peers: one state for everybody, in good and in bad days.

The attacks are played in `test_attacks_refused`, `test_attacks_weighed`, `test_attacks_authority` and
`test_free_riders`.
"""

from __future__ import annotations

import pytest

from ares_p2p.errors import CommitWithoutBlob
from sim import behaviours as act
from sim.attacks import FEW_ROUNDS, check_one_state_for_all, clean, swarm
from sim.swarm import Behaviour, Swarm


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


@pytest.mark.parametrize("bits", [2, 4])
def test_a_swarm_whose_sum_travels_encoded_learns_as_well(bits: int) -> None:
    played = Swarm([Behaviour()] * 7 + [act.LateJoiner(3)], rounds=20, down_bits=bits).run()
    check_one_state_for_all(played)
    assert all(len(report.manifest.parts) == 1 for report in played.reports)
    exact = Swarm([Behaviour()] * 7 + [act.LateJoiner(3)], rounds=20).run()
    assert played.digests != exact.digests
    assert played.loss < {2: 1.03, 4: 1.01}[bits] * exact.loss


def test_a_lone_peer_and_a_pair_train_too() -> None:
    for honest in (1, 2):
        played = swarm(honest=honest, rounds=8)
        check_one_state_for_all(played)
        assert played.reports[-1].loss < played.first_loss - 0.5


def test_rounds_without_usable_work_keep_the_parameters() -> None:
    played = swarm(act.NoBlob(), act.NanBlob(), honest=0, rounds=2)
    check_one_state_for_all(played)
    assert [report.loss for report in played.reports] == [played.first_loss] * 2
