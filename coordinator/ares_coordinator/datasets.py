"""A cycle's rows: what was imported, what the teacher wrote, and what a program makes of the rest.

Made again they are the same: imported rows lie on the disk, the teacher's answers in the ledger of
paid requests, and the procedural teacher is a function of the seed. So a cycle that was killed while
it generated simply generates again, and nothing is paid twice.

When the teacher cannot be asked (no key, no credit, no permission, a cap, no network), the settings
decide: "wait" raises, and the engine tries again and shows why; "procedural" fills the rest with
rows that are made and checked by a program, and says so.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ares_coordinator.datacard import write_card
from ares_coordinator.distiller.apikey import find_api_key, need_api_key
from ares_coordinator.distiller.authored import Accepted, AuthorProgress
from ares_coordinator.distiller.authoring import open_author
from ares_coordinator.distiller.filters import Screen
from ares_coordinator.distiller.filters.contamination import SUFFIX, NgramIndex
from ares_coordinator.distiller.pipeline import Dataset, Progress, build_dataset
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.distiller.requests import check_permission
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import CategoryCount, CycleRow, DatasetRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import TeacherAway, TeacherFault
from ares_p2p.files import write_atomically
from ares_p2p.shards import Example
from ares_p2p.shards.format import decode_row, encode_jsonl

CHARACTERS_PER_TOKEN = 4  # for the statistics only: English text, common tokenizers
TAUGHT = "taught.jsonl"  # what the teacher wrote; renewed whenever the rows are made
IMPORTED = "import-*.jsonl"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Taught:
    """What came of asking the teacher.

    Attributes:
        fallback: why a program made the rest; "" when it did not.
    """

    rows: list[Example] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    fallback: str = ""


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
        dataset = await asyncio.to_thread(self._build, row, [*imported, *taught.rows])
        rejected = Counter(dict(dataset.rejected))
        rejected.update(taught.rejected)
        cost = await self._cost_microusd(row.cycle)
        found = await asyncio.to_thread(self._write, row, dataset, rejected, cost)
        return found, taught.fallback

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
            taught.fallback = str(fault)
            log.warning("teacher_fallback", code=fault.code, why=fault.message)
        content = encode_jsonl(taught.rows)
        folder = self.files.raw_rows(row.cycle)
        folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(write_atomically, folder / TAUGHT, content, durable=True)
        return taught

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

    def _build(self, row: CycleRow, given: list[Example]) -> Dataset:
        def progress(now: Progress) -> None:
            self.say(f"generate {now.category}: {now.accepted} of {now.wanted}")

        return build_dataset(
            ProceduralTeacher(),
            counts=self.wanted(),
            seed=self.seed_of(row),
            given=given,
            on_progress=progress,
        )

    def _write(
        self, row: CycleRow, dataset: Dataset, rejected: Counter[str], cost_microusd: int
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
        write_card(folder, dataset, found)
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
        async for one in author.rows():
            if isinstance(one, Accepted):
                into.rows.append(one.example)
            else:
                into.rejected[one.reason] += 1


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


def screen_of(settings: CoordinatorSettings, files: DataLayout, cycle: int) -> Screen:
    """Return the filters that written and imported rows of a cycle must pass.

    Raises: ConfigFault: an index of an evaluation set that is damaged.
    """
    indices = [NgramIndex.load(path) for path in sorted(files.evaluation_sets.glob(f"*{SUFFIX}"))]
    for number in range(1, cycle):
        held_out = files.dataset(number) / "eval.jsonl"
        if held_out.is_file():
            indices.append(NgramIndex.of(f"held out in cycle {number}", _written_texts(held_out)))
    return Screen(languages=settings.data.languages, indices=indices)


def _written_texts(path: Path) -> list[str]:
    """Return what was said in held-out rows that no program made: templates are no secrets."""
    rows = (json.loads(line) for line in path.read_bytes().splitlines())
    return [turn["content"] for row in rows if not row["check"] for turn in row["messages"]]
