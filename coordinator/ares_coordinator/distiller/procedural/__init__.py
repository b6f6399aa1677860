"""The procedural teacher: free, offline, every answer checked by a program.

    words.py           word pools
    draft.py           what a generator returns, and the key of a task
    puzzles.py         generators: reasoning, problem_solving
    programs.py        generators: code, tool_use
    writing.py         generators: creative, instruction
    documents.py       generators: long_context, roleplay
    families.py        all kinds together: `ProceduralTeacher`
    spec.py            typed access to a row's check
    check_puzzles.py   verifiers of reasoning and problem_solving
    check_programs.py  verifiers of code and tool_use
    check_writing.py   verifiers of creative, instruction, long_context and roleplay
    sandbox.py         runs small functions in a limited child
    checks.py          all verifiers together: `verify`, `verify_all`, `check_answer`

Verifiers import no generator: two readings of every task must agree.
"""

from ares_coordinator.distiller.procedural.checks import check_answer, verify, verify_all
from ares_coordinator.distiller.procedural.families import (
    FAMILIES,
    HELD_BACK_KINDS,
    ProceduralTeacher,
)

__all__ = [
    "FAMILIES",
    "HELD_BACK_KINDS",
    "ProceduralTeacher",
    "check_answer",
    "verify",
    "verify_all",
]
