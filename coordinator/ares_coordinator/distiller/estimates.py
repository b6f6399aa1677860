"""What a run will cost, before anything is sent.

The real flows run over real seeds and real prompts against a guesser in the place of the teacher,
so the number of requests and the size of the prompts are those of a run in which every row is
accepted. How long the answers are is a guess (`FILL`, `THINKING_FILL`); where the ledger holds enough
answered requests of a category, their mean cost takes its place. Rejected rows and second tries
come on top: read the likely cost as a lower middle, and the worst as what the caps reserve.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ares_coordinator.distiller.answers import Answer
from ares_coordinator.distiller.asks import Ask, build_parameters, prompt_bytes
from ares_coordinator.distiller.budget import Prices, caps_of, prices_of, usd
from ares_coordinator.distiller.flows import converse, read_document, read_task, use_tools
from ares_coordinator.distiller.judge import judge_ask
from ares_coordinator.distiller.plans import (
    CategoryPlan,
    Coverage,
    Flow,
    Seed,
    is_sampled,
    load_plan,
    plan_seeds,
)
from ares_coordinator.distiller.prompts import TASKS_PER_REQUEST, Task, tasks_ask
from ares_coordinator.distiller.replies import ModelFacts
from ares_coordinator.distiller.schemas import Schema
from ares_coordinator.settings import TeacherSection
from ares_coordinator.store.request_rows import RequestState, RequestTotals, Usage
from ares_p2p.domain import CATEGORIES

SAMPLE: Final = 40  # seeds looked at in each category; the rest is in proportion
BYTES_PER_TOKEN: Final = 3.5  # of English text and JSON, common tokenizers
FILL: Final = 0.5  # of the tokens allowed that an answer uses
THINKING_FILL: Final = 0.3  # of the room for thinking
MIN_MEASURED: Final = 50  # answered requests of a category before their mean counts
_FILLER: Final = "a word or two of what somebody would write here and there, "
_RESULT: Final = "42"


@dataclass(frozen=True, slots=True)
class CategoryEstimate:
    """What one category will take. Costs are micro-dollars."""

    category: str
    rows: int
    requests: int
    input_tokens: int
    output_tokens: int
    likely_microusd: int
    worst_microusd: int
    is_measured: bool  # the likely cost is from the ledger


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, and what stands in its way."""

    categories: tuple[CategoryEstimate, ...]
    prices_as_of: str
    warnings: tuple[str, ...]  # caps that the likely cost passes

    @property
    def requests(self) -> int:
        """Requests of all categories."""
        return sum(one.requests for one in self.categories)

    @property
    def likely_microusd(self) -> int:
        """Likely cost of all categories."""
        return sum(one.likely_microusd for one in self.categories)

    @property
    def worst_microusd(self) -> int:
        """The worst that the requests could cost together."""
        return sum(one.worst_microusd for one in self.categories)


def measured_costs(totals: Iterable[RequestTotals]) -> dict[str, int]:
    """Return the mean cost of an answered request by category, where there are enough of them."""
    return {
        row.category: row.cost_microusd // row.requests
        for row in totals
        if row.state is RequestState.DONE and row.requests >= MIN_MEASURED
    }


async def estimate_run(
    teacher: TeacherSection,
    *,
    counts: Mapping[str, int],
    seed: int,
    facts: ModelFacts | None = None,
    measured: Mapping[str, int] | None = None,
) -> Estimate:
    """Return what `counts` rows will take. Nothing is sent.

    Args:
        facts: of the model; without them it is taken to think and to keep to schemas.
        measured: micro-dollars per request, see `measured_costs`.
    Raises: TeacherModelUnknown: no prices. TeacherFault: an unknown category.
    """
    prices = prices_of(teacher)
    known = facts or ModelFacts(teacher.model, structured_outputs=True, thinks=True)
    found = [
        await _category(teacher, name, counts[name], seed, prices, known, measured or {})
        for name in sorted(counts, key=CATEGORIES.index)
        if counts[name]
    ]
    return Estimate(tuple(found), prices.as_of, _warnings(teacher, found))


def _warnings(teacher: TeacherSection, found: list[CategoryEstimate]) -> tuple[str, ...]:
    caps, total = caps_of(teacher), sum(one.likely_microusd for one in found)
    warnings = [
        f"the likely cost of {usd(total)} passes the cap of {usd(cap)} a {name}"
        for name, cap in (
            ("run", caps.per_run_microusd),
            ("day", caps.per_day_microusd),
            ("cycle", caps.per_cycle_microusd),
        )
        if total > cap
    ]
    warnings += [
        f"the likely cost of {one.category}, {usd(one.likely_microusd)}, passes the cap of "
        f"{usd(caps.per_category_microusd)} a category"
        for one in found
        if one.likely_microusd > caps.per_category_microusd
    ]
    return tuple(warnings)


