"""Verifiers of `creative`, `instruction`, `long_context` and `roleplay`.

Creative and roleplay answers are judged by form and facts only. Documents are parsed again: the
answer must follow from the text that the reader sees.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_p2p.errors import PayloadMalformed

Checker = Callable[[CheckSpec, str, str], bool]  # (spec, prompt with all earlier turns, answer)


def final_answer(text: str) -> str:
    """Return what follows the last "Answer: ", without its full stop; "" if there is none."""
    found = re.findall(r"Answer: (.+)", text)
    return found[-1].strip().rstrip(".") if found else ""


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text.replace("'s", ""))


def story(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """Three sentences that use the three words."""
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", answer.strip()) if part]
    whole = all(sentence[-1] in ".!?" for sentence in sentences)
    return whole and len(sentences) == 3 and set(spec.texts("words")) <= set(_words(answer.lower()))


def couplet(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """Two lines; the first ends with one word, the second has the other and the name."""
    lines = answer.strip().split("\n")
    if len(lines) != 2 or not _words(lines[0]):
        return False
    return _words(lines[0])[-1] == spec.text("first") and {
        spec.text("second"),
        spec.text("name"),
    } <= set(_words(lines[1]))


def alliteration(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """One sentence of exactly the given words, all with one first letter; "The" may open it."""
    words = _words(answer)
    if words and words[0] == "The":
        words = words[1:]
    same_letter = all(word[0].lower() == spec.text("letter") for word in words)
    return same_letter and sorted(words) == spec.texts("words") and answer.strip().endswith(".")


def acrostic(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """Lines of two words whose first letters spell the word."""
    lines = [line.split() for line in answer.strip().split("\n")]
    if any(len(line) != 2 for line in lines):
        return False
    return "".join(line[0][0].lower() for line in lines) == spec.text("word")


def _cased(text: str, case: str) -> str:
    return {"upper case": text.upper(), "title case": text.capitalize()}.get(case, text)


def edit(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """Words in the wanted order and case; the order by counting smaller words."""
    words, action = spec.texts("words"), spec.text("action")
    if action == "sort":
        rank = {word: sum(other < word for other in words) for word in words}
        words = [next(w for w in words if rank[w] == place) for place in range(len(words))]
    elif action == "reverse":
        words = [words[-1 - place] for place in range(len(words))]
    return answer.strip() == ", ".join(_cased(word, spec.text("case")) for word in words)


def numbers(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """Numbers in order, or the one that no other exceeds."""
    values, action = spec.numbers("values"), spec.text("action")
    if not re.fullmatch(r"\d{1,9}(, \d{1,9})*", answer.strip()):
        return False
    given = [int(number) for number in answer.split(", ")]
    if action in ("largest", "smallest"):
        sign = 1 if action == "largest" else -1
        return (
            len(given) == 1
            and all(sign * (given[0] - v) >= 0 for v in values)
            and given[0] in values
        )
    if set(given) != set(values) or len(given) != len(values):
        return False
    upwards = action == "from small to large"
    return all((a < b) == upwards for a, b in pairwise(given))


def pick(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """The word at the named place, in the wanted style."""
    words, style = spec.texts("words"), spec.text("style")
    place = ("first", "second", "third", "last").index(spec.text("ordinal"))
    word = words[-1] if place == 3 else words[place]
    shown = word.upper() if style == "in upper case" else word + "?" * (style != "")
    return answer.strip() == shown


def swap(spec: CheckSpec, _prompt: str, answer: str) -> bool:
    """The list with one word replaced wherever it stands."""
    text = re.sub(
        rf"\b{re.escape(spec.text('old'))}\b", spec.text("new"), " ".join(spec.texts("words"))
    )
    return answer.strip() == text


def lookup(spec: CheckSpec, prompt: str, answer: str) -> bool:
    """The place that the document names for this person's thing."""
    where = re.findall(rf"{spec.text('name')}'s {spec.text('thing')} is in the (\w+)\.", prompt)
    return where == [spec.text("place")] and final_answer(answer) == where[0]


def owner(spec: CheckSpec, prompt: str, answer: str) -> bool:
    """The one person with something at this place."""
    who = re.findall(rf"(\w+)'s \w+ is in the {spec.text('place')}\.", prompt)
    return who == [spec.text("name")] and final_answer(answer) == who[0]


def count(spec: CheckSpec, prompt: str, answer: str) -> bool:
    """How many people have something at this place."""
    who = re.findall(rf"(\w+)'s \w+ is in the {spec.text('place')}\.", prompt)
    return who == spec.texts("found") and final_answer(answer) == str(len(set(who)))


def moved(spec: CheckSpec, prompt: str, answer: str) -> bool:
    """The place of the last sentence about the thing."""
    pattern = rf"(?:put|took) the {spec.text('thing')} (?:in|to) the (\w+)\."
    where = re.findall(pattern, prompt)
    return bool(where) and where[-1] == spec.text("place") == final_answer(answer)


def _in_voice(spec: CheckSpec, prompt: str, answer: str) -> bool:
    found = re.search(
        r'You are (.+?)\. Begin with "(.+?)", call the user "(.+?)", end with "(.+?)"', prompt
    )
    if found is None:
        raise PayloadMalformed("the system text names no persona")
    who, greeting, address, farewell = found.groups()
    voice = answer.startswith(greeting) and address in answer and answer.endswith(farewell)
    return voice and who == spec.text("who")


def _speaks(*fields: str, also: Callable[[CheckSpec, str, str], bool] = lambda *_: True) -> Checker:
    def checker(spec: CheckSpec, prompt: str, answer: str) -> bool:
        told = _words(answer)
        facts = all(spec.text(field) in told for field in fields)
        return facts and _in_voice(spec, prompt, answer) and also(spec, prompt, answer)

    return checker


def _knows(spec: CheckSpec, prompt: str, _answer: str) -> bool:
    return f"the {spec.text('thing')} is in the {spec.text('place')}." in prompt


def _knows_not(spec: CheckSpec, prompt: str, answer: str) -> bool:
    secret = re.findall(r"the (\w+) is in the (\w+)\.", prompt)
    hidden = all(t != spec.text("thing") and p not in _words(answer) for t, p in secret)
    return hidden and bool(re.search(r"\b(nothing|not|never)\b", answer))


CHECKERS: Final[dict[str, Checker]] = {
    "story": story,
    "couplet": couplet,
    "alliteration": alliteration,
    "acrostic": acrostic,
    "edit": edit,
    "numbers": numbers,
    "pick": pick,
    "swap": swap,
    "lookup": lookup,
    "owner": owner,
    "count": count,
    "moved": moved,
    "fact": _speaks("place", also=_knows),
    "unknown": _speaks("thing", also=_knows_not),
    "greet": _speaks("name", "job", "city"),
    "recall": _speaks("name", "animal"),
}
