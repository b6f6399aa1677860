"""Generators of `problem_solving`: word problems, and plans made by a solver."""

from __future__ import annotations

import heapq
from itertools import combinations, pairwise
from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family, listing
from ares_coordinator.distiller.procedural.words import CITIES, NAMES, PLACES, THINGS

JOBS: Final = tuple(
    "bake clean cook cut dig dry fill fold grind iron mix pack paint pick plant polish pour rinse "
    "sand sew shop sort stir sweep wash weigh".split()
)


def tally(brief: Brief) -> Draft:
    """Somebody's things, gained and lost."""
    rng = brief.rng
    name, others = rng.choice(NAMES), rng.sample(NAMES, 5)
    thing = rng.choice(THINGS)
    most = brief.by_level(9, 12, 25)
    count = start = rng.randint(3, brief.by_level(9, 20, 40))
    story, steps, changes = [f"{name} has {count} {thing}s."], [], []
    for position in range(brief.by_level(1, 2, rng.randint(3, 4))):
        change = rng.randint(1, most)
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
        changes.append(f"{signed:+d}")
    return brief.ask(
        "tally",
        f"{', '.join(steps)}. Answer: {count}",
        task=(thing, str(start), *changes),
        story=" ".join(story),
        thing=thing,
        name=name,
    )


def boxes(brief: Brief) -> Draft:
    """So many boxes of so many, and some more or fewer."""
    rng = brief.rng
    count, each = (
        rng.randint(2, brief.by_level(5, 9, 12)),
        rng.randint(2, brief.by_level(5, 12, 20)),
    )
    rest = rng.randint(1, brief.by_level(5, 15, 40))
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    product = count * each
    taken = rest < product and rng.random() < 0.5
    total = product - rest if taken else product + rest
    return brief.ask(
        "boxes",
        f"{count} * {each} = {product}, {product} {'-' if taken else '+'} {rest} = {total}. "
        f"Answer: {total}",
        task=(thing, str(count), str(each), f"{-rest if taken else rest:+d}"),
        place=place,
        count=count,
        each=each,
        thing=thing,
        tail=f"{rest} of them are sold" if taken else f"{rest} more stand outside",
    )


def clock(brief: Brief) -> Draft:
    """When something ends that starts then and takes so long."""
    rng = brief.rng
    hour = rng.randint(1, 21)
    minute = 10 * rng.randrange(5) if brief.level == 1 else 5 * rng.randrange(12)
    takes = 5 * rng.randint(1, brief.by_level(2, 12, 20))
    event = rng.choice(
        (
            f"A train to {rng.choice(CITIES)} leaves at",
            f"{rng.choice(NAMES)}'s class starts at",
            f"A film in {rng.choice(CITIES)} starts at",
            f"The bread of {rng.choice(NAMES)} goes into the oven at",
        )
    )
    late, past = divmod(minute + takes, 60)
    start, end = f"{hour}:{minute:02d}", f"{hour + late}:{past:02d}"
    return brief.ask(
        "clock",
        f"{start} and {takes} minutes is {end}. Answer: {end}",
        task=(start, str(takes)),
        event=event,
        start=start,
        minutes=takes,
    )


def coins(brief: Brief) -> Draft:
    """The fewest coins that pay an amount; a table from 0 upwards."""
    rng = brief.rng
    values = sorted({1, *rng.sample(range(2, 13), 2)})
    amount = rng.randint(*((4, 14), (10, 30), (25, 60))[brief.by_level(0, 1, 2)])
    best: list[list[int]] = [[]]
    for total in range(1, amount + 1):
        choices = [[value, *best[total - value]] for value in values if value <= total]
        best.append(min(choices, key=lambda coins: (len(coins), [-coin for coin in coins])))
    paid = sorted(best[amount], reverse=True)
    shown = [str(value) for value in values]
    return brief.ask(
        "coins",
        f"{' + '.join(map(str, paid))} = {amount}. Answer: {len(paid)}",
        task=(*shown, str(amount)),
        coins=listing(shown),
        amount=amount,
    )


def _shortest(roads: dict[tuple[str, str], int], start: str, goal: str) -> list[str]:
    """Return the places of a shortest way, by Dijkstra's algorithm."""
    heap, done = [(0, [start])], set[str]()
    while True:
        miles, way = heapq.heappop(heap)
        here = way[-1]
        if here == goal:
            return way
        if here in done:
            continue
        done.add(here)
        for (a, b), length in roads.items():
            if here in (a, b):
                heapq.heappush(heap, (miles + length, [*way, b if here == a else a]))


def route(brief: Brief) -> Draft:
    """The shortest way on a small map, every place connected."""
    rng = brief.rng
    places = rng.sample(PLACES, brief.by_level(3, 4, rng.randint(5, 6)))
    roads = {pair: rng.randint(1, 9) for pair in pairwise(places)}
    others = [pair for pair in combinations(places, 2) if pair not in roads]
    rng.shuffle(others)
    for pair in others[: brief.by_level(1, 2, 4)]:
        roads[pair] = rng.randint(3, 18)
    start, goal = places[0], places[-1]
    if (start, goal) not in roads and brief.level == 1:
        roads[start, goal] = rng.randint(3, 18)
    shown = [f"{a} to {b} {miles}" for (a, b), miles in roads.items()]
    rng.shuffle(shown)
    way = _shortest(roads, start, goal)
    miles = [roads.get(pair) or roads[pair[1], pair[0]] for pair in pairwise(way)]
    total = f"{' + '.join(map(str, miles))} = {sum(miles)}" if len(miles) > 1 else f"{miles[0]}"
    return brief.ask(
        "route",
        f"{total} miles. Answer: {', '.join(way)}",
        task=(start, goal, *sorted(shown)),
        roads=", ".join(shown),
        start=start,
        goal=goal,
    )


def plan(brief: Brief) -> Draft:
    """Some jobs, of which one must wait for another: an order that breaks no rule."""
    rng = brief.rng
    jobs = rng.sample(JOBS, brief.by_level(3, 4, rng.randint(5, 6)))  # in an order that works
    pairs = list(pairwise(jobs)) if brief.level < 3 else list(combinations(jobs, 2))
    rng.shuffle(pairs)
    rules = [f"First {a}, then {b}." for a, b in pairs[: brief.by_level(2, 3, len(jobs))]]
    named = rng.sample(jobs, len(jobs))
    return brief.ask(
        "plan",
        f"Answer: {', '.join(jobs)}",
        task=(*sorted(jobs), *sorted(rules)),
        jobs=listing(named),
        rules=" ".join(rules),
    )


PROBLEM_SOLVING: Final[dict[str, Family]] = {
    "tally": tally,
    "boxes": boxes,
    "clock": clock,
    "coins": coins,
    "route": route,
    "plan": plan,
}
