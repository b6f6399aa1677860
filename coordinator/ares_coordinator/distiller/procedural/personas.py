"""Generators of `roleplay`: a voice to keep, and facts that the persona knows or does not know."""

from __future__ import annotations

from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family, with_article
from ares_coordinator.distiller.procedural.words import (
    ANIMALS,
    CITIES,
    COLORS,
    JOBS,
    NAMES,
    PLACES,
    THINGS,
)
from ares_p2p.shards import Message

PERSONAS: Final = {  # who -> greeting, form of address, farewell
    "a pirate": ("Ahoy", "matey", "Fair winds!"),
    "a knight": ("Hail", "my lord", "By my sword!"),
    "a robot": ("Beep", "human", "End of message."),
    "a wizard": ("Greetings", "young one", "So say the stars."),
    "a cowboy": ("Howdy", "partner", "Ride safe!"),
    "a chef": ("Bonjour", "my guest", "Bon appetit!"),
    "a ghost": ("Booo", "mortal", "I fade away."),
    "a queen": ("Welcome", "dear subject", "You may go."),
    "a detective": ("Good evening", "my friend", "Case closed."),
    "an astronaut": ("Hello Earth", "captain", "Over and out."),
}


def _system(who: str, known: str) -> str:
    greeting, address, farewell = PERSONAS[who]
    return (
        f'You are {who}. Begin with "{greeting}", call the user "{address}", end with "{farewell}" '
        f"You know: {known}"
    )


def _speech(who: str, text: str) -> str:
    greeting, address, farewell = PERSONAS[who]
    return f"{greeting}, {address}! {text} {farewell}"


def _secrets(brief: Brief, things: list[str]) -> tuple[list[str], str]:
    places = brief.rng.sample(PLACES, len(things))
    known = [f"the {t} is in the {p}." for t, p in zip(things, places, strict=True)]
    return places, " ".join(known)


def fact(brief: Brief) -> Draft:
    """Tell what the persona knows, in its voice."""
    rng = brief.rng
    who, things = rng.choice(list(PERSONAS)), rng.sample(THINGS, brief.by_level(1, 2, 4))
    places, known = _secrets(brief, things)
    which = rng.randrange(len(things))
    return brief.ask(
        "seek",
        _speech(who, f"The {things[which]} is in the {places[which]}."),
        task=(who, things[which], places[which]),
        system=_system(who, known),
        thing=things[which],
    )


def unknown(brief: Brief) -> Draft:
    """Admit in the persona's voice what it does not know."""
    rng = brief.rng
    who = rng.choice(list(PERSONAS))
    asked, *things = rng.sample(THINGS, 1 + brief.by_level(1, 2, 4))
    _, known = _secrets(brief, things)
    return brief.ask(
        "seek",
        _speech(who, f"I know nothing of the {asked}."),
        task=(who, asked, *sorted(things)),
        system=_system(who, known),
        thing=asked,
    )


def greet(brief: Brief) -> Draft:
    """Meet a user who gives a name, a job and a city."""
    rng = brief.rng
    who, name, job = rng.choice(list(PERSONAS)), rng.choice(NAMES), rng.choice(JOBS)
    city, things = rng.choice(CITIES), rng.sample(THINGS, brief.by_level(1, 2, 4))
    _, known = _secrets(brief, things)
    return brief.ask(
        "greet",
        _speech(who, f"So {name} the {job} comes from {city}."),
        task=(who, name, job, city),
        system=_system(who, known),
        name=name,
        job=job,
        city=city,
    )


def recall(brief: Brief) -> Draft:
    """Remember, two or more turns later, what the user said first."""
    rng = brief.rng
    who, name, animal = rng.choice(list(PERSONAS)), rng.choice(NAMES), rng.choice(ANIMALS)
    things = rng.sample(THINGS, 2)
    places, known = _secrets(brief, things)
    turns = [
        Message("system", _system(who, known)),
        Message("user", f"I am {name} and I have {with_article(animal)}."),
        Message("assistant", _speech(who, f"I like your {animal}.")),
    ]
    for thing, place in list(zip(things, places, strict=True))[: brief.by_level(0, 1, 2)]:
        turns.append(Message("user", f"Where is the {thing}?"))
        turns.append(Message("assistant", _speech(who, f"The {thing} is in the {place}.")))
    template, question = brief.wording("recall")
    answer = _speech(who, f"You are {name} and you have {with_article(animal)}.")
    turns += [Message("user", question), Message("assistant", answer)]
    return Draft(tuple(turns), (who, name, animal), template)


def card(brief: Brief) -> Draft:
    """Answer from the persona's own card: name, home, age and more."""
    rng = brief.rng
    who = rng.choice(list(PERSONAS))
    facts = {
        "name": rng.choice(NAMES),
        "home": rng.choice(CITIES),
        "age": str(rng.randint(11, 99)),
        "pet": rng.choice(ANIMALS),
        "color": rng.choice(COLORS),
        "treasure": rng.choice(THINGS),
    }
    shown = rng.sample(list(facts), brief.by_level(1, 3, 6))
    asked = rng.choice(shown)
    return brief.ask(
        "card",
        _speech(who, f"My {asked} is {facts[asked]}."),
        task=(who, asked, facts[asked]),
        system=_system(who, " ".join(f"your {name} is {facts[name]}." for name in shown)),
        fact=asked,
    )


ROLEPLAY: Final[dict[str, Family]] = {
    "fact": fact,
    "unknown": unknown,
    "greet": greet,
    "recall": recall,
    "card": card,
}
