"""The gate: is the cycle's adapter better on held-out examples, beyond luck?

Every held-out example is asked before and after; a stratified paired bootstrap over examples
gives the interval of the improvement. Promoted iff its lower end is above zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ares_coordinator.store.rows import EvaluatedExample, EvaluationRow, Stage
from ares_p2p.domain import CATEGORIES
from ares_p2p.training.evaluate import ExampleLosses, Improvement, paired_bootstrap


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the gate saw and decided. Losses are nats per token, improvement positive if better."""

    loss_before: float
    loss_after: float
    improvement: Improvement

    @property
    def promoted(self) -> bool:
        """Whether the adapter becomes part of the network's model."""
        return self.improvement.low > 0

    @property
    def relative(self) -> float:
        """Improvement as a share of the loss before."""
        return self.improvement.mean / self.loss_before


def losses_of(answer: dict[str, Any]) -> ExampleLosses:
    """Return the worker's answer as losses."""
    return ExampleLosses(
        np.asarray(answer["nll"], dtype=np.float64), np.asarray(answer["tokens"], dtype=np.int64)
    )


def evaluation_row(
    losses: ExampleLosses,
    categories: Sequence[str],
    *,
    cycle: int,
    stage: Stage,
    at_ms: int,
) -> EvaluationRow:
    """Return an evaluation as the store keeps it: every example, and the mean per category."""
    per_example = losses.per_example
    means = []
    for name in CATEGORIES:
        chosen = [i for i, category in enumerate(categories) if category == name]
        if chosen:
            means.append((name, float(per_example[chosen].mean())))
    examples = tuple(
        EvaluatedExample(category, float(nll), int(tokens))
        for category, nll, tokens in zip(categories, losses.nll_sum, losses.tokens, strict=True)
    )
    return EvaluationRow(cycle, stage, at_ms, losses.mean, tuple(means), examples)


def losses_of_row(row: EvaluationRow) -> ExampleLosses:
    """Return the losses that an evaluation holds."""
    return ExampleLosses(
        np.asarray([example.nll for example in row.examples], dtype=np.float64),
        np.asarray([example.tokens for example in row.examples], dtype=np.int64),
    )


def decide(before: EvaluationRow, after: EvaluationRow) -> GateResult:
    """Compare two evaluations of the same examples."""
    improvement = paired_bootstrap(
        losses_of_row(before),
        losses_of_row(after),
        strata=[example.category for example in before.examples],
        seed=before.cycle,
    )
    return GateResult(before.mean_loss, after.mean_loss, improvement)


def spread_indices(categories: Sequence[str], count: int) -> list[int]:
    """Return about `count` example indices, the same number from each category."""
    by_category: dict[str, list[int]] = {}
    for index, category in enumerate(categories):
        by_category.setdefault(category, []).append(index)
    share = max(1, count // max(1, len(by_category)))
    return sorted(index for indices in by_category.values() for index in indices[:share])
