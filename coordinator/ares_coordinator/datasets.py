"""A cycle's rows: what was imported, what the teacher wrote, and what a program makes of the rest.

Made again they are the same: imported rows lie on the disk, the teacher's answers in the ledger of
paid requests, and the procedural teacher is a function of the seed. So a cycle that was killed while
it generated simply generates again, and nothing is paid twice.

When the teacher cannot be asked (no key, no credit, no permission, a cap, no network), the settings
decide: "wait" raises, and the engine tries again and shows why; "procedural" fills the rest with
rows that are made and checked by a program, and says so. A program also makes what the teacher was
asked for again and again in vain: waiting would not help.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ares_coordinator.datacard import CardFacts, write_card
from ares_coordinator.distiller.apikey import find_api_key, need_api_key
from ares_coordinator.distiller.authored import Accepted, AuthorProgress
from ares_coordinator.distiller.authoring import open_author
from ares_coordinator.distiller.filters import Screen
from ares_coordinator.distiller.filters.contamination import (
    SUFFIX,
    ContaminationFilter,
    NgramIndex,
)
from ares_coordinator.distiller.pipeline import Dataset, Progress, build_dataset
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.distiller.requests import check_permission
from ares_coordinator.layout import DataLayout
from ares_coordinator.replay import Replay, choose_replay, with_replay, written_texts
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import CategoryCount, CycleRow, DatasetRow
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.teacherstate import Condition, TeacherState, name_of, note_teacher
from ares_p2p.clock import Clock
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import AresError, TeacherAway, TeacherBudgetSpent, TeacherFault
from ares_p2p.files import write_atomically
from ares_p2p.shards import Example
from ares_p2p.shards.format import decode_jsonl, decode_row, encode_jsonl

CHARACTERS_PER_TOKEN = 4  # for the statistics only: English text, common tokenizers
TAUGHT = "taught.jsonl"  # what the teacher wrote; renewed whenever the rows are made
IMPORTED = "import-*.jsonl"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Taught:
    """What came of asking the teacher.

    Attributes:
        rejected: by label.
        short: category -> why it has fewer rows than were asked, after trying again.
        capped: categories among them that reached their cap.
        fault: why a program made the rest; None when it did not.
    """

    rows: list[Example] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    short: dict[str, str] = field(default_factory=dict)
    capped: set[str] = field(default_factory=set)
    fault: AresError | None = None

    def why_short(self) -> str:
        """Return which categories have fewer rows than were asked, and why."""
        return "; ".join(f"{name}: {why}" for name, why in sorted(self.short.items()))


@dataclass(frozen=True, slots=True)
class DatasetMaker:
    """Makes the rows of cycles on one coordinator.

    Args:
        say: told what is going on, for people.
    """

    settings: CoordinatorSettings
    files: DataLayout
    db: StoreThread
    clock: Clock
    say: Callable[[str], None]

    async def make(self, row: CycleRow) -> tuple[DatasetRow, str]:
        """Write `train.jsonl`, `eval.jsonl` and the card of a cycle.

        Returns: its statistics, and why the teacher was done without ("" if it was not).
        Raises: TeacherFault, TeacherAway: there are fewer rows than the settings ask for, and they
            say to wait. DiskFull.
        """
        imported = await asyncio.to_thread(read_imported, self.files, row.cycle)
        taught = Taught()
        if self.settings.teacher.kind != "procedural":
            taught = await self._teach(row, imported)
        benchmarks = await asyncio.to_thread(benchmarks_of, self.files)
        given = [*imported, *taught.rows]
        dataset = await asyncio.to_thread(self._build, row, given, benchmarks)
        earlier = await self._earlier(row)
        replay = await asyncio.to_thread(self._replay, row, dataset, earlier, benchmarks)
        rejected = Counter(dict(dataset.rejected))
        rejected.update(taught.rejected)
        rejected.update(read_left_out(self.files, row.cycle))
        fallback = "" if taught.fault is None else str(taught.fault)
        facts = CardFacts(
            replay=replay,
            compared_with=tuple((index.name, len(index)) for index in benchmarks),
            fallback=fallback,
        )
        cost = await self._cost_microusd(row.cycle)
        mixed = with_replay(dataset, replay)
        found = await asyncio.to_thread(self._write, row, mixed, facts, rejected, cost)
        await self._note(row, taught.fault)
        return found, fallback

    def wanted(self) -> dict[str, int]:
        """Return how many rows a cycle has of each category, both sides of the split together."""
        data = self.settings.data
        return dict.fromkeys(data.categories, data.examples_per_category)

    # --- the teacher ---------------------------------------------------------------------------

    async def _teach(self, row: CycleRow, imported: list[Example]) -> Taught:
        """Return what the teacher writes beside the imported rows."""
        here = Counter(example.category for example in imported)
        counts = {name: max(0, count - here[name]) for name, count in self.wanted().items()}
        screen = await asyncio.to_thread(screen_of, self.settings, self.files, row.cycle)
        for example in imported:
            screen(example)  # so that nothing like it is written
        taught = Taught()
        try:
            await ask_teacher(
                self.settings,
                self.files,
                self.db,
                self.clock,
                cycle=row.cycle,
                counts=counts,
                seed=self.seed_of(row),
                into=taught,
                screen=screen,
                on_progress=self._say_progress,
            )
        except (TeacherFault, TeacherAway) as fault:
            if self.settings.teacher.fallback == "wait":
                raise
            taught.fault = fault
        else:
            taught.fault = self._short(taught)
        if taught.fault is not None:
            log.warning("teacher_fallback", code=taught.fault.code, why=taught.fault.message)
        content = encode_jsonl(taught.rows)
        folder = self.files.raw_rows(row.cycle)
        folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(write_atomically, folder / TAUGHT, content, durable=True)
        return taught

    def _short(self, taught: Taught) -> TeacherFault | None:
        """Return why a program makes what the teacher did not.

        Raises: TeacherBudgetSpent: a category reached its cap, and the settings say to wait.
        """
        if not taught.short:
            return None
        if not taught.capped:
            return TeacherFault(taught.why_short())
        fault = TeacherBudgetSpent(
            taught.why_short(), hint="Raise teacher.cap_usd_per_category in config.toml."
        )
        if self.settings.teacher.fallback == "wait":
            raise fault
        return fault

    async def _note(self, row: CycleRow, fault: AresError | None) -> None:
        """Keep how the teacher is."""
        now_ms, name = self.clock.now_ms(), name_of(self.settings.teacher)
        state = TeacherState(Condition.OK, name, row.cycle, now_ms)
        if fault is not None:
            state = TeacherState(
                Condition.FALLBACK, name, row.cycle, now_ms, fault.code, fault.message, fault.hint
            )
        await self.db.call(note_teacher, self.db.store, state)

    def _say_progress(self, now: AuthorProgress) -> None:
        cost = now.cost_microusd / 1e6
        self.say(f"generate {now.category}: {now.accepted} of {now.wanted}, {cost:.2f} USD")

    def seed_of(self, row: CycleRow) -> int:
        """Return the seed of a cycle's rows: of its secret, or the one that the settings fix."""
        seed = self.settings.data.seed
        return seed if seed >= 0 else int.from_bytes(row.secret_seed[:6], "big")

    async def _cost_microusd(self, cycle: int) -> int:
        totals = await self.db.call(self.db.store.request_totals, cycle)
        return sum(one.cost_microusd for one in totals)

    # --- the dataset ---------------------------------------------------------------------------

    def _build(self, row: CycleRow, given: list[Example], benchmarks: list[NgramIndex]) -> Dataset:
        def progress(now: Progress) -> None:
            self.say(f"generate {now.category}: {now.accepted} of {now.wanted}")

        return build_dataset(
            ProceduralTeacher(),
            counts=self.wanted(),
            seed=self.seed_of(row),
            given=given,
            leave_out=ContaminationFilter(benchmarks),
            on_progress=progress,
        )

    async def _earlier(self, row: CycleRow) -> dict[int, Path]:
        """Return where the training rows of earlier cycles lie that the model learnt from."""
        done = await self.db.call(self.db.store.cycles)
        paths = {
            item.cycle: self.files.dataset(item.cycle) / "train.jsonl"
            for item in done
            if item.promoted and item.cycle < row.cycle
        }
        return {cycle: path for cycle, path in paths.items() if path.is_file()}

    def _replay(
        self,
        row: CycleRow,
        dataset: Dataset,
        earlier: Mapping[int, Path],
        benchmarks: list[NgramIndex],
    ) -> Replay:
        if not earlier:
            return Replay()
        return choose_replay(
            earlier,
            dataset,
            share=self.settings.data.replay_share,
            seed=self.seed_of(row),
            indices=[*benchmarks, *held_out_before(self.files, row.cycle)],
        )

    def _write(
        self,
        row: CycleRow,
        dataset: Dataset,
        facts: CardFacts,
        rejected: Counter[str],
        cost_microusd: int,
    ) -> DatasetRow:
        folder = self.files.dataset(row.cycle)
        folder.mkdir(parents=True, exist_ok=True)
        size_bytes = 0
        for side, rows in (("train", dataset.train), ("eval", dataset.eval)):
            content = encode_jsonl(rows)
            size_bytes += len(content)
            write_atomically(folder / f"{side}.jsonl", content, durable=True)
        teachers = Counter(
            f"{one.teacher} {one.teacher_version}".strip()
            for one in (*dataset.train, *dataset.eval)
        )
        found = DatasetRow(
            cycle=row.cycle,
            teacher=", ".join(name for name, _ in teachers.most_common())[:200],
            categories=category_counts(dataset),
            rejected=tuple(sorted(rejected.items())),
            cost_microusd=cost_microusd,
            disk_files=2,
            disk_bytes=size_bytes,
            updated_ms=self.clock.now_ms(),
        )
        write_card(folder, dataset, found, facts)
        return found


