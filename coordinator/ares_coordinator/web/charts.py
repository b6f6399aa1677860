"""Numbers become the geometry of a chart; a template draws it. Pure.

A chart is at most `WIDTH` x `HEIGHT` units of an SVG that scales with the page. Every chart stands
beside a table with the same numbers, so nothing is only a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 30
TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place of an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series: `points` for a polyline, `dots` for single values."""

    name: str
    points: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its label below and its value above."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What a template draws."""

    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT


def nice_ticks(low: float, high: float, *, count: int = TICKS) -> list[float]:
    """Return about `count` round numbers that span `low` to `high`."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = math.floor(low / step)
    found = [first * step]
    while found[-1] < high:
        found.append((first + len(found)) * step)
    return found


def line_chart(
    series: Sequence[tuple[str, Sequence[tuple[float, float | None]]]],
) -> Chart | None:
    """Return a chart of series of (x, y); None when there is nothing to draw.

    Args:
        series: name and points in the order of x, which are whole numbers; y may be missing.
    """
    kept = [
        (name, [(x, y) for x, y in points if y is not None and math.isfinite(y)])
        for name, points in series
    ]
    xs = [x for _, points in kept for x, _ in points]
    ys = [y for _, points in kept for _, y in points]
    if not ys:
        return None
    y_ticks = nice_ticks(min(ys), max(ys))
    low_x, high_x = min(xs), max(*xs, min(xs) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return round(LEFT + across * inner_w, 1), round(TOP + (1 - up) * inner_h, 1)

    digits = max(0, -math.floor(math.log10(y_ticks[1] - y_ticks[0])))
    whole = sorted({round(x) for x in nice_ticks(low_x, high_x, count=8)})
    lines = []
    for name, points in kept:
        dots = tuple(place(x, y) for x, y in points)
        lines.append(Line(name, " ".join(f"{x},{y}" for x, y in dots), dots))
    return Chart(
        xs=tuple(Tick(place(x, y_ticks[0])[0], str(x)) for x in whole if low_x <= x <= high_x),
        ys=tuple(Tick(place(low_x, y)[1], f"{y:.{digits}f}") for y in y_ticks),
        lines=tuple(lines),
    )


def bar_chart(values: Sequence[tuple[str, float, str]]) -> Chart | None:
    """Return bars from zero; None when there are none.

    Args:
        values: label, height (0 or more), and how the height is said.
    """
    if not values:
        return None
    top = max(value for _, value, _ in values) or 1.0
    room = (WIDTH - LEFT - RIGHT) / len(values)
    inner = HEIGHT - TOP - BOTTOM - 18  # above a bar stands its value
    bars = []
    for place, (label, value, text) in enumerate(values):
        height = round(inner * value / top, 1)
        bars.append(
            Bar(
                x=round(LEFT + place * room + room * 0.15, 1),
                y=round(HEIGHT - BOTTOM - height, 1),
                width=round(room * 0.7, 1),
                height=height,
                label=label,
                value=text,
            )
        )
    return Chart(xs=(), ys=(), bars=tuple(bars))
