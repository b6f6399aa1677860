"""Generators of `reasoning` and `problem_solving`: short steps, then "Answer: ..."."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Final

from ares_coordinator.distiller.procedural.draft import Draft, Family, ask
from ares_coordinator.distiller.procedural.words import CITIES, NAMES, NONSENSE, PLACES, THINGS

SCALES: Final = (  # more, less, most, least
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("richer", "poorer", "richest", "poorest"),
)
COMPASS: Final = ("north", "east", "south", "west")
TURNS: Final = {"right": 1, "around": 2, "left": 3}


def order(rng: random.Random) -> Draft:
    """Who is the tallest, from comparisons of neighbours in shuffled order."""
    people = rng.sample(NAMES, rng.choice((3, 3, 4)))  # from most to least
    more, less, most, least = rng.choice(SCALES)
    facts = []
    for high, low in pairwise(people):
        flip = rng.random() < 0.4
        facts.append(f"{low} is {less} than {high}." if flip else f"{high} is {more} than {low}.")
    rng.shuffle(facts)
    wanted, person = rng.choice(((most, people[0]), (least, people[-1])))
    question = rng.choice((f"Who is the {wanted}?", f"Name the {wanted} person."))
    return ask(
        f"{' '.join(facts)} {question}",
        f"From {most} to {least}: {', '.join(people)}. Answer: {person}",
        spec={"facts": sorted(facts), "wanted": wanted},
    )


def expression(rng: random.Random) -> Draft:
    """A small arithmetic expression, evaluated one step at a time."""
    value = rng.randint(2, 20)
    text, steps = str(value), []
    for position in range(rng.choice((2, 2, 3))):
        operator = rng.choice("++-*" if value < 13 else "+-")
        operand = rng.randint(2, 5) if operator == "*" else rng.randint(1, 12)
        if operator == "-" and operand > value:
            operator = "+"
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
        if operator == "*" and position:
            text = f"({text})"
        text = f"{text} {operator} {operand}"
        steps.append(f"{value} {operator} {operand} = {result}")
        value = result
    opening = rng.choice(("What is {}?", "Work out {}.", "Calculate {} step by step."))
    return ask(
        opening.format(text),
        f"{', '.join(steps)}. Answer: {value}",
        spec={"expression": text},
    )


def syllogism(rng: random.Random) -> Draft:
    """What follows from a chain of "every" with a "no" at its end."""
    words = rng.sample(NONSENSE, rng.choice((3, 4)))
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
    return ask(
        f"{' '.join(facts)} Is it certain that {asked}?",
        f"{asked[0].upper()}{asked[1:]}: {reason}. Answer: {'yes' if follows else 'no'}",
        spec={"facts": sorted(facts), "asked": asked},
    )


def direction(rng: random.Random) -> Draft:
    """Where somebody faces after some turns."""
    start = rng.randrange(4)
    turns = [
        rng.choice(("right", "left", "left", "right", "around")) for _ in range(rng.randint(3, 6))
    ]
    headings, heading = [], start
    for turn in turns:
        heading = (heading + TURNS[turn]) % 4
        headings.append(COMPASS[heading])
    return ask(
        f"{rng.choice(NAMES)} faces {COMPASS[start]} and turns {', '.join(turns)}. "
        "Which way is that in the end?",
        f"{', '.join(headings)}. Answer: {headings[-1]}",
        spec={"start": COMPASS[start], "turns": turns},
    )


def tally(rng: random.Random) -> Draft:
    """Somebody's things, gained and lost."""
    name, others = rng.choice(NAMES), rng.sample(NAMES, 4)
    thing = rng.choice(THINGS)
    count = start = rng.randint(5, 25)
    story, steps, changes = [f"{name} has {count} {thing}s."], [], []
    for position in range(rng.choice((2, 2, 3))):
        change = rng.randint(1, 12)
        lose = count > change and rng.random() < 0.5
        wording = rng.choice(
            (f"gives {change} to {others[position]}", f"loses {change}", f"sells {change}")
            if lose
            else (
                f"gets {change} from {others[position]}",
                f"finds {change} more",
                f"buys {change}",
            )
        )
        story.append(f"{name} {wording}.")
        signed = -change if lose else change
        steps.append(f"{count} {'-' if lose else '+'} {change} = {count + signed}")
        count += signed
        changes.append(signed)
    return ask(
        f"{' '.join(story)} How many {thing}s does {name} have now?",
        f"{', '.join(steps)}. Answer: {count}",
        spec={"start": start, "changes": changes},
    )


def boxes(rng: random.Random) -> Draft:
    """So many boxes of so many, and some more or fewer."""
    count, each, rest = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 15)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    product = count * each
    taken = rest < product and rng.random() < 0.5
    tail = f"{rest} of them are sold" if taken else f"{rest} more stand outside"
    total = product - rest if taken else product + rest
    return ask(
        f"The {place} has {count} boxes with {each} {thing}s each, and {tail}. "
        f"How many {thing}s are there?",
        f"{count} * {each} = {product}, {product} {'-' if taken else '+'} {rest} = {total}. "
        f"Answer: {total}",
        spec={"count": count, "each": each, "rest": -rest if taken else rest},
    )


def clock(rng: random.Random) -> Draft:
    """When something ends that starts then and takes so long."""
    hour, minute = rng.randint(1, 22), 5 * rng.randrange(12)
    takes = 5 * rng.randint(1, 18)
    event = rng.choice(
        (
            f"A train to {rng.choice(CITIES)} leaves at",
            f"{rng.choice(NAMES)}'s class starts at",
            "A film starts at",
            "The bread goes into the oven at",
        )
    )
    late, past = divmod(minute + takes, 60)
    end = f"{hour + late}:{past:02d}"
    return ask(
        f"{event} {hour}:{minute:02d} and takes {takes} minutes. When is the end?",
        f"{hour}:{minute:02d} and {takes} minutes is {end}. Answer: {end}",
        spec={"start": f"{hour}:{minute:02d}", "minutes": takes},
    )


def coins(rng: random.Random) -> Draft:
    """The fewest coins that pay an amount; a table from 0 upwards."""
    values = sorted({1, *rng.sample(range(2, 13), 2)})
    amount = rng.randint(6, 40)
    best: list[list[int]] = [[]]
    for total in range(1, amount + 1):
        choices = [[value, *best[total - value]] for value in values if value <= total]
        best.append(min(choices, key=lambda coins: (len(coins), [-coin for coin in coins])))
    paid = sorted(best[amount], reverse=True)
    return ask(
        f"Coins are worth {values[0]}, {values[1]} and {values[2]}. "
        f"What is the fewest coins that make {amount}?",
        f"{' + '.join(map(str, paid))} = {amount}. Answer: {len(paid)}",
        spec={"values": values, "amount": amount},
    )


REASONING: Final[dict[str, Family]] = {
    "order": order,
    "expression": expression,
    "syllogism": syllogism,
    "direction": direction,
}
PROBLEM_SOLVING: Final[dict[str, Family]] = {
    "tally": tally,
    "boxes": boxes,
    "clock": clock,
    "coins": coins,
}
