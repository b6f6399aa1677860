"""Generators of `code` and `tool_use`."""

from __future__ import annotations

import json
import random
from typing import Final

from ares_coordinator.distiller.procedural.draft import Draft, Family, ask
from ares_coordinator.distiller.procedural.words import CITIES, COLORS, NAMES, PLACES, THINGS
from ares_p2p.shards import Message

FUNCTION_NAMES: Final = tuple(
    "solve apply change compute convert run step make work shape process update build adjust".split()
)
# tool -> its parameters; a parameter's pool decides what the user asks for
TOOLS: Final[dict[str, tuple[str, ...]]] = {
    "get_weather": ("city", "day"),
    "get_time": ("city",),
    "book_train": ("origin", "city"),
    "send_message": ("name", "text"),
    "call_person": ("name", "hour"),
    "set_timer": ("minutes",),
    "find_item": ("thing",),
    "order_item": ("thing", "count"),
    "set_light": ("place", "color"),
    "open_door": ("place", "minutes"),
}
REQUESTS: Final[dict[str, tuple[str, ...]]] = {
    "get_weather": ("What is the weather in {city} on {day}?", "Will it rain in {city} on {day}?"),
    "get_time": ("What time is it in {city}?", "Tell me the time in {city}."),
    "book_train": (
        "Book a train from {origin} to {city}.",
        "I need a train from {origin} to {city}.",
    ),
    "send_message": ("Write {name} the message {text}.", "Send {text} to {name}."),
    "call_person": ("Call {name} at {hour}.", "I want to talk to {name} at {hour}."),
    "set_timer": ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes."),
    "find_item": ("Find my {thing}.", "Where did I leave my {thing}?"),
    "order_item": ("Order {count} of the {thing}.", "Buy the {thing}, {count} times."),
    "set_light": ("Make the light in the {place} {color}.", "I want {color} light in the {place}."),
    "open_door": (
        "Open the door of the {place} for {minutes} minutes.",
        "Let me into the {place} for {minutes} minutes.",
    ),
}
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TEXTS: Final = ("hello", "come home", "thank you", "good night", "be quick", "well done", "wait")


def number_function(rng: random.Random) -> Draft:
    """A function of one number: two or three steps."""
    body, steps, words = "x", [], []
    for position in range(rng.choice((2, 2, 3))):
        operator, k = rng.choice("+-*"), rng.randint(2, 12)
        body = f"({body})" if operator == "*" and position else body
        body = f"{body} {operator} {k}"
        steps.append(f"{operator}{k}")
        words.append({"+": f"adds {k}", "-": f"subtracts {k}", "*": f"multiplies by {k}"}[operator])
    name = rng.choice(FUNCTION_NAMES)
    return ask(
        f"Write a Python function {name}(x) that {', then '.join(words)}.",
        f"def {name}(x):\n    return {body}",
        spec={"_name": name, "steps": steps},
    )


def list_function(rng: random.Random) -> Draft:
    """A function of a list: keep some numbers, change them, perhaps fold them."""
    k, m = rng.randint(2, 12), rng.randint(2, 9)
    keep, kept, test = rng.choice(
        (
            (f">{k}", f"greater than {k}", f"x > {k}"),
            (f"<{k}", f"less than {k}", f"x < {k}"),
            ("even", "even", "x % 2 == 0"),
            ("odd", "odd", "x % 2 == 1"),
            (f"!={k}", f"not {k}", f"x != {k}"),
        )
    )
    change, changed, value = rng.choice(
        (
            ("same", "", "x"),
            (f"*{m}", f", times {m}", f"x * {m}"),
            (f"+{m}", f", plus {m}", f"x + {m}"),
            (f"-{m}", f", minus {m}", f"x - {m}"),
            ("square", ", squared", "x * x"),
        )
    )
    fold = rng.choice(("list", "list", "sum", "len"))
    what = {"list": "the list", "sum": "the sum", "len": "the number"}[fold]
    body = f"[{value} for x in xs if {test}]"
    body = body if fold == "list" else f"{fold}({body})"
    name = rng.choice(FUNCTION_NAMES)
    return ask(
        f"Write a Python function {name}(xs) that returns {what} of all x that are {kept}{changed}.",
        f"def {name}(xs):\n    return {body}",
        spec={"_name": name, "keep": keep, "change": change, "fold": fold},
    )


def text_function(rng: random.Random) -> Draft:
    """A function of a text: two or three steps."""
    body, steps, words = "s", [], []
    for _ in range(rng.choice((2, 3, 3))):
        k, mark = rng.randint(2, 6), rng.choice("!?.-*")
        step, word, call = rng.choice(
            (
                ("upper", "makes it upper case", "{}.upper()"),
                ("lower", "makes it lower case", "{}.lower()"),
                ("reverse", "reverses it", "{}[::-1]"),
                (f"first {k}", f"keeps the first {k} letters", f"{{}}[:{k}]"),
                (f"last {k}", f"keeps the last {k} letters", f"{{}}[-{k}:]"),
                (f"add {mark}", f"adds {mark} at the end", f"({{}} + '{mark}')"),
            )
        )
        if step in steps:
            continue
        body = call.format(body)
        steps.append(step)
        words.append(word)
    body = body[1:-1] if body.startswith("(") and steps[-1].startswith("add") else body
    name = rng.choice(FUNCTION_NAMES)
    return ask(
        f"Write a Python function {name}(s) that takes a text and {', then '.join(words)}.",
        f"def {name}(s):\n    return {body}",
        spec={"_name": name, "steps": steps},
    )


