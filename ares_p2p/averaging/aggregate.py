"""The robust mean of a round, as one published coefficient per contribution.

`robust_coefficients` looks at all contributions through their inner products, taken tensor by
tensor, and decides; its floating-point sums may differ in the last bit between machines, so the
coordinator *publishes* the coefficients. `combine` then is the same bits everywhere: numpy float32
multiply, then add, in the given order. The rules, in this order:

1. NaN, infinities, or nothing at all (norm zero) -> refused. (What has the wrong shape, or is
   larger than local steps can make it, never comes here: `bounds.check_contribution`.)
2. Strangers. Everybody's examples are drawn alike, so everybody's direction should be about as
   near to the others'. A contribution whose median cosine to the others is below `apart_ratio` of
   the typical one -> refused (ARES-E088, or E070 below zero), if that is `apart_spreads` times as far below as those
   that agree lie apart: where gradients are all noise, nobody is a stranger. One at a time, the
   farthest first. With fewer than six the spread is a guess: no vote.
3. Opposition. Every tensor votes about every contribution: do its cosines to the others sum to
   less than zero? More than `opposed_share` of the votes -> refused (ARES-E070). One contribution
   at a time, the most opposed first, since a liar's absence changes the votes about the others.
   Cosines are capped at the quarter-quantile of their magnitudes in that tensor: liars who send
   the same vector many times agree perfectly, and uncapped that outweighs an honest majority
   whose own cosines are 0.1 to 0.4 (tried: three equal sign flips of eight had the five honest
   ones refused). With fewer than three left nobody can say who opposes whom: no vote.
4. Norms above `norm_factor` times the median (the lower one of an even number) are scaled to the
   median itself: so far out, length is no sign of work. The median is that of rule 1's survivors:
   liars who get honest work refused must not choose the measure as well.
5. Centred clipping: with v0 the mean of what is left, contributions farther from it than
   `centre_factor` times the median distance are pulled in. One step of it is linear in the
   contributions, so it folds into the coefficients. At least half are not pulled, so with
   `centre_factor` of 1 or more no coefficient is above 1.5 / n of the n that are left.
6. Shares. No contribution's share of the update is above `share_factor` times the median one
   (`bounds.capped_weights`).

Small rounds: one contribution gets coefficient 1 (audits must judge it). Of two that oppose each
other the longer is scaled to the shorter, so that a flip can undo the honest one and no more: a
lost round, and audits find the liar.

Limits and what was tried in vain: docs/attacks.md.

Source: centred clipping, Karimireddy et al., arXiv:2012.10333; the rest is docs/adr/0001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ares_p2p.averaging.bounds import Array, capped_weights, lower_median
from ares_p2p.averaging.codec import EncodedVector
from ares_p2p.averaging.vectors import (
    FLOAT32,
    PART_ELEMENTS,
    SMALL_PART_ELEMENTS,
    Vector,
    VectorLayout,
    VectorSource,
    check_vector,
    parts,
    read_part,
)
from ares_p2p.errors import (
    ApartFromOthers,
    NonFinite,
    NormClipped,
    OpposesOthers,
    PayloadMalformed,
    ShapeMismatch,
)

Status = Literal["accepted", "clipped", "refused"]
_CAP_QUANTILE = 0.25
_QUORUM = 3  # contributions needed before one can be said to oppose the others
_APART_QUORUM = 6  # with four or five, one honest one of sixty was called a stranger
_PAIR = 2
# Significant bits of a coefficient, the rest is cut off: 0.2 % of it at most. Up to 4 bits of codec,
# coefficient times decoded number is then exact, and `combine` needs a pass over memory less.
_COEFFICIENT_BITS = 9


@dataclass(frozen=True, slots=True)
class AggregateConfig:
    """Constants of the robust mean; see the module's docstring.

    Args:
        norm_factor: longest norm that is not scaled, in medians.
        centre_factor: longest distance from the mean, in medians; at least 1.
        apart_ratio: share of the typical median cosine that is needed to belong to the rest.
        apart_spreads: how many spreads of the agreeing ones' cosines a stranger is away.
        opposed_share: share of a contribution's votes against it that refuses it.
        share_factor: largest share of the update, in medians; at least 1. Peers make different
            numbers of steps: at 1 the slowest would set the pace of all.
    """

    norm_factor: float = 2.0
    centre_factor: float = 1.25
    apart_ratio: float = 0.4
    apart_spreads: float = 3.0
    opposed_share: float = 0.7
    share_factor: float = 1.5


@dataclass(frozen=True, slots=True)
class Coefficient:
    """What the round makes of one contribution.

    Args:
        value: the factor, exactly a float32 of few significant bits; 0 for a refused one.
        status: "clipped" means scaled down for its norm; it still counts.
        reason: code of the error (`ARES-E...`) if not accepted.
    """

    value: float
    status: Status
    reason: str | None = None


def robust_coefficients(
    vectors: Sequence[Vector | VectorSource],
    *,
    layout: VectorLayout,
    config: AggregateConfig | None = None,
) -> tuple[Coefficient, ...]:
    """Decide what each contribution of a round counts.

    Args:
        vectors: arrays or encoded vectors, each of the layout's size; read part by part, once.
        layout: its tensors are the blocks that vote.
        config: the constants; their defaults without it.
    Returns: one coefficient per vector, in order; all zero if none is usable.
    Raises: ShapeMismatch: a vector of another size.
    """
    config = AggregateConfig() if config is None else config
    if not vectors:
        return ()
    blocks = _inner_products(vectors, layout)  # (tensors, n, n)
    reasons: list[str | None] = [None] * len(vectors)
    squares = np.einsum("bii->i", blocks)
    for number, square in enumerate(squares):
        if not np.isfinite(square):
            reasons[number] = NonFinite.code
        elif square == 0:
            reasons[number] = PayloadMalformed.code
    alive = [number for number, reason in enumerate(reasons) if reason is None]
    if not alive:
        return tuple(Coefficient(0.0, "refused", reason) for reason in reasons)
    median = lower_median(np.sqrt(squares[alive]))
    products = blocks.sum(axis=0)
    while (stranger := _farthest(products, alive, config)) is not None:
        number, is_against = stranger
        reasons[number] = OpposesOthers.code if is_against else ApartFromOthers.code
        alive.remove(number)
    while (opposed := _most_opposed(blocks, alive, share=config.opposed_share)) is not None:
        reasons[opposed] = OpposesOthers.code
        alive.remove(opposed)

    products = products[np.ix_(alive, alive)]
    norms = np.sqrt(squares[alive])
    clipped = norms > config.norm_factor * median
    scales = np.where(clipped, median / norms, 1.0)  # (alive,)
    if len(alive) == _PAIR and products[0, 1] < 0:
        scales = norms.min() / norms
    weights = _centred(products, scales, config.centre_factor)
    weights = capped_weights(products, weights, factor=config.share_factor)

    result = [Coefficient(0.0, "refused", reason) for reason in reasons]
    for place, number in enumerate(alive):
        value = _cut(float(weights[place]))
        if clipped[place]:
            result[number] = Coefficient(value, "clipped", NormClipped.code)
        else:
            result[number] = Coefficient(value, "accepted")
    return tuple(result)


def combine(
    vectors: Sequence[Vector | VectorSource],
    coefficients: Sequence[float],
    *,
    out: Vector | None = None,
) -> Vector:
    """Return `u`, the sum of coefficient times vector: the same bits on every machine.

    Per element, from zero, in the given order (by commit digest), with every operation
    rounded to float32 on its own: u = fl(u + fl(coefficient * vector)). A vector whose coefficient
    is zero is not read, so it may hold anything.

    Args:
        vectors: arrays or encoded vectors, each (size,); at least one.
        coefficients: of the manifest, one per vector; rounded to float32 first.
        out: written and returned if given, (size,).
    Returns: (size,).
    Raises: ShapeMismatch: no vector, another number of coefficients, or sizes differ.
    """
    if not vectors or len(vectors) != len(coefficients):
        raise ShapeMismatch(f"{len(coefficients)} coefficients for {len(vectors)} contributions")
    size = vectors[0].size
    _check_sizes(vectors, size=size)
    used = [
        (vector, np.float32(coefficient))
        for vector, coefficient in zip(vectors, coefficients, strict=True)
        if coefficient != 0
    ]
    total = np.empty(size, dtype=FLOAT32) if out is None else out
    check_vector(total, size=size, what="out")
    in_memory = all(isinstance(vector, np.ndarray) for vector, _ in used)
    part_elements = SMALL_PART_ELEMENTS if in_memory else PART_ELEMENTS  # the same bits either way
    scratch = np.empty(part_elements, dtype=FLOAT32)
    for part in parts(size, part_elements=part_elements):
        work, target = scratch[: part.stop - part.start], total[part]
        target.fill(0)
        for vector, coefficient in used:
            if isinstance(vector, EncodedVector) and vector.takes_exactly(float(coefficient)):
                vector.read_scaled(part, scratch, coefficient)  # the same bits, sooner
            else:
                np.multiply(read_part(vector, part, scratch), coefficient, out=work)
            np.add(target, work, out=target)
    return total


def _cut(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return math.ldexp(
        math.floor(math.ldexp(mantissa, _COEFFICIENT_BITS)), exponent - _COEFFICIENT_BITS
    )


def _check_sizes(vectors: Sequence[Vector | VectorSource], *, size: int) -> None:
    for vector in vectors:
        if isinstance(vector, np.ndarray):
            check_vector(vector, size=size, what="contribution")
        elif vector.size != size:
            raise ShapeMismatch(f"contribution of {vector.size} elements, {size} expected")


def _inner_products(vectors: Sequence[Vector | VectorSource], layout: VectorLayout) -> Array:
    """Return every tensor's inner products of all pairs, (tensors, n, n)."""
    _check_sizes(vectors, size=layout.size)
    spans, count = layout.spans, len(vectors)
    products = np.zeros((len(spans), count, count), dtype=np.float64)
    rows = np.empty((count, PART_ELEMENTS), dtype=FLOAT32)
    tensor = 0
    # a hostile number makes its own row and column NaN or infinite, which is how it is found
    with np.errstate(invalid="ignore", over="ignore"):
        for part in parts(layout.size):
            for row, vector in zip(rows, vectors, strict=True):
                view = read_part(vector, part, row)
                if isinstance(vector, np.ndarray):
                    row[: view.size] = view
            start = part.start
            while start < part.stop:
                stop = min(spans[tensor][1], part.stop)
                piece = rows[:, start - part.start : stop - part.start]
                products[tensor] += piece @ piece.T
                tensor += stop == spans[tensor][1]
                start = stop
    return products


