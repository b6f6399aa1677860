"""The outer step: Nesterov, rounded as the rule says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ares_p2p.errors import ShapeMismatch
from ares_p2p.training.outer import outer_step, outer_step_, pseudo_gradient

F = np.float32


def test_outer_step_by_hand() -> None:
    theta, mu, u = (np.array([value], dtype=F) for value in (1.0, 0.5, 0.25))
    new_theta, new_mu = outer_step(theta, mu, u, lr=2.0, momentum=0.5)
    assert new_mu.tolist() == [0.5]  # 0.5 * 0.5 + 0.25
    assert new_theta.tolist() == [0.0]  # 1 - 2 * (0.25 + 0.5 * 0.5)
    assert (theta[0], mu[0], u[0]) == (1.0, 0.5, 0.25)


def test_outer_step_rounds_every_operation_on_its_own() -> None:
    rng = np.random.default_rng(1)
    size = 70_000  # more than one part
    theta, mu, u = rng.standard_normal((3, size), dtype=F)
    new_theta, new_mu = outer_step(theta, mu, u, lr=1.2, momentum=0.6)
    lr, m = F(1.2), F(0.6)
    for i in (0, 1, 65_535, 65_536, size - 1):
        kept = F(F(m * mu[i]) + u[i])
        step = F(F(m * kept) + u[i])
        assert new_mu[i] == kept
        assert new_theta[i] == F(theta[i] - F(lr * step))


def test_outer_step_agrees_with_torch_sgd_nesterov() -> None:
    rng = np.random.default_rng(2)
    theta = rng.standard_normal(1_000, dtype=F)
    mu = np.zeros_like(theta)
    parameter = torch.nn.Parameter(torch.tensor(theta))
    sgd = torch.optim.SGD([parameter], lr=0.9, momentum=0.5, nesterov=True)
    for _ in range(5):
        u = rng.standard_normal(1_000, dtype=F)
        parameter.grad = torch.tensor(u)
        sgd.step()
        outer_step_(theta, mu, u, lr=0.9, momentum=0.5)
    # the same rule in another order of roundings: a few units in the last place of about 4
    assert np.abs(theta - parameter.detach().numpy()).max() < 4e-6


def test_outer_step_keeps_subnormal_numbers() -> None:
    tiny = np.full(4, 1e-40, dtype=F)
    theta, mu = outer_step(np.zeros(4, dtype=F), np.zeros(4, dtype=F), tiny, lr=1.0, momentum=0.0)
    assert np.array_equal(mu, tiny)
    assert np.array_equal(theta, -tiny)


def test_pseudo_gradient_is_start_minus_end() -> None:
    start, end = np.array([1, 2], dtype=F), np.array([0.5, 3], dtype=F)
    assert pseudo_gradient(start, end).tolist() == [0.5, -1.0]


def test_sizes_and_types_must_fit() -> None:
    three, four = np.zeros(3, dtype=F), np.zeros(4, dtype=F)
    with pytest.raises(ShapeMismatch):
        pseudo_gradient(three, four)
    with pytest.raises(ShapeMismatch):
        outer_step(three, three, four, lr=1.0, momentum=0.0)
    with pytest.raises(ShapeMismatch):
        outer_step(three, three, np.zeros(3), lr=1.0, momentum=0.0)  # type: ignore[arg-type]
