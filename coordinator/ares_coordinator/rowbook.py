"""The rows that people bring: into the next cycle, filtered; and a look at those that are there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ares_coordinator.datasets import IMPORTED, read_imported, screen_of
from ares_coordinator.distiller.filters import Reject, Screen
from ares_coordinator.distiller.formats import RowFault
from ares_coordinator.distiller.procedural import verify_all
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import CyclePhase
from ares_p2p.errors import ConfigFault
from ares_p2p.files import write_atomically
from ares_p2p.ids import sha256
from ares_p2p.shards import Example
from ares_p2p.shards.format import decode_row, encode_jsonl

MAX_FAULTS = 1000  # that are kept with their place; all are counted
REPORT_EVERY = 64  # rows between two reports of progress


@dataclass(slots=True)
class Imported:
    """What came of bringing rows.

    Attributes:
        path: where they lie now; None when none was taken.
        rejected: by reason, rows that were read and left out.
        faults: rows that could not be read.
    """

    cycle: int
    path: Path | None = None
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    faults: list[RowFault] = field(default_factory=list)
    faulty: int = 0


def next_cycle(store: Store) -> int:
    """Return the cycle that new rows go into: the first whose rows are not made yet."""
    current = store.current_cycle()
    if current is not None and current.phase is CyclePhase.GENERATE:
        return current.cycle
    latest = store.latest_cycle()
    return 1 if latest is None else latest.cycle + 1


def bring_rows(
    rows: Iterable[Example | RowFault],
    *,
    settings: CoordinatorSettings,
    files: DataLayout,
    cycle: int,
    on_progress: Callable[[int], None],
    store: bool = True,
) -> Imported:
    """Filter rows and store the good ones for a cycle. The same rows twice are stored once.

    Args:
        store: False: only say what would come of it.
    Raises: ConfigFault: a damaged index of an evaluation set. DiskFull.
    """
    result, screen, taken = Imported(cycle), screen_of(settings, files, cycle), []
    for known in read_imported(files, cycle):
        screen(known)
    for number, row in enumerate(rows):
        if number % REPORT_EVERY == 0:
            on_progress(number)
        if isinstance(row, RowFault):
            result.faulty += 1
            if len(result.faults) < MAX_FAULTS:
                result.faults.append(row)
            continue
        judged = _judged(row, screen)
        if isinstance(judged, Reject):
            result.rejected[judged.reason] += 1
        else:
            result.accepted[row.category] += 1
            taken.append(row)
    if taken and store:
        content = encode_jsonl(taken)
        folder = files.raw_rows(cycle)
        folder.mkdir(parents=True, exist_ok=True)
        name = IMPORTED.replace("*", sha256(content).hex()[:12])
        result.path = folder / name
        write_atomically(result.path, content, durable=True)
    return result


def _judged(row: Example, screen: Screen) -> Example | Reject:
    """Return a row that may be taken; a check that comes with it must hold."""
    if row.check:
        (refusal,) = verify_all([row])
        if refusal is not None:
            return Reject("unverified", refusal.message)
    return screen(row)


def stored_rows(files: DataLayout, cycle: int, side: str) -> Iterator[Example]:
    """Yield the rows of a cycle: of "train", "eval" or "raw" (brought and not yet split).

    Raises: ConfigFault: there are none.
    """
    if side == "raw":
        rows = read_imported(files, cycle)
        if not rows:
            raise ConfigFault(f"nothing was imported for cycle {cycle}")
        yield from rows
        return
    path = files.dataset(cycle) / f"{side}.jsonl"
    if not path.is_file():
        raise ConfigFault(
            f"cycle {cycle} has no rows yet",
            hint="ares-coordinator data stats shows the cycles that have.",
        )
    for line in path.read_bytes().splitlines():
        yield decode_row(line)


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of an evaluation set's file: every text in its JSON, or the whole file.

    Raises: ConfigFault: it cannot be read.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFault(f"{path} cannot be read as text: {error}") from error
    if path.suffix not in (".json", ".jsonl", ".ndjson"):
        yield content
        return
    lines = content.splitlines() if path.suffix != ".json" else [content]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield from _texts_in(json.loads(line))
        except ValueError as error:
            raise ConfigFault(f"{path}, line {number}: no JSON: {error}") from error


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)