async def _category(
    teacher: TeacherSection,
    category: str,
    rows: int,
    seed: int,
    prices: Prices,
    facts: ModelFacts,
    measured: Mapping[str, int],
) -> CategoryEstimate:
    plan = load_plan(category)
    seeds = plan_seeds(plan, Coverage(), seed=seed, first=0, count=min(rows, SAMPLE))
    guesser = _Guesser(teacher, prices, facts)
    for place in range(0, len(seeds), TASKS_PER_REQUEST):
        batch = seeds[place : place + TASKS_PER_REQUEST]
        tasks: list[Any] = [None] * len(batch)
        if plan.flow is not Flow.DOCUMENT:
            value, _ = await guesser.ask_json(tasks_ask(plan, batch))
            tasks = value["tasks"] * len(batch)
        for one, written in zip(batch, tasks, strict=False):
            await _row(guesser, teacher, plan, one, written, seed)
    scale = rows / len(seeds)
    mean = measured.get(category)
    requests = round(guesser.requests * scale)
    return CategoryEstimate(
        category=category,
        rows=rows,
        requests=requests,
        input_tokens=round(guesser.input_tokens * scale),
        output_tokens=round(guesser.output_tokens * scale),
        likely_microusd=round(guesser.likely_microusd * scale) if mean is None else mean * requests,
        worst_microusd=round(guesser.worst_microusd * scale),
        is_measured=mean is not None,
    )


async def _row(
    guesser: _Guesser, teacher: TeacherSection, plan: CategoryPlan, seed: Seed, written: Any,
    run_seed: int,
) -> None:  # fmt: skip
    def sampled(purpose: str, share: float) -> bool:
        return is_sampled(run_seed, plan.category, seed.number, purpose=purpose, share=share)

    task = Task("") if written is None else read_task(written)
    most = teacher.max_output_tokens
    if plan.flow is Flow.TOOLS:
        draft = await use_tools(guesser, plan, seed, task)
    elif plan.flow is Flow.DOCUMENT:
        draft = await read_document(guesser, plan, seed, max_tokens=most)
    else:
        is_checked = sampled("second", teacher.second_answer_share)
        draft = await converse(guesser, plan, seed, task, max_tokens=most, is_checked=is_checked)
    if sampled("judge", teacher.judge_share):
        await guesser.ask_json(judge_ask(plan, draft.messages))


@dataclass(slots=True)
class _Guesser:
    """Stands where the request desk stands, answers with filler, and counts."""

    teacher: TeacherSection
    prices: Prices
    facts: ModelFacts
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    likely_microusd: int = 0
    worst_microusd: int = 0
    _steps: int = field(default=0)

    async def ask(self, ask: Ask) -> Answer:
        self._count(ask)
        text = _filler(ask.max_tokens)
        return Answer(f"{text} {_RESULT}", self.facts.model, b"", "")

    async def ask_json(self, ask: Ask) -> tuple[Any, Answer]:
        assert ask.schema is not None, "a question for JSON has a schema"
        value = self._value(ask.schema, ask)
        return value, await self.ask(ask)

    def _count(self, ask: Ask) -> None:
        parameters = build_parameters(
            ask,
            self.facts,
            effort=self.teacher.effort,
            thinking_tokens=self.teacher.thinking_tokens,
        )
        size = prompt_bytes(parameters)
        room = ask.thinking_tokens(self.teacher.thinking_tokens)
        thinking = room * THINKING_FILL if self.facts.thinks else 0
        usage = Usage(
            input_tokens=round(size / BYTES_PER_TOKEN),
            output_tokens=round(ask.max_tokens * FILL + thinking),
        )
        self.requests += 1
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.likely_microusd += self.prices.cost_microusd(usage)
        self.worst_microusd += self.prices.worst_case_microusd(
            prompt_bytes=size, max_tokens=parameters["max_tokens"]
        )

    def _value(self, schema: Schema, ask: Ask, name: str = "") -> Any:
        """Return filler of a schema that passes the checks of the flows."""
        if "enum" in schema:
            return self._step() if name == "kind" else schema["enum"][-1]
        if schema["type"] == "object":
            return {key: self._value(of, ask, key) for key, of in schema["properties"].items()}
        if schema["type"] == "array":
            many = 3 if name == "questions" else 0 if name == "parameters" else 1
            return [self._value(schema["items"], ask, name) for _ in range(many)]
        if schema["type"] == "boolean":
            return False
        fixed = {
            "result": _RESULT,
            "passage": _RESULT,
            "tool": "tool",
            "name": "tool",
            "arguments_json": "{}",
            "result_json": json.dumps({"value": _RESULT}),
        }
        if ask.purpose == "questions" and name == "answer":
            return _RESULT
        return fixed.get(name, f"{_filler(120)} {_RESULT}")

    def _step(self) -> str:
        self._steps += 1
        return "say" if self._steps % 2 == 0 else "call"


def _filler(max_tokens: int) -> str:
    size = int(max_tokens * FILL * BYTES_PER_TOKEN)
    return (_FILLER * (size // len(_FILLER) + 1))[:size]
