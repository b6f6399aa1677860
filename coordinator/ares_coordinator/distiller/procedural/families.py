"""All kinds of tasks, and the teacher that writes them: free, offline, every answer checkable.

A row is a function of (seed, category, index) only, and of what the teacher was asked for. Seeds of
networks are 0 and up; the shipped base was trained on negative ones.

The distribution: every kind of a category with the same chance, every wording of it with the same
chance, levels 1, 2 and 3 with `LEVEL_SHARES`, and one row in ten for the held-out side.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Final

from ares_coordinator.distiller.procedural.dialogues import TOOL_USE
from ares_coordinator.distiller.procedural.documents import LONG_CONTEXT
from ares_coordinator.distiller.procedural.draft import (
    LEVELS,
    Brief,
    Family,
    check_text,
    key_of,
    side_of_task,
)
from ares_coordinator.distiller.procedural.instructions import INSTRUCTION
from ares_coordinator.distiller.procedural.personas import ROLEPLAY
from ares_coordinator.distiller.procedural.planning import PROBLEM_SOLVING
from ares_coordinator.distiller.procedural.programs import CODE
from ares_coordinator.distiller.procedural.puzzles import REASONING
from ares_coordinator.distiller.procedural.writing import CREATIVE
from ares_p2p.errors import TeacherFault
from ares_p2p.shards import Example
from ares_p2p.shards.format import Split

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
# Kinds that the shipped base has not met: a first cycle has something to teach in every category,
# some of it within reach of a small model, some not.
HELD_BACK_KINDS: Final = frozenset(
    {
        *("direction", "equation", "parity", "liars"),
        *("trace", "repair", "text_function"),
        *("acrostic", "alliteration"),
        *("pair", "chain", "no_tool"),
        *("moved", "hops"),
        *("coins", "route", "plan"),
        *("swap", "format"),
        *("recall", "card", "greet"),
    }
)
LEVEL_SHARES: Final[Mapping[int, float]] = {1: 0.5, 2: 0.3, 3: 0.2}
HELD_OUT_SHARE: Final = 0.1
MAX_DRAWS: Final = 500  # of tasks, until one belongs to the wanted side; one in four does at least
TEACHER_NAME: Final = "procedural"
TEACHER_VERSION: Final = "2"
TEACHER_LICENCE: Final = "Apache-2.0"


class ProceduralTeacher:
    """Writes tasks by program. Implements `Teacher`.

    Args:
        without: kinds to leave out.
        side: write rows of this side of the split only.
        levels: level -> its share; every level up to 4 may be asked for.
    Raises: TeacherFault: an unknown level, or no share above zero.
    """

    name: Final = TEACHER_NAME
    version: Final = TEACHER_VERSION
    licence: Final = TEACHER_LICENCE

    def __init__(
        self,
        *,
        without: frozenset[str] = frozenset(),
        side: Split | None = None,
        levels: Mapping[int, float] = LEVEL_SHARES,
    ) -> None:
        if not levels.keys() <= set(LEVELS) or min(levels.values(), default=-1) < 0:
            raise TeacherFault(f"levels {dict(levels)}, shares of {LEVELS} expected")
        if sum(levels.values()) <= 0:
            raise TeacherFault("no level with a share above zero")
        self._levels = dict(levels)
        self._side = side
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
        side: Split = "eval" if rng.random() < HELD_OUT_SHARE else "train"
        side = self._side or side
        kind = rng.choice(list(kinds))
        (level,) = rng.choices(list(self._levels), list(self._levels.values()))
        for _ in range(MAX_DRAWS):
            draft = kinds[kind](Brief(rng, level, held_out=side == "eval"))
            if side_of_task(kind, draft.task) == side:
                return Example(
                    category=category,
                    messages=draft.messages,
                    key=key_of(kind, draft.template, draft.task),
                    check=check_text(kind, level, draft.template, draft.task),
                    teacher=self.name,
                    teacher_version=self.version,
                    licence=self.licence,
                )
        raise TeacherFault(f"no task of kind {kind} for the {side} side in {MAX_DRAWS} draws")

    def generate(self, category: str, count: int, *, seed: int, start: int) -> Iterator[Example]:
        """Yield rows `start` to `start + count` of `category`; see `Teacher.generate`."""
        for index in range(start, start + count):
            yield self.example(category, index, seed=seed)
