"""Well-formed lies: work of the right shape and size that was made up. They can only be weighed.

Three of ten, as colluding as they can be; the loss must stay within 2 % of the seven honest
peers' alone. Three of eight is more than the protocol promises: it is played to know what it costs.
What a lie is paid is another matter, see `test_free_riders`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ares_p2p.errors import ApartFromOthers, NormClipped, OpposesOthers
from sim import behaviours as act
from sim.attacks import (
    BAD,
    HONEST,
    ROUNDS,
    attackers,
    check_one_state_for_all,
    clean,
    crowd,
    peer_of,
    swarm,
)
from sim.swarm import Behaviour, Swarm

EQUAL_WEIGHT = ROUNDS * BAD / (HONEST + BAD)  # of the attackers, if nobody weighed anything
WORDS = {
    OpposesOthers.code: "points against the other contributions of the round",
    ApartFromOthers.code: "has far less in common with the others than they with each other",
    NormClipped.code: "longer than twice the median; scaled down to the median",
}


def check_contained(
    *lies: Behaviour, codes: set[str], share: float, weight: float, cost: float = 1.02
) -> Swarm:
    """Play the lies and check what they come to.

    Args:
        codes: reasons that must be published about them, each with its sentence.
        share: of their contributions that must have one.
        weight: what all of them may get at most, in parts of an equal weight.
        cost: largest loss, in parts of the honest peers' alone.
    """
    played = swarm(*lies)
    check_one_state_for_all(played)
    bad = attackers(played)
    shown = played.codes_of(*bad)
    assert codes <= set(shown)
    assert sum(shown.values()) >= share * len(bad) * ROUNDS
    assert all(WORDS[code] == sentence for code, sentence in played.reasons_of(*bad))
    assert played.weight_of(*bad) < weight * EQUAL_WEIGHT
    assert played.loss < cost * clean().loss
    assert sum(played.codes_of(*played.peers[:HONEST]).values()) <= 2  # of 112
    return played


def test_sign_flip_is_refused() -> None:
    lies = [act.Scaled(-1)] * BAD
    check_contained(*lies, codes={OpposesOthers.code}, share=0.95, weight=0.1)


def test_colluding_sign_flips_that_support_each_other_are_refused() -> None:
    lies = [act.ColludingFlip(crowd())] * BAD
    check_contained(*lies, codes={OpposesOthers.code}, share=0.85, weight=0.2)


def test_contribution_as_long_as_steps_reach_counts_as_a_share_of_its_own_at_most() -> None:
    """Twice as long and more in the right direction: not refused, but no longer than the median."""
    lies = [act.Scaled(2.1)] * BAD
    played = check_contained(*lies, codes={NormClipped.code}, share=0.3, weight=0.9)
    names = {peer.peer_id for peer in attackers(played)}
    for report in played.reports:
        entries = report.manifest.entries
        honest = max(entry.coefficient for entry in entries if entry.peer not in names)
        for entry in entries:
            if entry.code == NormClipped.code:
                assert 0 < entry.coefficient <= 0.5 * honest
            elif entry.peer in names:  # not quite twice the median
                assert 0 < entry.coefficient < 0.8 * honest


def test_free_rider_with_noise_as_long_as_work_is_seen_while_the_others_agree() -> None:
    lies = [act.Noise(1.0) for _ in range(BAD)]
    check_contained(*lies, codes={ApartFromOthers.code, OpposesOthers.code}, share=0.3, weight=0.9)


def test_thirty_percent_of_colluding_label_flippers_are_contained() -> None:
    """Their loss falls on their own labels: a direction like another. Audits have to find them."""
    lies = [act.LabelFlip() for _ in range(BAD)]
    check_contained(*lies, codes={ApartFromOthers.code, OpposesOthers.code}, share=0.4, weight=0.4)


def test_little_is_enough_is_contained() -> None:
    lies = [act.LittleIsEnough(crowd())] * BAD
    check_contained(*lies, codes=set(), share=0.0, weight=1.1)


def test_inner_product_manipulation_is_refused() -> None:
    lies = [act.InnerProduct(crowd())] * BAD
    check_contained(*lies, codes={OpposesOthers.code}, share=0.85, weight=0.5)


# --- what the aggregate cannot see: audits must, see test_free_riders --------------------------


@pytest.mark.parametrize(
    "lie",
    [act.HalfTheSteps, act.StaleWork, lambda: act.OtherShard(peer_of(0))],
    ids=["half_the_steps", "stale_state", "other_shard"],
)
def test_real_work_on_the_wrong_thing_costs_next_to_nothing(lie: Callable[[], Behaviour]) -> None:
    played = swarm(*(lie() for _ in range(BAD)))
    check_one_state_for_all(played)
    assert played.weight_of(*attackers(played)) > 0.5 * EQUAL_WEIGHT
    assert played.loss < 1.02 * clean().loss


# --- more liars than the protocol promises to bear -----------------------------------------------

FIVE = 5
MOST: dict[str, tuple[Callable[[], list[Behaviour]], float]] = {
    # name -> three of eight, and the largest loss in parts of the five honest peers' alone
    "sign flip": (lambda: [act.Scaled(-1)] * BAD, 1.02),
    "one flip, sent by all": (lambda: [act.ColludingFlip(crowd(honest=FIVE))] * BAD, 1.03),
    "as long as steps reach": (lambda: [act.Scaled(2.1)] * BAD, 1.02),
    "label flippers": (lambda: [act.LabelFlip() for _ in range(BAD)], 1.025),
}


@pytest.mark.parametrize("name", MOST)
def test_three_of_eight_cost_little(name: str) -> None:
    make, cost = MOST[name]
    played = swarm(*make(), honest=FIVE)
    check_one_state_for_all(played)
    assert played.loss < cost * clean(honest=FIVE).loss
