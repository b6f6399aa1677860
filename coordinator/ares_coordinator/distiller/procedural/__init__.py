"""The procedural teacher: free, offline, every answer checked by a program.

    words.py            word pools
    templates.py        the wordings of all tasks, train and held-out ones apart
    draft.py            what a generator is told and returns; the key of a task
    puzzles.py          generators: reasoning
    programs.py         generators: code
    writing.py          generators: creative
    dialogues.py        generators: tool_use;  tools.py: the tools they call
    documents.py        generators: long_context
    planning.py         generators: problem_solving
    instructions.py     generators: instruction
    personas.py         generators: roleplay
    families.py         all kinds together: `ProceduralTeacher`
    reading.py          what a verifier makes of a row: the task, read from its text
    check_*.py          verifiers, one or two categories each
    spec.py             typed access to a row's check
    sandbox.py          runs small programs in a limited child
    checks.py           all verifiers together: `verify`, `verify_all`, `check_answer`
    apart.py            proof that two sets of rows share no template, task or near duplicate

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
