"""Compares a committed contribution with an auditor's replay of the same work.

Let u be the auditor's own uncompressed update and Q the round's codec. A low-bit blob differs
from u by a third of its length however honest it is, so the blob is compared with Q(u) in length
(`norm_ratio`), and in direction by the *drop of cosine*, cos(Q(u), u) - cos(blob, u): what the
claim lost against the same codec on honest work. The codec cancels out of it: the curves of 2 bits
and of no rounding at all lie on each other (docs/adr/0005). The cosine does not see scaling, which
is why the norm ratio has bounds of its own.

Rounding noise between two builds grows from the last layers to the first, because the backward
pass carries it down; work that was left out is missing everywhere alike. `quiet_drop` is the drop
in the quietest tenth of the tensors: in bfloat16 it tells one step of ten left out from another
attention kernel, which the whole vector's drop cannot. It says nothing about the rest of the
tensors, so it stands beside the whole drop and never replaces it.

A comparison is a measurement, not a verdict on a person: "fail" needs a second independent
replay before it counts, and "void" (in between) costs the credit and nothing else. The bounds come
from `ares_p2p.proofs.thresholds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ares_p2p.errors import NonFinite, ShapeMismatch

Outcome = Literal["pass", "void", "fail"]
QUIET_SHARE = 0.10  # of the tensors; chosen by measurement, see docs/adr/0005
_PART_ELEMENTS = 1 << 18  # 2 MB of float64 per temporary


@dataclass(frozen=True, slots=True)
class ReplayComparison:
    """How far a claim is from a replay.

    Args:
        rho: |blob - Q(u)| / |Q(u)|; reported, never judged: length and direction say it all.
        norm_ratio: |blob| / |Q(u)|.
        cosine: cos(blob, u).
        cosine_drop: cos(Q(u), u) - cos(blob, u); honest work has about zero, either sign.
        quiet_drop: the same tensor by tensor: the value that a tenth of the tensors do not
            exceed. None where the tensors are not known; it is not judged then.
    """

    rho: float
    norm_ratio: float
    cosine: float
    cosine_drop: float
    quiet_drop: float | None = None


@dataclass(frozen=True, slots=True)
class AuditThresholds:
    """Bounds of the verdicts; `ares_p2p.proofs.thresholds` has those that were measured.

    The defaults are for callers without a calibration, in float32 on one device class. An infinite
    bound of "fail" means that nothing is known to be dishonest: the outcome is then void at most.

    Args:
        pass_cosine_drop: at most this much passes.
        fail_cosine_drop: more than this fails.
        pass_norm_deviation: |log(norm_ratio)| of at most this passes.
        fail_norm_deviation: more than this fails.
        pass_quiet_drop: as for the whole drop, of `quiet_drop`.
        fail_quiet_drop: the same.
    """

    pass_cosine_drop: float = 0.010
    fail_cosine_drop: float = 0.030
    pass_norm_deviation: float = 0.05
    fail_norm_deviation: float = 0.20
    pass_quiet_drop: float = 0.010
    fail_quiet_drop: float = 0.030


def compare_updates(
    claimed_q: npt.NDArray[np.float32],
    replayed_u: npt.NDArray[np.float32],
    *,
    own_q: npt.NDArray[np.float32],
    spans: Sequence[tuple[int, int]] = (),
) -> ReplayComparison:
    """Measure a claim against a replay.

    Args:
        claimed_q: the decoded blob, (size,).
        replayed_u: the auditor's own uncompressed update, (size,).
        own_q: `replayed_u` encoded and decoded with the round's codec, (size,).
        spans: `(start, stop)` of every tensor, without gaps (`Layout.spans`); without them
            there is no `quiet_drop`.
    Returns: the comparison. Of zero vectors: cosine 0 (1 if both are zero), ratio of norms 1 if
        both are zero, infinite if only the auditor's is.
    Raises: ShapeMismatch: sizes differ. NonFinite: NaN or infinity in one of them.
    """
    if not claimed_q.shape == replayed_u.shape == own_q.shape or claimed_q.ndim != 1:
        raise ShapeMismatch(
            f"vectors of shapes {claimed_q.shape}, {replayed_u.shape}, {own_q.shape} to compare"
        )
    tensors = spans or ((0, claimed_q.size),)
    if [start for start, _ in tensors] + [claimed_q.size] != [0] + [stop for _, stop in tensors]:
        raise ShapeMismatch(f"tensors that do not cover a vector of {claimed_q.size} elements")
    sums = np.array([_sums(claimed_q, own_q, replayed_u, span) for span in tensors])  # (tensors, 6)
    if not np.isfinite(sums).all():
        raise NonFinite("a vector to compare holds NaN or infinite numbers")
    whole = sums.sum(axis=0)
    claim_2, own_2, _, _, _, gap_2 = (float(value) for value in whole)
    cosine, drop = _cosine_and_drop(whole)
    quiet_drop = None
    if spans:
        drops = sorted(_cosine_and_drop(row)[1] for row in sums)
        quiet_drop = drops[int(QUIET_SHARE * (len(drops) - 1))]
    return ReplayComparison(
        rho=_ratio(gap_2, own_2, both_zero=0.0),
        norm_ratio=_ratio(claim_2, own_2, both_zero=1.0),
        cosine=cosine,
        cosine_drop=drop,
        quiet_drop=quiet_drop,
    )


def norm_deviation(norm_ratio: float) -> float:
    """Return |log(norm_ratio)|, infinite where there is none."""
    return abs(math.log(norm_ratio)) if 0 < norm_ratio < math.inf else math.inf


def judge(comparison: ReplayComparison, thresholds: AuditThresholds | None = None) -> Outcome:
    """Return what one replay says: "fail" if any bound says so, "pass" if all do, else "void"."""
    limits = AuditThresholds() if thresholds is None else thresholds
    bounds = [
        (comparison.cosine_drop, limits.pass_cosine_drop, limits.fail_cosine_drop),
        (
            norm_deviation(comparison.norm_ratio),
            limits.pass_norm_deviation,
            limits.fail_norm_deviation,
        ),
    ]
    if comparison.quiet_drop is not None:
        bounds.append((comparison.quiet_drop, limits.pass_quiet_drop, limits.fail_quiet_drop))
    # written so that NaN, should it ever come here, fails, unless nothing does
    if not all(value <= fail or fail == math.inf for value, _, fail in bounds):
        return "fail"
    return "pass" if all(value <= ok for value, ok, _ in bounds) else "void"


def _sums(
    claimed_q: npt.NDArray[np.float32],
    own_q: npt.NDArray[np.float32],
    replayed_u: npt.NDArray[np.float32],
    span: tuple[int, int],
) -> npt.NDArray[np.float64]:
    """Return the products of a span: claim, own, exact squared, claim and own by exact, the gap."""
    sums = np.zeros(6)
    for start in range(*span, _PART_ELEMENTS):
        part = slice(start, min(start + _PART_ELEMENTS, span[1]))
        claim, own, exact = (v[part].astype(np.float64) for v in (claimed_q, own_q, replayed_u))
        gap = claim - own
        pairs = ((claim, claim), (own, own), (exact, exact), (claim, exact), (own, exact))
        sums += [a @ b for a, b in (*pairs, (gap, gap))]
    return sums


def _cosine_and_drop(sums: npt.NDArray[np.float64]) -> tuple[float, float]:
    claim_2, own_2, exact_2, claim_exact, own_exact, _ = (float(value) for value in sums)
    cosine = _cosine(claim_exact, claim_2, exact_2)
    return cosine, _cosine(own_exact, own_2, exact_2) - cosine


def _cosine(product: float, a_square: float, b_square: float) -> float:
    if a_square == 0 or b_square == 0:
        return 1.0 if a_square == b_square else 0.0
    return product / math.sqrt(a_square) / math.sqrt(b_square)


def _ratio(a_square: float, b_square: float, *, both_zero: float) -> float:
    """Return sqrt(a / b), with a meaning for b = 0."""
    if b_square == 0:
        return both_zero if a_square == 0 else math.inf
    return math.sqrt(a_square / b_square)
