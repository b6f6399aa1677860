"""Muon for hidden matrices: momentum whose singular values are set to about one.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

STEPS = 5  # Newton-Schulz steps; singular values end in about 0.7 to 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic that grows small singular values fastest


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrix to `matrix`, roughly.

    Args:
        matrix: (rows, columns), float32.
    Returns: the same shape.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.T  # (short, short)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon:
    """Nesterov momentum, orthogonalised, for two-dimensional parameters only."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], *, momentum: float = 0.95) -> None:
        self._parameters = list(parameters)
        self._momentum = momentum
        self._buffers = [torch.zeros_like(p) for p in self._parameters]

    @torch.no_grad()
    def step(self, *, lr: float, weight_decay: float) -> None:
        """Apply one update from the gradients that are set, and clear them."""
        for parameter, buffer in zip(self._parameters, self._buffers, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            buffer.lerp_(gradient, 1 - self._momentum)
            update = orthogonalise(gradient.lerp(buffer, self._momentum))
            scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
            parameter.mul_(1 - lr * weight_decay).add_(update, alpha=-lr * scale)
            parameter.grad = None
