"""The teacher at work: from counts per category to rows, resumable, within its caps.

    async with open_author(...) as author:
        async for row in author.rows():
            ...  # Accepted or Rejected

A category is made in waves. The seeds of a wave follow from (seed, coverage of what was accepted in
earlier waves), so a run that is started again plans the same, finds its answers in the ledger and
pays only for what is new; only what was on its way at a crash is left out, and a later wave fills
the gap. Order of the rows: by category in the order of their seeds, whatever came first over the
network.

A row passes in this order: the flow's own checks, the form of an example, `screen` (the caller's
filters, called in the order of the seeds), then the judge for a share of them.

When a cap of one category is reached the other categories go on. Anything else that ends the run is
raised after all rows that are complete were yielded; nothing that was answered is lost.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeVar

import structlog

from ares_coordinator.distiller.answers import NoAnswer
from ares_coordinator.distiller.authored import (
    Accepted,
    AuthorProgress,
    AuthorReport,
    Rejected,
)
from ares_coordinator.distiller.budget import CategorySpent
from ares_coordinator.distiller.filters import Reject, fold
from ares_coordinator.distiller.flows import (
    Draft,
    converse,
    read_document,
    read_task,
    use_tools,
)
from ares_coordinator.distiller.judge import judge_ask, read_judgement
from ares_coordinator.distiller.pacing import Stopped
from ares_coordinator.distiller.plans import (
    GENERATOR_VERSION,
    CategoryPlan,
    Coverage,
    Flow,
    Seed,
    is_sampled,
    load_plan,
    plan_seeds,
)
from ares_coordinator.distiller.prompts import TASKS_PER_REQUEST, Task, tasks_ask
from ares_coordinator.distiller.replies import PROVIDER_URL
from ares_coordinator.distiller.requests import Client, RequestDesk, check_permission
from ares_coordinator.distiller.teacher import check_counts
from ares_coordinator.settings import TeacherSection
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import AresError, PeerFault
from ares_p2p.shards import Example, check_example

log = structlog.get_logger(__name__)

T = TypeVar("T")
# Seeds of a category that are planned together; the next wave sees what became of them.
WAVE: Final = 8 * TASKS_PER_REQUEST
MAX_TRIES: Final = 4  # seeds for every row wanted, before a category counts as exhausted
TEACHER_NAME: Final = "opus"
OTHER_TEACHER: Final = "messages-api"  # a server of one's own; `teacher_version` names its model

Screen = Callable[[Example], Example | Reject]


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A seed whose row the end of the run cut short; the next run goes on with it."""

    seed: Seed
    fault: AresError | Stopped


_Row = Accepted | Rejected | _Unfinished


def _no_report(_: AuthorProgress) -> None:
    return None


