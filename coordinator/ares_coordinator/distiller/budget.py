"""What a teacher's requests cost, and the caps that no request passes. Pure; integers only.

Money is in millionths of a US dollar. The price table comes from the operator's settings with the
date at which somebody looked it up; a model without prices is refused, because a cap over unknown
prices caps nothing. Before a request leaves, its worst case is reserved: every byte of the prompt
one token, every token of the answer used. The real cost, from the reply's `usage`, takes its
place afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from ares_coordinator.settings import TeacherSection
from ares_coordinator.store.request_rows import Spent, Usage
from ares_p2p.errors import TeacherBudgetSpent, TeacherModelUnknown

MICROUSD_PER_USD = 1_000_000
TOKENS_PER_PRICE = 1_000_000  # prices are per million tokens
FRAME_TOKENS = 2_000  # what a provider may put around a prompt: roles, the words about a schema


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-dollars for a million tokens of each kind, looked up on `as_of` (ISO date)."""

    input_microusd: int
    output_microusd: int
    cache_write_microusd: int
    cache_read_microusd: int
    as_of: str

    def cost_microusd(self, usage: Usage) -> int:
        """Return what a request cost, rounded up."""
        total = (
            usage.input_tokens * self.input_microusd
            + usage.output_tokens * self.output_microusd
            + usage.cache_write_tokens * self.cache_write_microusd
            + usage.cache_read_tokens * self.cache_read_microusd
        )
        return -(-total // TOKENS_PER_PRICE)

    def worst_case_microusd(self, *, prompt_bytes: int, max_tokens: int) -> int:
        """Return the most that a request can cost: a token has at least one byte."""
        dearest = max(self.input_microusd, self.cache_write_microusd)
        total = (prompt_bytes + FRAME_TOKENS) * dearest + max_tokens * self.output_microusd
        return -(-total // TOKENS_PER_PRICE)


@dataclass(frozen=True, slots=True)
class Caps:
    """Hard limits in micro-dollars; each holds on its own."""

    per_run_microusd: int
    per_day_microusd: int
    per_cycle_microusd: int
    per_category_microusd: int  # of one cycle


class CategorySpent(TeacherBudgetSpent):
    """The cap of one category is reached; the others may go on."""


def prices_of(teacher: TeacherSection) -> Prices:
    """Return the prices of the configured model.

    Raises: TeacherModelUnknown: the settings hold none.
    """
    found = teacher.prices.get(teacher.model)
    if found is None:
        raise TeacherModelUnknown(
            f"teacher.prices has no prices of {teacher.model!r}, only of "
            f"{', '.join(sorted(teacher.prices)) or 'nothing'}: no cap can hold without them",
            hint="Look them up, then add the model to teacher.prices and the date to "
            "teacher.prices_as_of in config.toml; zeros for a server of your own.",
        )
    return Prices(
        input_microusd=microusd_of(found.input),
        output_microusd=microusd_of(found.output),
        cache_write_microusd=microusd_of(found.cache_write),
        cache_read_microusd=microusd_of(found.cache_read),
        as_of=teacher.prices_as_of,
    )


def caps_of(teacher: TeacherSection) -> Caps:
    """Return the caps of the settings."""
    return Caps(
        per_run_microusd=microusd_of(teacher.cap_usd_per_run),
        per_day_microusd=microusd_of(teacher.cap_usd_per_day),
        per_cycle_microusd=microusd_of(teacher.cap_usd_per_cycle),
        per_category_microusd=microusd_of(teacher.cap_usd_per_category),
    )


def check_caps(spent: Spent, caps: Caps, *, next_microusd: int) -> None:
    """Refuse a request whose worst case passes a cap.

    Raises: TeacherBudgetSpent: which cap, how much of it is left, what was asked. CategorySpent:
        it is only the category's.
    """
    for name, cap, used in (
        ("run", caps.per_run_microusd, spent.run_microusd),
        ("day", caps.per_day_microusd, spent.day_microusd),
        ("cycle", caps.per_cycle_microusd, spent.cycle_microusd),
        ("category", caps.per_category_microusd, spent.category_microusd),
    ):
        if used + next_microusd > cap:
            fault = CategorySpent if name == "category" else TeacherBudgetSpent
            raise fault(
                f"the cap of {usd(cap)} a {name} leaves {usd(max(0, cap - used))}, the next "
                f"request may cost {usd(next_microusd)}",
                hint=f"Raise teacher.cap_usd_per_{name} in config.toml, or go on with what is there.",
            )


def usd(microusd: int) -> str:
    """Return an amount for people: four digits after the point, because requests cost cents."""
    return f"${microusd / MICROUSD_PER_USD:.4f}"


def microusd_of(amount_usd: float) -> int:
    """Return dollars from the settings as micro-dollars."""
    return round(amount_usd * MICROUSD_PER_USD)
