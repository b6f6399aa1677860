"""Verifiers of `tool_use`: requests are read again, and all calls of a dialogue are run.

A reply in a row must be what the tool says; a call must be one that the tool takes.
"""

from __future__ import annotations

import json
import re
from typing import Final

from ares_coordinator.distiller.procedural.reading import Reader, Reading, Turns, find
from ares_coordinator.distiller.procedural.tools import run_call
from ares_p2p.errors import PayloadMalformed

Call = tuple[str, dict[str, str | int]]
_REQUESTS: Final = (  # pattern of a request -> the tool that serves it
    (r"(?:What is the weather|Will it rain) in (?P<city>\w+) on (?P<day>\w+)\?", "get_weather"),
    (r"Tell me how warm (?P<city>\w+) will be on (?P<day>\w+)\.", "get_weather"),
    (r"(?:What time is it|Tell me the time|How late is it now) in (?P<city>\w+)[?.]", "get_time"),
    (r"(?:Book|I need) a train from (?P<origin>\w+) to (?P<city>\w+)\.", "book_train"),
    (r"Get me a seat from (?P<origin>\w+) to (?P<city>\w+)\.", "book_train"),
    (r"Write (?P<name>\w+) the message (?P<text>[a-z ]+)\.", "send_message"),
    (r"Send (?P<text>[a-z ]+) to (?P<name>\w+)\.", "send_message"),
    (r"Let (?P<name>\w+) know this: (?P<text>[a-z ]+)\.", "send_message"),
    (r"(?:Call|I want to talk to) (?P<name>\w+) at (?P<hour>\d+)\.", "call_person"),
    (r"Ring up (?P<name>\w+) when it is (?P<hour>\d+)\.", "call_person"),
    (
        r"(?:Set a timer for|Wake me in|Ring a bell after) (?P<minutes>\d+) minutes\.",
        "set_timer",
    ),
    (r"(?:Find my|Where did I leave my|I have lost my) (?P<thing>\w+)[?.]", "find_item"),
    (r"Order (?P<count>\d+) of the (?P<thing>\w+)\.", "order_item"),
    (r"Buy the (?P<thing>\w+), (?P<count>\d+) times\.", "order_item"),
    (r"Have (?P<count>\d+) of the (?P<thing>\w+) sent to me\.", "order_item"),
    (r"Make the light in the (?P<place>\w+) (?P<color>\w+)\.", "set_light"),
    (r"I want (?P<color>\w+) light in the (?P<place>\w+)\.", "set_light"),
    (r"Turn the lamps of the (?P<place>\w+) to (?P<color>\w+)\.", "set_light"),
    (
        r"(?:Open the door of|Let me into) the (?P<place>\w+) for (?P<minutes>\d+) minutes\.",
        "open_door",
    ),
    (r"Unlock the (?P<place>\w+) and wait (?P<minutes>\d+) minutes\.", "open_door"),
    (r"(?:What does|How expensive is) the (?P<thing>\w+)(?: cost)?\?", "price"),
    (r"Tell me the price of the (?P<thing>\w+)\.", "price"),
    (r"Add (?P<a>\d+) and (?P<b>\d+)\.", "add"),
    (r"What is (?P<a>\d+) plus (?P<b>\d+)\?", "add"),
    (r"How much are (?P<a>\d+) and (?P<b>\d+) together\?", "add"),
    (r"Multiply (?P<a>\d+) by (?P<b>\d+)\.", "multiply"),
    (r"What is (?P<a>\d+) times (?P<b>\d+)\?", "multiply"),
    (r"How much are (?P<a>\d+) rows of (?P<b>\d+)\?", "multiply"),
)
_NUMERIC: Final = frozenset({"minutes", "count", "hour", "a", "b"})


def toolbox_of(system: str) -> dict[str, list[str]]:
    """Return the tools that a system text names, with their parameters."""
    return {
        name: parameters.split(", ")
        for name, parameters in re.findall(r"(\w+)\(([\w, ]+)\)", system.partition("Tools: ")[2])
    }


def requests_of(text: str) -> list[Call]:
    """Return the calls that a user's words ask for, in their order."""
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


def _calls(text: str) -> list[tuple[object, object]]:
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


def _written(call: Call) -> str:
    """Return a call as a task names it; its arguments in the order of the tool's parameters."""
    return json.dumps({"tool": call[0], "arguments": call[1]})


def _in_order(system: str, call: Call) -> Call:
    """Return a call with its arguments in the order of the toolbox.

    Raises: PayloadMalformed: the toolbox has no such tool.
    """
    tool, arguments = call
    parameters = toolbox_of(system).get(tool, [])
    if sorted(parameters) != sorted(arguments):
        raise PayloadMalformed(f"no tool {tool} in the toolbox, or another one of this name")
    return tool, {name: arguments[name] for name in parameters}


