"""What a run of the teacher gives: rows, how far it is, and what it came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ares_coordinator.distiller.judge import Judgement
from ares_coordinator.distiller.plans import Coverage, Seed
from ares_p2p.shards import Example


@dataclass(frozen=True, slots=True)
class Accepted:
    """A row that may go into the dataset."""

    seed: Seed
    example: Example
    judgement: Judgement | None  # None: it was not among those that are judged


@dataclass(frozen=True, slots=True)
class Rejected:
    """A seed that gave no row, and why."""

    seed: Seed
    reason: str  # stable, counted and shown
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuthorProgress:
    """How far a category is. `cost_microusd` is of the whole run."""

    category: str
    accepted: int
    rejected: int
    wanted: int
    cost_microusd: int


@dataclass(slots=True)
class AuthorReport:
    """What a run came to, also when it ended early.

    Attributes:
        accepted: by category.
        rejected: by category and reason.
        short: category -> why it has less than was asked.
        capped: categories among them that reached their cap.
        coverage: by category, of what was accepted.
        requests: "asked", "from_ledger", "lost", "overloaded", ... -> how many.
        cost_microusd: of the answers that came in this run.
        cache_saved_microusd: what the prompt cache saved of it; below 0 when it cost more.
        stopped: somebody called `stop`.
    """

    run_id: str
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    short: dict[str, str] = field(default_factory=dict)
    capped: set[str] = field(default_factory=set)
    coverage: dict[str, Coverage] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    cost_microusd: int = 0
    cache_saved_microusd: int = 0
    stopped: bool = False