async def ask_teacher(
    settings: CoordinatorSettings,
    files: DataLayout,
    db: StoreThread,
    clock: Clock,
    *,
    cycle: int,
    counts: Mapping[str, int],
    seed: int,
    into: Taught,
    screen: Screen | None = None,
    on_progress: Callable[[AuthorProgress], None],
) -> None:
    """Have the teacher of the settings write rows; what it wrote before a fault is in `into`.

    Raises: TeacherFault, TeacherAway.
    """
    teacher = settings.teacher
    check_permission(teacher)  # before a key is looked for: the first thing to settle
    find = find_api_key if teacher.base_url else need_api_key
    async with open_author(
        teacher,
        api_key=find(files.root),
        db=db,
        clock=clock,
        counts=counts,
        seed=seed,
        cycle=cycle,
        screen=screen,
        on_progress=on_progress,
    ) as author:
        try:
            async for one in author.rows():
                if isinstance(one, Accepted):
                    into.rows.append(one.example)
                else:
                    into.rejected[one.reason] += 1
        finally:
            report = author.report()
            into.short, into.capped = dict(report.short), set(report.capped)


def category_counts(dataset: Dataset) -> tuple[CategoryCount, ...]:
    """Return rows and tokens by category, in the order of the categories."""
    train = Counter(example.category for example in dataset.train)
    held_out = Counter(example.category for example in dataset.eval)
    characters: Counter[str] = Counter()
    for example in (*dataset.train, *dataset.eval):
        characters[example.category] += sum(len(m.content) for m in example.messages)
    return tuple(
        CategoryCount(name, train[name], held_out[name], characters[name] // CHARACTERS_PER_TOKEN)
        for name in CATEGORIES
        if train[name] or held_out[name]
    )


def read_imported(files: DataLayout, cycle: int) -> list[Example]:
    """Return the rows that were imported for a cycle, in the order of their files' names."""
    return [
        decode_row(line)
        for path in sorted(files.raw_rows(cycle).glob(IMPORTED))
        for line in path.read_bytes().splitlines()
    ]


def left_out_path(rows: Path) -> Path:
    """Return where it is kept how many rows were left out beside those imported into `rows`."""
    return rows.with_suffix(".left-out.json")


def read_left_out(files: DataLayout, cycle: int) -> Counter[str]:
    """Return how many rows were left out when rows were imported for a cycle, by label."""
    total: Counter[str] = Counter()
    for path in files.raw_rows(cycle).glob(IMPORTED):
        beside = left_out_path(path)
        if beside.is_file():
            total.update(json.loads(beside.read_bytes()))
    return total


def benchmarks_of(files: DataLayout) -> list[NgramIndex]:
    """Return the indices of evaluation sets that the operator put there, by name.

    Raises: ConfigFault: one is damaged.
    """
    return [NgramIndex.load(path) for path in sorted(files.evaluation_sets.glob(f"*{SUFFIX}"))]


def held_out_before(files: DataLayout, cycle: int) -> list[NgramIndex]:
    """Return what was said in the held-out rows of every earlier cycle."""
    indices = []
    for number in range(1, cycle):
        path = files.dataset(number) / "eval.jsonl"
        if path.is_file():
            texts = written_texts(decode_jsonl(path.read_bytes()))
            indices.append(NgramIndex.of(f"held out in cycle {number}", texts))
    return indices


def screen_of(settings: CoordinatorSettings, files: DataLayout, cycle: int) -> Screen:
    """Return the filters that written and imported rows of a cycle must pass.

    Raises: ConfigFault: an index of an evaluation set that is damaged.
    """
    indices = [*benchmarks_of(files), *held_out_before(files, cycle)]
    return Screen(languages=settings.data.languages, indices=indices)
