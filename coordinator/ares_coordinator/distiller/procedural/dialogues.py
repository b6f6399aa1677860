"""Generators of `tool_use`: which tool, with which arguments, and what its reply means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from ares_coordinator.distiller.procedural.draft import Brief, Draft, Family
from ares_coordinator.distiller.procedural.tools import TOOLS, run_call
from ares_coordinator.distiller.procedural.words import CITIES, COLORS, NAMES, PLACES, THINGS
from ares_p2p.shards import Message

DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TEXTS: Final = ("hello", "come home", "thank you", "good night", "be quick", "well done", "wait")
TOLD: Final = {  # what to say when a tool has replied
    "get_weather": "It will be {degrees} degrees in {city} on {day}.",
    "get_time": "It is {hour}:00 in {city}.",
    "find_item": "Your {thing} is in the {place}.",
    "price": "The {thing} costs {price}.",
    "add": "{a} and {b} make {sum}.",
    "multiply": "{a} times {b} is {product}.",
}


def _toolbox(brief: Brief, *needed: str, without: str = "") -> str:
    others = [name for name in TOOLS if name not in needed and name != without]
    names = [*needed, *brief.rng.sample(others, brief.by_level(1, 3, 5))]
    brief.rng.shuffle(names)
    shown = (f"{name}({', '.join(TOOLS[name].parameters)})" for name in names)
    return f"Tools: {'; '.join(shown)}"


def _arguments(brief: Brief, tool: str) -> dict[str, str | int]:
    rng = brief.rng
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
        "a": rng.randint(2, brief.by_level(20, 50, 99)),
        "b": rng.randint(2, brief.by_level(20, 50, 99)),
    }
    return {name: pool[name] for name in TOOLS[tool].parameters}


def _call(tool: str, arguments: Mapping[str, str | int]) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})


def call(brief: Brief) -> Draft:
    """Choose the tool that fits, and fill in its arguments."""
    tool = brief.rng.choice(list(TOOLS))
    arguments = _arguments(brief, tool)
    made = _call(tool, arguments)
    return brief.ask(tool, made, task=(made,), system=_toolbox(brief, tool), **arguments)


def no_tool(brief: Brief) -> Draft:
    """No tool fits: say so instead of calling one."""
    tool = brief.rng.choice(list(TOOLS))
    arguments = _arguments(brief, tool)
    system = _toolbox(brief, *_other(brief, tool), without=tool)
    return brief.ask(
        tool, "No tool fits.", task=(_call(tool, arguments),), system=system, **arguments
    )


def _other(brief: Brief, tool: str) -> list[str]:
    return [brief.rng.choice([name for name in TOOLS if name != tool])]


def result(brief: Brief) -> Draft:
    """Call a tool, then put its reply into words."""
    tool = brief.rng.choice(list(TOLD))
    arguments = _arguments(brief, tool)
    made = _call(tool, arguments)
    reply = run_call(made)
    draft = brief.ask(tool, "-", task=(made,), system=_toolbox(brief, tool), **arguments)
    told = TOLD[tool].format(**{**arguments, **json.loads(reply)})
    turns = (
        *draft.messages[:-1],
        Message("assistant", made),
        Message("tool", reply),
        Message("assistant", told),
    )
    return Draft(turns, draft.task, draft.template)


def pair(brief: Brief) -> Draft:
    """Two requests at once: two calls, one a line, in the order asked."""
    tools = brief.rng.sample(list(TOOLS), 2)
    system = _toolbox(brief, *tools)
    requests, calls, templates = [], [], []
    for tool in tools:
        arguments = _arguments(brief, tool)
        template, wording = brief.wording(tool)
        requests.append(wording.format(**arguments))
        calls.append(_call(tool, arguments))
        templates.append(template)
    turns = (
        Message("system", system),
        Message("user", " ".join(requests)),
        Message("assistant", "\n".join(calls)),
    )
    return Draft(turns, tuple(calls), "+".join(templates))


def chain(brief: Brief) -> Draft:
    """A price must be asked before a sum can be made: the dialogue ends at either step."""
    thing, count = brief.rng.choice(THINGS), brief.rng.randint(2, brief.by_level(9, 20, 60))
    ends = brief.rng.choice(("second call", "told"))
    system = _toolbox(brief, "price", "multiply")
    draft = brief.ask(
        "chain", "-", task=(str(count), thing, ends), system=system, thing=thing, count=count
    )
    first = _call("price", {"thing": thing})
    cost = json.loads(run_call(first))["price"]
    second = _call("multiply", {"a": count, "b": cost})
    turns = [
        *draft.messages[:-1],
        Message("assistant", first),
        Message("tool", run_call(first)),
        Message("assistant", second),
    ]
    if ends == "told":
        turns.append(Message("tool", run_call(second)))
        turns.append(Message("assistant", f"{count} of the {thing} cost {count * cost}."))
    return Draft(tuple(turns), draft.task, draft.template)


TOOL_USE: Final[dict[str, Family]] = {
    "call": call,
    "no_tool": no_tool,
    "result": result,
    "pair": pair,
    "chain": chain,
}
