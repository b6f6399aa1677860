"""The rows that people bring: into the next cycle, filtered; and a look at those that are there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ares_coordinator.datasets import IMPORTED, left_out_path, read_imported, screen_of
from ares_coordinator.distiller.filters import Reject, Screen
from ares_coordinator.distiller.formats import RowFault
from ares_coordinator.distiller.procedural import verify_all
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import CyclePhase
from ares_p2p.errors import AresError, ConfigFault
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
        rejected: by label, rows that were read, or written by the teacher, and left out.
        faults: rows that could not be read.
        short: why there are fewer rows than were asked for; "" when there are not.
        fault: what ended it early; what came before it is stored.
    """

    cycle: int
    path: Path | None = None
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    faults: list[RowFault] = field(default_factory=list)
    faulty: int = 0
    short: str = ""
    fault: AresError | None = None


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
    wanted: int | None = None,
    left_out: Mapping[str, int] | None = None,
) -> Imported:
    """Filter rows and store the good ones for a cycle. The same rows twice are stored once.

    Args:
        store: False: only say what would come of it.
        wanted: read no more rows when so many are good.
        left_out: by label, rows that were left out before; they are counted with the others.
    Raises: ConfigFault: a damaged index of an evaluation set. DiskFull.
    """
    result, screen = Imported(cycle), screen_of(settings, files, cycle)
    taken: list[Example] = []
    result.rejected.update(left_out or {})
    for known in read_imported(files, cycle):
        screen(known)
    for number, row in enumerate(rows):
        if len(taken) == wanted:
            break
        if number % REPORT_EVERY == 0:
            on_progress(number)
        if isinstance(row, RowFault):
            result.faulty += 1
            if len(result.faults) < MAX_FAULTS:
                result.faults.append(row)
            continue
        judged = _judged(row, screen)
        if isinstance(judged, Reject):
            result.rejected[judged.label] += 1
        else:
            result.accepted[row.category] += 1
            taken.append(row)
    if taken and store:
        content = encode_jsonl(taken)
        folder = files.raw_rows(cycle)
        folder.mkdir(parents=True, exist_ok=True)
        name = IMPORTED.replace("*", sha256(content).hex()[:12])
        result.path = folder / name
        kept = json.dumps(dict(result.rejected)).encode()
        write_atomically(left_out_path(result.path), kept, durable=True)
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