class Author:
    """One run of the teacher. Made by `open_author`."""

    def __init__(
        self,
        teacher: TeacherSection,
        *,
        desk: RequestDesk,
        counts: Mapping[str, int],
        seed: int,
        run_id: str,
        screen: Screen | None = None,
        coverage: Mapping[str, Coverage] | None = None,
        on_progress: Callable[[AuthorProgress], None] = _no_report,
    ) -> None:
        check_counts(counts)
        self._teacher = teacher
        self._desk = desk
        self._counts = {name: counts[name] for name in CATEGORIES if counts.get(name)}
        self._seed = seed
        self._screen = screen
        self._start = coverage or {}
        self._on_progress = on_progress
        self._report = AuthorReport(run_id)
        is_own = bool(teacher.base_url) and teacher.base_url.rstrip("/") != PROVIDER_URL
        self._name = OTHER_TEACHER if is_own else TEACHER_NAME

    async def stop(self) -> None:
        """Send nothing more; what is on its way is awaited and kept. `rows` then ends."""
        self._report.stopped = True
        await self._desk.stop()

    def report(self) -> AuthorReport:
        """Return what the run came to until now."""
        self._report.requests = Counter(self._desk.counts)
        self._report.cost_microusd = self._desk.cost_microusd
        self._report.cache_saved_microusd = self._desk.cache.saved_microusd
        return self._report

    async def rows(self) -> AsyncIterator[Accepted | Rejected]:
        """Yield rows as waves are complete; of each category in the order of its seeds.

        Raises: TeacherFault, TeacherAway, and faults of the store: why the run ended early.
        """
        found: asyncio.Queue[Accepted | Rejected] = asyncio.Queue()
        working = [
            asyncio.create_task(self._category(name, count, found), name=f"author-{name}")
            for name, count in self._counts.items()
        ]
        try:
            pending = set(working)
            while pending or not found.empty():
                if not found.empty():
                    yield found.get_nowait()
                    continue
                getting = asyncio.create_task(found.get())
                done, _ = await asyncio.wait(
                    {getting, *pending}, return_when=asyncio.FIRST_COMPLETED
                )
                pending -= done
                if getting in done:
                    yield getting.result()
                else:
                    getting.cancel()
                if any(task.exception() for task in done - {getting}):
                    await self._desk.halt()  # the others end by `Stopped`
            for fault in [task.exception() for task in working]:
                if fault is not None and not isinstance(fault, Stopped):
                    raise fault
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _category(
        self, category: str, wanted: int, found: asyncio.Queue[Accepted | Rejected]
    ) -> None:
        plan = load_plan(category)
        coverage = self._start.get(category, Coverage()).copy()
        self._report.coverage[category] = coverage
        tried = accepted = 0
        while accepted < wanted:
            count = min(WAVE, wanted - accepted)
            if tried + count > wanted * MAX_TRIES:
                self._report.short[category] = f"{tried} tasks gave {accepted} usable rows"
                break
            seeds = plan_seeds(plan, coverage, seed=self._seed, first=tried, count=count)
            tried += count
            wave = await self._wave(plan, seeds)
            for row in wave:
                if isinstance(row, Accepted):
                    accepted += 1
                    coverage.add(row.seed)
                    self._report.accepted[category] += 1
                    found.put_nowait(row)
                elif isinstance(row, Rejected):
                    self._report.rejected[category, row.reason] += 1
                    found.put_nowait(row)
            self._on_progress(
                AuthorProgress(
                    category, accepted, tried - accepted, wanted, self._desk.cost_microusd
                )
            )
            faults = [row.fault for row in wave if isinstance(row, _Unfinished)]
            if faults:
                self._end_early(category, faults)
                break

    def _end_early(self, category: str, faults: Sequence[AresError | Stopped]) -> None:
        """Note that a category has less than was asked.

        Raises: why the whole run ends, unless it is only the category's cap.
        """
        real = [fault for fault in faults if isinstance(fault, AresError)]
        fault = min(real or faults, key=lambda one: isinstance(one, CategorySpent))
        self._report.short[category] = fault.message if isinstance(fault, AresError) else "stopped"
        if not isinstance(fault, CategorySpent):
            raise fault
        self._report.capped.add(category)
        log.warning("teacher_category_spent", category=category, reason=fault.message)

    async def _unfinished(self, seed: Seed, fault: AresError | Stopped) -> _Unfinished:
        if not isinstance(fault, CategorySpent | Stopped):
            await self._desk.halt()
        return _Unfinished(seed, fault)

    async def _wave(self, plan: CategoryPlan, seeds: Sequence[Seed]) -> list[_Row]:
        batches = [
            seeds[place : place + TASKS_PER_REQUEST]
            for place in range(0, len(seeds), TASKS_PER_REQUEST)
        ]
        made = await _together([self._batch(plan, batch) for batch in batches])
        rows = [row for batch in made for row in batch]
        screened = [self._screened(row) for row in rows]
        return await _together([self._judged(plan, row) for row in screened])

    async def _batch(self, plan: CategoryPlan, seeds: Sequence[Seed]) -> list[_Row]:
        if plan.flow is Flow.DOCUMENT:
            return await _together([self._row(plan, seed, None) for seed in seeds])
        try:
            value, _ = await self._desk.ask_json(tasks_ask(plan, seeds))
        except NoAnswer as fault:
            return [Rejected(seed, f"task_{fault.reason}", fault.detail) for seed in seeds]
        except (AresError, Stopped) as fault:
            return [await self._unfinished(seed, fault) for seed in seeds]
        written = [*value["tasks"], *[None] * len(seeds)]
        pairs = zip(seeds, written, strict=False)  # a list that is too short lacks its last tasks
        return await _together([self._row(plan, seed, task) for seed, task in pairs])

    async def _row(self, plan: CategoryPlan, seed: Seed, written: Mapping[str, Any] | None) -> _Row:
        try:
            if plan.flow is not Flow.DOCUMENT and written is None:
                raise NoAnswer("task_missing")
            task = Task("") if written is None else read_task(written)
            draft = await self._draft(plan, seed, task)
            example = self._example(plan, draft)
            check_example(example)
        except NoAnswer as fault:
            return Rejected(seed, fault.reason, fault.detail)
        except PeerFault as fault:  # of `check_example`
            return Rejected(seed, "malformed", fault.message)
        except (AresError, Stopped) as fault:
            return await self._unfinished(seed, fault)
        return Accepted(seed, example, None)

    async def _draft(self, plan: CategoryPlan, seed: Seed, task: Task) -> Draft:
        most = self._teacher.max_output_tokens
        if plan.flow is Flow.TOOLS:
            return await use_tools(self._desk, plan, seed, task)
        if plan.flow is Flow.DOCUMENT:
            return await read_document(self._desk, plan, seed, max_tokens=most)
        return await converse(
            self._desk,
            plan,
            seed,
            task,
            max_tokens=most,
            is_checked=self._is_sampled(seed, "second", self._teacher.second_answer_share),
        )

    def _is_sampled(self, seed: Seed, purpose: str, share: float) -> bool:
        return is_sampled(self._seed, seed.category, seed.number, purpose=purpose, share=share)

    def _example(self, plan: CategoryPlan, draft: Draft) -> Example:
        subject = sha256(fold(draft.subject).encode()).hexdigest()[:32]
        return Example(
            category=plan.category,
            messages=draft.messages,
            key=f"{plan.category}:{subject}",
            check="",
            teacher=self._name,
            teacher_version=draft.answer.model,
            licence=self._teacher.licence,
            permission_ref=draft.answer.permission_ref,
            generator_version=GENERATOR_VERSION,
            prompt_sha256=draft.answer.key.hex(),
        )

    def _screened(self, row: _Row) -> _Row:
        if self._screen is None or not isinstance(row, Accepted):
            return row
        result = self._screen(row.example)
        if isinstance(result, Reject):
            return Rejected(row.seed, result.label, result.detail)
        return Accepted(row.seed, result, None)

    async def _judged(self, plan: CategoryPlan, row: _Row) -> _Row:
        if not isinstance(row, Accepted):
            return row
        if not self._is_sampled(row.seed, "judge", self._teacher.judge_share):
            return row
        try:
            value, _ = await self._desk.ask_json(judge_ask(plan, row.example.messages))
        except NoAnswer as fault:  # without a judgement there is no score, and no row
            return Rejected(row.seed, f"judge_{fault.reason}", fault.detail)
        except (AresError, Stopped) as fault:
            return await self._unfinished(row.seed, fault)
        judgement = read_judgement(plan, value)
        if judgement.lowest < self._teacher.judge_min:
            return Rejected(row.seed, "judged_low", f"{judgement}: {judgement.fault}")
        return Accepted(row.seed, row.example, judgement)


