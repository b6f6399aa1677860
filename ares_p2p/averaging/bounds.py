"""How much one contribution can be: the reach of its local steps, and its share of the update.

*Reach* is what arithmetic allows. Local steps are RMSProp from a second moment of zero
(`ares_p2p.training.inner`): step k moves a parameter by lr * |g_k| / sqrt(v_k / (1 - beta2^k)) with
v_k >= (1 - beta2) * g_k^2, whatever the gradients are, so by no more than
lr * sqrt((1 - beta2^k) / (1 - beta2)). The sum over the steps bounds every element of an honest
update, on every machine; honest ones reach about half of it. Who sends more did not train.

*Shares* are what fairness allows. With u = sum of w_i * x_i, contribution i has the share
w_i * <x_i, u> / |u|^2 of the update; all shares add up to 1, negative ones belong to contributions
that point against it. `capped_weights` lowers weights until no share is more than `factor` times
the median one. What is long, or one of a crowd that says the same, has a large share; peers whose
data is drawn alike have equal ones, up to the number of their steps.

Refuses: nothing on its own account but contributions of the wrong shape, with NaN, or beyond reach.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ares_p2p.averaging.codec import EncodedVector
from ares_p2p.averaging.vectors import Vector, check_finite, check_vector, parts
from ares_p2p.errors import BeyondReach, ShapeMismatch

Array = npt.NDArray[np.float64]

ROUNDING = 1.01  # float32 steps, and the codec's float16 ones, are rounded
_PASSES = 100  # of `capped_weights`; a dozen are the rule
_CLOSE = 1.005  # a share this near to the cap is at it


def reach_of(steps: int, *, lr: float, beta2: float) -> float:
    """Return how far `steps` local steps can take one parameter, in weight units.

    Args:
        steps: optimizer steps, positive.
        lr: the inner learning rate.
        beta2: decay of the mean square of the gradient, below 1.
    """
    return lr * sum(math.sqrt((1.0 - beta2**step) / (1.0 - beta2)) for step in range(1, steps + 1))


def check_contribution(vector: Vector | EncodedVector, *, size: int, reach: float) -> None:
    """Check that `vector` can be the pseudo-gradient of local steps at all.

    Args:
        vector: an array, or a checked blob, of which only the blocks' steps are read.
        size: expected number of elements.
        reach: of the round's most steps, see `reach_of`.
    Raises: ShapeMismatch: not a flat float32 vector of `size` elements. NonFinite. BeyondReach.
    """
    if isinstance(vector, np.ndarray):
        check_vector(vector, size=size, what="contribution")
        check_finite(vector, what="contribution")
        largest = max((float(np.abs(vector[part]).max()) for part in parts(size)), default=0.0)
    else:
        if vector.size != size:
            raise ShapeMismatch(f"contribution of {vector.size} elements, {size} expected")
        largest = vector.largest_magnitude()
    if largest > reach * ROUNDING:
        raise BeyondReach(
            f"an element of {largest:.3g}; the round's steps reach {reach:.3g} at most"
        )


def capped_weights(products: Array, weights: Array, *, factor: float) -> Array:
    """Return weights with which no share of the update is above `factor` times the median one.

    Weights are only ever lowered. The median is the lower one of an even number, and of the
    positive shares alone where half of them are not positive.

    Args:
        products: inner products of the contributions, (n, n).
        weights: not negative, (n,).
        factor: at least 1.
    Returns: (n,).
    """
    result = weights.copy()
    for _ in range(_PASSES):
        shares = result * (products @ result)  # times |u|^2, which does not matter here
        positive = shares[shares > 0]
        if not len(positive):
            break
        cap = factor * (
            lower_median(shares) if lower_median(shares) > 0 else lower_median(positive)
        )
        excess = np.maximum(shares, 0.0) / cap
        if excess.max() <= _CLOSE:
            break
        result /= np.sqrt(np.maximum(excess, 1.0))
    return result


def lower_median(values: Array) -> float:
    """Return the median, the lower of the middle two of an even number."""
    return float(np.sort(values)[(len(values) - 1) // 2])
