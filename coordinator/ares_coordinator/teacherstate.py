"""How the teacher is: at work, waited for, or done without; kept where a restart finds it.

One JSON value in the database. The engine and the maker of rows write it; the API and the command
line read it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from ares_coordinator.settings import TeacherSection
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import MetaKey


class Condition(StrEnum):
    """OK: it wrote what was asked. WAITING: it is asked again. FALLBACK: a program made the rest."""

    OK = "ok"
    WAITING = "waiting"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class TeacherState:
    """The teacher's condition, and why.

    Attributes:
        teacher: "procedural", or the model that is asked.
        cycle: whose rows it was asked for last.
        since_ms: since when it is like this.
        code, message, hint: of the fault; "" when all is well.
        tries: how often it was asked in vain, while waiting.
        next_try_ms: when it is asked again, while waiting.
    """

    condition: Condition
    teacher: str
    cycle: int
    since_ms: int
    code: str = ""
    message: str = ""
    hint: str = ""
    tries: int = 0
    next_try_ms: int | None = None


def name_of(teacher: TeacherSection) -> str:
    """Return what a teacher is called in its state."""
    return teacher.kind if teacher.kind == "procedural" else teacher.model


def load_teacher_state(store: Store) -> TeacherState | None:
    """Return the last state, None when no teacher was asked yet."""
    text = store.meta(MetaKey.TEACHER)
    if text is None:
        return None
    values = json.loads(text)
    return TeacherState(**{**values, "condition": Condition(values["condition"])})


def note_teacher(store: Store, state: TeacherState) -> None:
    """Store a state; `since_ms` and `tries` go on from the one before. A change is an event."""
    before = load_teacher_state(store)
    is_same = before is not None and _what(before) == _what(state)
    if before is not None and is_same:
        state = replace(state, since_ms=before.since_ms)
    if state.condition is Condition.WAITING:
        goes_on = before is not None and before.condition is Condition.WAITING
        state = replace(state, tries=1 + (before.tries if before is not None and goes_on else 0))
    store.set_meta(MetaKey.TEACHER, json.dumps(asdict(state)))
    began_well = before is None and state.condition is Condition.OK
    if not is_same and not began_well:
        facts = {"cycle": state.cycle, "code": state.code, "why": state.message}
        store.add_event(f"teacher-{state.condition}", json.dumps(facts), now_ms=state.since_ms)


def _what(state: TeacherState) -> tuple[object, ...]:
    """Return what makes a state another one."""
    cycle = state.cycle if state.condition is Condition.FALLBACK else 0
    return (state.condition, state.teacher, state.code, cycle)
