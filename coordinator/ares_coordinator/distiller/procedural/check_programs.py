"""Verifiers of `code` and `tool_use`.

Code is judged by what it does: a second implementation, step by step on plain values, must agree
with the answer on every input. Requests are parsed again from the user's words.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Final

from ares_coordinator.distiller.procedural.sandbox import Outcome, Program
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_p2p.errors import PayloadMalformed

NUMBERS: Final = (-3, 0, 1, 7, 20)
LISTS: Final = ((), (1, 2, 3, 4), (12, 7, 5, 12, 0, 9), (3, 8, 11, 2, 10, 6, 4))
TEXTS: Final = ("a", "Hello", "aB cD eF gH", "abcdefgh")
_OPERATIONS: Final[dict[str, tuple[str, Callable[[int, int], int]]]] = {
    "+": ("adds {}", lambda x, k: x + k),
    "-": ("subtracts {}", lambda x, k: x - k),
    "*": ("multiplies by {}", lambda x, k: x * k),
}
_KEEPS: Final[dict[str, tuple[str, Callable[[int, int], bool]]]] = {
    ">": ("greater than {}", lambda x, k: x > k),
    "<": ("less than {}", lambda x, k: x < k),
    "!=": ("not {}", lambda x, k: x != k),
    "even": ("even", lambda x, _: not x & 1),
    "odd": ("odd", lambda x, _: bool(x & 1)),
}
_CHANGES: Final[dict[str, tuple[str, Callable[[int, int], int]]]] = {
    "*": (", times {}", lambda x, k: sum([x] * k)),
    "+": (", plus {}", lambda x, k: x + k),
    "-": (", minus {}", lambda x, k: x - k),
    "square": (", squared", lambda x, _: x**2),
    "same": ("", lambda x, _: x),
}
_FOLDS: Final = {"list": "the list", "sum": "the sum", "len": "the number"}
_REQUESTS: Final = (  # pattern of a request -> the tool that serves it
    (r"(?:What is the weather|Will it rain) in (?P<city>\w+) on (?P<day>\w+)\?", "get_weather"),
    (r"(?:What time is it|Tell me the time) in (?P<city>\w+)[?.]", "get_time"),
    (r"(?:Book|I need) a train from (?P<origin>\w+) to (?P<city>\w+)\.", "book_train"),
    (r"Write (?P<name>\w+) the message (?P<text>[a-z ]+)\.", "send_message"),
    (r"Send (?P<text>[a-z ]+) to (?P<name>\w+)\.", "send_message"),
    (r"(?:Call|I want to talk to) (?P<name>\w+) at (?P<hour>\d+)\.", "call_person"),
    (r"(?:Set a timer for|Wake me in) (?P<minutes>\d+) minutes\.", "set_timer"),
    (r"(?:Find my|Where did I leave my) (?P<thing>\w+)[?.]", "find_item"),
    (r"Order (?P<count>\d+) of the (?P<thing>\w+)\.", "order_item"),
    (r"Buy the (?P<thing>\w+), (?P<count>\d+) times\.", "order_item"),
    (r"Make the light in the (?P<place>\w+) (?P<color>\w+)\.", "set_light"),
    (r"I want (?P<color>\w+) light in the (?P<place>\w+)\.", "set_light"),
    (
        r"(?:Open the door of|Let me into) the (?P<place>\w+) for (?P<minutes>\d+) minutes\.",
        "open_door",
    ),
)
_NUMERIC: Final = frozenset({"minutes", "count", "hour"})


def _split(step: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\D+?) ?(\d*)", step)
    if found is None:
        raise PayloadMalformed(f"unknown step {step[:20]!r}")
    return found[1], int(found[2] or 0)


def _number_words(spec: CheckSpec) -> str:
    return ", then ".join(_OPERATIONS[o][0].format(k) for o, k in map(_split, spec.texts("steps")))


def _number_value(spec: CheckSpec, x: int) -> int:
    for name, k in map(_split, spec.texts("steps")):
        x = _OPERATIONS[name][1](x, k)
    return x


def _list_words(spec: CheckSpec) -> str:
    (keep, k), (change, m) = _split(spec.text("keep")), _split(spec.text("change"))
    kept = _KEEPS[keep][0].format(k) + _CHANGES[change][0].format(m)
    return f"{_FOLDS[spec.text('fold')]} of all x that are {kept}."


def _list_value(spec: CheckSpec, xs: Sequence[int]) -> int | list[int]:
    (keep, k), (change, m) = _split(spec.text("keep")), _split(spec.text("change"))
    values = [_CHANGES[change][1](x, m) for x in xs if _KEEPS[keep][1](x, k)]
    folded: dict[str, int | list[int]] = {"list": values, "sum": sum(values), "len": len(values)}
    return folded[spec.text("fold")]


def _text_words(spec: CheckSpec) -> str:
    words = {
        "upper": "makes it upper case",
        "lower": "makes it lower case",
        "reverse": "reverses it",
    }
    parts = []
    for step in spec.texts("steps"):
        name, _, rest = step.partition(" ")
        default = f"adds {rest} at the end" if name == "add" else f"keeps the {name} {rest} letters"
        parts.append(words.get(name, default))
    return ", then ".join(parts)


def _text_value(spec: CheckSpec, text: str) -> str:
    for step in spec.texts("steps"):
        name, _, rest = step.partition(" ")
        letters = list(text)
        if name in ("upper", "lower"):
            letters = [getattr(letter, name)() for letter in letters]
        elif name == "reverse":
            letters.reverse()
        elif name == "add":
            letters.append(rest)
        elif name in ("first", "last"):
            count = min(int(rest), len(letters))
            letters = letters[:count] if name == "first" else letters[len(letters) - count :]
        else:
            raise PayloadMalformed(f"unknown step {step[:20]!r}")
        text = "".join(letters)
    return text


def function_states(spec: CheckSpec) -> str:
    """Return the words by which a prompt asks for the function of `spec`."""
    name, words = spec.text("_name"), ""
    try:
        if spec.kind == "number_function":
            words = f"{name}(x) that {_number_words(spec)}."
        elif spec.kind == "list_function":
            words = f"{name}(xs) that returns {_list_words(spec)}"
        else:
            words = f"{name}(s) that takes a text and {_text_words(spec)}."
    except KeyError as error:
        raise PayloadMalformed("a step of the function is unknown") from error
    return words


def function_program(spec: CheckSpec, answer: str) -> tuple[Program, tuple[object, ...]]:
    """Return what to run for a written function, and the values it must return."""
    inputs: dict[str, tuple[int | str | tuple[int, ...], ...]] = {
        "number_function": NUMBERS, "list_function": LISTS, "text_function": TEXTS,
    }  # fmt: skip
    expected: tuple[object, ...]
    try:
        if spec.kind == "number_function":
            expected = tuple(_number_value(spec, x) for x in NUMBERS)
        elif spec.kind == "list_function":
            expected = tuple(_list_value(spec, xs) for xs in LISTS)
        else:
            expected = tuple(_text_value(spec, s) for s in TEXTS)
    except (KeyError, ValueError) as error:
        raise PayloadMalformed("a step of the function is unknown") from error
    return Program(answer, spec.text("_name"), inputs[spec.kind]), expected


def trace_program(spec: CheckSpec) -> Program:
    """Return what to run for a program whose output was asked."""
    return Program(spec.text("program"))


def function_agrees(outcome: Outcome | None, expected: tuple[object, ...]) -> bool:
    """Return whether a child's values are the expected ones, types included."""
    return outcome is not None and repr(outcome.values) == repr(expected)