def trace(rng: random.Random) -> Draft:
    """What a loop prints."""
    value, times, k = rng.randint(0, 40), rng.randint(2, 5), rng.randint(2, 9)
    operator = rng.choice("+-*") if value < 4 and times < 4 and k < 4 else rng.choice("+-")
    program = f"x = {value}\nfor i in range({times}):\n    x = x {operator} {k}\nprint(x)"
    values = []
    for _ in range(times):
        value = {"+": value + k, "-": value - k, "*": value * k}[operator]
        values.append(str(value))
    return ask(
        f"What does this program print?\n{program}",
        f"x is {', '.join(values)}. Answer: {value}",
        spec={"program": program},
    )


def _toolbox(rng: random.Random, *needed: str) -> str:
    names = [*needed, *rng.sample([name for name in TOOLS if name not in needed], 2)]
    rng.shuffle(names)
    return "Tools: " + "; ".join(f"{name}({', '.join(TOOLS[name])})" for name in names)


def _arguments(rng: random.Random, tool: str) -> dict[str, str | int]:
    origin, city = rng.sample(CITIES, 2)
    pool: dict[str, str | int] = {
        "origin": origin,
        "city": city,
        "name": rng.choice(NAMES),
        "text": rng.choice(TEXTS),
        "minutes": rng.randint(1, 59),
        "thing": rng.choice(THINGS),
        "count": rng.randint(2, 20),
        "place": rng.choice(PLACES),
        "color": rng.choice(COLORS),
        "day": rng.choice(DAYS),
        "hour": rng.randint(1, 23),
    }
    return {name: pool[name] for name in TOOLS[tool]}


def _call(tool: str, arguments: dict[str, str | int]) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})


def call(rng: random.Random) -> Draft:
    """Choose the tool that fits, and fill in its arguments."""
    tool = rng.choice(list(TOOLS))
    arguments = _arguments(rng, tool)
    return ask(
        rng.choice(REQUESTS[tool]).format(**arguments),
        _call(tool, arguments),
        spec={"calls": [_call(tool, arguments)]},
        system=_toolbox(rng, tool),
    )


def no_tool(rng: random.Random) -> Draft:
    """No tool fits: say so instead of calling one."""
    tool = rng.choice(list(TOOLS))
    names = rng.sample([name for name in TOOLS if name != tool], 3)
    request = rng.choice(REQUESTS[tool]).format(**_arguments(rng, tool))
    return ask(
        request,
        "No tool fits.",
        spec={"request": request},
        system="Tools: " + "; ".join(f"{name}({', '.join(TOOLS[name])})" for name in names),
    )


def result(rng: random.Random) -> Draft:
    """Call a tool, then put its result into words."""
    city, degrees, hour = rng.choice(CITIES), rng.randint(2, 35), rng.randint(1, 23)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    tool, arguments, reply, answer = rng.choice(
        (
            (
                "get_weather",
                {"city": city, "day": rng.choice(DAYS)},
                {"degrees": degrees},
                f"It will be {degrees} degrees in {city}.",
            ),
            ("get_time", {"city": city}, {"hour": hour}, f"It is {hour}:00 in {city}."),
            ("find_item", {"thing": thing}, {"place": place}, f"Your {thing} is in the {place}."),
        )
    )
    request = rng.choice(REQUESTS[tool]).format(**arguments)
    messages = (
        Message("system", _toolbox(rng, tool)),
        Message("user", request),
        Message("assistant", _call(tool, dict(arguments))),
        Message("tool", json.dumps(reply)),
        Message("assistant", answer),
    )
    return Draft(messages, {"calls": [_call(tool, dict(arguments))], "reply": json.dumps(reply)})


def pair(rng: random.Random) -> Draft:
    """Two requests at once: two calls, one a line, in the order asked."""
    tools = rng.sample(list(TOOLS), 2)
    arguments = [_arguments(rng, tool) for tool in tools]
    parts = [rng.choice(REQUESTS[t]).format(**a) for t, a in zip(tools, arguments, strict=True)]
    calls = [_call(t, a) for t, a in zip(tools, arguments, strict=True)]
    return ask(
        " ".join(parts), "\n".join(calls), spec={"calls": calls}, system=_toolbox(rng, *tools)
    )


CODE: Final[dict[str, Family]] = {
    "number_function": number_function,
    "list_function": list_function,
    "text_function": text_function,
    "trace": trace,
}
TOOL_USE: Final[dict[str, Family]] = {
    "call": call,
    "no_tool": no_tool,
    "result": result,
    "pair": pair,
}
