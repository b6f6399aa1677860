"""All kinds of tasks, and the teacher that writes them: free, offline, every answer checkable.

A row is a function of (seed, category, index) only. Seeds of networks are 0 and up; the shipped
base was trained on negative ones, so that no cycle sees a row the base has seen.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Final

from ares_coordinator.distiller.procedural.documents import LONG_CONTEXT, ROLEPLAY
from ares_coordinator.distiller.procedural.draft import Family, check_text, key_of
from ares_coordinator.distiller.procedural.programs import CODE, TOOL_USE
from ares_coordinator.distiller.procedural.puzzles import PROBLEM_SOLVING, REASONING
from ares_coordinator.distiller.procedural.writing import CREATIVE, INSTRUCTION
from ares_p2p.errors import TeacherFault
from ares_p2p.shards import Example

FAMILIES: Final[dict[str, dict[str, Family]]] = {
    "reasoning": REASONING,
    "code": CODE,
    "creative": CREATIVE,
    "tool_use": TOOL_USE,
    "long_context": LONG_CONTEXT,
    "problem_solving": PROBLEM_SOLVING,
    "instruction": INSTRUCTION,
    "roleplay": ROLEPLAY,
}
# One kind in each category is held back from the shipped base: a first cycle has something to teach.
HELD_BACK_KINDS: Final = frozenset(
    {"direction", "trace", "acrostic", "pair", "moved", "coins", "swap", "recall"}
)
TEACHER_NAME: Final = "procedural"
TEACHER_VERSION: Final = "1"
TEACHER_LICENCE: Final = "Apache-2.0"


class ProceduralTeacher:
    """Writes tasks by program. Implements `Teacher`.

    Args:
        without: kinds to leave out.
    """

    name: Final = TEACHER_NAME
    version: Final = TEACHER_VERSION
    licence: Final = TEACHER_LICENCE

    def __init__(self, *, without: frozenset[str] = frozenset()) -> None:
        self._families = {
            category: {kind: make for kind, make in kinds.items() if kind not in without}
            for category, kinds in FAMILIES.items()
        }

    def example(self, category: str, index: int, *, seed: int) -> Example:
        """Return row `index` of `category` under `seed`.

        Raises: TeacherFault: no such category, or all of its kinds are left out.
        """
        kinds = self._families.get(category)
        if not kinds:
            raise TeacherFault(f"no kinds for category {category[:40]!r}")
        name = f"{self.name}/{self.version}/{seed}/{category}/{index}"
        rng = random.Random(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))
        kind = rng.choice(list(kinds))
        draft = kinds[kind](rng)
        return Example(
            category=category,
            messages=draft.messages,
            key=key_of(kind, draft.spec),
            check=check_text(kind, draft.spec),
            teacher=self.name,
            teacher_version=self.version,
            licence=self.licence,
        )

    def generate(self, category: str, count: int, *, seed: int, start: int) -> Iterator[Example]:
        """Yield rows `start` to `start + count` of `category`; see `Teacher.generate`."""
        for index in range(start, start + count):
            yield self.example(category, index, seed=seed)
