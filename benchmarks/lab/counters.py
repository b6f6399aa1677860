"""Bytes per cable: read from the kernel's counts of the hub's interfaces, cut into rounds.

The hub's end of a cable counts what the shaper let through, with every header down to Ethernet's.
What the hub receives is what the node sent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SAMPLE_S: Final = 0.2
PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes that a node sent and received."""

    up: int = 0
    down: int = 0

    def __sub__(self, other: Carried) -> Carried:
        return Carried(self.up - other.up, self.down - other.down)


def parse_net_dev(text: str) -> dict[str, Carried]:
    """Return what `/proc/net/dev` says of each interface, seen from the other end of its cable."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        found[name.strip()] = Carried(up=int(fields[0]), down=int(fields[8]))
    return found


@dataclass(slots=True)
class Counters:
    """The counts of the hub's cables over time. `pid` is a process in the hub's namespace."""

    pid: int
    nodes: frozenset[str]
    times_s: list[float] = field(default_factory=list)
    samples: list[dict[str, Carried]] = field(default_factory=list)

    def now(self) -> dict[str, Carried]:
        """Return the counts of this moment. Raises: OSError: the hub is gone."""
        found = parse_net_dev((PROC / str(self.pid) / "net" / "dev").read_text())
        return {name: carried for name, carried in found.items() if name in self.nodes}

    def sample(self, *, now_s: float) -> None:
        """Remember the counts of this moment."""
        counts = self.now()
        self.times_s.append(now_s)
        self.samples.append(counts)

    def until(self, at_s: float) -> dict[str, Carried]:
        """Return the counts at a time, between two samples in proportion."""
        if not self.samples:
            return {}
        after = bisect_right(self.times_s, at_s)
        if after == 0 or after == len(self.samples):
            return self.samples[max(0, after - 1)]
        earlier, later = self.samples[after - 1], self.samples[after]
        start_s, end_s = self.times_s[after - 1], self.times_s[after]
        share = (at_s - start_s) / (end_s - start_s)
        return {
            name: Carried(
                up=round(a.up + share * (later[name].up - a.up)),
                down=round(a.down + share * (later[name].down - a.down)),
            )
            for name, a in earlier.items()
            if name in later
        }

    def between(self, start_s: float, end_s: float) -> dict[str, Carried]:
        """Return what each node sent and received in a window of time."""
        before = self.until(start_s)
        return {
            name: carried - before.get(name, Carried())
            for name, carried in self.until(end_s).items()
        }


def total(parts: Iterable[Carried]) -> Carried:
    """Return the sum."""
    items: Sequence[Carried] = list(parts)
    return Carried(sum(item.up for item in items), sum(item.down for item in items))
