"""What the tests of the attacks share: three attackers beside the same seven honest peers.

Two kinds of attack differ in what must hold. What is refused for what it *is* (signature, time,
shape, size, missing) leaves no trace: the first state is bit for bit that of the honest peers
alone. (Later ones differ in the last bit: refusals change the digests of plans and commits, and
those are the order of the sum.) What is a well-formed lie can only be weighed: the loss must stay
near the honest peers'. In both, the attackers can read why, in what was published of the round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from ares_p2p.errors import PeerFault
from ares_p2p.ids import PeerId
from payloads import identity
from sim.behaviours import Crowd
from sim.swarm import Behaviour, Peer, Swarm

HONEST, BAD = 7, 3
ROUNDS = 16  # enough for nine tenths of what thirty rounds learn
FEW_ROUNDS = 4

Factory = Callable[[], Behaviour]


def swarm(*others: Behaviour, honest: int = HONEST, rounds: int = ROUNDS) -> Swarm:
    """Return a played cycle of honest peers and these others."""
    return Swarm([*(Behaviour() for _ in range(honest)), *others], rounds=rounds).run()


@cache
def clean(rounds: int = ROUNDS, honest: int = HONEST) -> Swarm:
    """Return the honest peers alone."""
    return swarm(honest=honest, rounds=rounds)


def attackers(played: Swarm, *, honest: int = HONEST) -> list[Peer]:
    """Return everybody after the honest peers."""
    return played.peers[honest:]


def crowd(*, honest: int = HONEST, bad: int = BAD) -> Crowd:
    """Return attackers who know each other's honest work."""
    return Crowd(tuple(identity(number).peer_id for number in range(honest, honest + bad)))


def peer_of(number: int) -> PeerId:
    """Return the id of the n-th peer of a swarm."""
    return identity(number).peer_id


def check_one_state_for_all(played: Swarm) -> None:
    """Check that every replica is the signed one."""
    for report in played.reports:
        assert set(report.digests.values()) == {report.manifest.next_state}


def check_no_trace(played: Swarm, honest: Swarm) -> None:
    """Check that the states are those of the honest peers alone."""
    check_one_state_for_all(played)
    assert played.digests[0] == honest.digests[0]
    for ours, theirs in zip(played.reports, honest.reports, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=2e-3)


def check_refused(factory: Factory, fault: type[PeerFault], *, says: str) -> Swarm:
    """Play three of an attack: no trace, no weight, no harm to others, and each can read why.

    Args:
        says: what the published sentence has to contain, so that it helps whoever reads it.
    """
    played = swarm(*(factory() for _ in range(BAD)), rounds=FEW_ROUNDS)
    check_no_trace(played, clean(FEW_ROUNDS))
    bad = attackers(played)
    assert played.codes_of(*bad) == {fault.code: BAD * FEW_ROUNDS}
    assert played.codes_of(*played.peers[:HONEST]) == clean(FEW_ROUNDS).codes()
    assert played.weight_of(*bad) == 0
    for report in played.reports:
        for peer in bad:
            ((code, sentence),) = report.reasons_of(peer.peer_id)
            assert code == fault.code
            assert says in sentence
    return played
