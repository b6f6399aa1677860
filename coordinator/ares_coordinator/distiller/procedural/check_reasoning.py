"""Verifiers of `reasoning`: other algorithms than the generators'.

Orders by trying all permutations, syllogisms and liars by trying all truth values, directions by
rotating a vector, arithmetic by walking a syntax tree, equations by trying numbers.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable
from typing import Final

from ares_coordinator.distiller.procedural.reading import (
    Reader,
    Reading,
    Turns,
    answers,
    find,
    longest,
)
from ares_p2p.errors import PayloadMalformed

_SIGN: Final = {"taller": 1, "older": 1, "faster": 1, "richer": 1,
                "shorter": -1, "younger": -1, "slower": -1, "poorer": -1}  # fmt: skip
_TOP: Final = ("tallest", "oldest", "fastest", "richest")
_BOTTOM: Final = ("shortest", "youngest", "slowest", "poorest")
_OPERATIONS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_VECTORS: Final = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
MAX_PEOPLE = 7  # 5,040 permutations, 128 assignments
SEARCHED = range(-200, 201)  # where an unknown is looked for


def order(turns: Turns) -> Reading:
    """The person at the wanted end of the only order that fits all facts."""
    wanted = find(rf"\b({'|'.join((*_TOP, *_BOTTOM))})\b", turns.asked)[1]
    found = list(re.finditer(rf"(\w+) is ({'|'.join(_SIGN)}) than (\w+)\.", turns.asked))
    facts = [match.groups() for match in found]
    people = sorted({name for left, _, right in facts for name in (left, right)})
    if not 0 < len(people) <= MAX_PEOPLE:
        raise PayloadMalformed("too many people, or none")
    ends = {
        ranking[0 if wanted in _TOP else -1]
        for ranking in itertools.permutations(people)
        if all(
            (ranking.index(right) - ranking.index(left)) * _SIGN[word] > 0
            for left, word, right in facts
        )
    }
    if len(ends) != 1:
        raise PayloadMalformed(f"{len(ends)} people may be the {wanted}")
    return Reading((wanted, *sorted(match[0] for match in found)), answers(ends.pop()))


def value_of(node: ast.expr, x: int | None = None) -> int:
    """Return the value of an expression of +, -, * and perhaps an unknown.

    Raises: PayloadMalformed: anything else is in it.
    """
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name) and node.id == "x" and x is not None:
        return x
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](value_of(node.left, x), value_of(node.right, x))
    raise PayloadMalformed("an expression of +, - and * was expected")


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PayloadMalformed("the expression does not parse") from error


def expression(turns: Turns) -> Reading:
    """The value of the expression."""
    text = longest(r"\(*\d[\d +*()-]*", turns.asked)
    return Reading((text,), answers(str(value_of(_parsed(text)))))


def equation(turns: Turns) -> Reading:
    """The only number, of many tried, for which both sides are the same."""
    text = longest(r"[\dx][\dx +*-]* = [\dx][\dx +*-]*", turns.asked)
    left, right = map(_parsed, text.split(" = "))
    solutions = [x for x in SEARCHED if value_of(left, x) == value_of(right, x)]
    if len(solutions) != 1:
        raise PayloadMalformed(f"{len(solutions)} solutions of an equation, one expected")
    return Reading((text,), answers(str(solutions[0])))


def syllogism(turns: Turns) -> Reading:
    """Yes, if no assignment of truth values meets all facts and denies what is asked."""
    found = list(re.finditer(r"(Every|No) (\w+) is a (\w+)\.", turns.asked))
    asked = find(r"that ((every|no) (\w+) is a (\w+))\?", turns.asked)
    rules = [(m[1].lower(), m[2], m[3]) for m in found] + [(asked[2], asked[3], asked[4])]
    words = sorted({word for _, left, right in rules for word in (left, right)})
    if len(words) > MAX_PEOPLE:
        raise PayloadMalformed("too many words in a syllogism")
    follows = "yes"
    for values in itertools.product((False, True), repeat=len(words)):
        truth = dict(zip(words, values, strict=True))
        holds = [
            not truth[left] or truth[right] == (quantity == "every")
            for quantity, left, right in rules
        ]
        if all(holds[:-1]) and not holds[-1]:
            follows = "no"
    return Reading((asked[1], *sorted(m[0] for m in found)), answers(follows))


def direction(turns: Turns) -> Reading:
    """The heading after all turns, by rotating a unit vector."""
    start = find(rf"\b({'|'.join(_VECTORS)})\b", turns.asked)[1]
    name = _walker(turns.asked)
    turned = re.findall(r"\b(left|right|around)\b", turns.asked)
    x, y = _VECTORS[start]
    for turn in turned:
        if turn == "around":
            x, y = -x, -y
        else:
            x, y = (y, -x) if turn == "right" else (-y, x)
    heading = next(name for name, vector in _VECTORS.items() if vector == (x, y))
    return Reading((name, start, *turned), answers(heading))


def _walker(text: str) -> str:
    """Return whoever turns: the only name in the text that a verb follows or precedes."""
    found = re.findall(r"^([A-Z][a-z]+) (?:faces|looks|stands)|(?:of|does) ([A-Z][a-z]+)", text)
    names: set[str] = {name for pair in found for name in pair if name}
    if len(names) != 1:
        raise PayloadMalformed("one person who turns was expected")
    return names.pop()


def parity(turns: Turns) -> Reading:
    """Whether the number, or the sum, is even: by its last bit."""
    text = longest(r"\d[\d +]*", turns.asked)
    return Reading((text,), answers("odd" if value_of(_parsed(text)) & 1 else "even"))


def liars(turns: Turns) -> Reading:
    """What the only assignment of honest and lying people that fits all facts says of one."""
    pattern = r"(?:([A-Z]\w+) says that )?([A-Z]\w+) (lies|tells the truth)\."
    found = list(re.finditer(pattern, turns.asked))
    asked = find(r"(?:Does|Is|Can|May we trust|Would you say that) ([A-Z]\w+)", turns.asked)[1]
    people = sorted({name for match in found for name in (match[1], match[2]) if name})
    if len(people) > MAX_PEOPLE or asked not in people:
        raise PayloadMalformed("too many people, or an unknown one is asked about")
    fitting = set()
    for values in itertools.product((False, True), repeat=len(people)):
        honest: dict[str | None, bool] = {None: True, **dict(zip(people, values, strict=True))}
        if all(honest[m[1]] == (honest[m[2]] == (m[3] == "tells the truth")) for m in found):
            fitting.add(honest[asked])
    if len(fitting) != 1:
        raise PayloadMalformed("the facts do not decide who lies")
    task = (asked, *sorted(match[0] for match in found))
    return Reading(task, answers("yes" if fitting.pop() else "no"))


READERS: Final[dict[str, Reader]] = {
    "order": order,
    "expression": expression,
    "equation": equation,
    "syllogism": syllogism,
    "direction": direction,
    "parity": parity,
    "liars": liars,
}
