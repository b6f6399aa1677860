"""The little tools of the tool-call dialogues: real functions over a small, fixed world.

A dialogue's calls are run, and its replies must be what comes back: a call with a wrong name, a
missing argument or one of another type is refused, as a server would refuse it. The world is what
the two clocks, the shelf and the price list below say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ares_coordinator.distiller.procedural.words import CITIES, PLACES, THINGS
from ares_p2p.errors import PayloadMalformed

Value = str | int
NOON_UTC: Final = 12  # what all clocks of the world are set by
# hours before or behind UTC in winter, in the order of `CITIES`
_OFFSETS: Final = dict(
    zip(
        CITIES,
        (1, 1, 1, 2, -5, -5, 9, 5, 0, 1, -5, 0, -5, 1, 0, 0, 1, 1, 3, 3, 1, 2, 9, 2, 11, 1, 1, 1,
         1, 1, 7, 0),
        strict=True,
    )
)  # fmt: skip
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's parameters with their types, and what it does."""

    parameters: Mapping[str, type[str] | type[int]]
    run: Callable[..., dict[str, Value]]


def _place_in(pool: tuple[str, ...], word: str) -> int:
    if word not in pool:
        raise PayloadMalformed(f"the world has no {word[:40]!r}")
    return pool.index(word)


def get_weather(city: str, day: str) -> dict[str, Value]:
    """Return the forecast: degrees by day, from a small formula."""
    return {"degrees": 2 + (7 * _place_in(CITIES, city) + 5 * _place_in(_DAYS, day)) % 33}


def get_time(city: str) -> dict[str, Value]:
    """Return the hour in a city when it is noon in UTC."""
    _place_in(CITIES, city)
    return {"hour": (NOON_UTC + _OFFSETS[city]) % 24}


def book_train(origin: str, city: str) -> dict[str, Value]:
    """Return the number of a seat."""
    if origin == city:
        raise PayloadMalformed("a train must go somewhere")
    return {"seat": 1 + (11 * _place_in(CITIES, origin) + _place_in(CITIES, city)) % 80}


def send_message(name: str, text: str) -> dict[str, Value]:
    """Return how many letters went to whom."""
    return {"to": name, "letters": len(text)}


def call_person(name: str, hour: int) -> dict[str, Value]:
    """Return the call that is put down for an hour of the day."""
    if not 0 <= hour <= 23:
        raise PayloadMalformed(f"hour {hour}, 0 to 23 expected")
    return {"calls": name, "hour": hour}


def set_timer(minutes: int) -> dict[str, Value]:
    """Return when the timer rings, counted from noon."""
    if minutes < 1:
        raise PayloadMalformed("a timer needs a minute at least")
    return {"rings": f"{NOON_UTC + minutes // 60}:{minutes % 60:02d}"}


def find_item(thing: str) -> dict[str, Value]:
    """Return where a thing lies."""
    return {"place": PLACES[(17 * _place_in(THINGS, thing) + 3) % len(PLACES)]}


def price(thing: str) -> dict[str, Value]:
    """Return what one of a thing costs."""
    return {"price": 2 + (13 * _place_in(THINGS, thing)) % 19}


def order_item(thing: str, count: int) -> dict[str, Value]:
    """Return what an order costs."""
    if count < 1:
        raise PayloadMalformed("an order needs one thing at least")
    return {"ordered": count, "cost": count * int(price(thing)["price"])}


def set_light(place: str, color: str) -> dict[str, Value]:
    """Return the light that is on now."""
    _place_in(PLACES, place)
    return {"place": place, "light": color}


def open_door(place: str, minutes: int) -> dict[str, Value]:
    """Return when the door closes, counted from noon."""
    _place_in(PLACES, place)
    return {"closes": set_timer(minutes)["rings"]}


def add(a: int, b: int) -> dict[str, Value]:
    """Return a sum."""
    return {"sum": a + b}


def multiply(a: int, b: int) -> dict[str, Value]:
    """Return a product."""
    return {"product": a * b}


TOOLS: Final[dict[str, Tool]] = {
    "get_weather": Tool({"city": str, "day": str}, get_weather),
    "get_time": Tool({"city": str}, get_time),
    "book_train": Tool({"origin": str, "city": str}, book_train),
    "send_message": Tool({"name": str, "text": str}, send_message),
    "call_person": Tool({"name": str, "hour": int}, call_person),
    "set_timer": Tool({"minutes": int}, set_timer),
    "find_item": Tool({"thing": str}, find_item),
    "order_item": Tool({"thing": str, "count": int}, order_item),
    "set_light": Tool({"place": str, "color": str}, set_light),
    "open_door": Tool({"place": str, "minutes": int}, open_door),
    "price": Tool({"thing": str}, price),
    "add": Tool({"a": int, "b": int}, add),
    "multiply": Tool({"a": int, "b": int}, multiply),
}


def run_tool(name: str, arguments: Mapping[str, object]) -> dict[str, Value]:
    """Return what a tool replies.

    Raises: PayloadMalformed: no such tool, or arguments that it does not take.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise PayloadMalformed(f"no tool {name[:40]!r}")
    if arguments.keys() != tool.parameters.keys():
        raise PayloadMalformed(f"{name} takes {', '.join(tool.parameters)}")
    if any(type(arguments[key]) is not kind for key, kind in tool.parameters.items()):
        raise PayloadMalformed(f"an argument of {name} has another type")
    return tool.run(**arguments)


def run_call(call: str) -> str:
    """Return the reply, as JSON, to a call written as JSON with `tool` and `arguments`.

    Raises: PayloadMalformed: see `run_tool`; no such JSON.
    """
    try:
        value = json.loads(call)
        name, arguments = value["tool"], value["arguments"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise PayloadMalformed("a call must be JSON with tool and arguments") from error
    if len(value) != 2 or not isinstance(name, str) or not isinstance(arguments, dict):
        raise PayloadMalformed("a call must hold tool and arguments, nothing else")
    return json.dumps(run_tool(name, arguments))
