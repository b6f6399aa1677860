"""Generators of `reasoning`: arithmetic, algebra, logic; short steps, then "Answer: ..."."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family
from ares_coordinator.distiller.procedural.words import NAMES, NONSENSE

SCALES: Final = (  # more, less, most, least
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("richer", "poorer", "richest", "poorest"),
)
COMPASS: Final = ("north", "east", "south", "west")
TURNS: Final = {"right": 1, "around": 2, "left": 3}


def order(brief: Brief) -> Draft:
    """Who is the tallest, from comparisons of neighbours in shuffled order."""
    rng = brief.rng
    people = rng.sample(NAMES, brief.by_level(3, 4, rng.randint(5, 6)))  # from most to least
    more, less, most, least = rng.choice(SCALES)
    facts = []
    for high, low in pairwise(people):
        flip = rng.random() < 0.4
        facts.append(f"{low} is {less} than {high}." if flip else f"{high} is {more} than {low}.")
    rng.shuffle(facts)
    wanted, person = rng.choice(((most, people[0]), (least, people[-1])))
    return brief.ask(
        "order",
        f"From {most} to {least}: {', '.join(people)}. Answer: {person}",
        task=(wanted, *sorted(facts)),
        facts=" ".join(facts),
        wanted=wanted,
    )


def expression(brief: Brief) -> Draft:
    """An arithmetic expression, evaluated one step at a time."""
    rng = brief.rng
    value = rng.randint(2, brief.by_level(9, 20, 40))
    text, steps = str(value), []
    for position in range(brief.by_level(1, 2, rng.randint(3, 4))):
        operator = rng.choice("++-*" if value < 13 and brief.level > 1 else "+-")
        operand = (
            rng.randint(2, 5) if operator == "*" else rng.randint(1, brief.by_level(9, 12, 30))
        )
        if operator == "-" and operand > value:
            operator = "+"
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
        if operator == "*" and position:
            text = f"({text})"
        text = f"{text} {operator} {operand}"
        steps.append(f"{value} {operator} {operand} = {result}")
        value = result
    answer = f"{', '.join(steps)}. Answer: {value}"
    return brief.ask("expression", answer, task=(text,), x=text)


def equation(brief: Brief) -> Draft:
    """A linear equation, with the unknown on one side or on both."""
    rng = brief.rng
    x, add = rng.randint(1, brief.by_level(9, 12, 20)), rng.randint(1, brief.by_level(9, 15, 30))
    if brief.level == 1:
        text, steps = f"x + {add} = {x + add}", [f"x = {x + add} - {add}"]
    else:
        many = rng.randint(2, brief.by_level(2, 6, 9))
        fewer = rng.randint(1, many - 1) if brief.level > 2 else 0
        right = (many - fewer) * x + add
        text = f"{many} * x + {add} = {f'{fewer} * x + ' if fewer else ''}{right}"
        left = f"{many - fewer} * x" if many - fewer > 1 else "x"
        steps = [f"{left} = {right} - {add}", f"{left} = {right - add}"]
    answer = f"{', '.join([*steps, f'x = {x}'])}. Answer: {x}"
    return brief.ask("equation", answer, task=(text,), x=text)


def syllogism(brief: Brief) -> Draft:
    """What follows from a chain of "every" with a "no" at its end."""
    rng = brief.rng
    words = rng.sample(NONSENSE, brief.by_level(3, 4, rng.randint(5, 6)))
    facts = [f"Every {a} is a {b}." for a, b in pairwise(words[:-1])]
    negative = rng.random() < 0.4
    facts.append(f"{'No' if negative else 'Every'} {words[-2]} is a {words[-1]}.")
    first, last = rng.sample(range(len(words)), 2)
    if negative and last == len(words) - 1:
        asked, follows = f"no {words[first]} is a {words[last]}", True
    elif negative and first == len(words) - 1:
        asked, follows = f"every {words[first]} is a {words[last]}", False
    else:
        asked, follows = f"every {words[first]} is a {words[last]}", first < last
    rng.shuffle(facts)
    reason = f"it {'follows' if follows else 'does not follow'}"
    return brief.ask(
        "syllogism",
        f"{asked[0].upper()}{asked[1:]}: {reason}. Answer: {'yes' if follows else 'no'}",
        task=(asked, *sorted(facts)),
        facts=" ".join(facts),
        asked=asked,
    )


def direction(brief: Brief) -> Draft:
    """Where somebody faces after some turns."""
    rng = brief.rng
    heading = rng.randrange(4)
    start, headings = COMPASS[heading], []
    low, high = ((1, 2), (3, 4), (5, 7))[brief.by_level(0, 1, 2)]
    turns = [
        rng.choice(("right", "left", "left", "right", "around"))
        for _ in range(rng.randint(low, high))
    ]
    for turn in turns:
        heading = (heading + TURNS[turn]) % 4
        headings.append(COMPASS[heading])
    name = rng.choice(NAMES)
    return brief.ask(
        "direction",
        f"{', '.join(headings)}. Answer: {headings[-1]}",
        task=(name, start, *turns),
        name=name,
        start=start,
        turns=", ".join(turns),
    )


def parity(brief: Brief) -> Draft:
    """Whether a number, or a sum, is even."""
    rng = brief.rng
    terms = [rng.randint(10, 999) for _ in range(brief.by_level(1, 2, 3))]
    text, total = " + ".join(map(str, terms)), sum(terms)
    step = f"{text} = {total}. " if len(terms) > 1 else ""
    named = "odd" if total % 2 else "even"
    answer = f"{step}The last digit is {total % 10}. Answer: {named}"
    return brief.ask("parity", answer, task=(text,), x=text)


def liars(brief: Brief) -> Draft:
    """Who lies, when everybody lies always or never, and one is known."""
    rng = brief.rng
    people = rng.sample(NAMES, brief.by_level(2, 3, rng.randint(4, 5)))
    honest = {name: rng.random() < 0.5 for name in people}
    words = {True: "tells the truth", False: "lies"}
    facts = [f"{people[0]} {words[honest[people[0]]]}."]
    for speaker, other in pairwise(people):
        said = honest[other] == honest[speaker]  # a liar says the opposite
        facts.append(f"{speaker} says that {other} {words[said]}.")
    if brief.level > 2:
        rng.shuffle(facts)
    steps = ", ".join(f"{name} {words[honest[name]]}" for name in people)
    asked = people[-1]
    return brief.ask(
        "liars",
        f"{steps}. Answer: {'yes' if honest[asked] else 'no'}",
        task=(asked, *sorted(facts)),
        facts=" ".join(facts),
        name=asked,
    )


REASONING: Final[dict[str, Family]] = {
    "order": order,
    "expression": expression,
    "equation": equation,
    "syllogism": syllogism,
    "direction": direction,
    "parity": parity,
    "liars": liars,
}
