"""An answer that is nearly right is wrong: one kind of slip for every kind of task."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

import pytest

from ares_coordinator.distiller.procedural import ProceduralTeacher, check_answer
from ares_coordinator.distiller.procedural.checks import KINDS
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_p2p.shards import CATEGORIES, Example

Slip = Callable[[Example, str], str]
OTHER: Final = {
    "yes": "no",
    "no": "yes",
    "odd": "even",
    "even": "odd",
    "north": "east",
    "east": "south",
    "south": "west",
    "west": "north",
}


def number_off(_: Example, answer: str) -> str:
    """The last number, one too many."""
    *_, last = re.finditer(r"\d+", answer)
    return f"{answer[: last.start()]}{int(last[0]) + 1}{answer[last.end() :]}"


def other_word(_: Example, answer: str) -> str:
    """Yes for no, odd for even, another direction."""
    head, mark, end = answer.rpartition("Answer: ")
    return head + mark + OTHER[end]


def wrong_name(_: Example, answer: str) -> str:
    head, mark, end = answer.rpartition("Answer: ")
    return f"{head}{mark}{'Bob' if end != 'Bob' else 'Anna'}"


def reversed_list(_: Example, answer: str) -> str:
    head, mark, end = answer.rpartition("Answer: ")
    return head + mark + ", ".join(end.split(", ")[::-1])


def longer_way(row: Example, answer: str) -> str:
    """A way over all places: there is one, and another is shorter."""
    end = answer.rpartition("Answer: ")[2].split(", ")
    return f"Answer: {', '.join([*end[:-1], end[0], end[-1]])}"


def word_less(_: Example, answer: str) -> str:
    return answer.split(" ", 1)[0] + " " + answer.split(" ", 2)[-1]


def sentence_more(_: Example, answer: str) -> str:
    return f"{answer} It was so."


def letters_swapped(_: Example, answer: str) -> str:
    """Lines in the wrong order."""
    first, second, *rest = answer.split("\n")
    return "\n".join([second, first, *rest])


def argument_as_text(_: Example, answer: str) -> str:
    """Every number in a call as a text, every text longer."""
    calls = [json.loads(line) for line in answer.splitlines()]
    for call in calls:
        call["arguments"] = {name: f"{value}s" for name, value in call["arguments"].items()}
    return "\n".join(map(json.dumps, calls))


def told_or_called(row: Example, answer: str) -> str:
    return argument_as_text(row, answer) if answer.startswith("{") else number_off(row, answer)


def told(_: Example, answer: str) -> str:
    """Another number than the tool's, or another place."""
    if not re.search(r"\d", answer):
        return "It is in the moon."
    return re.sub(r"\d+", lambda number: str(int(number[0]) + 1), answer)


def a_call_instead(_: Example, _answer: str) -> str:
    return '{"tool": "get_time", "arguments": {"city": "Oslo"}}'


def item_less(_: Example, answer: str) -> str:
    """A list without its last item."""
    for mark in ("\n", ", ", " -> ", "/", " "):
        if mark in answer:
            return answer.rpartition(mark)[0] + ("]" if answer.endswith("]") else "")
    return answer[:-1]


def loud(_: Example, answer: str) -> str:
    return answer + "!"


def out_of_voice(_: Example, answer: str) -> str:
    """The same facts without the farewell."""
    return re.sub(r"[.!?] [^.!?]+[.!]$", ".", answer)


def compare_off(_: Example, answer: str) -> str:
    """Another test, or another operation, in a function of a list."""
    for old, new in (
        (" > ", " >= "),
        (" < ", " <= "),
        (" != ", " == "),
        ("== 0", "== 1"),
        ("== 1", "== 0"),
    ):
        if old in answer:
            return answer.replace(old, new, 1)
    raise AssertionError(answer)


def step_less(_: Example, answer: str) -> str:
    """A function that gives its argument back."""
    return re.sub(r"return .+", "return s", answer)


SLIPS: Final[dict[str, Slip]] = {
    **dict.fromkeys(
        ("expression", "equation", "tally", "boxes", "clock", "coins", "count"), number_off
    ),
    **dict.fromkeys(
        ("trace", "number_function", "repair", "loop", "extreme", "numbers"), number_off
    ),
    **dict.fromkeys(("syllogism", "direction", "parity", "liars"), other_word),
    **dict.fromkeys(("order", "owner", "lookup", "moved", "hops"), wrong_name),
    **dict.fromkeys(("story",), sentence_more),
    **dict.fromkeys(("counted", "alliteration"), word_less),
    **dict.fromkeys(("couplet", "acrostic"), letters_swapped),
    **dict.fromkeys(("call", "pair"), argument_as_text),
    **dict.fromkeys(("edit", "swap", "format"), item_less),
    **dict.fromkeys(("fact", "unknown", "greet", "recall", "card"), out_of_voice),
    "list_function": compare_off,
    "text_function": step_less,
    "plan": reversed_list,
    "route": longer_way,
    "chain": told_or_called,
    "result": told,
    "no_tool": a_call_instead,
    "pick": loud,
}
ROWS: Final = [
    row for c in CATEGORIES for row in ProceduralTeacher().generate(c, 150, seed=21, start=0)
]


def test_every_kind_has_a_slip() -> None:
    assert SLIPS.keys() == {kind for kinds in KINDS.values() for kind in kinds}


@pytest.mark.parametrize("kind", sorted(SLIPS))
def test_a_slip_is_seen(kind: str) -> None:
    rows = [row for row in ROWS if CheckSpec.parse(row.check).kind == kind]
    assert len(rows) >= 8
    for row in rows[:12]:
        slipped = SLIPS[kind](row, row.answer)
        assert slipped != row.answer
        assert check_answer(row, row.answer)
        assert not check_answer(row, slipped), (row.messages[-2].content, slipped)


@pytest.mark.parametrize("kind", ["fact", "unknown", "card"])
def test_a_persona_that_tells_another_fact_is_wrong(kind: str) -> None:
    rows = [row for row in ROWS if CheckSpec.parse(row.check).kind == kind]
    for row in rows:
        known = re.findall(r"(?:the|your) \w+ is (?:in the )?(\w+)\.", row.messages[0].content)
        ours = CheckSpec.parse(row.check).texts("task")
        others = [word for word in known if word not in ours]
        for other in others[:1]:
            greeting, _, rest = row.answer.partition("! ")
            assert not check_answer(row, f"{greeting}! Not the {other}. {rest}")
