"""The verifier: reads every task out of the finished row, and solves it by other means.

`verify` holds a row of a dataset to everything: its form; that the task read from the text is the
one its check and its key name; that the question is worded by the template of the key, and by none
of the other side; that the answer is right; that its written arithmetic is true. `check_answer`
judges somebody else's answer to the same task (a trained model's) and forgives its steps.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

from ares_coordinator.distiller.procedural import (
    check_code,
    check_dialogues,
    check_documents,
    check_planning,
    check_reasoning,
    check_writing,
)
from ares_coordinator.distiller.procedural.draft import (
    LEVELS,
    check_text,
    key_of,
    side_of_task,
    side_of_template,
)
from ares_coordinator.distiller.procedural.reading import Reader, Reading, Turns
from ares_coordinator.distiller.procedural.sandbox import Program, run_programs
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_coordinator.distiller.procedural.templates import WORDINGS, fits, templates_of
from ares_p2p.errors import PayloadMalformed
from ares_p2p.shards import Example, check_example

READERS: Final[dict[str, dict[str, Reader]]] = {
    "reasoning": check_reasoning.READERS,
    "code": check_code.READERS,
    "creative": check_writing.CREATIVE,
    "tool_use": check_dialogues.READERS,
    "long_context": check_documents.LONG_CONTEXT,
    "problem_solving": check_planning.READERS,
    "instruction": check_writing.INSTRUCTION,
    "roleplay": check_documents.ROLEPLAY,
}
KINDS: Final = {category: frozenset(readers) for category, readers in READERS.items()}
BATCH = 64  # rows whose code shares one child
_EQUATION: Final = re.compile(r"(?<![\d*+-] )(?<!\d)(\d{1,9}) ([+*-]) (\d{1,9}) = (-?\d{1,18})")
_UNCHECKED_SUMS: Final = frozenset({"equation"})  # "x = 12 - 3" and "3 * x = 9" are no sums


def _reader(category: str, spec: CheckSpec) -> Reader:
    reader = READERS.get(category, {}).get(spec.kind)
    if reader is None:
        raise PayloadMalformed(f"{spec.kind[:40]!r} is no kind of {category[:40]}")
    return reader


def _read(example: Example, spec: CheckSpec) -> Reading:
    """Return what the row asks, read from the turns before its answer."""
    try:
        return _reader(example.category, spec)(Turns(example.messages[:-1]))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise PayloadMalformed(f"the text is no {spec.kind[:40]} task") from error


def check_template(template: str, asked: str) -> None:
    """Check that a question is worded by `template`, and by no template of the other side.

    Raises: PayloadMalformed: it is not.
    """
    if not fits(template, asked):
        raise PayloadMalformed(f"the question is not worded by template {template[:60]!r}")
    names = [part.rpartition(".")[0] for part in template.split("+")]
    held_out = side_of_template(template) == "eval"
    theirs = (templates_of(name, held_out=not held_out) for name in names)
    for parts in itertools.product(*theirs):
        if fits("+".join(parts), asked):
            raise PayloadMalformed(f"the question is also worded by template {parts}")


def _check_form(example: Example) -> Reading:
    check_example(example)
    spec = CheckSpec.parse(example.check)
    reading = _read(example, spec)
    level, template = spec.number("level"), spec.text("template")
    if level not in LEVELS:
        raise PayloadMalformed(f"level {level}, one of {LEVELS} expected")
    if list(reading.task) != spec.texts("task"):
        raise PayloadMalformed(f"the text does not ask what its {spec.kind} check says")
    if example.check != check_text(spec.kind, level, template, reading.task):
        raise PayloadMalformed("the check is not written in the canonical form")
    if any(part.rpartition(".")[0] not in WORDINGS for part in template.split("+")):
        raise PayloadMalformed(f"no template {template[:60]!r}")
    check_template(template, Turns(example.messages[:-1]).asked)
    if example.key != key_of(spec.kind, template, reading.task):
        raise PayloadMalformed("the key is not that of the task and its template")
    if side_of_task(spec.kind, reading.task) != side_of_template(template):
        raise PayloadMalformed("the task and its template are of different sides")
    return reading


def _check_equations(text: str) -> None:
    for left, sign, right, result in _EQUATION.findall(text):
        a, b = int(left), int(right)
        if {"+": a + b, "-": a - b, "*": a * b}[sign] != int(result):
            raise PayloadMalformed(f"{left} {sign} {right} is not {result}")


def verify(example: Example) -> None:
    """Check a row completely.

    Raises: PayloadMalformed, Oversize: the form, the key, the prompt or the answer is wrong.
    """
    refusal = verify_all([example])[0]
    if refusal is not None:
        raise refusal


def verify_all(examples: Sequence[Example]) -> list[PayloadMalformed | None]:
    """Return for every row why it is refused, or None: `verify` for many rows, faster.

    Code of up to `BATCH` rows runs in one child.
    """
    refusals: list[PayloadMalformed | None] = []
    for start in range(0, len(examples), BATCH):
        refusals += _verify_batch(examples[start : start + BATCH])
    return refusals


def _verify_batch(examples: Sequence[Example]) -> list[PayloadMalformed | None]:
    refusals: list[PayloadMalformed | None] = [None] * len(examples)
    readings: dict[int, Reading] = {}
    programs: dict[int, Program] = {}
    for i, example in enumerate(examples):
        try:
            reading = _check_form(example)
        except PayloadMalformed as refusal:
            refusals[i] = refusal
        else:
            readings[i] = reading
            if reading.program is not None:
                programs[i] = reading.program(example.answer)
    outcomes = dict(zip(programs, run_programs(list(programs.values())), strict=True))
    for i, reading in readings.items():
        example = examples[i]
        kind = CheckSpec.parse(example.check).kind
        try:
            if not reading.judge(example.answer, outcomes.get(i)):
                raise PayloadMalformed(f"the answer to this {kind} task is wrong")
            if example.category in ("reasoning", "problem_solving") and kind not in _UNCHECKED_SUMS:
                _check_equations(example.answer)
        except PayloadMalformed as refusal:
            refusals[i] = refusal
    return refusals


def check_answer(example: Example, answer_text: str) -> bool:
    """Return whether `answer_text` would be a right last turn of `example`.

    Args:
        example: a verified row.
        answer_text: what somebody answered instead of its last turn; any text.
    Raises: PayloadMalformed: the row itself is no procedural task.
    """
    reading = _read(example, CheckSpec.parse(example.check))
    answer = answer_text.strip()
    outcome = run_programs([reading.program(answer)])[0] if reading.program else None
    return reading.judge(answer, outcome)
