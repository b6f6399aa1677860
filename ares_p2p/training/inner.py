"""A peer's local steps: RMSProp with bias correction, fresh every round.

The optimizer has no state that outlives a round (Adam with beta1 = 0; the outer step carries the
momentum), so a round's work is a function of public things: the state, the assigned examples, the
plan. That is what audit by replay stands on. Per step t = 1, 2 ..., with gradient g of the mean
loss over the step's learnt tokens:

    g = g * min(1, max_grad_norm / |g|)         (|g| over all parameters; off if max_grad_norm = 0)
    v = beta2 * v + (1 - beta2) * g^2
    p = p - lr * weight_decay * p - lr * g / (sqrt(v / (1 - beta2^t)) + eps)

Nothing is random. On one machine and build two runs give equal bits; another processor, another
kernel or another type gives the near equal updates that audits allow for.
Source: Adam, arXiv:1412.6980, algorithm 1 with beta1 = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F

from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import ConfigFault, NonFinite
from ares_p2p.training.data import IGNORED, Batch
from ares_p2p.training.layout import Layout
from ares_p2p.training.lora import read_parameters, trainable_parameters, write_parameters

StepCallback = Callable[[int, float, int], bool]


@dataclass(frozen=True, slots=True)
class InnerConfig:
    """The public constants of local steps.

    Args:
        lr: learning rate, in weight units per step.
        sequence_length: tokens per row.
        sequences_per_step: rows per optimizer step.
        beta2: decay of the mean square of the gradient.
        eps: added to its root.
        max_grad_norm: the gradient is scaled down to this norm; 0 switches it off.
        weight_decay: decoupled, per step, times lr.
    """

    lr: float
    sequence_length: int
    sequences_per_step: int
    beta2: float = 0.99
    eps: float = 1e-8
    max_grad_norm: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class LocalResult:
    """What local steps made.

    Args:
        theta: parameters after the last step, (size,).
        steps: optimizer steps done.
        tokens: tokens seen, without padding.
        loss_tokens: tokens learnt.
        mean_loss: over all learnt tokens, each at the step that saw it; nats.
        examples: indices taken from the assigned stream.
    """

    theta: Vector
    steps: int
    tokens: int
    loss_tokens: int
    mean_loss: float
    examples: int


def run_local_steps(
    model: PeftModel,
    layout: Layout,
    *,
    start: Vector,
    batches: Iterable[Batch],
    steps: int,
    config: InnerConfig,
    min_steps: int = 1,
    on_step: StepCallback | None = None,
    rows_per_pass: int | None = None,
) -> LocalResult:
    """Train from `start` for at most `steps` optimizer steps.

    Args:
        model: base with the adapter; its parameters are overwritten.
        layout: of the adapter.
        start: parameters to start from, (layout.size,); read only.
        batches: one per step; ending early ends the run.
        steps: upper bound.
        config: the plan's constants.
        min_steps: steps made whatever `on_step` says.
        on_step: called after every step with its number (from 1), mean loss and tokens; False
            ends the run, which is how a deadline or a pause ends it.
        rows_per_pass: rows per forward pass, to bound memory; changes rounding only.
    Returns: the result; fewer than `min_steps` only if `batches` ended.
    Raises:
        NonFinite: the loss is NaN or infinite.
        ShapeMismatch: model, layout and start differ.
        ConfigFault: no batch at all.
    """
    write_parameters(model, layout, start)
    parameters = trainable_parameters(model, layout)
    optimizer = _RmsProp(parameters, config)
    done = tokens = loss_tokens = examples = 0
    total_loss = 0.0
    with _deterministic(), _training_mode(model):
        for batch in batches:
            step_loss = _backward(model, batch, rows_per_pass=rows_per_pass)
            if not np.isfinite(step_loss):
                raise NonFinite(f"loss of step {done + 1} is {step_loss}")
            optimizer.step()
            done += 1
            tokens += batch.token_count
            loss_tokens += batch.loss_tokens
            examples += batch.examples
            total_loss += step_loss * batch.loss_tokens
            go_on = on_step is None or on_step(done, step_loss, batch.token_count)
            if done >= steps or (done >= min_steps and not go_on):
                break
    if done == 0:
        raise ConfigFault("no batch to train on")
    theta = read_parameters(model, layout)
    mean_loss = total_loss / max(1, loss_tokens)
    return LocalResult(theta, done, tokens, loss_tokens, mean_loss, examples)


def token_losses(
    model: PeftModel, tokens: torch.Tensor, *, labels: torch.Tensor, position_ids: torch.Tensor
) -> torch.Tensor:
    """Return the negative log likelihood of every learnt token, others zero.

    Logits are made only for the columns where some row has a learnt token: with a vocabulary of
    128 k they are the largest thing in memory.

    Args:
        model: base with adapter.
        tokens: (rows, width) int64, on the model's device.
        labels: (rows, width) int64; `IGNORED` where nothing is learnt.
        position_ids: (rows, width) int64; restart at every packed example.
    Returns: (rows, columns) float32, columns <= width - 1, columns = 0 if nothing is learnt.
    """
    target = labels[:, 1:]  # the token at column c + 1 is predicted at column c
    columns = (target != IGNORED).any(dim=0).nonzero()[:, 0]
    if columns.numel() == 0:
        return torch.zeros((tokens.shape[0], 0), device=tokens.device)
    # no attention mask and no cache: see the packing leak in `ares_p2p.training.data`
    output = model(
        input_ids=tokens, position_ids=position_ids, use_cache=False, logits_to_keep=columns
    )
    logits = output.logits.float()  # (rows, columns, vocabulary)
    return F.cross_entropy(
        logits.transpose(1, 2), target[:, columns], ignore_index=IGNORED, reduction="none"
    )


class _RmsProp:
    """The rule in the module's docstring, in place on torch parameters."""

    def __init__(self, parameters: list[nn.Parameter], config: InnerConfig) -> None:
        self._parameters = parameters
        self._squares = [torch.zeros_like(parameter) for parameter in parameters]
        self._config = config
        self._step = 0
        for parameter in parameters:
            parameter.grad = None  # a run that ended with an error may have left some

    @torch.no_grad()
    def step(self) -> None:
        """Apply the gradients, and drop them."""
        config = self._config
        self._step += 1
        correction = 1.0 - config.beta2**self._step
        scale = self._clip_scale()
        for parameter, square in zip(self._parameters, self._squares, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            if scale is not None:
                gradient.mul_(scale)
            square.mul_(config.beta2).addcmul_(gradient, gradient, value=1.0 - config.beta2)
            root = square.div(correction).sqrt_().add_(config.eps)
            if config.weight_decay:
                parameter.mul_(1.0 - config.lr * config.weight_decay)
            parameter.addcdiv_(gradient, root, value=-config.lr)
            parameter.grad = None

    def _clip_scale(self) -> torch.Tensor | None:
        if not self._config.max_grad_norm:
            return None
        norms = [p.grad.norm() for p in self._parameters if p.grad is not None]
        if not norms:  # a step without a token to learn
            return None
        norm = torch.stack(norms).norm()
        return torch.clamp(self._config.max_grad_norm / (norm + 1e-6), max=1.0)


def _backward(model: PeftModel, batch: Batch, *, rows_per_pass: int | None) -> float:
    """Add the gradients of the step's mean loss; return that loss."""
    device = next(model.parameters()).device
    rows = batch.tokens.shape[0]
    size = rows if rows_per_pass is None else rows_per_pass
    total = 0.0
    for first in range(0, rows, size):
        part = slice(first, first + size)
        losses = token_losses(
            model,
            torch.from_numpy(batch.tokens[part]).to(device),
            labels=torch.from_numpy(batch.labels[part]).to(device),
            position_ids=torch.from_numpy(batch.position_ids[part]).to(device),
        )
        if losses.numel() == 0:
            continue
        loss = losses.sum() / batch.loss_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


@contextmanager
def _deterministic() -> Iterator[None]:
    """Ask torch for deterministic kernels, where it has them, for the length of a run."""
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # a debugging aid that costs time
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """Switch to training mode: gradient checkpointing asks for it; dropout is zero anyway."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)
