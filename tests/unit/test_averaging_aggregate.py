"""The robust mean: edge cases by hand, bits of the sum, attacks on a quadratic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ares_p2p.averaging.aggregate import (
    AggregateConfig,
    Coefficient,
    combine,
    robust_coefficients,
)
from ares_p2p.averaging.codec import WIDTHS, decode, encode, open_encoded
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import ShapeMismatch
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


def test_of_two_one_more_than_twice_as_long_is_scaled_to_the_other() -> None:
    short, long_ = tiny(vec(1, 1, 1, 1), vec(8, 8, 8, 8))
    assert short == Coefficient(0.5, "accepted")
    assert long_ == Coefficient(0.0625, "clipped", "ARES-E073")  # half of 1 / 8


def test_of_two_that_differ_by_less_the_longer_has_three_shares_of_five() -> None:
    short, long_ = tiny(vec(1, 1, 1, 1), vec(1.9, 1.9, 1.9, 1.9))
    assert short == Coefficient(0.5, "accepted")
    assert long_.status == "accepted"
    assert long_.value * 1.9 == pytest.approx(1.5 * 0.5, rel=5e-3)  # parallel: shares are lengths


def test_two_opposing_contributions_cancel_and_both_are_accepted() -> None:
    both = tiny(vec(1, 2, 3, 4), vec(-1, -2, -3, -4))
    assert both == [Coefficient(0.5, "accepted")] * 2


@pytest.mark.parametrize("factor", [1.0, 1.9, 10.0, 1e6])
def test_two_where_one_is_a_flip_of_any_length_lose_the_round_not_the_state(factor: float) -> None:
    honest = vec(1, 2, 3, 4)
    flip = F(-factor) * honest
    u = combine([honest, flip], [c.value for c in tiny(honest, flip)])
    assert np.linalg.norm(u) < 0.002 * np.linalg.norm(honest)  # coefficients have 9 bits


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


def test_local_paths_of_different_length_are_all_accepted() -> None:
    result = tiny(vec(1, 1, 1, 1), vec(1, 1, 1, 1), vec(1.2, 1.2, 1.2, 1.2), vec(2, 2, 2, 2))
    assert [c.status for c in result] == ["accepted"] * 4
    lengths = [c.value * factor for c, factor in zip(result, (1, 1, 1.2, 2), strict=True)]
    assert lengths[2] > lengths[0]  # the longer path still weighs more


def test_norms_are_measured_against_the_refused_as_well() -> None:
    """Three liars of one mind and ten times the length get honest ones refused, one of many rounds.

    Measured among those that are left, their own length would be the median, and stay.
    """
    layout = layout_of_shapes({f"t{i}": (6,) for i in range(6)})
    config = AggregateConfig(share_factor=1e9, centre_factor=1e9)
    majorities = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        vectors = rng.standard_normal((8, layout.size), dtype=F)  # without any common direction
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[5:] = F(10) * vectors[5]
        result = robust_coefficients(list(vectors), layout=layout, config=config)
        left = sum(c.status != "refused" for c in result)
        majorities += sum(c.status == "accepted" for c in result) <= 3 and left > 3
        for liar in result[5:]:
            assert liar.value <= 1.001 * 0.1 / left  # of length 1, whoever is left
    assert majorities > 3


# --- strangers by hand --------------------------------------------------------------------------

ONE = layout_of_shapes({"all": (8,)})


def alike(count: int) -> list[Vector]:
    """Return contributions whose cosines to each other are all one half: e0 + e1, e0 + e2, ..."""
    unit = np.eye(8, dtype=F)
    return [unit[0] + unit[place] for place in range(1, count + 1)]


def stranger(cosine: float) -> Vector:
    """Return a vector with this cosine to each of `alike`."""
    toward = cosine * 2**0.5  # of its length, along e0; the rest is a direction of its own
    vector: Vector = F(toward) * np.eye(8, dtype=F)[0]
    vector[7] = (1 - toward**2) ** 0.5
    return vector


@pytest.mark.parametrize(
    ("cosine", "reason"),
    [(0.21, None), (0.19, "ARES-E088"), (0.01, "ARES-E088"), (-0.01, "ARES-E070")],
)
def test_who_has_less_than_two_fifths_of_the_usual_in_common_is_refused(
    cosine: float, reason: str | None
) -> None:
    result = robust_coefficients([*alike(5), stranger(cosine)], layout=ONE)
    assert [c.status for c in result[:5]] == ["accepted"] * 5
    assert result[5].reason == reason
    assert (result[5].value == 0) == (reason is not None)


def test_of_five_nobody_is_called_a_stranger() -> None:
    result = robust_coefficients([*alike(4), stranger(0.01)], layout=ONE)
    assert [c.status for c in result] == ["accepted"] * 5


def test_where_the_others_lie_far_apart_themselves_nobody_is_a_stranger() -> None:
    """The same stranger, but cosines of the others from 0.1 to 0.9: that may be noise."""
    rng = np.random.default_rng(0)
    apart = [
        F(weight) * np.eye(8, dtype=F)[0] + rng.standard_normal(8, dtype=F) * F(0.4)
        for weight in (0.2, 0.5, 1.0, 1.5, 3.0)
    ]
    result = robust_coefficients([*apart, stranger(0.05)], layout=ONE)
    assert "ARES-E088" not in {c.reason for c in result}


def test_three_of_one_mind_do_not_make_the_other_five_strangers() -> None:
    crowd = [stranger(0.05)] * 3
    result = robust_coefficients([*alike(5), *crowd], layout=ONE)
    assert [c.reason for c in result] == [None] * 5 + ["ARES-E088"] * 3


# --- caps by hand ------------------------------------------------------------------------------

EIGHT = layout_of_shapes({f"t{i}": (1,) for i in range(8)})


def at_right_angles(*lengths: float) -> list[Vector]:
    """Return vectors that share no direction: the n-th is `lengths[n]` of the n-th unit."""
    return [F(length) * np.eye(8, dtype=F)[place] for place, length in enumerate(lengths)]


def test_no_share_of_the_update_is_above_three_halves_of_the_median() -> None:
    """Four at right angles, lengths 1, 1, 1, 2: with equal weights the shares are 1, 1, 1, 4.

    2 is not above two medians, so nothing is clipped. A share of 1.5 is what a weight w with
    w^2 * 4 = 1.5 * (1/4)^2 gives: w = sqrt(1.5) / 8.
    """
    config = AggregateConfig(centre_factor=1e9)
    result = robust_coefficients(at_right_angles(1, 1, 1, 2), layout=EIGHT, config=config)
    assert [c.value for c in result[:3]] == [0.25] * 3
    assert result[3].value == pytest.approx(1.5**0.5 / 8, rel=5e-3)
    assert [c.status for c in result] == ["accepted"] * 4


def test_what_lies_far_from_the_mean_is_pulled_in() -> None:
    """Four at right angles, lengths 1, 1, 1, 1.9; centred clipping alone.

    Their mean is (.25, .25, .25, .475). Distances from it: sqrt(.75^2 + 2 * .25^2 + .475^2) = .9556
    three times, sqrt(1.425^2 + 3 * .25^2) = 1.4893 once. The bound is 1.25 * .9556 = 1.1945, the
    fourth's pull .8020, the mean pull .9505. Weights: (1 - .9505 + pull) / 4.
    """
    config = AggregateConfig(share_factor=1e9)
    result = robust_coefficients(at_right_angles(1, 1, 1, 1.9), layout=EIGHT, config=config)
    # cut to 9 significant bits: to a multiple of 1/1024 below 1/2, of 1/2048 below 1/4
    assert [c.value for c in result[:3]] == [int(0.26237 * 1024) / 1024] * 3
    assert result[3].value == int(0.21288 * 2048) / 2048
    assert [c.status for c in result] == ["accepted"] * 4


def test_a_crowd_that_says_the_same_has_the_shares_of_one_voice_each() -> None:
    """Five at right angles and three equal ones, all of length 1, with equal weights of 1/8.

    The sum has length^2 5 + 9 in units of the weight: shares 1 each, and 3 each for the three.
    Capped: v * 3v = 1.5 in the same units, so v = sqrt(1/2) of the others' weight.
    """
    honest = at_right_angles(1, 1, 1, 1, 1)
    crowd = [np.eye(8, dtype=F)[7]] * 3
    config = AggregateConfig(centre_factor=1e9)
    result = robust_coefficients([*honest, *crowd], layout=EIGHT, config=config)
    assert [c.value for c in result[:5]] == [0.125] * 5
    assert [c.value for c in result[5:]] == pytest.approx([0.125 * 0.5**0.5] * 3, rel=5e-3)


@pytest.mark.parametrize("seed", range(20))
def test_no_coefficient_is_above_three_halves_of_an_equal_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(EIGHT.size, dtype=F)
    vectors = [common + F(3) * rng.standard_normal(EIGHT.size, dtype=F) for _ in range(4 + seed)]
    for vector in vectors[: seed % 5]:
        vector *= F(1.9)
    off = AggregateConfig(share_factor=1e9)
    values = [c.value for c in robust_coefficients(vectors, layout=EIGHT, config=off)]
    left = sum(value > 0 for value in values)
    assert max(values) <= 1.5 / left


def test_caps_leave_a_lone_contribution_alone() -> None:
    assert robust_coefficients(at_right_angles(5), layout=EIGHT)[0].value == 1.0


def test_caps_never_raise_a_weight() -> None:
    rng = np.random.default_rng(3)
    for count in range(1, 12):
        vectors = list(rng.standard_normal((count, EIGHT.size), dtype=F))
        off = AggregateConfig(share_factor=1e9)
        before = robust_coefficients(vectors, layout=EIGHT, config=off)
        after = robust_coefficients(vectors, layout=EIGHT)
        for loose, capped in zip(before, after, strict=True):
            assert 0 <= capped.value <= loose.value


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        tiny(vec(1, 2, 3))
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


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_shorter_way_gives_the_same_bits_whatever_the_coefficients_are(bits: int) -> None:
    """Few bits fold into the steps exactly, others must not: 1e-30 times a step is no float32."""
    rng = np.random.default_rng(bits)
    layout = layout_of_shapes({"x": (70_000,)})
    full = {length: (2**length - 1) / 2 ** (length + 3) for length in range(4, 15)}
    values = [*full.values(), 1.0, 1 / 3, float(F(0.1)), 1e-30, -0.75]
    lazy, arrays = [], []
    for number in range(len(values)):
        scale = F(10.0 ** -(number % 5))  # also steps among float16's smallest numbers
        vector = rng.standard_normal(layout.size, dtype=F) * scale
        data = encode(vector, bits=bits, layout_sha256=layout.digest_sha256)
        lazy.append(open_encoded(data, layout=layout, bits=bits))
        arrays.append(decode(data, layout=layout, bits=bits))
    expected, found = combine(arrays, values), combine(lazy, values)
    assert np.array_equal(expected.view(np.uint32), found.view(np.uint32))
    fitting = [length for length, value in full.items() if lazy[0].takes_exactly(value)]
    assert fitting == [length for length in full if length + 11 + bits <= 24]
    assert not any(lazy[0].takes_exactly(value) for value in (1 / 3, 1e-30, 1e30))


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
