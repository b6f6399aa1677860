"""Generators of `long_context` and `roleplay`: facts to find, and a voice to keep."""

from __future__ import annotations

import random
from typing import Final

from ares_coordinator.distiller.procedural.draft import Draft, Family, ask, with_article
from ares_coordinator.distiller.procedural.words import (
    ANIMALS,
    CITIES,
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


def _record(rng: random.Random, name: str, topic: int) -> str:
    if topic == 0:
        return f"{name} lives in {rng.choice(CITIES)}."
    if topic == 1:
        return f"{name} keeps {with_article(rng.choice(ANIMALS))}."
    if topic == 2:
        return f"{name} works as {with_article(rng.choice(JOBS))}."
    return f"{name} was born in {rng.randint(1920, 2010)}."


def _document(rng: random.Random, facts: list[str], names: list[str]) -> str:
    """Return the facts in their order among many others about `names`, one of a topic for each."""
    topics = [(name, topic) for name in names for topic in range(4)]
    chosen = rng.sample(topics, min(len(topics), rng.randint(8, 18)))
    others = [_record(rng, name, topic) for name, topic in chosen]
    places = sorted(rng.randint(0, len(others)) for _ in facts)
    for shift, (place, fact) in enumerate(zip(places, facts, strict=True)):
        others.insert(place + shift, fact)
    return " ".join(others)


def lookup(rng: random.Random) -> Draft:
    """Where is somebody's thing?"""
    names, things = rng.sample(NAMES, 8), rng.sample(THINGS, 3)
    places = rng.sample(PLACES, 3)
    facts = [f"{n}'s {t} is in the {p}." for n, t, p in zip(names, things, places, strict=False)]
    which = rng.randrange(3)
    text = _document(rng, facts, names)
    return ask(
        f"{text} Where is {names[which]}'s {things[which]}?",
        f"{facts[which]} Answer: {places[which]}",
        spec={"name": names[which], "thing": things[which], "place": places[which]},
    )


def owner(rng: random.Random) -> Draft:
    """Whose thing is at a place?"""
    names, things = rng.sample(NAMES, 8), rng.sample(THINGS, 3)
    places = rng.sample(PLACES, 3)
    facts = [f"{n}'s {t} is in the {p}." for n, t, p in zip(names, things, places, strict=False)]
    which = rng.randrange(3)
    text = _document(rng, facts, names)
    return ask(
        f"{text} Who has something in the {places[which]}?",
        f"{facts[which]} Answer: {names[which]}",
        spec={"place": places[which], "name": names[which], "thing": things[which]},
    )


def count(rng: random.Random) -> Draft:
    """How many people have something at a place?"""
    names = rng.sample(NAMES, 10)
    place, elsewhere = rng.sample(PLACES, 2)
    here = rng.randint(1, 4)
    spots = [place] * here + [elsewhere] * rng.randint(1, 2)
    rng.shuffle(spots)
    pairs = list(zip(names, spots, strict=False))
    facts = [f"{name}'s {rng.choice(THINGS)} is in the {spot}." for name, spot in pairs]
    found = [name for name, spot in pairs if spot == place]
    text = _document(rng, facts, names[6:])
    return ask(
        f"{text} How many people have something in the {place}?",
        f"{', '.join(found)}. Answer: {here}",
        spec={"place": place, "found": found},
    )


def moved(rng: random.Random) -> Draft:
    """Where is a thing that was moved, after its last move?"""
    names, (thing, other) = rng.sample(NAMES, 6), rng.sample(THINGS, 2)
    places = rng.sample(PLACES, 4)
    facts = [
        f"{names[0]} put the {thing} in the {places[0]}.",
        f"{names[1]} put the {other} in the {places[1]}.",
        f"{names[2]} took the {thing} to the {places[2]}.",
    ]
    if rng.random() < 0.5:
        facts.append(f"{names[3]} took the {other} to the {places[3]}.")
    thing, place = rng.choice(
        ((thing, places[2]), (other, places[3] if len(facts) == 4 else places[1]))
    )
    return ask(
        f"{_document(rng, facts, names)} Where is the {thing} now?",
        f"The {thing} is in the {place}. Answer: {place}",
        spec={"thing": thing, "place": place, "facts": facts},
    )


def _system(who: str, secret: str) -> str:
    greeting, address, farewell = PERSONAS[who]
    return (
        f'You are {who}. Begin with "{greeting}", call the user "{address}", end with "{farewell}" '
        f"You know: {secret}"
    )


def _speech(who: str, text: str) -> str:
    greeting, address, farewell = PERSONAS[who]
    return f"{greeting}, {address}! {text} {farewell}"


def fact(rng: random.Random) -> Draft:
    """Tell what the persona knows, in its voice."""
    who, thing, place = rng.choice(list(PERSONAS)), rng.choice(THINGS), rng.choice(PLACES)
    secret = f"the {thing} is in the {place}."
    question = rng.choice(("Where is the {}?", "I am looking for the {}.", "Have you seen the {}?"))
    return ask(
        question.format(thing),
        _speech(who, f"The {thing} is in the {place}."),
        spec={"who": who, "thing": thing, "place": place},
        system=_system(who, secret),
    )


def unknown(rng: random.Random) -> Draft:
    """Admit in the persona's voice what it does not know."""
    who, place = rng.choice(list(PERSONAS)), rng.choice(PLACES)
    thing, other = rng.sample(THINGS, 2)
    question = rng.choice(("Where is the {}?", "I am looking for the {}.", "Have you seen the {}?"))
    return ask(
        question.format(other),
        _speech(who, f"I know nothing of the {other}."),
        spec={"who": who, "thing": other, "_secret": f"the {thing} is in the {place}."},
        system=_system(who, f"the {thing} is in the {place}."),
    )


def greet(rng: random.Random) -> Draft:
    """Meet a user who gives a name and a job."""
    who, name, job = rng.choice(list(PERSONAS)), rng.choice(NAMES), rng.choice(JOBS)
    city, thing = rng.choice(CITIES), rng.choice(THINGS)
    return ask(
        f"I am {name}, a {job} from {city}.",
        _speech(who, f"So {name} the {job} comes from {city}."),
        spec={
            "who": who,
            "name": name,
            "job": job,
            "city": city,
            "_secret": f"{name} likes the {thing}.",
        },
        system=_system(who, f"{name} likes the {thing}."),
    )


def recall(rng: random.Random) -> Draft:
    """Remember, two turns later, what the user said first."""
    who, name, animal = rng.choice(list(PERSONAS)), rng.choice(NAMES), rng.choice(ANIMALS)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    messages = (
        Message("system", _system(who, f"the {thing} is in the {place}.")),
        Message("user", f"I am {name} and I have {with_article(animal)}."),
        Message("assistant", _speech(who, f"I like your {animal}.")),
        Message("user", "What is my name, and what do I have?"),
        Message("assistant", _speech(who, f"You are {name} and you have {with_article(animal)}.")),
    )
    return Draft(messages, {"who": who, "name": name, "animal": animal})


LONG_CONTEXT: Final[dict[str, Family]] = {
    "lookup": lookup,
    "owner": owner,
    "count": count,
    "moved": moved,
}
ROLEPLAY: Final[dict[str, Family]] = {
    "fact": fact,
    "unknown": unknown,
    "greet": greet,
    "recall": recall,
}
