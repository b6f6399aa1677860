"""Rounds of the toy task of tests/sim for benchmarks: real local steps, robust mean, outer step.

What a benchmark varies is how a peer's update travels (`Send`) and whose comes late (`Lateness`).
The losses are of the toy: what they are good for is the comparison of two ways with the same seed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "coordinator")]

from ares_p2p.averaging.aggregate import combine, robust_coefficients  # noqa: E402
from ares_p2p.averaging.codec import decode, encode  # noqa: E402
from ares_p2p.averaging.vectors import Vector  # noqa: E402
from ares_p2p.ids import sha256  # noqa: E402
from ares_p2p.rounds.assignment import assigned_examples  # noqa: E402
from ares_p2p.training.outer import outer_step  # noqa: E402
from ares_p2p.training.state import initial_state  # noqa: E402
from payloads import identity  # noqa: E402
from sim.samples import CYCLE, TRAINING  # noqa: E402
from sim.task import TRAIN_EXAMPLES, Task, make_task  # noqa: E402

RANK = 16
STEPS = 10  # of a peer in a round
AVERAGED = 5  # rounds whose losses are averaged: one state's loss is noisy
SETTINGS = dataclasses.replace(TRAINING, rank=RANK, sequences_per_step=4, max_steps=STEPS)

Send = Callable[[Vector, int, int], Vector]  # update, peer, round -> what the others see of it


@dataclass(frozen=True, slots=True)
class Lateness:
    """Who is late, and what is made of it.

    Args:
        share: of a round's peers, drawn anew in every round; each is one round late.
        weight: of a late contribution in the next round, next to 1 of the others; 0 drops it.
        busy: whoever was late has nothing of its own in the next round, unless it was dropped.
    """

    share: float = 0.0
    weight: float = 0.0
    busy: bool = False


def through_codec(task: Task, *, bits: int) -> Send:
    """Return the network's own way."""
    digest = task.layout.digest_sha256

    def send(update: Vector, _peer: int, _round: int) -> Vector:
        data = encode(update, bits=bits, layout_sha256=digest)
        return decode(data, layout=task.layout, bits=bits)

    return send


def held_out_losses(
    task: Task,
    send: Send,
    *,
    seed: int,
    rounds: int,
    peers: int,
    lateness: Lateness | None = None,
) -> list[float]:
    """Return the held-out loss after every round."""
    late = Lateness() if lateness is None else lateness
    state = initial_state(task.layout, cycle=CYCLE, seed=sha256(b"start %d" % seed))
    theta, mu, losses = state.theta, state.mu, []
    rng = np.random.default_rng(seed)
    waiting: list[tuple[int, Vector]] = []  # of the round before, by peer
    for number in range(rounds):
        is_late = rng.random(peers) < late.share
        busy = {peer for peer, _ in waiting} if late.busy and late.weight else set()
        fresh: list[Vector] = []
        delayed: list[tuple[int, Vector]] = []
        for peer in range(peers):
            if peer in busy:
                continue
            end, _ = task.local_steps(
                theta,
                iter(_assigned(number, peer)),
                steps=STEPS,
                lr=SETTINGS.inner_lr,
                training=SETTINGS,
                labels=task.labels,
            )
            update = send(theta - end, peer, number)
            if is_late[peer]:
                delayed.append((peer, update))
            else:
                fresh.append(update)
        carried = [update for _, update in waiting] if late.weight else []
        total = _weighted_mean(fresh, carried, late.weight, task)
        if total is not None:
            theta, mu = outer_step(
                theta, mu, total, lr=SETTINGS.outer_lr, momentum=SETTINGS.outer_momentum
            )
        waiting = delayed
        losses.append(task.held_out_loss(theta))
    return losses


def loss_at(losses: list[float], rounds: int) -> float:
    """Return the loss after so many rounds, averaged over the last few of them."""
    return float(np.mean(losses[rounds - AVERAGED : rounds]))


def _weighted_mean(
    fresh: list[Vector], carried: list[Vector], weight: float, task: Task
) -> Vector | None:
    """Return the robust mean, in which what was carried over has less weight."""
    vectors = [*fresh, *carried]
    if not vectors:
        return None
    values = np.array([one.value for one in robust_coefficients(vectors, layout=task.layout)])
    weights = np.array([1.0] * len(fresh) + [weight] * len(carried))
    if not (values * weights).any():
        return None
    lowered = values * weights * (values.sum() / (values * weights).sum())
    return combine(vectors, [float(np.float32(value)) for value in lowered])


def task_of(seed: int) -> Task:
    """Return the task of a seed."""
    return make_task(seed, rank=RANK)


@cache  # the same in every run
def _assigned(round_number: int, peer: int) -> tuple[int, ...]:
    """Return the examples of a peer's local steps in a round."""
    stream = assigned_examples(
        sha256(b"assignment"),
        round_number=round_number,
        peer=identity(peer).peer_id,
        examples=TRAIN_EXAMPLES,
    )
    return tuple(islice(stream, STEPS * SETTINGS.sequences_per_step))
