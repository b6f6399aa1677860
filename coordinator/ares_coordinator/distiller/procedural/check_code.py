"""Verifiers of `code`: by what programs do, in the sandbox, on inputs and tests.

What a function must return is worked out step by step on plain values, from the words of the
request; what a repaired function must return stands in its tests.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ares_coordinator.distiller.procedural.reading import Reader, Reading, Turns, final_answer, find
from ares_coordinator.distiller.procedural.sandbox import Outcome, Program
from ares_p2p.errors import PayloadMalformed

NUMBERS: Final = (-3, 0, 1, 7, 20)
LISTS: Final = ((), (1, 2, 3, 4), (12, 7, 5, 12, 0, 9), (3, 8, 41, 2, 30, 6, 4, 11))
TEXTS: Final = ("a", "Hello", "aB cD eF gH", "abcdefgh")
_STEP: Final = r"(adds|subtracts|multiplies by) (\d+)"
_SIGNS: Final = {"adds": "+", "subtracts": "-", "multiplies by": "*"}
_KEPT: Final = r"(?:(greater than|less than|not) (\d+)|(even|odd))"
_CHANGED: Final = r"(?:, (times|plus|minus) (\d+)|, (squared))?"
_FOLDED: Final = {"list": "list", "sum": "sum", "number": "len"}
_COMPARES: Final = {"greater than": ">", "less than": "<", "not": "!="}
_CHANGES: Final = {"times": "*", "plus": "+", "minus": "-"}
_TEXT_STEP: Final = (
    r"makes it (upper|lower) case|(reverses) it|keeps the (first|last) (\d+) letters|adds (\S) at"
)
_DEF: Final = r"def (\w+)\(x\):\n    return .+"
MAX_LINES = 1_000  # of what a loop prints


def _operate(sign: str, x: int, k: int) -> int:
    return {"+": x + k, "-": x - k, "*": sum([x] * abs(k)) * (1 if k >= 0 else -1)}[sign]


def _same(outcome: Outcome | None, expected: Sequence[object]) -> bool:
    """Return whether a child's values are the expected ones, types included."""
    return outcome is not None and repr(outcome.values) == repr(tuple(expected))


def _called(task: tuple[str, ...], name: str, inputs: Sequence[int | str | tuple[int, ...]],
            expected: Sequence[object]) -> Reading:  # fmt: skip
    """Return a reading that calls the answer's function on `inputs`."""
    return Reading(
        task,
        lambda _, outcome: _same(outcome, expected),
        lambda text: Program(text, name, tuple(inputs)),
    )


def number_function(turns: Turns) -> Reading:
    """Steps of arithmetic, one after another."""
    name = find(r"(\w+)\(x\)", turns.asked)[1]
    steps = [(_SIGNS[verb], int(k)) for verb, k in re.findall(_STEP, turns.asked)]

    def value(x: int) -> int:
        for sign, k in steps:
            x = _operate(sign, x, k)
        return x

    task = tuple(f"{sign}{k}" for sign, k in steps)
    return _called(task, name, NUMBERS, [value(x) for x in NUMBERS])


def _is_kept(test: str, k: int, x: int) -> bool:
    tests: dict[str, Callable[[], bool]] = {
        ">": lambda: x > k, "<": lambda: x < k, "!=": lambda: x != k,
        "even": lambda: not x & 1, "odd": lambda: bool(x & 1),
    }  # fmt: skip
    return tests[test]()


