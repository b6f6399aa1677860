"""What a teacher is: somebody who writes examples of a category, with name, version and licence.

A teacher that can be asked for row `start` of `seed` again gives the same row again, or says in
its own documentation why it cannot (a paid model does not).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from ares_p2p.errors import TeacherFault
from ares_p2p.shards import CATEGORIES, Example

MAX_COUNT: Final = 100_000  # rows of one category in one build


class Teacher(Protocol):
    """Writes examples. `licence` goes into every row; rows without a known one are not published."""

    @property
    def name(self) -> str:
        """Stable name, recorded with every row."""

    @property
    def version(self) -> str:
        """Changes whenever the same arguments give other rows."""

    @property
    def licence(self) -> str:
        """SPDX expression, or the teacher's terms by name."""

    def generate(self, category: str, count: int, *, seed: int, start: int) -> Iterator[Example]:
        """Yield rows `start` to `start + count` of `category` under `seed`.

        Args:
            category: one of `CATEGORIES`.
            count: how many rows.
            seed: the cycle's seed.
            start: number of the first row, for going on after a restart.
        Raises: TeacherFault: the teacher cannot answer as configured.
        """


def check_counts(counts: Mapping[str, int]) -> None:
    """Check what somebody asks for.

    Raises: TeacherFault: an unknown category, or a count out of range.
    """
    for category, count in counts.items():
        if category not in CATEGORIES:
            raise TeacherFault(f"category {category[:40]!r}, one of {CATEGORIES} expected")
        if not 0 <= count <= MAX_COUNT:
            raise TeacherFault(f"{count} rows of {category}, 0 to {MAX_COUNT} expected")
