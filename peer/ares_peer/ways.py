"""Which way this peer reaches the network: P2P, P2P through a relay, or HTTPS. Pure.

P2P carries the bytes between peers and costs the coordinator nothing, so it is the way wherever
it works. It is left when the coordinator cannot be reached by it again and again while HTTPS
works; when neither works, the coordinator is away, and changing the way would mend nothing. It is
taken again when it worked several times in a row. A way that was left soon after it was taken
again is given longer to prove itself, so that a line on the edge does not make the peer swing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LEAVE_AFTER: Final = 3  # probes of P2P that fail while HTTPS works
RETURN_AFTER: Final = 3  # probes of P2P that work
FIRST_HOLD_MS: Final = 60_000  # on HTTPS at least
LONGEST_HOLD_MS: Final = 1_800_000
STEADY_MS: Final = 600_000  # P2P that lasted so long starts afresh
CALM_PROBE_S: Final = 60.0  # on P2P: a call that fails is the better probe, and asks for one
PROBE_S: Final = 20.0  # on HTTPS: whether P2P works again
SUSPECT_PROBE_S: Final = 2.0  # while it is not clear whether P2P is lost


class Way(StrEnum):
    """How the network is reached, as PeerStatus names it."""

    P2P = "p2p"
    RELAY = "relay"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether the coordinator answered by each way just now. A way that there is not: False."""

    p2p: bool
    http: bool


@dataclass(slots=True)
class WayChoice:
    """Decides by probes. `is_http` says what was decided.

    Args:
        is_http: the way at the start.
    """

    is_http: bool = False
    _misses: int = 0
    _hits: int = 0
    _hold_ms: int = FIRST_HOLD_MS
    _until_ms: int = 0  # HTTPS is kept at least until then
    _since_ms: int | None = None  # P2P was taken again

    @property
    def pause_s(self) -> float:
        """How long the next probe may take, unless a call fails before."""
        if self.is_http:
            return PROBE_S
        return SUSPECT_PROBE_S if self._misses else CALM_PROBE_S

    def hear(self, probe: Probe, *, now_ms: int) -> bool:
        """Take a probe into account; True when the way has changed by it."""
        if self.is_http:
            return self._hear_on_http(probe, now_ms=now_ms)
        if probe.p2p:
            self._misses = 0
        elif probe.http:  # only then is it P2P's fault
            self._misses += 1
        if self._misses < LEAVE_AFTER:
            return False
        self.leave(now_ms=now_ms)
        return True

    def _hear_on_http(self, probe: Probe, *, now_ms: int) -> bool:
        self._hits = self._hits + 1 if probe.p2p else 0
        lost = not probe.http and self._hits > 0
        if not lost and (self._hits < RETURN_AFTER or now_ms < self._until_ms):
            return False
        self.is_http, self._hits, self._misses = False, 0, 0
        self._since_ms = now_ms
        return True

    def leave(self, *, now_ms: int) -> None:
        """Go over to HTTPS at once: the node died, or P2P was lost."""
        since_ms = self._since_ms
        if since_ms is not None and now_ms - since_ms < STEADY_MS:
            self._hold_ms = min(LONGEST_HOLD_MS, 2 * self._hold_ms)
        else:
            self._hold_ms = FIRST_HOLD_MS
        self.is_http, self._hits, self._misses = True, 0, 0
        self._until_ms = now_ms + self._hold_ms


def is_relayed(addresses: tuple[str, ...]) -> bool:
    """Whether others reach a node through a relay, judging by the addresses it announces.

    p2pd asks for a relay, and announces its circuits, only when it finds that nobody can dial it.
    """
    return any("/p2p-circuit" in address for address in addresses)