def _toolbox(system: str) -> dict[str, list[str]]:
    return {
        name: parameters.split(", ")
        for name, parameters in re.findall(r"(\w+)\(([\w, ]+)\)", system.partition("Tools: ")[2])
    }


def _requests(text: str) -> list[tuple[str, dict[str, str | int]]]:
    found = []
    for pattern, tool in _REQUESTS:
        for match in re.finditer(pattern, text):
            arguments: dict[str, str | int] = {
                name: int(value) if name in _NUMERIC else value
                for name, value in match.groupdict().items()
            }
            found.append((match.start(), tool, arguments))
    found.sort(key=lambda item: item[0])
    return [(tool, arguments) for _, tool, arguments in found]


def _calls(text: str) -> list[tuple[str, dict[str, object]]]:
    calls = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PayloadMalformed("a call is no JSON") from error
        if not isinstance(value, dict) or value.keys() != {"tool", "arguments"}:
            raise PayloadMalformed("a call must hold tool and arguments")
        calls.append((value["tool"], value["arguments"]))
    return calls


def calls_fit(system: str, request: str, answer: str) -> bool:
    """Return whether `answer` makes exactly the calls that the request asks for, in its order."""
    tools, wanted = _toolbox(system), _requests(request)
    known = all(sorted(tools.get(tool, [])) == sorted(arguments) for tool, arguments in wanted)
    try:
        return bool(wanted) and known and _calls(answer) == wanted
    except PayloadMalformed:
        return False


def no_tool_fits(system: str, request: str, answer: str) -> bool:
    """Return whether no tool serves the request, and `answer` says so."""
    wanted = _requests(request)
    missing = bool(wanted) and all(tool not in _toolbox(system) for tool, _ in wanted)
    return missing and answer.strip().rstrip(".").lower() == "no tool fits"


def reply_told(request: str, reply: str, answer: str) -> bool:
    """Return whether `answer` tells the tool's reply, and about what the user asked for."""
    try:
        values = json.loads(reply)
    except (ValueError, RecursionError) as error:
        raise PayloadMalformed("the tool's reply is no JSON") from error
    subjects = [str(a.get("city") or a.get("thing")) for _, a in _requests(request)]
    wanted = [*map(str, values.values()), *subjects]
    told = re.findall(r"\w+", answer)
    return bool(subjects) and all(word in told for word in wanted)


def printed_value(outcome: Outcome | None) -> str:
    """Return what a traced program printed.

    Raises: PayloadMalformed: it failed, or printed no number.
    """
    if outcome is None:
        raise PayloadMalformed("the traced program does not run")
    try:
        return str(int(ast.literal_eval(outcome.printed.strip())))
    except (ValueError, SyntaxError, TypeError) as error:
        raise PayloadMalformed("the traced program prints no number") from error
