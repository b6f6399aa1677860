"""Rows of earlier cycles that come again in a new one's training set, so that less is forgotten.

Which rows is a function of the stored rows, the cycle's seed and the share: made again after a
restart they are the same. They are dealt category by category, so that a category that the new
cycle lacks is not forgotten either; within a category each row of each earlier cycle has the same
chance. A row's origin is the first cycle that had it, however often it was replayed since.

It refuses what would spoil the measurement: rows of the held-out side of any cycle, rows that
quote held-out rows, rows nearly the same as a new one. What is passed over leaves its place to the
next row.

Source: rehearsal of earlier tasks, Scialom et al., arXiv:2205.12393; the share is a setting of ours.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ares_coordinator.distiller.filters import Deduplicator, Reject
from ares_coordinator.distiller.filters.contamination import ContaminationFilter, NgramIndex
from ares_coordinator.distiller.filters.near import NearDuplicates
from ares_coordinator.distiller.pipeline import Dataset, interleaved
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import ConfigFault, PeerFault
from ares_p2p.ids import sha256
from ares_p2p.shards import Example, split_of
from ares_p2p.shards.format import decode_row

_DOMAIN = b"ares/replay/v1\0"


@dataclass(frozen=True, slots=True)
class Replay:
    """Chosen rows, and where they come from.

    Attributes:
        wanted: how many were looked for.
        origins: (cycle, rows), in the order of the cycles.
        passed_over: (why, rows) of those that had their turn and were not taken.
    """

    rows: tuple[Example, ...] = ()
    wanted: int = 0
    origins: tuple[tuple[int, int], ...] = ()
    passed_over: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    """A row that was not read yet: where it is, and when its turn comes."""

    rank: bytes
    cycle: int
    offset: int


def replay_count(train: int, share: float) -> int:
    """Return how many rows to add to `train` so that they are `share` of all."""
    return round(train * share / (1 - share))


def choose_replay(
    earlier: Mapping[int, Path],
    dataset: Dataset,
    *,
    share: float,
    seed: int,
    indices: Iterable[NgramIndex],
) -> Replay:
    """Return rows of earlier cycles for a new dataset's training side.

    Args:
        earlier: cycle -> its `train.jsonl`.
        dataset: the new cycle's rows.
        share: of the training set, 0 to below 1.
        seed: of the cycle.
        indices: evaluation sets and held-out rows of which no row may hold a run of words.
    Raises: ConfigFault: a stored row that cannot be read.
    """
    wanted = replay_count(len(dataset.train), share)
    if not wanted:
        return Replay()
    piles = _piles(earlier, seed=seed)
    taken: list[Example] = []
    origins: Counter[int] = Counter()
    passed_over: Counter[str] = Counter()
    check = _Check(dataset, indices)
    for candidate in _dealt(piles):
        if len(taken) == wanted:
            break
        row = _row_at(earlier[candidate.cycle], candidate.offset)
        judged = check(row)
        if isinstance(judged, Reject):
            passed_over[judged.label] += 1
            continue
        taken.append(row)
        origins[candidate.cycle] += 1
    return Replay(
        tuple(taken), wanted, tuple(sorted(origins.items())), tuple(sorted(passed_over.items()))
    )


def with_replay(dataset: Dataset, replay: Replay) -> Dataset:
    """Return a dataset with the replayed rows spread evenly over its training side."""
    return replace(dataset, train=tuple(interleaved([dataset.train, replay.rows])))


class _Check:
    """What a replayed row must not share with the new rows."""

    def __init__(self, dataset: Dataset, indices: Iterable[NgramIndex]) -> None:
        self._exact, self._near = Deduplicator(), NearDuplicates()
        for row in (*dataset.train, *dataset.eval):
            self._exact(row)
            if not row.check:
                self._near(row)
        held_out = NgramIndex.of("held out in this cycle", written_texts(dataset.eval))
        self._quotes = ContaminationFilter([*indices, held_out])

    def __call__(self, row: Example) -> Example | Reject:
        found = self._quotes(row)
        if found is not None:
            return found
        exact = self._exact(row)
        if isinstance(exact, Reject) or row.check:  # templated rows are all nearly the same
            return exact
        return self._near(row) or row


def written_texts(rows: Iterable[Example]) -> Iterator[str]:
    """Yield what was said in rows that no program made: templates are no secrets."""
    return (turn.content for row in rows if not row.check for turn in row.messages)


def _piles(earlier: Mapping[int, Path], *, seed: int) -> list[deque[_Candidate]]:
    """Return the candidates of every category in the order of their turns, each key once."""
    piles: dict[str, list[_Candidate]] = {name: [] for name in CATEGORIES}
    seen: set[str] = set()
    salt = b"%d\0" % seed
    for cycle, path in sorted(earlier.items()):
        offset = 0
        for line in _lines(path):
            head = _head(line, path)
            if head["key"] not in seen and split_of(head["key"]) == "train":
                seen.add(head["key"])
                rank = sha256(_DOMAIN, salt, head["key"].encode())
                piles[head["category"]].append(_Candidate(rank, cycle, offset))
            offset += len(line)
    return [deque(sorted(pile)) for pile in piles.values()]


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _head(line: bytes, path: Path) -> dict[str, str]:
    try:
        row = json.loads(line)
        head = {"key": str(row["key"]), "category": str(row["category"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigFault(f"{path} is damaged: {error}") from error
    if head["category"] not in CATEGORIES:
        raise ConfigFault(f"{path} is damaged: category {head['category'][:40]!r}")
    return head


def _dealt(piles: Sequence[deque[_Candidate]]) -> Iterator[_Candidate]:
    """Yield one candidate of each pile in turn, until all are empty."""
    left = [pile for pile in piles if pile]
    while left:
        for pile in left:
            yield pile.popleft()
        left = [pile for pile in left if pile]


def _row_at(path: Path, offset: int) -> Example:
    with path.open("rb") as file:
        file.seek(offset)
        line = file.readline()
    try:
        return decode_row(line)
    except PeerFault as error:
        raise ConfigFault(f"{path} is damaged: {error.message}") from error
