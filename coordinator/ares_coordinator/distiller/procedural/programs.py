"""Generators of `code`: functions to write or mend, loops to write or to follow."""

from __future__ import annotations

from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family
from ares_coordinator.distiller.procedural.words import NOUNS, THINGS

NAMES_TRAIN: Final = tuple("solve change compute run step make work process update adjust".split())
NAMES_HELD_OUT: Final = tuple("apply convert shape build".split())


def _function_name(brief: Brief) -> str:
    return brief.part(NAMES_TRAIN, NAMES_HELD_OUT)


def number_function(brief: Brief) -> Draft:
    """A function of one number, of one to three steps."""
    rng = brief.rng
    body, steps, words = "x", [], []
    for position in range(brief.by_level(1, 2, 3)):
        operator, k = rng.choice("+-*"), rng.randint(2, brief.by_level(30, 30, 99))
        body = f"({body})" if operator == "*" and position else body
        body = f"{body} {operator} {k}"
        steps.append(f"{operator}{k}")
        words.append({"+": f"adds {k}", "-": f"subtracts {k}", "*": f"multiplies by {k}"}[operator])
    name = _function_name(brief)
    return brief.ask(
        "number_function",
        f"def {name}(x):\n    return {body}",
        task=steps,
        name=name,
        steps=", then ".join(words),
    )


def list_function(brief: Brief) -> Draft:
    """A function of a list: keep some numbers, change them, perhaps fold them."""
    rng = brief.rng
    k, m = rng.randint(2, 40), rng.randint(2, 20)
    keep, kept, test = rng.choice(
        (
            (f">{k}", f"greater than {k}", f"x > {k}"),
            (f"<{k}", f"less than {k}", f"x < {k}"),
            ("even", "even", "x % 2 == 0"),
            ("odd", "odd", "x % 2 == 1"),
            (f"!={k}", f"not {k}", f"x != {k}"),
        )
    )
    change, changed, value = rng.choice(
        (
            (f"*{m}", f", times {m}", f"x * {m}"),
            (f"+{m}", f", plus {m}", f"x + {m}"),
            (f"-{m}", f", minus {m}", f"x - {m}"),
            ("square", ", squared", "x * x"),
        )
    )
    if brief.level == 1:
        change, changed, value = "same", "", "x"
    fold = rng.choice(("sum", "len")) if brief.level > 2 else "list"
    what = {"list": "the list", "sum": "the sum", "len": "the number"}[fold]
    body = f"[{value} for x in xs if {test}]"
    body = body if fold == "list" else f"{fold}({body})"
    name = _function_name(brief)
    return brief.ask(
        "list_function",
        f"def {name}(xs):\n    return {body}",
        task=(keep, change, fold),
        name=name,
        what=f"{what} of all x that are {kept}{changed}",
    )


def text_function(brief: Brief) -> Draft:
    """A function of a text, of one to four steps."""
    rng = brief.rng
    body, steps, words = "s", list[str](), []
    while len(steps) < brief.by_level(1, 2, rng.randint(3, 4)):
        k, mark = rng.randint(2, 9), rng.choice("!?.-*")
        step, word, call = rng.choice(
            (
                ("upper", "makes it upper case", "{}.upper()"),
                ("lower", "makes it lower case", "{}.lower()"),
                ("reverse", "reverses it", "{}[::-1]"),
                (f"first {k}", f"keeps the first {k} letters", f"{{}}[:{k}]"),
                (f"last {k}", f"keeps the last {k} letters", f"{{}}[-{k}:]"),
                (f"add {mark}", f"adds {mark} at the end", f"({{}} + '{mark}')"),
            )
        )
        if step in steps:
            continue
        body = call.format(body)
        steps.append(step)
        words.append(word)
    body = body[1:-1] if body.startswith("(") and steps[-1].startswith("add") else body
    name = _function_name(brief)
    return brief.ask(
        "text_function",
        f"def {name}(s):\n    return {body}",
        task=steps,
        name=name,
        steps=", then ".join(words),
    )


def trace(brief: Brief) -> Draft:
    """What a loop prints."""
    rng = brief.rng
    value, k = rng.randint(0, brief.by_level(9, 40, 90)), rng.randint(1, brief.by_level(5, 9, 20))
    times = brief.by_level(2, rng.randint(3, 4), rng.randint(4, 6))
    # one operator for one choice of numbers: programs that differ in it alone are near duplicates
    operators = "+-*" if value < 4 and times < 4 and k < 4 else "+-"
    operator = operators[(value + times + k) % len(operators)]
    program = f"x = {value}\nfor i in range({times}):\n    x = x {operator} {k}\nprint(x)"
    values = []
    for _ in range(times):
        value = {"+": value + k, "-": value - k, "*": value * k}[operator]
        values.append(str(value))
    answer = f"x is {', '.join(values)}. Answer: {value}"
    return brief.ask("trace", answer, task=(program,), program=program)


def loop(brief: Brief) -> Draft:
    """A small program that prints lines."""
    rng = brief.rng
    if brief.level == 1:
        word, times = rng.choice((*THINGS, *NOUNS)), rng.randint(2, 40)
        what = f"the word {word} {times} times"
        program = f'for i in range({times}):\n    print("{word}")'
    else:
        start = rng.randint(0, 50)
        end, k = start + rng.randint(2, 30), rng.randint(2, 12)
        what = f"the numbers from {start} to {end}"
        body = "i"
        if brief.level > 2:
            what, body = f"{what}, each times {k}", f"i * {k}"
        program = f"for i in range({start}, {end + 1}):\n    print({body})"
    return brief.ask("loop", program, task=(what,), what=what)


def repair(brief: Brief) -> Draft:
    """A function with one mistake, and the tests that show it."""
    rng = brief.rng
    k, m = rng.randint(2, 30), rng.randint(2, 9)
    right, wrong = rng.choice(
        ((f"x + {k}", f"x - {k}"), (f"x - {k}", f"x + {k}"), (f"x * {m}", f"x + {m}"))
    )
    if brief.level > 1:
        other = k + rng.choice((-1, 1, 10))
        right, wrong = rng.choice(((f"x + {k}", f"x + {other}"), (f"x - {k}", f"x - {other}")))
    if brief.level > 2:
        right, wrong = f"({right}) * {m}", f"({wrong}) * {m}"
    name = _function_name(brief)
    points = rng.sample(range(1, 20), 2)
    test = " and ".join(f"{name}({x}) == {eval_step(right, x)}" for x in sorted(points))
    code = f"def {name}(x):\n    return "
    return brief.ask(
        "repair", code + right, task=(test, code + wrong), test=test, code=code + wrong
    )


def eval_step(body: str, x: int) -> int:
    """Return the value of "x + 3", "x - 3", "x * 3", or one of these in parentheses "* 2"."""
    inner, _, outer = body.removeprefix("(").partition(") * ")
    _, operator, k = inner.split()
    value = {"+": x + int(k), "-": x - int(k), "*": x * int(k)}[operator]
    return value * int(outer) if outer else value


CODE: Final[dict[str, Family]] = {
    "number_function": number_function,
    "list_function": list_function,
    "text_function": text_function,
    "trace": trace,
    "loop": loop,
    "repair": repair,
}
