"""Verifiers of `creative` and `instruction`: constraints counted in the answer's text."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Final

from ares_coordinator.distiller.procedural.reading import (
    Reader,
    Reading,
    Turns,
    find,
    first,
    is_exactly,
    items_of,
    words_of,
)
from ares_p2p.errors import PayloadMalformed

_NUMBER_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six")
_LIST: Final = r"\w+(?:, \w+)+"
_LISTING: Final = r"\w+(?:(?:, \w+)* and \w+)"
_CASES: Final = ("upper case", "lower case", "title case")
_STYLES: Final = {
    "with a question mark": ("", "?"),
    "in brackets": ("(", ")"),
    "with a star before it": ("*", ""),
}
_SWAPS: Final = (
    r"Replace (?P<old>\w+) by (?P<new>\w+): (?P<text>[\w ]+)\.",
    r"Write (?P<new>\w+) for (?P<old>\w+): (?P<text>[\w ]+)\.",
    r"In the words (?P<text>[\w ]+), put (?P<new>\w+) where (?P<old>\w+) stands\.",
    r"Change (?P<old>\w+) to (?P<new>\w+) in this: (?P<text>[\w ]+)\.",
    r"Take (?P<text>[\w ]+), but with (?P<new>\w+) instead of (?P<old>\w+)\.",
)


def story(turns: Turns) -> Reading:
    """So many whole sentences that use all the words."""
    count = _NUMBER_WORDS.index(find(r"(two|three|four) sentences", turns.asked)[1])
    words = items_of(first(_LISTING, turns.asked.partition("sentences that tell of ")[2]
                           or re.sub(r"^Use |the words ", "", turns.asked))[0])  # fmt: skip

    def judge(text: str, _: object) -> bool:
        sentences = [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
        whole = all(one[-1] in ".!?" and len(words_of(one)) > 1 for one in sentences)
        return whole and len(sentences) == count and set(words) <= set(words_of(text.lower()))

    return Reading((str(count), *words), judge)


def couplet(turns: Turns) -> Reading:
    """Two lines: one ends with the first word, the other has the second word and the name."""
    name = find(r"(?:for|Give) ([A-Z]\w+)", turns.asked)[1]
    one = find(
        r"ends with (\w+)|end the first with (\w+)|close with (\w+)|lines, (\w+) at the end",
        turns.asked,
    )
    two = find(
        r"names (\w+)|have (\w+) in|second has (\w+)|hold (\w+)|, (\w+) in line", turns.asked
    )
    begin, end = (next(filter(None, match.groups())) for match in (one, two))

    def judge(text: str, _: object) -> bool:
        lines = [words_of(line) for line in text.strip().split("\n")]
        if len(lines) != 2 or not lines[0]:
            return False
        return lines[0][-1] == begin and {end, name} <= set(lines[1])

    return Reading((name, begin, end), judge)


def alliteration(turns: Turns) -> Reading:
    """One sentence of exactly the given words; "The" may open it."""
    letter = find(r"(?:with|in) ([a-z])\b(?! )", turns.asked)[1]
    words = sorted(w for w in items_of(first(_LISTING, turns.asked)[0]) if w)
    if any(word[0] != letter for word in words):
        raise PayloadMalformed("a word begins with another letter than was asked")

    def judge(text: str, _: object) -> bool:
        said = words_of(text)
        if said and said[0] == "The":
            said = said[1:]
        return sorted(said) == words and text.strip().endswith(".")

    return Reading((letter, *words), judge)


def acrostic(turns: Turns) -> Reading:
    """Lines of two words whose first letters spell the word."""
    word = find(r"acrostic of (\w+)|[sS]pell (\w+)|letters of (?!lines)(\w+)", turns.asked)
    name = find(r"(?:for|For) ([A-Z]\w+)|^([A-Z]\w+) wants", turns.asked)
    wanted: str = next(filter(None, word.groups()))

    def judge(text: str, _: object) -> bool:
        lines = [line.split() for line in text.strip().split("\n")]
        if any(len(line) != 2 for line in lines):
            return False
        return "".join(line[0][0].lower() for line in lines) == wanted

    return Reading((wanted, next(filter(None, name.groups()))), judge)


def counted(turns: Turns) -> Reading:
    """One sentence of so many words, a word among them, perhaps without a letter."""
    count = int(find(r"(\d+) words", turns.asked)[1])
    said = find(
        r"the word (\w+)|with (\w+) in it|about the (\w+)|, (\w+) among|of the (\w+)", turns.asked
    )
    word = next(filter(None, said.groups()))
    banned = re.search(r"without the letter (\w)\b", turns.asked)
    letter = banned[1] if banned else ""

    def judge(text: str, _: object) -> bool:
        words = words_of(text)
        one = re.fullmatch(r"[^.!?\n]+[.!?]", text.strip()) is not None
        free = not letter or letter not in text.lower()
        return one and free and len(words) == count and word in [w.lower() for w in words]

    return Reading((str(count), word, letter), judge)


def _cased(text: str, case: str) -> str:
    cased = {
        "upper case": text.upper(),
        "lower case": text.lower(),
        "title case": text.capitalize(),
    }
    return cased.get(case, text)


def edit(turns: Turns) -> Reading:
    """Words in the wanted order and case; the order by counting smaller words."""
    words = first(_LIST, turns.asked)[0].split(", ")
    verb = find(r"\b(sort|reverse|repeat)\b", turns.asked.lower())[1]
    case = re.search(rf"\bin ({'|'.join(_CASES)})", turns.asked)
    named = case[1] if case else ""
    done = words
    if verb == "sort":
        rank = {word: sum(other < word for other in words) for word in words}
        done = [next(w for w in words if rank[w] == place) for place in range(len(words))]
    elif verb == "reverse":
        done = [words[-1 - place] for place in range(len(words))]
    return Reading(
        (verb, named, *words), is_exactly(", ".join(_cased(word, named) for word in done))
    )


def numbers(turns: Turns) -> Reading:
    """The same numbers in order: each pair of neighbours is looked at."""
    shown = first(r"\d+(?:, \d+)+", turns.asked)[0].split(", ")
    how = find(r"from (?:small to large|large to small)", turns.asked)[0]

    def judge(text: str, _: object) -> bool:
        if not re.fullmatch(r"\d{1,9}(, \d{1,9})*", text.strip()):
            return False
        given = [int(number) for number in text.strip().split(", ")]
        if sorted(map(str, given)) != sorted(shown):
            return False
        return all((a < b) == (how == "from small to large") for a, b in pairwise(given))

    return Reading((how, *shown), judge)


def extreme(turns: Turns) -> Reading:
    """The number that no other exceeds, or falls below."""
    shown = first(r"\d+(?:, \d+)+", turns.asked)[0].split(", ")
    how = find(r"largest|smallest", turns.asked)[0]
    sign = 1 if how == "largest" else -1
    best = [n for n in shown if all(sign * (int(n) - int(other)) >= 0 for other in shown)]
    return Reading((how, *shown), lambda text, _: text.strip() == best[0])


def pick(turns: Turns) -> Reading:
    """The word at the named place, in the wanted style."""
    words = first(_LIST, turns.asked)[0].split(", ")
    ordinal = find(r"\b(first|second|third|fourth|last)\b", turns.asked)[1]
    found = re.search("|".join(_STYLES), turns.asked)
    style = found[0] if found else ""
    place = len(words) - 1 if ordinal == "last" else (
        "first", "second", "third", "fourth").index(ordinal)  # fmt: skip
    if place >= len(words):
        raise PayloadMalformed("the list has no such place")
    before, after = _STYLES.get(style, ("", ""))
    return Reading((ordinal, style, *words), is_exactly(f"{before}{words[place]}{after}"))


def swap(turns: Turns) -> Reading:
    """The words with one replaced wherever it stands."""
    for pattern in _SWAPS:
        said = re.fullmatch(pattern, turns.asked)
        if said:
            done = re.sub(rf"\b{re.escape(said['old'])}\b", said["new"], said["text"])
            return Reading((said["old"], said["new"], *said["text"].split()), is_exactly(done))
    raise PayloadMalformed("no words to replace were found")


def layout(turns: Turns) -> Reading:
    """The words, no more and no less, in the wanted form; JSON is parsed."""
    form = find(
        r"a JSON list|a numbered list|a list with dashes|lines of one word|a row with (?:slashes|arrows)",
        turns.asked,
    )[0]
    words = items_of(first(_LISTING, turns.asked.replace(form, ""))[0])

    def judge(text: str, _: object) -> bool:
        text = text.strip()
        if form == "a JSON list":
            try:
                return bool(json.loads(text) == words)
            except (ValueError, RecursionError):
                return False
        if form.startswith("a row"):
            return text.split("/" if "slashes" in form else " -> ") == words
        lines = text.split("\n")
        if form == "a numbered list":
            return [line.split(". ") for line in lines] == [
                [str(n + 1), word] for n, word in enumerate(words)
            ]
        dash = "- " if "dashes" in form else ""
        return [line.removeprefix(dash) for line in lines] == words and all(
            line.startswith(dash) for line in lines
        )

    return Reading((form, *words), judge)


CREATIVE: Final[dict[str, Reader]] = {
    "story": story,
    "couplet": couplet,
    "alliteration": alliteration,
    "acrostic": acrostic,
    "counted": counted,
}
INSTRUCTION: Final[dict[str, Reader]] = {
    "edit": edit,
    "numbers": numbers,
    "extreme": extreme,
    "pick": pick,
    "swap": swap,
    "format": layout,
}
