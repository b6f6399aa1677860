"""The verifier: recomputes every answer from the task, never from the generator.

`verify` holds a row of a dataset to everything: form, kind, key, that the prompt says what the
check says, that the answer is right, that its written arithmetic is true. `check_answer` judges
somebody else's answer to the same task (a trained model's) and forgives its intermediate steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ares_coordinator.distiller.procedural.check_programs import (
    calls_fit,
    function_agrees,
    function_program,
    function_states,
    no_tool_fits,
    printed_value,
    reply_told,
    trace_program,
)
from ares_coordinator.distiller.procedural.check_puzzles import SOLVERS
from ares_coordinator.distiller.procedural.check_writing import CHECKERS, final_answer
from ares_coordinator.distiller.procedural.draft import check_text, key_of
from ares_coordinator.distiller.procedural.sandbox import Outcome, Program, run_programs
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_p2p.errors import PayloadMalformed
from ares_p2p.shards import Example, Message, check_example

KINDS: Final[dict[str, frozenset[str]]] = {
    "reasoning": frozenset({"order", "expression", "syllogism", "direction"}),
    "code": frozenset({"number_function", "list_function", "text_function", "trace"}),
    "creative": frozenset({"story", "couplet", "alliteration", "acrostic"}),
    "tool_use": frozenset({"call", "no_tool", "result", "pair"}),
    "long_context": frozenset({"lookup", "owner", "count", "moved"}),
    "problem_solving": frozenset({"tally", "boxes", "clock", "coins"}),
    "instruction": frozenset({"edit", "numbers", "pick", "swap"}),
    "roleplay": frozenset({"fact", "unknown", "greet", "recall"}),
}
BATCH = 64  # rows whose code shares one child
_TOOL_KINDS: Final = KINDS["tool_use"]
_FUNCTIONS: Final = frozenset({"number_function", "list_function", "text_function"})
_EQUATION: Final = re.compile(r"(?<![\d*+-] )(?<!\d)(\d{1,9}) ([+*-]) (\d{1,9}) = (-?\d{1,18})")


def _turn(messages: Sequence[Message], role: str) -> str:
    return next((m.content for m in reversed(messages) if m.role == role), "")


def _program_of(spec: CheckSpec, answer: str) -> Program | None:
    if spec.kind in _FUNCTIONS:
        return function_program(spec, answer)[0]
    return trace_program(spec) if spec.kind == "trace" else None


def _is_right(
    spec: CheckSpec, before: Sequence[Message], answer: str, outcome: Outcome | None
) -> bool:
    """Return whether `answer` is right after the turns `before` it."""
    kind = spec.kind
    if kind in SOLVERS:
        return final_answer(answer) == SOLVERS[kind](spec)
    if kind in _FUNCTIONS:
        return function_agrees(outcome, function_program(spec, answer)[1])
    if kind == "trace":
        return final_answer(answer) == printed_value(outcome)
    prompt = "\n".join(message.content for message in before)
    if kind in CHECKERS:
        return CHECKERS[kind](spec, prompt, answer)
    system, request = _turn(before, "system"), _turn(before, "user")
    if kind == "no_tool":
        return no_tool_fits(system, request, answer)
    if kind == "result":
        return reply_told(request, _turn(before, "tool"), answer)
    if kind in _TOOL_KINDS:
        return calls_fit(system, request, answer)
    raise PayloadMalformed(f"unknown kind of task {kind[:40]!r}")


def _tally_states(spec: CheckSpec) -> str:
    return "|".join(map(str, spec.numbers("changes")))


def _signed_changes(prompt: str) -> str:
    found = re.findall(r"(gives|loses|sells|gets|finds|buys) (\d+)", prompt)
    losses = ("gives", "loses", "sells")
    return "|".join(f"-{n}" if verb in losses else n for verb, n in found)


def _leaves(spec: CheckSpec) -> Iterable[str]:
    for value in spec.fields.values():
        for leaf in value if isinstance(value, list) else [value]:
            yield str(abs(leaf)) if isinstance(leaf, int) else str(leaf)


def _says(text: str, fragment: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(fragment)}(?!\w)", text) is not None


_STATES: Final[dict[str, Callable[[CheckSpec, str], bool]]] = {  # kinds that are told in code
    **dict.fromkeys(_FUNCTIONS, lambda spec, prompt: function_states(spec) in prompt),
    "call": lambda *_: True,  # the verifier parses the request again
    "pair": lambda *_: True,
    "result": lambda spec, prompt: (
        spec.text("reply") in prompt and all(call in prompt for call in spec.texts("calls"))
    ),
    "direction": lambda spec, prompt: (
        f"faces {spec.text('start')} and turns {', '.join(spec.texts('turns'))}." in prompt
    ),
    "tally": lambda spec, prompt: (
        _signed_changes(prompt) == _tally_states(spec)
        and _says(prompt, f"has {spec.number('start')}")
    ),
    "boxes": lambda spec, prompt: (
        f"{spec.number('count')} boxes with {spec.number('each')} " in prompt
        and f"{abs(spec.number('rest'))} {'more' if spec.number('rest') > 0 else 'of them are sold'}"
        in prompt
    ),
    "edit": lambda spec, prompt: (
        f": {', '.join(spec.texts('words'))}." in prompt
        and prompt.startswith(
            {"sort": "Sort", "reverse": "Reverse", "copy": "Repeat"}[spec.text("action")]
        )
        and (
            _says(prompt, f"in {spec.text('case')}") if spec.text("case") else " in " not in prompt
        )
    ),
    "pick": lambda spec, prompt: (
        f": {', '.join(spec.texts('words'))}." in prompt
        and _says(prompt, f"{spec.text('ordinal')} word {spec.text('style')}".strip())
    ),
    "swap": lambda spec, prompt: (
        prompt
        == f"Replace {spec.text('old')} by {spec.text('new')}: {' '.join(spec.texts('words'))}."
    ),
}

_QUESTIONS: Final[dict[str, tuple[str, ...]]] = {  # one of these ends the last user turn
    "lookup": ("Where is {name}'s {thing}?",),
    "owner": ("Who has something in the {place}?",),
    "count": ("How many people have something in the {place}?",),
    "moved": ("Where is the {thing} now?",),
    "fact": (
        "Where is the {thing}?",
        "I am looking for the {thing}.",
        "Have you seen the {thing}?",
    ),
    "unknown": (
        "Where is the {thing}?",
        "I am looking for the {thing}.",
        "Have you seen the {thing}?",
    ),
    "greet": ("I am {name}, a {job} from {city}.",),
    "recall": ("What is my name, and what do I have?",),
    "no_tool": ("{request}",),
}


def _is_asked(spec: CheckSpec, request: str) -> bool:
    wordings = _QUESTIONS.get(spec.kind)
    texts = {name: value for name, value in spec.fields.items() if isinstance(value, str)}
    try:
        return wordings is None or request.endswith(tuple(w.format(**texts) for w in wordings))
    except KeyError:
        return False


def _check_statement(example: Example, spec: CheckSpec) -> None:
    prompt = "\n".join(message.content for message in example.messages[:-1])
    states = _STATES.get(spec.kind)
    if states is not None:
        if not states(spec, prompt):
            raise PayloadMalformed(f"the prompt does not ask what its {spec.kind} check says")
        if spec.kind in ("call", "pair") and "\n".join(spec.texts("calls")) != example.answer:
            raise PayloadMalformed("the check names other calls than the answer makes")
        return
    if not _is_asked(spec, _turn(example.messages, "user")):
        raise PayloadMalformed(f"the last question is not that of a {spec.kind} task")
    for leaf in _leaves(spec):
        if not _says(prompt, leaf):
            raise PayloadMalformed(f"the prompt does not mention {leaf[:40]!r} of its check")


def _check_form(example: Example) -> CheckSpec:
    check_example(example)
    spec = CheckSpec.parse(example.check)
    if spec.kind not in KINDS[example.category]:
        raise PayloadMalformed(f"{spec.kind[:40]!r} is no kind of {example.category}")
    fields: dict[str, str | int | list[str] | list[int]] = {}
    for name, value in spec.fields.items():
        if isinstance(value, list):
            fields[name] = (
                spec.numbers(name) if value and type(value[0]) is int else spec.texts(name)
            )
        else:
            fields[name] = spec.number(name) if isinstance(value, int) else spec.text(name)
    if example.check != check_text(spec.kind, fields):
        raise PayloadMalformed("the check is not written in the canonical form")
    if example.key != key_of(spec.kind, fields):
        raise PayloadMalformed("the key is not that of the task")
    _check_statement(example, spec)
    return spec


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
    specs: dict[int, CheckSpec] = {}
    programs: dict[int, Program] = {}
    for i, example in enumerate(examples):
        try:
            specs[i] = _check_form(example)
            program = _program_of(specs[i], example.answer)
        except PayloadMalformed as refusal:
            refusals[i] = refusal
        else:
            if program is not None:
                programs[i] = program
    outcomes = dict(zip(programs, run_programs(list(programs.values())), strict=True))
    for i, spec in specs.items():
        example = examples[i]
        if refusals[i] is not None:
            continue
        try:
            if not _is_right(spec, example.messages[:-1], example.answer, outcomes.get(i)):
                raise PayloadMalformed(f"the answer to this {spec.kind} task is wrong")
            if example.category in ("reasoning", "problem_solving"):
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
    spec = CheckSpec.parse(example.check)
    answer = answer_text.strip()
    program = _program_of(spec, answer)
    outcome = run_programs([program])[0] if program is not None else None
    return _is_right(spec, example.messages[:-1], answer, outcome)
