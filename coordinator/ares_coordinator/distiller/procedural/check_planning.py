"""Verifiers of `problem_solving`: clocks minute by minute, coins and ways by trying everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from ares_coordinator.distiller.procedural.reading import (
    Reader,
    Reading,
    Turns,
    answers,
    final_answer,
    find,
    first,
    items_of,
)
from ares_p2p.errors import PayloadMalformed

MAX_AMOUNT = 200  # of coins: 200 x 100 combinations
MAX_PLACES = 8  # of a map: 2,000 ways without a circle
_LOSSES: Final = ("gives", "loses", "sells")
_JOBS: Final = r"\w+(?:, \w+)+ and \w+"
_RULE: Final = r"First (\w+), then (\w+)\."


def tally(turns: Turns) -> Reading:
    """What is left."""
    start = find(r"has (\d+) (\w+)s\.", turns.asked)
    events = re.findall(r"(gives|loses|sells|gets|finds|buys) (\d+)", turns.asked)
    changes = [-int(n) if verb in _LOSSES else int(n) for verb, n in events]
    if not re.search(rf"(?:many|the|of) {start[2]}s\b", turns.asked):
        raise PayloadMalformed("other things are asked for than are told of")
    task = (start[2], start[1], *(f"{change:+d}" for change in changes))
    return Reading(task, answers(str(sum(changes, start=int(start[1])))))


def boxes(turns: Turns) -> Reading:
    """The number of things, counted box by box."""
    numbers = [int(number) for number in re.findall(r"\d+", turns.asked)]
    thing = first(r"\d+ (\w+)s(?: each| in each)?, and \d+", turns.asked)[1]
    if len(numbers) != 3 or numbers[0] > 1_000:
        raise PayloadMalformed("three numbers were expected: boxes, things in each, and the rest")
    sold = "of them are sold" in turns.asked
    rest = -numbers[2] if sold else numbers[2]
    if sold == ("more stand outside" in turns.asked):
        raise PayloadMalformed("it is not told whether there are more or fewer")
    total = sum([numbers[1]] * numbers[0], start=rest)
    return Reading((thing, str(numbers[0]), str(numbers[1]), f"{rest:+d}"), answers(str(total)))


def clock(turns: Turns) -> Reading:
    """The end, counted minute by minute."""
    start = find(r"(\d{1,2}):(\d\d)", turns.asked)
    takes = find(r"(\d+) minutes", turns.asked)[1]
    hour, minute = int(start[1]), int(start[2])
    for _ in range(min(int(takes), 1_440)):
        hour, minute = (hour, minute + 1) if minute < 59 else (hour + 1, 0)
    return Reading((start[0], takes), answers(f"{hour}:{minute:02d}"))


def coins(turns: Turns) -> Reading:
    """The fewest coins, by trying every count of the two larger ones."""
    values = find(r"(\d+), (\d+) and (\d+)", turns.asked)
    one, small, large = map(int, values.groups())
    rest = find(r"(\d+)", turns.asked.replace(values[0], ""))[1]
    amount = int(rest)
    if not (one == 1 < small < large and 0 < amount <= MAX_AMOUNT):
        raise PayloadMalformed("coins or amount out of range")
    counts = [
        many_large + many_small + left
        for many_large in range(amount // large + 1)
        for many_small in range(amount // small + 1)
        if (left := amount - many_large * large - many_small * small) >= 0
    ]
    return Reading((*map(str, (one, small, large)), rest), answers(str(min(counts))))


def _ways(roads: dict[tuple[str, str], int], way: list[str], goal: str) -> Iterator[list[str]]:
    if way[-1] == goal:
        yield way
        return
    for a, b in roads:
        if a == way[-1] and b not in way:
            yield from _ways(roads, [*way, b], goal)


def _miles(roads: dict[tuple[str, str], int], way: list[str]) -> int:
    return sum(roads[a, b] for a, b in pairwise(way))


def route(turns: Turns) -> Reading:
    """A way that no other way on the map is shorter than; several may be."""
    shown = re.findall(r"(\w+) to (\w+) (\d+)", turns.asked)
    ends = find(r"from (\w+) to (\w+)(?! \d)\b", turns.asked)
    roads = {(a, b): int(n) for a, b, n in shown} | {(b, a): int(n) for a, b, n in shown}
    if len({a for a, _ in roads}) > MAX_PLACES:
        raise PayloadMalformed("too many places on a map")
    ways = list(_ways(roads, [ends[1]], ends[2]))
    if not ways:
        raise PayloadMalformed("no way leads there")
    least = min(_miles(roads, way) for way in ways)
    shortest = [", ".join(way) for way in ways if _miles(roads, way) == least]
    task = (ends[1], ends[2], *sorted(f"{a} to {b} {n}" for a, b, n in shown))
    return Reading(task, lambda text, _: final_answer(text) in shortest)


def plan(turns: Turns) -> Reading:
    """Any order of all jobs in which none comes before what it must wait for."""
    rules = re.findall(_RULE, turns.asked)
    jobs = items_of(first(_JOBS, re.sub(_RULE, "", turns.asked))[0])
    if not rules or not {job for rule in rules for job in rule} <= set(jobs):
        raise PayloadMalformed("a rule is about a job that is not on the list")
    task = (*sorted(jobs), *sorted(f"First {a}, then {b}." for a, b in rules))

    def judge(text: str, _: object) -> bool:
        order = final_answer(text).split(", ")
        complete = sorted(order) == sorted(jobs)
        return complete and all(order.index(a) < order.index(b) for a, b in rules)

    return Reading(task, judge)


READERS: Final[dict[str, Reader]] = {
    "tally": tally,
    "boxes": boxes,
    "clock": clock,
    "coins": coins,
    "route": route,
    "plan": plan,
}
