"""Verifiers of `reasoning` and `problem_solving`: other algorithms than the generators'.

Orders by trying all permutations, syllogisms by trying all truth values, directions by rotating
a vector, coins by exhaustive search, arithmetic by walking a syntax tree.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable
from typing import Final

from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_p2p.errors import PayloadMalformed

Solver = Callable[[CheckSpec], str]  # spec -> what must follow "Answer: "

_SIGN: Final = {"taller": 1, "older": 1, "faster": 1, "richer": 1,
                "shorter": -1, "younger": -1, "slower": -1, "poorer": -1}  # fmt: skip
_TOP: Final = frozenset({"tallest", "oldest", "fastest", "richest"})
_OPERATIONS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_VECTORS: Final = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
MAX_PEOPLE = 7  # 5,040 permutations
MAX_AMOUNT = 100


def _match(pattern: str, text: str) -> re.Match[str]:
    found = re.fullmatch(pattern, text)
    if found is None:
        raise PayloadMalformed(f"{text[:60]!r} is no fact of this task")
    return found


def solve_order(spec: CheckSpec) -> str:
    """Return the person at the wanted end of the only order that fits all facts."""
    facts = [_match(r"(\w+) is (\w+) than (\w+)\.", fact).groups() for fact in spec.texts("facts")]
    people = sorted({name for left, _, right in facts for name in (left, right)})
    if len(people) > MAX_PEOPLE or any(word not in _SIGN for _, word, _ in facts):
        raise PayloadMalformed("too many people, or an unknown comparison")
    ends = {
        ranking[0 if spec.text("wanted") in _TOP else -1]
        for ranking in itertools.permutations(people)
        if all(
            (ranking.index(right) - ranking.index(left)) * _SIGN[word] > 0
            for left, word, right in facts
        )
    }
    if len(ends) != 1:
        raise PayloadMalformed(f"{len(ends)} people may be the {spec.text('wanted')}")
    return ends.pop()


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    raise PayloadMalformed("an expression of +, - and * was expected")


def solve_expression(spec: CheckSpec) -> str:
    """Return the value of the expression."""
    try:
        return str(_value(ast.parse(spec.text("expression"), mode="eval").body))
    except (SyntaxError, ValueError) as error:
        raise PayloadMalformed("the expression does not parse") from error


def solve_syllogism(spec: CheckSpec) -> str:
    """Return "yes" if no assignment of truth values meets all facts and denies what is asked."""
    pattern = r"(every|no) (\w+) is a (\w+)\.?"
    facts = [_match(pattern, fact.lower()).groups() for fact in spec.texts("facts")]
    asked = _match(pattern, spec.text("asked")).groups()
    words = sorted({word for _, left, right in (*facts, asked) for word in (left, right)})
    if len(words) > MAX_PEOPLE:
        raise PayloadMalformed("too many words in a syllogism")
    for values in itertools.product((False, True), repeat=len(words)):
        truth = dict(zip(words, values, strict=True))
        holds = [
            not truth[left] or truth[right] == (quantity == "every")
            for quantity, left, right in (*facts, asked)
        ]
        if all(holds[:-1]) and not holds[-1]:
            return "no"
    return "yes"


def solve_direction(spec: CheckSpec) -> str:
    """Return the heading after all turns, by rotating a unit vector."""
    x, y = _VECTORS[spec.text("start")]
    for turn in spec.texts("turns"):
        if turn == "around":
            x, y = -x, -y
        else:
            x, y = (y, -x) if turn == "right" else (-y, x)
    return next(name for name, vector in _VECTORS.items() if vector == (x, y))


def solve_tally(spec: CheckSpec) -> str:
    """Return what is left."""
    return str(spec.number("start") + sum(spec.numbers("changes")))


def solve_boxes(spec: CheckSpec) -> str:
    """Return the number of things."""
    each = [spec.number("each")] * spec.number("count")
    return str(sum(each, start=spec.number("rest")))


def solve_clock(spec: CheckSpec) -> str:
    """Return the end, counted minute by minute."""
    hour, minute = map(int, _match(r"(\d{1,2}):(\d\d)", spec.text("start")).groups())
    for _ in range(spec.number("minutes")):
        hour, minute = (hour, minute + 1) if minute < 59 else (hour + 1, 0)
    return f"{hour}:{minute:02d}"


def solve_coins(spec: CheckSpec) -> str:
    """Return the fewest coins, by trying every count of the two larger ones."""
    one, small, large = spec.numbers("values")
    amount = spec.number("amount")
    if not (one == 1 < small < large and 0 < amount <= MAX_AMOUNT):
        raise PayloadMalformed("coins or amount out of range")
    counts = [
        many_large + many_small + rest
        for many_large in range(amount // large + 1)
        for many_small in range(amount // small + 1)
        if (rest := amount - many_large * large - many_small * small) >= 0
    ]
    return str(min(counts))


SOLVERS: Final[dict[str, Solver]] = {
    "order": solve_order,
    "expression": solve_expression,
    "syllogism": solve_syllogism,
    "direction": solve_direction,
    "tally": solve_tally,
    "boxes": solve_boxes,
    "clock": solve_clock,
    "coins": solve_coins,
}
