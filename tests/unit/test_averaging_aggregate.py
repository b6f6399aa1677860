"""The robust mean: edge cases by hand, bits of the sum, attacks on a quadratic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ares_p2p.averaging.aggregate import (
    AggregateConfig,
    Coefficient,
    check_contribution,
    combine,
    robust_coefficients,
)
from ares_p2p.averaging.codec import encode, open_encoded
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import NonFinite, ShapeMismatch
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.outer import outer_step

F = np.float32
TINY = layout_of_shapes({"a": (2,), "b": (2,)})


def vec(*values: float) -> Vector:
    return np.array(values, dtype=F)


def tiny(*vectors: Vector, config: AggregateConfig | None = None) -> list[Coefficient]:
    return list(robust_coefficients(vectors, layout=TINY, config=config))


# --- coefficients by hand ---------------------------------------------------------------------


def test_nothing_gives_nothing() -> None:
    assert robust_coefficients([], layout=TINY) == ()


def test_one_contribution_counts_fully() -> None:
    assert tiny(vec(1e6, 2, 3, 4)) == [Coefficient(1.0, "accepted")]


def test_equal_contributions_share_evenly() -> None:
    assert tiny(*[vec(1, 2, 3, 4)] * 4) == [Coefficient(0.25, "accepted")] * 4


def test_of_two_the_longer_is_scaled_to_twice_the_shorter() -> None:
    short, long_ = tiny(vec(1, 1, 1, 1), vec(8, 8, 8, 8))
    assert short == Coefficient(0.5, "accepted")
    assert long_ == Coefficient(0.125, "clipped", "ARES-E073")  # half of 2 / 8


def test_two_opposing_contributions_cancel_and_both_are_accepted() -> None:
    both = tiny(vec(1, 2, 3, 4), vec(-1, -2, -3, -4))
    assert both == [Coefficient(0.5, "accepted")] * 2


def test_two_where_one_is_a_long_flip_lose_the_round_not_the_state() -> None:
    honest, flip = vec(1, 2, 3, 4), vec(-10, -20, -30, -40)
    u = combine([honest, flip], [c.value for c in tiny(honest, flip)])
    assert np.linalg.norm(u) <= np.linalg.norm(honest)


def test_of_three_the_opposing_one_is_refused() -> None:
    result = tiny(vec(1, 2, 3, 4), vec(1, 2, 3, 5), vec(-1, -2, -3, -4))
    assert [c.value for c in result] == [0.5, 0.5, 0.0]
    assert result[2] == Coefficient(0.0, "refused", "ARES-E070")


def test_opposition_in_less_than_the_share_of_tensors_is_accepted() -> None:
    result = tiny(vec(1, 2, 3, 4), vec(1, 2, 3, 4), vec(-1, -2, 3, 4))
    assert [c.status for c in result] == ["accepted"] * 3


def test_tensors_without_any_direction_do_not_vote() -> None:
    result = tiny(vec(1, 2, 0, 0), vec(1, 2, 0, 0), vec(-1, -2, 0, 0))
    assert [c.status for c in result] == ["accepted", "accepted", "refused"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_non_finite_and_overflowing_contributions_are_refused(bad: float) -> None:
    result = tiny(vec(1, 2, 3, 4), vec(1, bad, 3, 4), vec(1, 2, 3, 4))
    assert result[1] == Coefficient(0.0, "refused", "ARES-E065")
    assert [result[0].value, result[2].value] == [0.5, 0.5]


def test_zeros_are_refused_and_do_not_dilute() -> None:
    result = tiny(vec(1, 2, 3, 4), vec(0, 0, 0, 0), vec(1, 2, 3, 4))
    assert result[1] == Coefficient(0.0, "refused", "ARES-E058")
    assert [result[0].value, result[2].value] == [0.5, 0.5]


def test_nothing_usable_gives_a_zero_update() -> None:
    vectors = [vec(0, 0, 0, 0), vec(np.nan, 0, 0, 0)]
    result = tiny(*vectors)
    assert [c.status for c in result] == ["refused"] * 2
    assert combine(vectors, [c.value for c in result]).tolist() == [0, 0, 0, 0]


def test_longer_local_paths_keep_their_weight() -> None:
    result = tiny(vec(1, 1, 1, 1), vec(1, 1, 1, 1), vec(1.2, 1.2, 1.2, 1.2), vec(2, 2, 2, 2))
    assert [c.status for c in result] == ["accepted"] * 4


def test_norm_limit_bounds_a_lone_contribution() -> None:
    lone = tiny(vec(3, 0, 4, 0), config=AggregateConfig(norm_limit=1.0))
    assert lone == [Coefficient(float(F(0.2)), "clipped", "ARES-E073")]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        tiny(vec(1, 2, 3))
    with pytest.raises(ShapeMismatch):
        check_contribution(vec(1, 2, 3), layout=TINY)
    with pytest.raises(NonFinite):
        check_contribution(vec(1, 2, 3, np.nan), layout=TINY)
    check_contribution(vec(1, 2, 3, 4), layout=TINY)
    with pytest.raises(ShapeMismatch):
        combine([], [])
    with pytest.raises(ShapeMismatch):
        combine([vec(1, 2)], [1.0, 2.0])
    with pytest.raises(ShapeMismatch):
        combine([vec(1, 2), vec(1, 2, 3)], [1.0, 2.0])


# --- the sum ----------------------------------------------------------------------------------


def test_combine_rounds_every_operation_on_its_own_in_order() -> None:
    rng = np.random.default_rng(0)
    size = 65_536 + 100
    vectors = list(rng.standard_normal((5, size), dtype=F))
    values = [0.2, 0.31, 0.0, 0.17, 1e-3]
    u = combine(vectors, values)
    for i in (0, 1, 65_535, 65_536, size - 1):
        expected = F(0)
        for vector, value in zip(vectors, values, strict=True):
            expected = F(expected + F(F(value) * vector[i]))
        assert u[i] == expected


def test_combine_writes_to_out_and_skips_what_counts_nothing() -> None:
    out = np.full(2, np.nan, dtype=F)
    assert combine([vec(1, 2), vec(np.nan, np.inf)], [0.5, 0.0], out=out) is out
    assert out.tolist() == [0.5, 1.0]


def test_encoded_contributions_give_the_same_bits_as_decoded_ones() -> None:
    rng = np.random.default_rng(0)
    layout = layout_of_shapes({f"t{i}": (300, 100) for i in range(7)})  # spans cross frames
    common = rng.standard_normal(layout.size, dtype=F)
    blobs = [
        encode(
            common + rng.standard_normal(layout.size, dtype=F),
            bits=3,
            layout_sha256=layout.digest_sha256,
        )
        for _ in range(4)
    ]
    lazy = [open_encoded(blob, layout=layout, bits=3) for blob in blobs]
    arrays = []
    for encoded in lazy:
        out = np.empty(layout.size, dtype=F)
        for start in range(0, layout.size, 65_536):
            part = slice(start, min(start + 65_536, layout.size))
            encoded.read(part, out[part])
        arrays.append(out)
    coefficients = robust_coefficients(lazy, layout=layout)
    assert coefficients == robust_coefficients(arrays, layout=layout)
    values = [c.value for c in coefficients]
    assert np.array_equal(combine(lazy, values), combine(arrays, values))


# --- attacks: minimise |theta - target|^2 / 2 with noisy local work ----------------------------

LAYOUT = layout_of_shapes({f"t{i:02}": (500,) for i in range(20)})
Attack = Callable[[list[Vector]], list[Vector]]


def descend(attack: Attack | None, *, workers: int = 8, bad: int = 3, robust: bool = True) -> float:
    """Return how far 30 rounds end from the target, relative to the start."""
    rng = np.random.default_rng(5)
    target = rng.standard_normal(LAYOUT.size, dtype=F)
    theta, mu = np.zeros((2, LAYOUT.size), dtype=F)
    for _ in range(30):
        gradients = [
            F(0.2) * (theta - target + F(1.5) * rng.standard_normal(LAYOUT.size, dtype=F))
            for _ in range(workers)
        ]
        if attack is not None:
            gradients[workers - bad :] = attack(gradients[workers - bad :])
        if robust:
            values = [c.value for c in robust_coefficients(gradients, layout=LAYOUT)]
        else:
            values = [1 / workers] * workers
        theta, mu = outer_step(theta, mu, combine(gradients, values), lr=0.7, momentum=0.5)
    return float(np.linalg.norm(theta - target) / np.linalg.norm(target))


def colluding_flip(bad: list[Vector]) -> list[Vector]:
    return [-10 * np.mean(bad, axis=0)] * len(bad)


def noise(bad: list[Vector]) -> list[Vector]:
    rng = np.random.default_rng(11)
    return [10 * rng.standard_normal(vector.size, dtype=F) for vector in bad]


ATTACKS: dict[str, Attack] = {
    "sign flip x10": lambda bad: [-10 * vector for vector in bad],
    "colluding sign flip x10": colluding_flip,
    "sign flip x1": lambda bad: [-vector for vector in bad],
    "scaled x1e6": lambda bad: [F(1e6) * vector for vector in bad],
    "nan": lambda bad: [vector * F(np.nan) for vector in bad],
    "zeros": lambda bad: [0 * vector for vector in bad],
    "noise x10": noise,
}


def test_honest_rounds_converge_and_refuse_nobody() -> None:
    assert descend(None) < 0.35
    rng = np.random.default_rng(6)
    common = rng.standard_normal(LAYOUT.size, dtype=F)
    refused = 0
    for _ in range(20):  # honest cosines of about 0.3
        vectors = [common + F(1.5) * rng.standard_normal(LAYOUT.size, dtype=F) for _ in range(8)]
        result = robust_coefficients(vectors, layout=LAYOUT)
        refused += sum(c.status != "accepted" for c in result)
    assert refused == 0


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_three_attackers_of_eight_do_not_stop_the_descent(name: str) -> None:
    clean = descend(None)
    attacked = descend(ATTACKS[name])
    assert attacked < max(0.5, 1.6 * clean), (clean, attacked)


def test_the_plain_mean_is_ruined_by_the_same_attack() -> None:
    """So the attacks above are real ones."""
    assert descend(ATTACKS["sign flip x10"], robust=False) > 10
