"""Sixty rounds with free-riders: what they keep, what honest work earns, what the model loses."""

from __future__ import annotations

import pytest

from ares_coordinator.ledger.rewards import reward_ucredits
from ares_p2p.domain import AuditOutcome, PostingState
from ares_p2p.errors import AuditFailed, AuditForfeit, AuditVoid
from payloads import identity
from sim.behaviours import (
    CopiesTheLastRound,
    Crowd,
    FreshFake,
    HalfTheSteps,
    LabelFlip,
    LittleIsEnough,
    Noise,
    OtherShard,
    Sleeper,
    StaleWork,
)
from sim.swarm import Behaviour, Peer, Swarm

HONEST, ROUNDS = 5, 60
CHEATS = {
    "noise_as_long_as_work": Noise(1.0),
    "half_the_steps": HalfTheSteps(),
    "copied_blob": CopiesTheLastRound(identity(0).peer_id),
}


def full_pay(swarm: Swarm) -> int:
    """Return what a peer earns that does all its work in every round."""
    config = swarm.world.config
    training = config.training
    tokens = training.max_steps * training.sequences_per_step * training.sequence_length
    price = config.reference_tokens_per_hour
    return reward_ucredits(tokens, reference_tokens_per_hour=price) * len(swarm.reports)


def kept(swarm: Swarm, peer: Peer) -> int:
    assert swarm.office is not None
    return swarm.office.settled_ucredits().get(peer.peer_id, 0)


def reasons(swarm: Swarm, peer: Peer) -> set[str]:
    """Return every code that a peer reads about its work: in manifests and in the ledger."""
    assert swarm.office is not None
    posted = {one.code for one in swarm.office.deciding(peer.peer_id) if one.code}
    return posted | set(swarm.codes_of(peer))


@pytest.fixture(scope="module")
def swarm() -> Swarm:
    peers = [*(Behaviour() for _ in range(HONEST)), *CHEATS.values()]
    return Swarm(peers, rounds=ROUNDS, audited=True).run()


@pytest.mark.parametrize("number", range(len(CHEATS)), ids=list(CHEATS))
def test_free_rider_keeps_less_than_a_twentieth_of_honest_credit(swarm: Swarm, number: int) -> None:
    cheat = swarm.peers[HONEST + number]
    assert kept(swarm, cheat) < 0.05 * full_pay(swarm)
    assert AuditFailed.code in reasons(swarm, cheat)
    assert swarm.office is not None
    said = [one.message for one in swarm.office.verdicts_of(cheat.peer_id) if one.code]
    assert all("the replay" in message for message in said)  # and can read why


def test_honest_peers_get_all_of_their_credit(swarm: Swarm) -> None:
    honest = swarm.peers[:HONEST]
    assert [kept(swarm, peer) for peer in honest] == [full_pay(swarm)] * HONEST


def test_audits_of_honest_work_pass_and_grow_rare(swarm: Swarm) -> None:
    assert swarm.office is not None
    names = {peer.peer_id for peer in swarm.peers[:HONEST]}
    audits = [audited for audited in swarm.office.audits if audited.peer in names]
    assert {audited.verdict.outcome for audited in audits} == {AuditOutcome.PASS}
    assert sum(audited.round < 10 for audited in audits) == 10 * HONEST  # newcomers: always
    late = sum(audited.round >= 40 for audited in audits)
    assert 0 < late < 0.5 * 20 * HONEST


def test_free_riders_do_not_hurt_the_model(swarm: Swarm) -> None:
    clean = Swarm([Behaviour() for _ in range(HONEST)], rounds=ROUNDS).run()
    assert swarm.loss < 1.01 * clean.loss


def test_sleeper_keeps_nothing_of_what_it_faked() -> None:
    """Honest for twenty rounds, then noise: the first audit that finds it takes back the rest."""
    wakes = 20
    swarm = Swarm(
        [*(Behaviour() for _ in range(HONEST)), Sleeper(wakes)], rounds=ROUNDS, audited=True
    ).run()
    assert swarm.office is not None
    sleeper = swarm.peers[-1]
    last_words = swarm.office.deciding(sleeper.peer_id)
    paid = {one.round for one in last_words if one.state is PostingState.SETTLED}
    assert paid <= set(range(wakes))
    assert AuditFailed.code in reasons(swarm, sleeper)
    clawed = [one for one in last_words if one.state is PostingState.CLAWBACK]
    assert {one.code for one in clawed} <= {AuditForfeit.code}


def test_crowd_of_fresh_identities_that_fakes_is_never_paid() -> None:
    """A newcomer is audited always, so a new name for every fake buys nothing."""
    fakes = [FreshFake(1.0, comes=number % 6) for number in range(12)]
    swarm = Swarm([*(Behaviour() for _ in range(3)), *fakes], rounds=6, audited=True).run()
    assert [kept(swarm, peer) for peer in swarm.peers[3:]] == [0] * len(fakes)
    assert all(reasons(swarm, peer) for peer in swarm.peers[3:])
    assert [kept(swarm, peer) for peer in swarm.peers[:3]] == [full_pay(swarm)] * 3


@pytest.mark.parametrize(
    "cheat",
    [
        StaleWork(),
        OtherShard(identity(0).peer_id),
        LabelFlip(),
        LittleIsEnough(Crowd((identity(3).peer_id, identity(0).peer_id))),
    ],
    ids=["stale_state", "other_shard", "label_flip", "little_is_enough"],
)
def test_real_work_on_the_wrong_thing_is_never_paid(cheat: Behaviour) -> None:
    swarm = Swarm([*(Behaviour() for _ in range(3)), cheat], rounds=8, audited=True).run()
    assert swarm.office is not None
    peer = swarm.peers[-1]
    first = 1 if isinstance(cheat, StaleWork) else 0  # in round 0 there is no older state
    paid = [one for one in swarm.office.deciding(peer.peer_id) if one.state is PostingState.SETTLED]
    assert [one.round for one in paid] == list(range(first))
    assert reasons(swarm, peer) <= {AuditFailed.code, AuditVoid.code, "ARES-E070", "ARES-E073"}
