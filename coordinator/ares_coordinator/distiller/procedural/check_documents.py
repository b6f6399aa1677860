"""Verifiers of `long_context` and `roleplay`: documents, cards and earlier turns are read again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ares_coordinator.distiller.procedural.reading import (
    Judge,
    Reader,
    Reading,
    Turns,
    answers,
    find,
    words_of,
)
from ares_p2p.errors import PayloadMalformed

_KEPT: Final = r"(\w+)'s (\w+) is in the (\w+)\."
_KNOWN: Final = r"\bthe (\w+) is in the (\w+)\."
_HAS: Final = r"I am (\w+) and I have an? (\w+)\."


def _kept_by(text: str) -> list[tuple[str, str, str]]:
    return re.findall(_KEPT, text)


def lookup(turns: Turns) -> Reading:
    """The only place that the document names for this person's thing."""
    asked = find(r"([A-Z]\w+)'s (\w+)(?: in this text|\?)", turns.asked)
    found = [one for one in _kept_by(turns.asked) if one[:2] == asked.groups()]
    if len(found) != 1:
        raise PayloadMalformed(f"the document names {len(found)} places")
    return Reading(found[0], answers(found[0][2]))


def _place_asked(text: str) -> str:
    return find(r"(?:something|thing)(?: is)? in the (\w+)", text)[1]


def owner(turns: Turns) -> Reading:
    """The only person with something at this place."""
    place = _place_asked(turns.asked)
    found = [one for one in _kept_by(turns.asked) if one[2] == place]
    if len(found) != 1:
        raise PayloadMalformed(f"{len(found)} people have something there")
    return Reading(found[0], answers(found[0][0]))


def count(turns: Turns) -> Reading:
    """How many people have something at this place."""
    place = _place_asked(turns.asked)
    found = [one[0] for one in _kept_by(turns.asked) if one[2] == place]
    return Reading((place, *found), answers(str(len(set(found)))))


def moved(turns: Turns) -> Reading:
    """The place of the last sentence about the thing."""
    thing = find(r"(?:[Ww]here (?:is|do I find|did)|place is) the (\w+)", turns.asked)[1]
    where = re.findall(rf"(?:put|took) the {thing} (?:in|to) the (\w+)\.", turns.asked)
    if not where:
        raise PayloadMalformed("nobody moves the thing")
    return Reading((thing, *where), answers(where[-1]))


def hops(turns: Turns) -> Reading:
    """The city of whoever got the thing from nobody's hand but gave it to nobody: the last one."""
    thing = find(
        r"city is the (\w+)|city where the (\w+)|city did the (\w+)|city of the (\w+)", turns.asked
    )
    name = next(filter(None, thing.groups()))
    given = re.findall(rf"(\w+) gave the {name} to (\w+)\.", turns.asked)
    last = {taker for _, taker in given} - {giver for giver, _ in given}
    homes = dict(re.findall(r"(\w+) lives in (\w+)\.", turns.asked))
    if len(last) != 1 or not last <= homes.keys():
        raise PayloadMalformed("nobody, or too many, have the thing in the end")
    (holder,) = last
    facts = [f"{a} gave the {name} to {b}." for a, b in given]
    return Reading((name, *facts, f"{holder} lives in {homes[holder]}."), answers(homes[holder]))


def _voice(turns: Turns) -> tuple[str, Judge]:
    """Return who the persona is, and a judge of its voice alone."""
    who, greeting, address, farewell = find(
        r'You are (.+?)\. Begin with "(.+?)", call the user "(.+?)", end with "(.+?)"',
        turns.last("system"),
    ).groups()

    def judge(text: str, _: object) -> bool:
        text = text.strip()
        return text.startswith(greeting) and address in text and text.endswith(farewell)

    return who, judge


def _says(turns: Turns, task: Sequence[str], told: Sequence[str], never: Sequence[str] = ()
          ) -> Reading:  # fmt: skip
    """Return a reading of a persona's answer that tells some words, and not others."""
    who, in_voice = _voice(turns)

    def judge(text: str, _: object) -> bool:
        said = set(re.findall(r"\w+", text))
        return in_voice(text, None) and set(told) <= said and not said & set(never)

    return Reading((who, *task), judge)


def _known(turns: Turns) -> dict[str, str]:
    return dict(re.findall(_KNOWN, turns.last("system")))


def _sought(turns: Turns) -> str:
    return find(r"\b(?:is|for|seen|where|of) the (\w+)", turns.asked)[1]


def fact(turns: Turns) -> Reading:
    """The place that the persona knows of."""
    thing = _sought(turns)
    place = _known(turns).get(thing)
    if place is None:
        raise PayloadMalformed("the persona does not know of this thing")
    others = set(_known(turns).values()) - {place}
    return _says(turns, (thing, place), (thing, place), tuple(others))


def unknown(turns: Turns) -> Reading:
    """Nothing: the persona says so and gives none of its places away."""
    thing, known = _sought(turns), _known(turns)
    if thing in known:
        raise PayloadMalformed("the persona knows of this thing")
    reading = _says(turns, (thing, *sorted(known)), (thing,), tuple(known.values()))

    def judge(text: str, _: object) -> bool:
        denies = re.search(r"\b(nothing|not|never)\b", text) is not None
        return denies and reading.judge(text, None)

    return Reading(reading.task, judge)


def greet(turns: Turns) -> Reading:
    """The name, the job and the city that the user has just told."""
    words = [
        word for word in words_of(turns.asked) if word not in ("I", "My", "Hello", "You", "They")
    ]
    job = find(r"\ba (\w+) (?:from|in)|here, (\w+) in|the (\w+) of|work: (\w+)", turns.asked)
    named = [word for word in words if word[0].isupper()]
    if len(named) != 2:
        raise PayloadMalformed("a name and a city were expected")
    (name, city), profession = named, next(filter(None, job.groups()))
    return _says(turns, (name, profession, city), (name, profession, city))


def recall(turns: Turns) -> Reading:
    """The name and the animal that the user told first, some turns ago."""
    earlier = "\n".join(m.content for m in turns.messages if m.role == "user")
    name, animal = find(_HAS, earlier).groups()
    if not {"name", "animal", "have"} & set(words_of(turns.asked)):
        raise PayloadMalformed("nothing that was told is asked for")
    return _says(turns, (name, animal), (name, animal))


def card(turns: Turns) -> Reading:
    """What the persona's card says under one head."""
    asked = find(r"\byour (\w+)", turns.asked)[1]
    facts = dict(re.findall(r"your (\w+) is (\w+)\.", turns.last("system")))
    if asked not in facts:
        raise PayloadMalformed("the card does not say this")
    others = set(facts.values()) - {facts[asked]}
    return _says(turns, (asked, facts[asked]), (facts[asked],), tuple(others))


LONG_CONTEXT: Final[dict[str, Reader]] = {
    "lookup": lookup,
    "owner": owner,
    "count": count,
    "moved": moved,
    "hops": hops,
}
ROLEPLAY: Final[dict[str, Reader]] = {
    "fact": fact,
    "unknown": unknown,
    "greet": greet,
    "recall": recall,
    "card": card,
}
