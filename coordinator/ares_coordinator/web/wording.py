"""How numbers, times and states are said on the pages. Pure; times are UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

MS_PER_S: Final = 1_000
_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))
_BYTES: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))

# glyph and class of a state: never by colour alone
STATES: Final = {
    "running": ("●", "good"),
    "paused": ("❚❚", "warn"),
    "idle": ("○", "calm"),
    "online": ("●", "good"),
    "offline": ("○", "calm"),
    "settled": ("✓", "good"),
    "pending": ("…", "calm"),
    "waiting": ("…", "calm"),
    "refused": ("✕", "bad"),
    "void": ("✕", "bad"),
    "clawback": ("↶", "bad"),
    "unpaid": ("–", "calm"),
    "done": ("✓", "good"),
    "failed": ("✕", "bad"),
}


def glyph(state: str) -> str:
    """Return the sign of a state."""
    return STATES.get(state, ("•", "calm"))[0]


def tone(state: str) -> str:
    """Return the CSS class of a state."""
    return STATES.get(state, ("•", "calm"))[1]


def moment(at_ms: int | None) -> str:
    """Return "2026-12-01 06:30 UTC"; "never" for None."""
    if at_ms is None:
        return "never"
    return datetime.fromtimestamp(at_ms / MS_PER_S, UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso(at_ms: int) -> str:
    """Return a time for machines."""
    return datetime.fromtimestamp(at_ms / MS_PER_S, UTC).isoformat(timespec="seconds")


def duration(ms: int) -> str:
    """Return "3 d 4 h", "12 min", "8 s": the two largest units."""
    seconds = max(0, ms) // MS_PER_S
    parts: list[str] = []
    for size, name in _STEPS:
        if seconds >= size or parts:
            parts.append(f"{seconds // size} {name}")
            seconds %= size
        if len(parts) == 2:
            break
    shown = [part for part in parts if not part.startswith("0 ")]
    return " ".join(shown) if shown else f"{seconds} s"


def size(count: int) -> str:
    """Return bytes in decimal units."""
    for unit, name in _BYTES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def loss(value: float | None) -> str:
    """Return a loss in nats per token; a dash for none."""
    return "–" if value is None else f"{value:.4f}"


def credit(value: float) -> str:
    """Return an amount of credit."""
    return f"{value:,.2f}" if abs(value) < 1_000 else f"{value:,.0f}"


def short_id(peer: str) -> str:
    """Return a peer id as people tell them apart: its end; the beginning is the same for all."""
    return f"…{peer[-8:]}" if len(peer) > 12 else peer


FILTERS: Final = {
    "glyph": glyph,
    "tone": tone,
    "moment": moment,
    "iso": iso,
    "duration": duration,
    "size": size,
    "loss": loss,
    "credit": credit,
    "short_id": short_id,
}
