"""What a teacher is: somebody who writes examples of a category, with name, version and licence.

A teacher that can be asked for row `start` of `seed` again gives the same row again, or says in
its own documentation why it cannot (a paid model does not).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ares_p2p.shards import Example


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