@asynccontextmanager
async def open_author(
    teacher: TeacherSection,
    *,
    api_key: str,
    db: StoreThread,
    clock: Clock,
    counts: Mapping[str, int],
    seed: int,
    cycle: int = 0,
    run_id: str = "",
    client: Client | None = None,
    screen: Screen | None = None,
    coverage: Mapping[str, Coverage] | None = None,
    on_progress: Callable[[AuthorProgress], None] = _no_report,
    resend_lost: bool = False,
) -> AsyncIterator[Author]:
    """Open the teacher for one run; leaving it waits for what is on its way.

    Args:
        api_key: see `apikey`; "" where `teacher.base_url` names a server that needs none.
        counts: category -> rows wanted.
        seed: of the plan; the same seed plans the same tasks.
        cycle: whose caps count; 0 for none.
        run_id: "" for a fresh one.
        client: another one than the real, for estimates and tests.
        screen: the caller's filters.
        coverage: of earlier rows, by category, so that their gaps are filled.
        on_progress: called after every wave; may raise to end the run.
        resend_lost: the operator's word that lost requests may be sent again.
    Raises: TeacherNotPermitted, TeacherKeyRefused, TeacherModelUnknown, TeacherUnpaid, TeacherAway:
        nothing was asked.
    """
    check_permission(teacher)
    check_counts(counts)
    name = run_id or f"{clock.now_ms()}-{secrets.token_hex(4)}"
    owned = None
    if client is None:
        from ares_coordinator.distiller.opus import OpusClient  # takes a second to import

        client = owned = OpusClient(
            api_key=api_key,
            model=teacher.model,
            base_url=teacher.base_url,
            timeout_s=teacher.timeout_s,
            connections=teacher.max_concurrency,
        )
    try:
        desk = RequestDesk(
            teacher,
            client=client,
            db=db,
            clock=clock,
            run_id=name,
            cycle=cycle,
            rng=random.Random(name),
            resend_lost=resend_lost,
        )
        async with desk:
            yield Author(
                teacher,
                desk=desk,
                counts=counts,
                seed=seed,
                run_id=name,
                screen=screen,
                coverage=coverage,
                on_progress=on_progress,
            )
    finally:
        if owned is not None:
            await owned.close()


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of pieces of work that run at the same time; one fault ends them all."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
