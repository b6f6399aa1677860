"""How large a contribution can be: the bound is reached, never passed; shares by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.averaging.bounds import capped_weights, check_contribution, reach_of
from ares_p2p.averaging.codec import encode, open_encoded
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import BeyondReach, NonFinite, ShapeMismatch
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.replica import bind_layout, encode_contribution, open_contribution
from payloads import identity
from sim.samples import TRAINING

F = np.float32
LR, BETA2 = 0.003, 0.99


def rms_prop_path(gradients: list[float], *, lr: float = LR, beta2: float = BETA2) -> float:
    """Return how far the inner optimizer's rule takes one parameter: `ares_p2p.training.inner`."""
    place = square = 0.0
    for step, gradient in enumerate(gradients, start=1):
        square = beta2 * square + (1 - beta2) * gradient**2
        if square:
            place -= lr * gradient / (square / (1 - beta2**step)) ** 0.5
    return place


def test_reach_of_two_steps_by_hand() -> None:
    """1 for the first step, sqrt((1 - 0.99^2) / 0.01) = sqrt(1.99) for the second."""
    assert reach_of(2, lr=1.0, beta2=0.99) == pytest.approx(1 + 1.99**0.5)


def test_reach_without_memory_is_one_rate_a_step() -> None:
    assert reach_of(10, lr=0.5, beta2=0.0) == 5.0


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]),
)
def test_no_gradients_lead_beyond_reach(gradients: list[float], beta2: float) -> None:
    path = abs(rms_prop_path(gradients, beta2=beta2))
    assert path <= reach_of(len(gradients), lr=LR, beta2=beta2) * (1 + 1e-9)


def test_gradients_that_explode_come_as_near_to_it_as_one_likes() -> None:
    """So the bound is not too wide: no smaller one would be safe."""
    path = abs(rms_prop_path([1e6**step for step in range(10)]))
    assert path > 0.999 * reach_of(10, lr=LR, beta2=BETA2)


LAYOUT = layout_of_shapes({"a": (40, 16), "b": (16, 30)})
REACH = reach_of(TRAINING.max_steps, lr=TRAINING.inner_lr, beta2=TRAINING.beta2)


def flat(value: float) -> Vector:
    vector: Vector = np.full(LAYOUT.size, value, dtype=F)
    return vector


def test_arrays_are_checked() -> None:
    size = LAYOUT.size
    check_contribution(flat(REACH), size=size, reach=REACH)
    with pytest.raises(ShapeMismatch):
        check_contribution(flat(0)[1:], size=size, reach=REACH)
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFinite):
            check_contribution(flat(bad), size=size, reach=REACH)
    far = flat(0)
    far[-1] = -1.02 * REACH
    with pytest.raises(BeyondReach, match="reach"):
        check_contribution(far, size=size, reach=REACH)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_what_the_steps_can_make_is_within_reach_however_it_is_rounded(bits: int) -> None:
    rng = np.random.default_rng(bits)
    vector = rng.uniform(-REACH, REACH, LAYOUT.size).astype(F)
    vector[::97] = REACH
    digest = LAYOUT.digest_sha256
    blob = open_encoded(encode(vector, bits=bits, layout_sha256=digest), layout=LAYOUT, bits=bits)
    check_contribution(blob, size=LAYOUT.size, reach=REACH)
    with pytest.raises(ShapeMismatch):
        check_contribution(blob, size=LAYOUT.size + 1, reach=REACH)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_one_element_beyond_reach_is_enough_and_nobody_opens_it(bits: int) -> None:
    training = dataclasses.replace(TRAINING, codec_bits=bits)
    bound = bind_layout(LAYOUT, plan_sha256=bytes(32), peer=identity(1).peer_id)
    vector = flat(0.1 * REACH)
    vector[700] = 3 * REACH
    data = encode_contribution(vector, flat(0), layout=bound, training=training)
    with pytest.raises(BeyondReach):
        open_contribution(data, layout=bound, training=training)
    vector[700] = REACH
    data = encode_contribution(vector, flat(0), layout=bound, training=training)
    assert open_contribution(data, layout=bound, training=training).size == LAYOUT.size


# --- shares ------------------------------------------------------------------------------------


def shares(products: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights * (products @ weights) / (weights @ products @ weights)


def test_equal_shares_are_left_alone() -> None:
    weights = np.full(4, 0.25)
    assert capped_weights(np.eye(4), weights, factor=1.0).tolist() == [0.25] * 4


def test_parallel_contributions_share_by_length() -> None:
    """Lengths 1, 1 and 4 along one line, weights 1/3: the third may have 1.5, so 3/8 of its weight."""
    lengths = np.array([1.0, 1.0, 4.0])
    capped = capped_weights(np.outer(lengths, lengths), np.full(3, 1 / 3), factor=1.5)
    assert capped[:2].tolist() == [1 / 3] * 2
    assert capped[2] == pytest.approx(3 / 8 / 3, rel=5e-3)


def test_what_points_against_the_rest_sets_no_measure() -> None:
    """Two honest, two against them: half of the shares are negative, the median is of the rest."""
    vectors = np.array([[1.0, 0, 0], [1.0, 0.5, 0], [-0.4, 0, 0], [-0.4, 0, 0.1]])
    products = vectors @ vectors.T
    before = np.full(4, 0.25)
    after = capped_weights(products, before, factor=1.5)
    assert (shares(products, before) < 0).sum() == 2
    assert after[2:].tolist() == [0.25, 0.25]
    assert 0 < after[1] <= after[0] <= 0.25


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_shares_end_below_the_cap_and_weights_are_never_raised(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 40)) + 0.5  # directions of honest work, and its noise
    vectors *= rng.uniform(0.5, 6.0, (count, 1))
    products = vectors @ vectors.T
    before = np.full(count, 1 / count)
    after = capped_weights(products, before, factor=1.5)
    assert (after <= before).all()
    assert (after > 0).all()
    ended = np.sort(shares(products, after))
    assert ended[-1] <= 1.5 * ended[(count - 1) // 2] * 1.01
