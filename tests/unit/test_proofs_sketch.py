"""Replay comparison: what it measures, and what the default bounds say about cheats."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ares_p2p.averaging.codec import decode, encode
from ares_p2p.errors import NonFinite, ShapeMismatch
from ares_p2p.proofs.sketch import (
    AuditThresholds,
    ReplayComparison,
    compare_updates,
    judge,
)
from ares_p2p.training.layout import layout_of_shapes

F = np.float32
SIZE = 100_000
LAYOUT = layout_of_shapes({"x": (SIZE,)})
U = np.random.default_rng(0).standard_normal(SIZE, dtype=F)
OTHER = np.random.default_rng(1).standard_normal(SIZE, dtype=F)


def q(vector: np.ndarray, bits: int = 2) -> np.ndarray:
    data = encode(vector.astype(F), bits=bits, layout_sha256=LAYOUT.digest_sha256)
    return decode(data, layout=LAYOUT, bits=bits)


def outcome(claim: np.ndarray, bits: int = 2) -> str:
    return judge(compare_updates(claim, U, own_q=q(U, bits)))


def test_comparison_by_hand() -> None:
    u = np.array([1, 0], dtype=F)
    result = compare_updates(np.array([0, 2], dtype=F), u, own_q=u)
    assert result == ReplayComparison(rho=math.sqrt(5), norm_ratio=2.0, cosine=0.0, cosine_drop=1.0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_honest_work_passes_at_every_width(bits: int) -> None:
    assert outcome(q(U, bits), bits) == "pass"
    near = U + F(0.02) * OTHER  # another kernel or type: about two per cent
    assert outcome(q(near, bits), bits) == "pass"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("zero", lambda: np.zeros(SIZE, dtype=F)),
        ("noise", lambda: OTHER),
        ("sign flip", lambda: -U),
        ("sign flip x10", lambda: -10 * U),
        ("scaled x1.5", lambda: 1.5 * U),
        ("scaled x1e4", lambda: 1e4 * U),
        ("scaled x0.5", lambda: 0.5 * U),
        ("half the work", lambda: 0.6 * U + 0.4 * OTHER),
        ("another shard", lambda: 0.5 * U + 0.85 * OTHER),
    ],
)
def test_cheats_fail(name: str, make: object, bits: int) -> None:
    claim = make()  # type: ignore[operator]
    assert outcome(q(claim, bits), bits) == "fail", name


def test_in_between_is_void() -> None:
    assert outcome(q(U + F(0.2) * OTHER, 4), 4) == "void"
    assert outcome(q(F(1.1) * U, 4), 4) == "void"


def test_zero_vectors_have_a_meaning() -> None:
    zero = np.zeros(SIZE, dtype=F)
    both = compare_updates(zero, zero, own_q=zero)
    assert (both.rho, both.norm_ratio, both.cosine, both.cosine_drop) == (0, 1, 1, 0)
    assert judge(both) == "pass"
    against_zero = compare_updates(U, zero, own_q=zero)
    assert against_zero.norm_ratio == math.inf
    assert judge(against_zero) == "fail"
    assert judge(compare_updates(zero, U, own_q=q(U))) == "fail"


def test_thresholds_are_a_setting() -> None:
    comparison = compare_updates(q(U + F(0.2) * OTHER, 4), U, own_q=q(U, 4))
    assert (
        judge(comparison, AuditThresholds(pass_cosine_drop=0.02, fail_cosine_drop=0.03)) == "pass"
    )
    assert judge(comparison, AuditThresholds(fail_cosine_drop=0.001)) == "fail"
    nan = ReplayComparison(math.nan, math.nan, math.nan, math.nan)
    assert judge(nan) == "fail"


def test_comparison_refuses_other_shapes_and_nan() -> None:
    with pytest.raises(ShapeMismatch):
        compare_updates(U[:-1], U, own_q=U)
    bad = U.copy()
    bad[3] = np.nan
    with pytest.raises(NonFinite):
        compare_updates(bad, U, own_q=U)


TENSORS = 20
SPANS = tuple((i * 5_000, (i + 1) * 5_000) for i in range(TENSORS))


def noisy(tensors: int, amount: float) -> np.ndarray:
    """Return U with noise in the first `tensors` of its tensors."""
    claim = U.copy()
    claim[: SPANS[tensors - 1][1]] += F(amount) * OTHER[: SPANS[tensors - 1][1]]
    return claim


def test_quiet_drop_passes_over_noise_that_spares_a_tenth_of_the_tensors() -> None:
    rounding = compare_updates(noisy(TENSORS - 2, 0.3), U, own_q=U, spans=SPANS)
    everywhere = compare_updates(noisy(TENSORS, 0.3), U, own_q=U, spans=SPANS)
    assert rounding.quiet_drop == pytest.approx(0, abs=1e-9)
    assert rounding.cosine_drop > 0.03
    assert everywhere.quiet_drop is not None
    assert everywhere.quiet_drop > 0.03
    wide = AuditThresholds(pass_cosine_drop=0.1, fail_cosine_drop=0.3)
    assert judge(rounding, wide) == "pass"
    assert judge(everywhere, wide) == "fail"


def test_quiet_drop_by_hand_and_not_judged_without_tensors() -> None:
    u = np.array([1, 0, 1, 0], dtype=F)
    claim = np.array([1, 0, 0, 1], dtype=F)
    found = compare_updates(claim, u, own_q=u, spans=((0, 2), (2, 4)))
    assert found.quiet_drop == 0.0
    assert found.cosine_drop == pytest.approx(0.5)
    without = compare_updates(claim, u, own_q=u)
    assert without.quiet_drop is None
    assert without.cosine_drop == found.cosine_drop
    wide = AuditThresholds(pass_cosine_drop=1.0, fail_cosine_drop=1.0, fail_quiet_drop=-1.0)
    assert judge(without, wide) == "pass"
    assert judge(found, wide) == "fail"


def test_tensors_must_cover_the_vector() -> None:
    for spans in (SPANS[:-1], SPANS[1:], (*SPANS[:3], *SPANS[4:])):
        with pytest.raises(ShapeMismatch):
            compare_updates(U, U, own_q=U, spans=spans)
