"""Generators of `creative`: texts under constraints.

They teach form only: a program can count words and lines, it cannot judge beauty. Both sides of the
split have their own sentences, so that no held-out answer can be recited.
"""

from __future__ import annotations

from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family, listing
from ares_coordinator.distiller.procedural.words import (
    ADJECTIVES,
    ANIMALS,
    NAMES,
    NOUNS,
    PLACES,
    THINGS,
    VERBS,
)

COUNTS: Final = {2: "two", 3: "three", 4: "four"}
# beginning, middle and end of a story with an animal {a}, a thing {t}, a place {p}, another thing {o}
BEGINNINGS: Final = (
    "The {a} found a {t} in the dust.",
    "One day the {a} lost its {t}.",
    "A {a} had an old {t}.",
    "The {a} dreamed of a {t}.",
    "There was a {a} who wanted a {t}.",
)
PLACED: Final = (
    "It walked all night to the {p}.",
    "Nobody had looked in the {p}.",
    "The {p} was dark and cold.",
    "So it went to the {p} and waited.",
    "Rain fell on the {p}.",
)
ADDED: Final = (
    "A friend brought the {o}.",
    "Under a stone lay the {o}.",
    "Then it saw the {o}.",
)
ENDINGS: Final = (
    "In the end all of them laughed.",
    "It was happy again.",
    "That was the end of it.",
    "Everybody went home.",
)
HELD_OUT_BEGINNINGS: Final = ("Long ago a {a} carried a {t}.", "My {a} hid its {t} from us.")
HELD_OUT_PLACED: Final = ("We ran towards the {p}.", "Far away stood the {p}.")
HELD_OUT_ADDED: Final = ("Somebody sold us the {o}.", "Next to it was the {o}.")
HELD_OUT_ENDINGS: Final = ("Since then we sleep well.", "Who can say why?")

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
LINES: Final = (
    ("We sing about the {}", "and then we think of {}"),
    ("I had a dream of {}", "and woke to look for {}"),
    ("Come walk with me to {}", "and we shall talk of {}"),
)
HELD_OUT_LINES: Final = (("All day they spoke of {}", "but you and I of {}"),)

# sentences about {w} by their number of words; {x} is a place for a word of choice
PATTERNS: Final = {
    3: ("The {w} {v}.", "A {w} {v}."),
    4: ("The {j} {w} {v}.", "Now the {w} {v}."),
    5: ("Today the {j} {w} {v}.", "The {w} {v} and {v2}."),
    6: ("The {j} {w} {v} and {v2}.", "A {j} and {j2} {w} {v}."),
    7: ("Today the {j} {w} {v} and {v2}.", "Now a {j} and {j2} {w} {v}."),
    8: ("The {j} and {j2} {w} {v} and {v2}.", "Here and now the {j} {w} only {v}."),
}
HELD_OUT_PATTERNS: Final = {
    3: ("My {w} {v}.",),
    4: ("My {j} {w} {v}.",),
    5: ("Our {w} {v}, then {v2}.",),
    6: ("My {j}, {j2} {w} often {v}.",),
    7: ("At night my {j} {w} {v} alone.",),
    8: ("At night our {j}, {j2} {w} {v} alone.",),
}


def story(brief: Brief) -> Draft:
    """Two to four sentences with two to four given words."""
    rng, held = brief.rng, brief.held_out
    thing, other = rng.sample(THINGS, 2)
    words = [rng.choice(ANIMALS), thing, rng.choice(PLACES), other][: brief.by_level(2, 3, 4)]
    sentences = [rng.choice(HELD_OUT_BEGINNINGS if held else BEGINNINGS)]
    if brief.level > 1:
        sentences.append(rng.choice(HELD_OUT_PLACED if held else PLACED))
    if brief.level > 2:
        sentences.append(rng.choice(HELD_OUT_ADDED if held else ADDED))
    sentences.append(rng.choice(HELD_OUT_ENDINGS if held else ENDINGS))
    slots = dict(zip("atpo", words, strict=False))
    text = " ".join(sentences).format(**slots)
    return brief.ask(
        "story",
        text,
        task=(str(len(sentences)), *words),
        n=COUNTS[len(sentences)],
        words=listing(words),
    )


def couplet(brief: Brief) -> Draft:
    """Two lines that end with, or name, two given words that rhyme."""
    rng = brief.rng
    first, second = rng.sample(rng.choice(RHYMES).split(), 2)
    one, two = rng.choice(HELD_OUT_LINES if brief.held_out else LINES)
    name = rng.choice(NAMES)
    return brief.ask(
        "couplet",
        f"{one.format(first)},\n{two.format(second)}, dear {name}.",
        task=(name, first, second),
        name=name,
        first=first,
        second=second,
    )


def alliteration(brief: Brief) -> Draft:
    """A sentence of given words that all begin with one letter."""
    rng = brief.rng
    while True:
        animal = rng.choice((*ANIMALS, *NOUNS, *THINGS))
        adjectives = [word for word in ADJECTIVES if word[0] == animal[0]]
        verbs = [word for word in VERBS if word[0] == animal[0]]
        if adjectives and verbs:
            break
    chosen = rng.sample(adjectives, min(len(adjectives), brief.by_level(1, 2, 3)))
    verb = rng.choice(verbs)
    words = [*chosen, animal, verb]
    return brief.ask(
        "alliteration",
        f"The {', '.join(chosen)} {animal} {verb}.",
        task=(animal[0], *sorted(words)),
        letter=animal[0],
        words=listing(rng.sample(words, len(words))),
    )


def acrostic(brief: Brief) -> Draft:
    """Lines whose first letters spell a word: two words in each."""
    rng = brief.rng
    size = brief.by_level(3, 4, 5)
    word = rng.choice([w for w in (*ANIMALS, *THINGS, *NOUNS) if len(w) == size])
    lines = []
    for letter in word:
        first = [w for w in (*ADJECTIVES, *VERBS, *NAMES) if w[0].lower() == letter]
        second = [w for w in NOUNS if w[0] == letter] or ["moon"]
        lines.append(f"{rng.choice(first or [letter]).capitalize()} {rng.choice(second)}")
    name = rng.choice(NAMES)
    return brief.ask("acrostic", "\n".join(lines), task=(word, name), word=word, name=name)


def counted(brief: Brief) -> Draft:
    """A sentence of an exact number of words, perhaps without a letter."""
    rng = brief.rng
    patterns = HELD_OUT_PATTERNS if brief.held_out else PATTERNS
    while True:
        n = rng.randint(*((3, 5), (3, 8), (4, 8))[brief.by_level(0, 1, 2)])
        word = rng.choice((*ANIMALS, *THINGS, *NOUNS))
        adjectives, verbs = rng.sample(ADJECTIVES, 2), rng.sample(VERBS, 2)
        text = rng.choice(patterns[n]).format(
            w=word, j=adjectives[0], j2=adjectives[1], v=verbs[0], v2=verbs[1]
        )
        unused = sorted(set("bcdfgklmopqsuvwxyz") - set(text.lower()))
        if unused and len(text.split()) == n:
            break
    banned = rng.choice(unused) if brief.level > 2 else ""
    return brief.ask(
        "counted",
        text,
        task=(str(n), word, banned),
        n=n,
        word=word,
        rule=f", without the letter {banned}" if banned else "",
    )


CREATIVE: Final[dict[str, Family]] = {
    "story": story,
    "couplet": couplet,
    "alliteration": alliteration,
    "acrostic": acrostic,
    "counted": counted,
}