def _farthest(
    products: Array, alive: list[int], config: AggregateConfig
) -> tuple[int, bool] | None:
    """Return the contribution that is farthest apart from the rest, if any is; see rule 2.

    Returns: its number, and whether it even points against them.
    """
    count = len(alive)
    if count < _APART_QUORUM:
        return None
    among = products[np.ix_(alive, alive)]
    norms = np.sqrt(np.diag(among))
    cosines = among / np.outer(norms, norms)
    np.fill_diagonal(cosines, -np.inf)
    ranked = np.sort(cosines, axis=1)[:, 1:]  # (count, count - 1), lowest first
    medians = ranked[:, (count - 1) // 2]  # the upper one: half and more are at least so near
    spreads = ranked[:, -1] - medians
    typical, spread = lower_median(medians), np.sort(spreads)[count // 2]
    limit = min(config.apart_ratio * typical, typical - config.apart_spreads * spread)
    farthest = int(np.argmin(medians))
    if typical <= 0 or medians[farthest] >= limit:
        return None
    return alive[farthest], bool(medians[farthest] < 0)


def _most_opposed(blocks: Array, alive: list[int], *, share: float) -> int | None:
    """Return the contribution that most votes are against, if any is opposed; see rule 2."""
    if len(alive) < _QUORUM:
        return None
    among = blocks[:, alive][:, :, alive]  # (tensors, alive, alive)
    norms = np.sqrt(np.einsum("bii->bi", among))
    scale = norms[:, :, None] * norms[:, None, :]
    cosines = np.divide(among, scale, out=np.zeros_like(among), where=scale > 0)
    others = ~np.eye(len(alive), dtype=bool)
    caps = np.quantile(np.abs(cosines[:, others]), _CAP_QUANTILE, axis=1)[:, None, None]
    support = (np.clip(cosines, -caps, caps) * others).sum(axis=2)  # (tensors, alive)
    against, voted = (support < 0).sum(axis=0), (support != 0).sum(axis=0)
    opposed = against > share * np.maximum(voted, 1)
    if not opposed.any():
        return None
    ranking = np.where(opposed, support.sum(axis=0), np.inf)
    return alive[int(np.argmin(ranking))]


def _centred(products: Array, scales: Array, factor: float) -> Array:
    """Return the weights of one step of centred clipping of the scaled contributions.

    Args:
        products: inner products of the contributions, (n, n).
        scales: what rule 3 multiplies each with, (n,).
        factor: of the median distance.
    Returns: (n,).
    """
    count = len(scales)
    scaled = products * np.outer(scales, scales)
    to_mean, mean_square = scaled.mean(axis=1), scaled.mean()
    distances = np.sqrt(np.maximum(np.diag(scaled) - 2 * to_mean + mean_square, 0.0))
    bound = factor * lower_median(distances)
    pull = np.ones(count)
    np.divide(bound, distances, out=pull, where=distances > bound)
    # v1 = (1 - mean(pull)) * v0 + sum(pull_i * x_i) / n, with v0 = sum(x_i) / n
    weights: Array = ((1.0 - pull.mean()) + pull) * scales / count
    return weights