def list_function(turns: Turns) -> Reading:
    """Numbers kept, changed and perhaps folded, one at a time."""
    name = find(r"(\w+)\(xs\)", turns.asked)[1]
    said = find(rf"the (list|sum|number) of all x that are {_KEPT}{_CHANGED}\.", turns.asked)
    fold = _FOLDED[said[1]]
    test, k = (_COMPARES[said[2]], int(said[3])) if said[2] else (said[4], 0)
    change = (_CHANGES[said[5]], int(said[6])) if said[5] else (said[7] or "", 0)

    def changed(x: int) -> int:
        return _operate(change[0], x, change[1]) if said[5] else x**2 if said[7] else x

    def value(xs: Sequence[int]) -> int | list[int]:
        found = [changed(x) for x in xs if _is_kept(test, k, x)]
        return found if fold == "list" else sum(found) if fold == "sum" else len(found)

    keep = f"{test}{k}" if said[2] else test
    shown = f"{change[0]}{change[1]}" if said[5] else "square" if said[7] else "same"
    inputs = (*LISTS, (k + 1, k, k - 1))  # at the edge, > and >= differ
    return _called((keep, shown, fold), name, inputs, [value(xs) for xs in inputs])


def text_function(turns: Turns) -> Reading:
    """Steps on a text, letter by letter."""
    name = find(r"(\w+)\(s\)", turns.asked)[1]
    steps = list(re.finditer(_TEXT_STEP, turns.asked))

    def value(text: str) -> str:
        letters = list(text)
        for step in steps:
            if step[1]:
                letters = [getattr(letter, step[1])() for letter in letters]
            elif step[2]:
                letters.reverse()
            elif step[3]:
                count = min(int(step[4]), len(letters))
                letters = letters[:count] if step[3] == "first" else letters[len(letters) - count :]
            else:
                letters.append(step[5])
        return "".join(letters)

    task = tuple(
        s[1] or ("reverse" if s[2] else f"{s[3]} {s[4]}" if s[3] else f"add {s[5]}") for s in steps
    )
    return _called(task, name, TEXTS, [value(text) for text in TEXTS])


def trace(turns: Turns) -> Reading:
    """What the program of the question prints when it is run."""
    program = find(
        r"x = \d+\nfor i in range\(\d+\):\n    x = x [-+*] \d+\nprint\(x\)", turns.asked
    )[0]

    def judge(text: str, outcome: Outcome | None) -> bool:
        if outcome is None:
            raise PayloadMalformed("the traced program does not run")
        return final_answer(text) == str(ast.literal_eval(outcome.printed.strip()))

    return Reading((program,), judge, lambda _: Program(program))


def loop(turns: Turns) -> Reading:
    """A program that prints the wanted lines, and nothing else."""
    said = find(
        r"the word (\w+) (\d+) times|the numbers from (\d+) to (\d+)(?:, each times (\d+))?",
        turns.asked,
    )
    if said[1]:
        lines = [said[1]] * min(int(said[2]), MAX_LINES)
    else:
        numbers = range(int(said[3]), min(int(said[4]), int(said[3]) + MAX_LINES) + 1)
        lines = [str(_operate("*", number, int(said[5] or 1))) for number in numbers]

    def judge(_: str, outcome: Outcome | None) -> bool:
        return outcome is not None and outcome.printed.splitlines() == lines

    return Reading((said[0],), judge, partial(Program))


def repair(turns: Turns) -> Reading:
    """A function of the same name that passes the tests, which are run; the shown one must fail."""
    code = find(_DEF, turns.asked)
    tests = re.findall(r"(\w+)\((\d+)\) == (-?\d+)", turns.asked)
    if not tests or {name for name, _, _ in tests} != {code[1]}:
        raise PayloadMalformed("the tests are of another function")
    shown = " and ".join(f"{name}({x}) == {y}" for name, x, y in tests)
    inputs, expected = [int(x) for _, x, _ in tests], [int(y) for _, _, y in tests]
    good = _called((shown, code[0]), code[1], inputs, expected)

    def judge(text: str, outcome: Outcome | None) -> bool:
        return text.strip() != code[0] and good.judge(text, outcome)

    return Reading(good.task, judge, good.program)


READERS: Final[dict[str, Reader]] = {
    "number_function": number_function,
    "list_function": list_function,
    "text_function": text_function,
    "trace": trace,
    "loop": loop,
    "repair": repair,
}
