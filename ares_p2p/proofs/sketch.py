"""Compares a committed contribution with an auditor's replay of the same work.

Let u be the auditor's own uncompressed update and Q the round's codec. A low-bit blob differs
from u by a third of its length however honest it is, so the blob is compared with Q(u) in length
(`rho`, `norm_ratio`), and in direction by the *drop of cosine*, cos(Q(u), u) - cos(blob, u): what
the claim lost against the same codec on honest work. The drop separates at every bit width.
The cosine does not see scaling, which is why the norm ratio has bounds of its own.

A comparison is a measurement, not a verdict on a person: "fail" needs a second independent
replay before it counts, and "void" (in between) costs the credit and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ares_p2p.errors import NonFinite, ShapeMismatch

Outcome = Literal["pass", "void", "fail"]
_PART_ELEMENTS = 1 << 18  # 2 MB of float64 per temporary


@dataclass(frozen=True, slots=True)
class ReplayComparison:
    """How far a claim is from a replay.

    Args:
        rho: |blob - Q(u)| / |Q(u)|.
        norm_ratio: |blob| / |Q(u)|.
        cosine: cos(blob, u).
        cosine_drop: cos(Q(u), u) - cos(blob, u); honest work has about zero, either sign.
    """

    rho: float
    norm_ratio: float
    cosine: float
    cosine_drop: float


@dataclass(frozen=True, slots=True)
class AuditThresholds:
    """Bounds of the verdicts, to be calibrated per optimizer, codec and hardware profile.

    Measured with the network's own optimizer (RMSProp fresh every round, lr 0.003, 10 steps, the
    shipped base, LoRA of rank 16) at 2, 3, 4 and 8 bits; ranges over the widths:

                                      rho              cosine drop      norm ratio
        other rows per pass, threads,
        attention kernel (float32)    0.000 - 0.005    0.00000          1.000
        bfloat16 against float32      0.09  - 0.24     0.0037 - 0.0040  1.000 - 1.001
        1 of 10 steps skipped         0.36  - 0.52     0.062  - 0.066   0.89
        2 of 10 steps skipped         0.49  - 0.61     0.119  - 0.127   0.80
        an eighth of the examples
        left out                      0.56  - 0.68     0.15   - 0.17    0.96
        4-bit base instead of float32 0.57  - 0.68     0.15   - 0.16    1.01
        half the steps, twice the lr  1.01  - 1.06     0.44   - 0.47    1.08
        state of the round before     0.86  - 0.92     0.34   - 0.36    1.03
        another's examples            1.15  - 1.17     0.67   - 0.72    0.92

    With 20 steps: bfloat16 against float32 0.0023 - 0.0043, one step skipped 0.015, two 0.034 -
    0.036, five 0.09 - 0.10. One base, one state, few pairs: measure again for a real network.

    Args:
        pass_cosine_drop: at most this much passes.
        fail_cosine_drop: more than this fails.
        pass_norm_deviation: |log(norm_ratio)| of at most this passes.
        fail_norm_deviation: more than this fails.
        pass_rho: at most this passes.
        fail_rho: more than this fails.
    """

    pass_cosine_drop: float = 0.010
    fail_cosine_drop: float = 0.030
    pass_norm_deviation: float = 0.05
    fail_norm_deviation: float = 0.20
    pass_rho: float = 0.30
    fail_rho: float = 0.60


def compare_updates(
    claimed_q: npt.NDArray[np.float32],
    replayed_u: npt.NDArray[np.float32],
    *,
    own_q: npt.NDArray[np.float32],
) -> ReplayComparison:
    """Measure a claim against a replay.

    Args:
        claimed_q: the decoded blob, (size,).
        replayed_u: the auditor's own uncompressed update, (size,).
        own_q: `replayed_u` encoded and decoded with the round's codec, (size,).
    Returns: the comparison. Of zero vectors: cosine 0 (1 if both are zero), ratio of norms 1 if
        both are zero, infinite if only the auditor's is.
    Raises: ShapeMismatch: sizes differ. NonFinite: NaN or infinity in one of them.
    """
    if not claimed_q.shape == replayed_u.shape == own_q.shape or claimed_q.ndim != 1:
        raise ShapeMismatch(
            f"vectors of shapes {claimed_q.shape}, {replayed_u.shape}, {own_q.shape} to compare"
        )
    sums = np.zeros(6)
    for start in range(0, claimed_q.size, _PART_ELEMENTS):
        part = slice(start, start + _PART_ELEMENTS)
        claim, own, exact = (v[part].astype(np.float64) for v in (claimed_q, own_q, replayed_u))
        gap = claim - own
        pairs = ((claim, claim), (own, own), (exact, exact), (claim, exact), (own, exact))
        sums += [a @ b for a, b in (*pairs, (gap, gap))]
    if not np.isfinite(sums).all():
        raise NonFinite("a vector to compare holds NaN or infinite numbers")
    claim_2, own_2, exact_2, claim_exact, own_exact, gap_2 = (float(value) for value in sums)
    cosine = _cosine(claim_exact, claim_2, exact_2)
    return ReplayComparison(
        rho=_ratio(gap_2, own_2, both_zero=0.0),
        norm_ratio=_ratio(claim_2, own_2, both_zero=1.0),
        cosine=cosine,
        cosine_drop=_cosine(own_exact, own_2, exact_2) - cosine,
    )


def judge(comparison: ReplayComparison, thresholds: AuditThresholds | None = None) -> Outcome:
    """Return what one replay says: "fail" if any bound says so, "pass" if all do, else "void"."""
    limits = AuditThresholds() if thresholds is None else thresholds
    ratio = comparison.norm_ratio
    deviation = abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf
    bounds = (
        (comparison.cosine_drop, limits.pass_cosine_drop, limits.fail_cosine_drop),
        (deviation, limits.pass_norm_deviation, limits.fail_norm_deviation),
        (comparison.rho, limits.pass_rho, limits.fail_rho),
    )
    # written so that NaN, should it ever come here, fails
    if not all(value <= fail for value, _, fail in bounds):
        return "fail"
    return "pass" if all(value <= ok for value, ok, _ in bounds) else "void"


def _cosine(product: float, a_square: float, b_square: float) -> float:
    if a_square == 0 or b_square == 0:
        return 1.0 if a_square == b_square else 0.0
    return product / math.sqrt(a_square) / math.sqrt(b_square)


def _ratio(a_square: float, b_square: float, *, both_zero: float) -> float:
    """Return sqrt(a / b), with a meaning for b = 0."""
    if b_square == 0:
        return both_zero if a_square == 0 else math.inf
    return math.sqrt(a_square / b_square)
