"""Generators of `instruction`: do to these words or numbers exactly what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family, listing
from ares_coordinator.distiller.procedural.words import ANIMALS, NOUNS, PLACES, THINGS

POOLS: Final = (ANIMALS, THINGS, PLACES, NOUNS)
CASES: Final[dict[str, Callable[[str], str]]] = {
    "": str,
    " in upper case": str.upper,
    " in lower case": str.lower,
    " in title case": str.title,
}
ORDINALS: Final = ("first", "second", "third", "fourth", "last")
STYLES: Final[dict[str, str]] = {
    "": "{}",
    " with a question mark": "{}?",
    " in brackets": "({})",
    " with a star before it": "*{}",
}
FORMS: Final[dict[str, Callable[[list[str]], str]]] = {
    "a JSON list": json.dumps,
    "a numbered list": lambda words: "\n".join(f"{n}. {w}" for n, w in enumerate(words, start=1)),
    "a list with dashes": lambda words: "\n".join(f"- {w}" for w in words),
    "lines of one word": "\n".join,
    "a row with slashes": "/".join,
    "a row with arrows": " -> ".join,
}


def _words(brief: Brief) -> list[str]:
    count = brief.by_level(3, brief.rng.randint(4, 5), brief.rng.randint(6, 8))
    return brief.rng.sample(brief.rng.choice(POOLS), count)


def edit(brief: Brief) -> Draft:
    """Sort, reverse or repeat some words, perhaps in another case."""
    rng, words = brief.rng, _words(brief)
    verb = rng.choice(("sort", "reverse", "repeat"))
    case = rng.choice(list(CASES)) if brief.level > 1 or verb == "repeat" else ""
    done = {"sort": sorted(words), "reverse": words[::-1], "repeat": words}[verb]
    draft = brief.ask(
        "edit",
        ", ".join(CASES[case](word) for word in done),
        task=(verb, case.removeprefix(" in "), *words),
        verb=verb,
        case=case,
        words=", ".join(words),
    )
    turns = list(draft.messages)
    asked = turns[0].content
    turns[0] = type(turns[0])("user", asked[0].upper() + asked[1:] if verb == asked[: len(verb)]
                              else asked)  # fmt: skip
    return Draft(tuple(turns), draft.task, draft.template)


def _values(brief: Brief) -> list[int]:
    rng = brief.rng
    most = brief.by_level(99, 99, 999)
    return rng.sample(range(1, most), brief.by_level(3, rng.randint(4, 5), rng.randint(6, 8)))


def numbers(brief: Brief) -> Draft:
    """Sort numbers, upwards or downwards."""
    values = _values(brief)
    how = brief.rng.choice(("from small to large", "from large to small"))
    done = sorted(values, reverse=how == "from large to small")
    return brief.ask(
        "numbers",
        ", ".join(map(str, done)),
        task=(how, *map(str, values)),
        values=", ".join(map(str, values)),
        how=how,
    )


def extreme(brief: Brief) -> Draft:
    """Find the largest or the smallest number."""
    values = _values(brief)
    how = brief.rng.choice(("largest", "smallest"))
    best = max(values) if how == "largest" else min(values)
    return brief.ask(
        "extreme",
        str(best),
        task=(how, *map(str, values)),
        values=", ".join(map(str, values)),
        how=how,
    )


def pick(brief: Brief) -> Draft:
    """One word of a list, by its place, in a style."""
    rng, words = brief.rng, _words(brief)
    ordinal = rng.choice([o for n, o in enumerate(ORDINALS) if n < len(words) or o == "last"])
    style = rng.choice(list(STYLES)) if brief.level > 1 else ""
    place = -1 if ordinal == "last" else ORDINALS.index(ordinal)
    return brief.ask(
        "pick",
        STYLES[style].format(words[place]),
        task=(ordinal, style.strip(), *words),
        ordinal=ordinal,
        style=style,
        words=", ".join(words),
    )


def swap(brief: Brief) -> Draft:
    """Replace a word wherever it stands."""
    rng = brief.rng
    old, new, *others = _words(brief)
    words = [old, *others, *[old] * brief.by_level(1, 1, 2)]
    rng.shuffle(words)
    return brief.ask(
        "swap",
        " ".join(new if word == old else word for word in words),
        task=(old, new, *words),
        old=old,
        new=new,
        text=" ".join(words),
    )


def layout(brief: Brief) -> Draft:
    """Write words in a given form: a list of one kind or another."""
    words = _words(brief)
    form = brief.rng.choice(list(FORMS))
    return brief.ask(
        "format", FORMS[form](words), task=(form, *words), words=listing(words), form=form
    )


INSTRUCTION: Final[dict[str, Family]] = {
    "edit": edit,
    "numbers": numbers,
    "extreme": extreme,
    "pick": pick,
    "swap": swap,
    "format": layout,
}
