"""A replay of honest work, of half of it, and of somebody else's: on the toy, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import PeerFault
from ares_p2p.ids import PeerId, sha256
from ares_p2p.proofs.sketch import judge
from ares_p2p.training.layout import Layout
from ares_p2p.training.replay import (
    Claim,
    Replay,
    forge_contribution,
    replay_contribution,
)
from ares_p2p.training.replica import bind_layout, encode_contribution
from ares_p2p.training.state import TrainingState, initial_state
from payloads import identity
from sim.samples import TRAINING
from sim.session_world import Trained, the_task

AUTHOR, OTHER = identity(1).peer_id, identity(2).peer_id
PLAN = sha256(b"plan")
STEPS = 10


class Rig:
    """Trains the toy and counts; nothing of it depends on the time."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    @property
    def layout(self) -> Layout:
        return the_task().layout

    def train(
        self,
        start: Vector,
        *,
        round_number: int,
        peer: PeerId,
        lr: float,
        min_steps: int,
        max_steps: int,
        on_step: Any = None,
    ) -> Any:
        assert min_steps == max_steps
        for step in range(1, max_steps + 1):
            if on_step is not None:
                on_step(step, 2.0, 64)
        self.steps.append(max_steps)
        seed = int.from_bytes(sha256(peer.encode(), b"%d" % round_number)[:4], "big")
        examples = iter(np.random.default_rng(seed).integers(0, 700, size=10_000))
        theta, loss = the_task().local_steps(
            start,
            examples,
            steps=max_steps,
            lr=lr,
            training=TRAINING,
            labels=the_task().labels,
        )
        return Trained(theta, max_steps, 64 * max_steps, 64 * max_steps, loss, max_steps)


def start() -> TrainingState:
    return initial_state(the_task().layout, cycle=1, seed=b"s" * 32)


def claim(peer: PeerId = AUTHOR, *, steps: int = STEPS, lr: float = 0.004) -> Claim:
    return Claim(peer, PLAN, steps, lr)


def honest_blob(peer: PeerId = AUTHOR, *, trained_by: PeerId = AUTHOR) -> bytes:
    state = start()
    done = Rig().train(
        state.theta, round_number=0, peer=trained_by, lr=0.004, min_steps=STEPS, max_steps=STEPS
    )
    layout = bind_layout(the_task().layout, plan_sha256=PLAN, peer=peer)
    return encode_contribution(state.theta, done.theta, layout=layout, training=TRAINING)


def replay(blob: bytes, made: Claim | None = None, **options: Any) -> Replay:
    return replay_contribution(
        Rig(), made or claim(), start=start(), blob=blob, training=TRAINING, **options
    )


def test_honest_work_is_replayed_bit_by_bit() -> None:
    blob = honest_blob()
    found = replay(blob)
    assert (found.comparison.rho, found.tokens) == (0.0, 64 * STEPS)
    assert found.replay_sha256 == sha256(blob)
    assert judge(found.comparison) == "pass"


def test_another_peers_data_fails() -> None:
    found = replay(honest_blob(trained_by=OTHER))
    assert judge(found.comparison) == "fail"
    assert found.replay_sha256 == sha256(honest_blob())


def test_blob_of_another_peer_is_no_contribution_of_this_one() -> None:
    with pytest.raises(PeerFault):
        replay(honest_blob(OTHER))


def test_forgery_claims_all_steps_does_half_and_fails_its_audit() -> None:
    rig = Rig()
    made = forge_contribution(rig, claim(), start=start(), training=TRAINING)
    assert sorted(rig.steps) == [STEPS // 2, STEPS]
    assert made.tokens == 64 * STEPS
    assert made.mean_loss == pytest.approx(2.2, abs=0.5)
    found = replay(made.data)
    assert judge(found.comparison) == "fail"
    assert found.tokens == made.tokens  # the tokens do not give it away
    assert found.comparison.norm_ratio < 1


def test_replay_makes_exactly_the_claimed_steps_and_tells_each() -> None:
    told: list[int] = []

    def on_step(step: int, _loss: float, _tokens: int) -> bool:
        told.append(step)
        return False

    replay(honest_blob(), on_step=on_step)
    assert told == list(range(1, STEPS + 1))


def test_replay_can_be_broken_off() -> None:
    def on_step(step: int, _loss: float, _tokens: int) -> bool:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        replay(honest_blob(), on_step=on_step)
