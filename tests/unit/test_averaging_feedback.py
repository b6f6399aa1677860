"""Error feedback: nothing is lost for good, nothing grows without bound, hostile numbers stop it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ares_p2p.averaging.bounds import reach_of
from ares_p2p.averaging.codec import EncodedVector, decode, encode, open_encoded
from ares_p2p.averaging.feedback import RESIDUAL_BITS, encode_with_feedback
from ares_p2p.averaging.vectors import Difference, Vector
from ares_p2p.errors import NonFinite, ShapeMismatch
from ares_p2p.ids import sha256
from ares_p2p.training.layout import Layout, layout_of_shapes
from ares_p2p.training.replica import bind_layout, open_contribution
from payloads import identity
from sim.samples import TRAINING

F = np.float32
SIZE = 3_000
LAYOUT = layout_of_shapes({"x": (SIZE,)})
ZERO = np.zeros(SIZE, dtype=F)
REACH = 0.02


@dataclasses.dataclass(frozen=True)
class ResidualLayout:
    """The layout that a residual carries."""

    size: int = SIZE
    digest_sha256: bytes = sha256(b"residual")
    spans: tuple[tuple[int, int], ...] = ((0, SIZE),)


class Feedback:
    """One peer's rounds."""

    def __init__(self, layout: Layout = LAYOUT, reach: float = REACH) -> None:
        self.layout, self.reach = layout, reach
        self.residual: EncodedVector | None = None

    def send(self, update: Vector) -> Vector:
        """Return what the others see of an update."""
        data, lost = encode_with_feedback(
            Difference(update, ZERO),
            self.residual,
            layout=self.layout,
            residual_sha256=sha256(b"residual"),
            reach=self.reach,
        )
        self.residual = open_encoded(lost, layout=ResidualLayout(), bits=RESIDUAL_BITS)
        return decode(data, layout=self.layout, bits=1)

    def lost(self) -> Vector:
        """Return the residual."""
        assert self.residual is not None
        return self.residual.read(slice(0, SIZE), np.empty(4096, dtype=F)).copy()


def updates(rounds: int, seed: int = 0) -> list[Vector]:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(SIZE, dtype=F) * F(0.002)
    return [common + rng.standard_normal(SIZE, dtype=F) * F(0.002) for _ in range(rounds)]


def length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector.astype(float)))


def test_what_is_lost_is_sent_later() -> None:
    """All that was sent, and what is still owed, is all that was to be sent.

    The residual's own 8 bits cost about 1 % of a residual in each round.
    """
    peer, rounds = Feedback(reach=1.0), updates(20)
    sent = sum(peer.send(update) for update in rounds)
    wanted = sum(rounds)
    assert length(sent + peer.lost() - wanted) < 0.01 * length(wanted)
    without = sum(
        decode(encode(update, bits=1, layout_sha256=LAYOUT.digest_sha256), layout=LAYOUT, bits=1)
        for update in rounds
    )
    assert length(sent - wanted) < 0.5 * length(without - wanted)


def test_a_lost_residual_starts_from_zero() -> None:
    update = updates(1)[0]
    peer = Feedback()
    first = peer.send(update)
    peer.residual = None
    assert np.array_equal(peer.send(update), first)


def test_the_residual_stays_within_reach_however_uneven_the_updates_are() -> None:
    """One element of each block wants a hundred times more than its block's mean gives it."""
    update = np.full(SIZE, 1e-5, dtype=F)
    update[::128] = REACH
    peer = Feedback()
    for _ in range(300):
        sent = peer.send(update)
        assert np.abs(sent).max() <= REACH * 1.001  # a float16 step
        assert np.abs(peer.lost()).max() <= REACH * 1.001


@pytest.mark.parametrize("steps", [1, 10])
def test_everybody_accepts_what_is_made_at_the_limit(steps: int) -> None:
    training = dataclasses.replace(TRAINING, codec_bits=1, max_steps=steps)
    reach = reach_of(steps, lr=training.inner_lr, beta2=training.beta2)
    bound = bind_layout(LAYOUT, plan_sha256=bytes(32), peer=identity(1).peer_id)
    update = np.where(np.arange(SIZE) % 3 == 0, -reach, reach).astype(F)
    residual = None
    for _ in range(5):
        data, lost = encode_with_feedback(
            Difference(update, ZERO),
            residual,
            layout=bound,
            residual_sha256=sha256(b"residual"),
            reach=reach,
        )
        residual = open_encoded(lost, layout=ResidualLayout(), bits=RESIDUAL_BITS)
        assert open_contribution(data, layout=bound, training=training).size == SIZE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    update = updates(1)[0]
    update[1234] = bad
    with pytest.raises(NonFinite):
        Feedback().send(update)


def test_a_residual_is_no_contribution_and_belongs_to_one_place() -> None:
    _, lost = encode_with_feedback(
        Difference(updates(1)[0], ZERO),
        None,
        layout=LAYOUT,
        residual_sha256=sha256(b"residual"),
        reach=REACH,
    )
    with pytest.raises(ShapeMismatch):
        open_encoded(lost, layout=LAYOUT, bits=RESIDUAL_BITS)
