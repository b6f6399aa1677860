"""A toy to learn: a small frozen network whose low-rank adapter has to become another network.

Three dense layers, tanh between them, classes at the end. The teacher is the same network plus a
low-rank change of every layer; the adapter can represent it. Labels are drawn from the teacher's
own probabilities, so that the loss has a floor, as in language. Everything is numpy; a local step
costs about a fifth of a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from ares_p2p.averaging.vectors import Vector
from ares_p2p.domain import TrainingConfig
from ares_p2p.training.layout import Layout, layout_of_shapes

WIDTHS = (32, 40, 40, 10)  # inputs, two hidden layers, classes
TOKENS = 8  # rows of one example, which is what a sequence of tokens is elsewhere
TRAIN_EXAMPLES = 800
HELD_OUT_ROWS = 2000

Labels = npt.NDArray[np.intp]  # (rows,)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Data, frozen base, and the layout of what is trained."""

    layout: Layout
    base: tuple[Vector, ...]  # per layer (out, in)
    inputs: Vector  # (TRAIN_EXAMPLES * TOKENS, in)
    labels: Labels
    held_out_inputs: Vector  # (HELD_OUT_ROWS, in)
    held_out_labels: Labels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return WIDTHS[-1]

    def held_out_loss(self, theta: Vector) -> float:
        """Return the mean cross entropy on the held-out rows, in nats."""
        loss, _ = self._loss_and_gradient(theta, self.held_out_inputs, self.held_out_labels)
        return loss

    def example_losses(self, theta: Vector) -> npt.NDArray[np.float64]:
        """Return the mean cross entropy of every held-out example, (examples,), in nats."""
        tensors = self.layout.split(theta)
        hidden = self.held_out_inputs
        for number, weight in enumerate(self.base):
            name = f"layers.{number}.lora_"
            merged = weight + tensors[name + "B.weight"] @ tensors[name + "A.weight"]
            logits = hidden @ merged.T
            hidden = np.tanh(logits)
        logits -= logits.max(axis=1, keepdims=True)
        rows = np.arange(len(self.held_out_labels))
        chosen = logits[rows, self.held_out_labels]
        losses = np.log(np.exp(logits).sum(axis=1)) - chosen  # (rows,)
        return losses.reshape(-1, TOKENS).mean(axis=1, dtype=np.float64)

    def ascent(
        self, theta: Vector, *, length: float, reach: float, only: str, steps: int = 20
    ) -> Vector:
        """Return a way up the loss of all training rows, in the named tensors alone.

        Args:
            length: norm of it, at most.
            reach: of one element, at most.
        """
        mask = np.zeros_like(theta)
        for name, tensor in self.layout.split(mask).items():
            if only in name:
                tensor[...] = 1
        way = np.zeros_like(theta)
        for _ in range(steps):
            _, gradient = self._loss_and_gradient(theta + way, self.inputs, self.labels)
            gradient *= mask
            way += gradient * np.float32(2 * length / steps / np.linalg.norm(gradient))
            np.clip(way, -reach, reach, out=way)
            way *= np.float32(min(1.0, length / float(np.linalg.norm(way))))
        return way

    def _loss_and_gradient(
        self, theta: Vector, inputs: Vector, labels: Labels
    ) -> tuple[float, Vector]:
        tensors = self.layout.split(theta)
        adapters = [
            (tensors[f"layers.{n}.lora_A.weight"], tensors[f"layers.{n}.lora_B.weight"])
            for n in range(len(self.base))
        ]
        weights = [w + b @ a for w, (a, b) in zip(self.base, adapters, strict=True)]
        seen = [inputs]  # what each layer reads, (rows, in)
        for weight in weights[:-1]:
            seen.append(np.tanh(seen[-1] @ weight.T))
        logits = seen[-1] @ weights[-1].T
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        chances /= chances.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = float(-np.log(chances[rows, labels] + 1e-30).mean())
        chances[rows, labels] -= 1
        upper = chances / np.float32(len(labels))  # (rows, out): d loss / d layer's output
        gradient = np.empty_like(theta)
        parts = self.layout.split(gradient)
        for number in reversed(range(len(weights))):
            a, b = adapters[number]
            full = upper.T @ seen[number]  # (out, in)
            parts[f"layers.{number}.lora_A.weight"][...] = b.T @ full
            parts[f"layers.{number}.lora_B.weight"][...] = full @ a.T
            if number:
                upper = (upper @ weights[number]) * (1 - seen[number] ** 2)
        return loss, gradient

    def local_steps(
        self,
        start: Vector,
        assigned: Iterator[int],
        *,
        steps: int,
        lr: float,
        training: TrainingConfig,
        labels: Labels,
    ) -> tuple[Vector, float]:
        """Return parameters after `steps` of RMSProp with bias correction, and the mean loss.

        Args:
            start: (layout.size,).
            assigned: indices of training examples, in the order they are to be used.
            labels: of all training rows; a cheater brings its own.
        """
        theta, square = start.copy(), np.zeros_like(start)
        beta2, total = np.float32(training.beta2), 0.0
        for step in range(1, steps + 1):
            examples = np.array(list(islice(assigned, training.sequences_per_step)))
            rows = (examples[:, None] * TOKENS + np.arange(TOKENS)).ravel()
            loss, gradient = self._loss_and_gradient(theta, self.inputs[rows], labels[rows])
            square = beta2 * square + (1 - beta2) * gradient * gradient
            root = np.sqrt(square / np.float32(1 - training.beta2**step))
            theta -= np.float32(lr) * gradient / (root + np.float32(training.eps))
            total += loss
        return theta, total / steps


def make_task(seed: int, *, rank: int) -> Task:
    """Return the task of `seed`."""
    rng = np.random.default_rng(seed)
    shapes, base, teacher = {}, [], []
    for number, (inside, outside) in enumerate(pairwise(WIDTHS)):
        shapes[f"layers.{number}.lora_A.weight"] = (rank, inside)
        shapes[f"layers.{number}.lora_B.weight"] = (outside, rank)
        weight = rng.standard_normal((outside, inside), dtype=np.float32) / np.float32(inside**0.5)
        left = rng.standard_normal((outside, rank // 2), dtype=np.float32)
        right = rng.standard_normal((rank // 2, inside), dtype=np.float32)
        base.append(weight)
        teacher.append(weight + left @ right / np.float32((inside * rank / 2) ** 0.5))
    cut = TRAIN_EXAMPLES * TOKENS
    count = cut + HELD_OUT_ROWS
    inputs = rng.standard_normal((count, WIDTHS[0]), dtype=np.float32)
    hidden = inputs
    for weight in teacher[:-1]:
        hidden = np.tanh(hidden @ weight.T)
    logits = 3 * hidden @ teacher[-1].T
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return Task(
        layout_of_shapes(shapes),
        tuple(base),
        inputs[:cut],
        labels[:cut],
        inputs[cut:],
        labels[cut:],
    )
