"""A cycle's rows: asked of the teacher, written to the disk, counted. Made again they are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ares_coordinator.distiller.pipeline import Progress, build_dataset
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import DataSection
from ares_coordinator.store.rows import CategoryCount, CycleRow, DatasetRow
from ares_p2p.domain import CATEGORIES
from ares_p2p.files import write_atomically
from ares_p2p.shards.format import encode_jsonl

CHARACTERS_PER_TOKEN = 4  # for the statistics only: English text, common tokenizers


def make_dataset(
    row: CycleRow,
    data: DataSection,
    files: DataLayout,
    *,
    now_ms: int,
    on_progress: Callable[[Progress], None],
) -> DatasetRow:
    """Write `train.jsonl` and `eval.jsonl` of a cycle and return their statistics.

    Raises: TeacherFault: the teacher has no more different rows. DiskFull.
    """
    teacher = ProceduralTeacher()
    dataset = build_dataset(
        teacher,
        counts=dict.fromkeys(data.categories, data.examples_per_category),
        seed=data.seed if data.seed >= 0 else int.from_bytes(row.secret_seed[:6], "big"),
        on_progress=on_progress,
    )
    folder = files.dataset(row.cycle)
    folder.mkdir(parents=True, exist_ok=True)
    size_bytes = 0
    for side, rows in (("train", dataset.train), ("eval", dataset.eval)):
        content = encode_jsonl(rows)
        size_bytes += len(content)
        write_atomically(folder / f"{side}.jsonl", content, durable=True)
    train = Counter(example.category for example in dataset.train)
    held_out = Counter(example.category for example in dataset.eval)
    characters: Counter[str] = Counter()
    for example in (*dataset.train, *dataset.eval):
        characters[example.category] += sum(len(m.content) for m in example.messages)
    categories = tuple(
        CategoryCount(name, train[name], held_out[name], characters[name] // CHARACTERS_PER_TOKEN)
        for name in CATEGORIES
        if train[name] or held_out[name]
    )
    return DatasetRow(
        cycle=row.cycle,
        teacher=f"{teacher.name} {teacher.version}",
        categories=categories,
        rejected=dataset.rejected,
        cost_microusd=0,
        disk_files=2,
        disk_bytes=size_bytes,
        updated_ms=now_ms,
    )
