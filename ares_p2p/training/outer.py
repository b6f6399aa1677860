"""The outer step: Nesterov momentum on the averaged pseudo-gradient, bit for bit the same for all.

With `u` the round's aggregate and every operation a float32 operation rounded on its own (no
fused multiply-add; numpy's element-wise functions never fuse two calls):

    mu'    = fl(fl(m * mu) + u)
    step   = fl(fl(m * mu') + u)
    theta' = fl(theta - fl(lr * step))

`lr` and `m` are first rounded to float32. Subnormal numbers are kept: a process that has switched
them off in its floating-point unit (some libraries do when they are loaded) computes other states.
"""

from __future__ import annotations

import numpy as np

from ares_p2p.averaging.vectors import SMALL_PART_ELEMENTS, Vector, check_vector, parts


def pseudo_gradient(start: Vector, end: Vector) -> Vector:
    """Return `start - end`: what one peer's local steps changed, as a gradient.

    Args:
        start: parameters before the local steps, (size,).
        end: parameters after them, (size,).
    Returns: (size,), in weight units (not divided by steps).
    Raises: ShapeMismatch: sizes differ.
    Source: DiLoCo, arXiv:2311.08105, algorithm 1.
    """
    check_vector(start, size=start.size, what="start")
    check_vector(end, size=start.size, what="end")
    return start - end


def outer_step_(theta: Vector, mu: Vector, u: Vector, *, lr: float, momentum: float) -> None:
    """Do the outer step in place: `theta` and `mu` become those of the next round.

    Args:
        theta: parameters, (size,); written.
        mu: outer momentum, (size,); written.
        u: the aggregate, (size,); read only.
        lr: outer learning rate.
        momentum: outer momentum, 0 for plain averaging.
    Raises: ShapeMismatch: sizes differ.
    Source: DiLoCo, arXiv:2311.08105; the order of operations is the module's own rule.
    """
    for what, vector in (("theta", theta), ("mu", mu), ("u", u)):
        check_vector(vector, size=theta.size, what=what)
    rate, keep = np.float32(lr), np.float32(momentum)
    step = np.empty(SMALL_PART_ELEMENTS, dtype=np.float32)
    for part in parts(theta.size, part_elements=SMALL_PART_ELEMENTS):
        work = step[: part.stop - part.start]
        mu_part, u_part, theta_part = mu[part], u[part], theta[part]
        np.multiply(mu_part, keep, out=mu_part)
        np.add(mu_part, u_part, out=mu_part)
        np.multiply(mu_part, keep, out=work)
        np.add(work, u_part, out=work)
        np.multiply(work, rate, out=work)
        np.subtract(theta_part, work, out=theta_part)


def outer_step(
    theta: Vector, mu: Vector, u: Vector, *, lr: float, momentum: float
) -> tuple[Vector, Vector]:
    """Return `(theta', mu')` of the next round as new vectors; see `outer_step_`.

    Raises: ShapeMismatch: sizes differ.
    """
    new_theta, new_mu = theta.copy(), mu.copy()
    outer_step_(new_theta, new_mu, u, lr=lr, momentum=momentum)
    return new_theta, new_mu
