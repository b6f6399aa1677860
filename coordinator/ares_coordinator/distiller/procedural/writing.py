"""Generators of `creative` and `instruction`.

Creative rows teach form only: a program can count lines and find rhymes, it cannot judge beauty.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from ares_coordinator.distiller.procedural.draft import Draft, Family, ask, listing
from ares_coordinator.distiller.procedural.words import (
    ADJECTIVES,
    ANIMALS,
    NAMES,
    NOUNS,
    PLACES,
    THINGS,
    VERBS,
)

STORIES: Final = {  # mood -> three sentences about an animal, a thing and a place
    "happy": "The {a} found a {t} in the {p}. It danced with joy. Everybody came to see the {t}.",
    "sad": "The {a} lost its {t} in the {p}. It searched all night. The {t} was gone for ever.",
    "funny": "The {a} wore a {t} as a hat. All the {p} laughed. The {a} took a bow.",
    "scary": "The {a} heard a {t} fall in the dark {p}. Nobody was there. Then the {t} moved again.",
    "calm": "The {a} sat in the {p} beside a {t}. The rain fell softly. The {a} closed its eyes.",
    "brave": "The {a} carried the {t} into the {p}. The storm was strong. The {a} did not turn back.",
}
RHYMES: Final = (
    "sea tree free bee",
    "night light bright sight",
    "rain train lane grain",
    "star car far jar",
    "day way play bay",
    "gold cold old bold",
    "sky fly high dry",
    "wing sing ring king",
    "moon spoon noon tune",
    "blue shoe true new",
    "boat coat note goat",
    "snow grow glow slow",
    "hill still mill chill",
    "bell shell well tell",
    "stone bone alone phone",
    "song long strong gong",
)
LINES: Final = (  # first and second line of a couplet, by the place of the two words
    ("We sing about the {}", "and then we think of {}"),
    ("I had a dream of {}", "and woke to look for {}"),
    ("Come walk with me to {}", "and we shall talk of {}"),
)
CASES: Final = ("upper case", "lower case", "title case")


def story(rng: random.Random) -> Draft:
    """Three sentences with three given words, in a given mood."""
    animal, thing, place = rng.choice(ANIMALS), rng.choice(THINGS), rng.choice(PLACES)
    mood = rng.choice(list(STORIES))
    opening = rng.choice(
        ("Write a {} story of three sentences", "Tell a {} tale in three sentences")
    )
    return ask(
        f"{opening.format(mood)} with the words {animal}, {thing} and {place}.",
        STORIES[mood].format(a=animal, t=thing, p=place),
        spec={"mood": mood, "words": [animal, thing, place]},
    )


def couplet(rng: random.Random) -> Draft:
    """Two lines that end with two given words that rhyme."""
    first, second = rng.sample(rng.choice(RHYMES).split(), 2)
    number = rng.randrange(len(LINES))
    verb = ("sing", "dream", "walk")[number]
    name = rng.choice(NAMES)
    lines = f"{LINES[number][0].format(first)},\n{LINES[number][1].format(second)}, dear {name}."
    return ask(
        f"Write a couplet for {name} about a {verb}: the first line ends with {first}, the second "
        f"line names {second}.".replace("a sing", "a song"),
        lines,
        spec={"name": name, "first": first, "second": second},
    )


def alliteration(rng: random.Random) -> Draft:
    """A sentence whose words all begin with one letter, from given nouns."""
    while True:
        animal = rng.choice(ANIMALS)
        adjectives = [word for word in ADJECTIVES if word[0] == animal[0]]
        verbs = [word for word in VERBS if word[0] == animal[0]]
        if adjectives and verbs:
            break
    names = [name for name in NAMES if name[0].lower() == animal[0]]
    owner = [rng.choice(names)] if names else []
    chosen = rng.sample(adjectives, min(len(adjectives), rng.choice((1, 2))))
    verb = rng.choice(verbs)
    words = [*owner, *chosen, animal, verb]
    opening = f"{owner[0]}'s" if owner else "The"
    return ask(
        f"Make a sentence in which the words begin with {animal[0]}, "
        f"out of {listing(rng.sample(words, len(words)))}.",
        f"{opening} {', '.join(chosen)} {animal} {verb}.",
        spec={"letter": animal[0], "words": sorted(words)},
    )


def acrostic(rng: random.Random) -> Draft:
    """Lines whose first letters spell a word: an adjective and a noun in each."""
    word = rng.choice([w for w in (*ANIMALS, *THINGS, *NOUNS) if len(w) in (3, 4)])
    lines = []
    for letter in word:
        first = [w for w in (*ADJECTIVES, *VERBS, *NAMES) if w[0].lower() == letter]
        second = [w for w in NOUNS if w[0] == letter] or ["moon"]
        lines.append(f"{rng.choice(first).capitalize()} {rng.choice(second)}")
    name = rng.choice(NAMES)
    return ask(
        f"Write an acrostic of {word} for {name}. Each line has two words.",
        "\n".join(lines),
        spec={"word": word, "name": name},
    )


def edit(rng: random.Random) -> Draft:
    """Sort or reverse some words, and perhaps change their case."""
    words = rng.sample(rng.choice((ANIMALS, THINGS, PLACES, NOUNS)), rng.randint(3, 5))
    action = rng.choice(("sort", "reverse", "copy"))
    case = rng.choice(("", *CASES))
    if not case and action == "copy":
        case = "upper case"
    done = {"sort": sorted(words), "reverse": words[::-1], "copy": words}[action]
    shown: dict[str, Callable[[str], str]] = {
        "": str,
        "upper case": str.upper,
        "lower case": str.lower,
        "title case": str.title,
    }
    verb = {
        "sort": "Sort these words",
        "reverse": "Reverse the order of these words",
        "copy": "Repeat these words",
    }[action]
    return ask(
        f"{verb}{f' in {case}' if case else ''}: {', '.join(words)}.",
        ", ".join(shown[case](word) for word in done),
        spec={"action": action, "case": case, "words": words},
    )


def numbers(rng: random.Random) -> Draft:
    """Sort numbers, or find the largest, the smallest or the sum."""
    values = rng.sample(range(1, 100), rng.randint(3, 5))
    action = rng.choice(("from small to large", "from large to small", "largest", "smallest"))
    shown = ", ".join(map(str, values))
    if action.startswith("from"):
        done = sorted(values, reverse=action == "from large to small")
        prompt, answer = f"Sort the numbers {shown} {action}.", ", ".join(map(str, done))
    else:
        best = max(values) if action == "largest" else min(values)
        prompt, answer = f"Which is the {action} number of {shown}?", str(best)
    return ask(prompt, answer, spec={"action": action, "values": values})


def pick(rng: random.Random) -> Draft:
    """One word of a list, by its place or its first letter."""
    words = rng.sample(rng.choice((ANIMALS, THINGS, PLACES)), rng.randint(3, 5))
    ordinal = rng.choice(("first", "second", "third", "last"))
    place = {"first": 0, "second": 1, "third": 2, "last": -1}[ordinal]
    answer = words[place]
    style = rng.choice(("", " in upper case", " with a question mark"))
    shown = {"": answer, " in upper case": answer.upper(), " with a question mark": answer + "?"}[
        style
    ]
    return ask(
        f"Answer with the {ordinal} word{style}: {', '.join(words)}.",
        shown,
        spec={"ordinal": ordinal, "style": style.strip(), "words": words},
    )


def swap(rng: random.Random) -> Draft:
    """Replace a word wherever it stands."""
    pool = rng.sample(rng.choice((ANIMALS, THINGS, PLACES)), 4)
    old, new, *others = pool
    words = [old, *others, old]
    rng.shuffle(words)
    return ask(
        f"Replace {old} by {new}: {' '.join(words)}.",
        " ".join(new if word == old else word for word in words),
        spec={"old": old, "new": new, "words": words},
    )


CREATIVE: Final[dict[str, Family]] = {
    "story": story,
    "couplet": couplet,
    "alliteration": alliteration,
    "acrostic": acrostic,
}
INSTRUCTION: Final[dict[str, Family]] = {
    "edit": edit,
    "numbers": numbers,
    "pick": pick,
    "swap": swap,
}