def _makes(text: str, wanted: list[Call]) -> bool:
    """Return whether a text is exactly these calls, of the right types, and all of them run."""
    try:
        made = _calls(text)
        for line in text.splitlines():
            run_call(line)
    except PayloadMalformed:
        return False
    return repr(sorted_arguments(made)) == repr(sorted_arguments(wanted))


def sorted_arguments(calls: object) -> list[tuple[object, object]]:
    """Return calls with their arguments sorted by name, for comparing types and values."""
    assert isinstance(calls, list)
    return [(t, sorted(a.items()) if isinstance(a, dict) else a) for t, a in calls]


def call(turns: Turns) -> Reading:
    """Exactly the calls that the request asks for, in its order."""
    system = turns.last("system")
    wanted = [_in_order(system, one) for one in requests_of(turns.asked)]
    if not wanted:
        raise PayloadMalformed("the request asks for no tool")
    return Reading(tuple(map(_written, wanted)), lambda text, _: _makes(text, wanted))


def no_tool(turns: Turns) -> Reading:
    """The words that say that no tool serves the request; none must."""
    wanted = requests_of(turns.asked)
    if len(wanted) != 1 or wanted[0][0] in toolbox_of(turns.last("system")):
        raise PayloadMalformed("one request that no tool serves was expected")
    tool, arguments = wanted[0]

    def judge(text: str, _: object) -> bool:
        return text.strip().rstrip(".").lower() == "no tool fits"

    return Reading((_task_of_missing(tool, arguments),), judge)


def _task_of_missing(tool: str, arguments: dict[str, str | int]) -> str:
    """Return the call that cannot be made; the toolbox does not say the order of its arguments."""
    order = {"send_message": ("name", "text"), "set_light": ("place", "color"),
             "order_item": ("thing", "count")}.get(tool, tuple(arguments))  # fmt: skip
    return _written((tool, {name: arguments[name] for name in order}))


def _replied(turns: Turns) -> list[tuple[str, str]]:
    """Return the calls and replies before the last answer, each run again.

    Raises: PayloadMalformed: a reply is not what the tool says.
    """
    later = [m for m in turns.messages if m.role in ("assistant", "tool")]
    pairs = list(zip(later[::2], later[1::2], strict=False))
    if (
        not pairs
        or len(later) % 2
        or any((a.role, t.role) != ("assistant", "tool") for a, t in pairs)
    ):
        raise PayloadMalformed("calls and replies must take turns")
    for made, reply in pairs:
        if run_call(made.content) != reply.content:
            raise PayloadMalformed("a tool's reply is not what the tool says")
    return [(made.content, reply.content) for made, reply in pairs]


def _tells(text: str, wanted: list[object]) -> bool:
    told = re.findall(r"\w+", text)
    return all(str(word) in told for word in wanted)


def result(turns: Turns) -> Reading:
    """A sentence that tells the tool's reply, and about what the user asked for."""
    asked = call(turns)
    ((made, reply),) = _replied(turns)
    if not asked.judge(made, None):
        raise PayloadMalformed("the call before the answer is not what was asked for")
    (wanted,) = requests_of(turns.asked)
    values = [*json.loads(reply).values(), *wanted[1].values()]
    return Reading(asked.task, lambda text, _: _tells(text, values))


def chain(turns: Turns) -> Reading:
    """First the price, then the product of price and count, then the sum in words."""
    said = find(r"(\d+) of the (\w+)(?: cost)?[?.]", turns.asked)
    count, thing = int(said[1]), said[2]
    done = _replied(turns)
    if not _makes(done[0][0], [("price", {"thing": thing})]):
        raise PayloadMalformed("the first call does not ask for the price")
    cost = json.loads(done[0][1])["price"]
    second: list[Call] = [("multiply", {"a": count, "b": cost})]
    box = toolbox_of(turns.last("system"))
    if box.get("price") != ["thing"] or box.get("multiply") != ["a", "b"]:
        raise PayloadMalformed("the toolbox lacks what the dialogue calls")
    if len(done) == 1:
        return Reading((said[1], thing, "second call"), lambda text, _: _makes(text, second))
    if len(done) != 2 or not _makes(done[1][0], second):
        raise PayloadMalformed("the second call does not multiply price and count")
    total = sum([int(cost)] * count)
    return Reading((said[1], thing, "told"), lambda text, _: _tells(text, [count, thing, total]))


READERS: Final[dict[str, Reader]] = {
    "call": call,
    "no_tool": no_tool,
    "result": result,
    "pair": call,
    "chain": chain,
}
