"""Generators of `long_context`: facts to find in a document that was made around them.

The levels are lengths: about 50, 110, 250 and 2,500 words, of which one to six sentences matter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family, with_article
from ares_coordinator.distiller.procedural.words import (
    ANIMALS,
    CITIES,
    JOBS,
    NAMES,
    PLACES,
    THINGS,
)

SENTENCES: Final = ((5, 9), (14, 22), (36, 50), (350, 450))  # beside the facts, by level


def _record(rng: random.Random, name: str) -> str:
    topic = rng.randrange(5)
    if topic == 0:
        return f"{name} was once in {rng.choice(CITIES)}."
    if topic == 1:
        return f"{name} keeps {with_article(rng.choice(ANIMALS))}."
    if topic == 2:
        return f"{name} works as {with_article(rng.choice(JOBS))}."
    if topic == 3:
        return f"{name} likes the {rng.choice(ANIMALS)} of {rng.choice(NAMES)}."
    return f"{name} was born in {rng.randint(1920, 2010)}."


def _document(brief: Brief, facts: Sequence[str]) -> str:
    """Return the facts, in their order, spread among sentences that do not matter."""
    rng = brief.rng
    count = rng.randint(*SENTENCES[brief.level - 1])
    others = [_record(rng, rng.choice(NAMES)) for _ in range(count)]
    places = sorted(rng.randint(0, len(others)) for _ in facts)
    for shift, (place, fact) in enumerate(zip(places, facts, strict=True)):
        others.insert(place + shift, fact)
    return " ".join(others)


def _kept(brief: Brief) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return names, things, places, and the facts that put them together."""
    rng, count = brief.rng, brief.by_level(2, 3, 5, 12)
    names, things = rng.sample(NAMES, count), rng.sample(THINGS, count)
    places = rng.sample(PLACES, count)
    facts = [f"{n}'s {t} is in the {p}." for n, t, p in zip(names, things, places, strict=True)]
    return names, things, places, facts


def lookup(brief: Brief) -> Draft:
    """Where is somebody's thing?"""
    names, things, places, facts = _kept(brief)
    which = brief.rng.randrange(len(facts))
    return brief.ask(
        "lookup",
        f"{facts[which]} Answer: {places[which]}",
        task=(names[which], things[which], places[which]),
        text=_document(brief, facts),
        name=names[which],
        thing=things[which],
    )


def owner(brief: Brief) -> Draft:
    """Whose thing is at a place?"""
    names, things, places, facts = _kept(brief)
    which = brief.rng.randrange(len(facts))
    return brief.ask(
        "owner",
        f"{facts[which]} Answer: {names[which]}",
        task=(names[which], things[which], places[which]),
        text=_document(brief, facts),
        place=places[which],
    )


def count(brief: Brief) -> Draft:
    """How many people have something at a place?"""
    rng = brief.rng
    place, elsewhere = rng.sample(PLACES, 2)
    here = rng.randint(1, brief.by_level(3, 4, 7, 12))
    spots = [place] * here + [elsewhere] * rng.randint(1, 2)
    rng.shuffle(spots)
    pairs = list(zip(rng.sample(NAMES, len(spots)), spots, strict=True))
    facts = [f"{name}'s {rng.choice(THINGS)} is in the {spot}." for name, spot in pairs]
    found = [name for name, spot in pairs if spot == place]
    return brief.ask(
        "count",
        f"{', '.join(found)}. Answer: {here}",
        task=(place, *found),
        text=_document(brief, facts),
        place=place,
    )


def moved(brief: Brief) -> Draft:
    """Where is a thing after its last move?"""
    rng = brief.rng
    thing, other = rng.sample(THINGS, 2)
    moves = brief.by_level(2, 3, 5, 9)
    people = rng.sample(NAMES, moves + 1)
    places = rng.sample(PLACES, moves + 1)
    facts = [f"{people[0]} put the {thing} in the {places[0]}."]
    facts += [
        f"{name} took the {thing} to the {place}."
        for name, place in zip(people[1:moves], places[1:moves], strict=True)
    ]
    facts.insert(rng.randint(0, len(facts)), f"{people[-1]} put the {other} in the {places[-1]}.")
    place = places[moves - 1]
    return brief.ask(
        "moved",
        f"The {thing} is in the {place}. Answer: {place}",
        task=(thing, *places[:moves]),
        text=_document(brief, facts),
        thing=thing,
    )


def hops(brief: Brief) -> Draft:
    """In which city is a thing that went from hand to hand, to somebody who lives there?"""
    rng = brief.rng
    hands = brief.by_level(1, 2, 3, 5)
    people, cities = rng.sample(NAMES, hands + 2), rng.sample(CITIES, hands + 2)
    thing = rng.choice(THINGS)
    facts = [
        f"{giver} gave the {thing} to {taker}." for giver, taker in pairwise(people[: hands + 1])
    ]
    homes = list(zip(people, cities, strict=True))
    rng.shuffle(homes)
    for name, city in homes:
        facts.insert(rng.randint(0, len(facts)), f"{name} lives in {city}.")
    last, city = people[hands], cities[hands]
    given = [fact for fact in facts if " gave " in fact]
    return brief.ask(
        "hops",
        f"{given[-1]} {last} lives in {city}. Answer: {city}",
        task=(thing, *given, f"{last} lives in {city}."),
        text=_document(brief, facts),
        thing=thing,
    )


LONG_CONTEXT: Final[dict[str, Family]] = {
    "lookup": lookup,
    "owner": owner,
    "count": count,
    "moved": moved,
    "hops": hops,
}
