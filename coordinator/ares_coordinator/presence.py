"""Who is there: peers announce themselves, and say which round they work on.

A volunteer's word about being present decides only how long a round waits for it, never what it
is paid. Bounded: a crowd of made-up identities costs memory for the newest few thousand only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from ares_p2p.domain import PeerStatus
from ares_p2p.ids import PeerId

PRESENT_FOR_MS = 45_000  # three announcements of a peer
MAX_REMEMBERED = 4_096


@dataclass(slots=True)
class Presence:
    """The newest announcement of each peer."""

    _seen: OrderedDict[PeerId, tuple[int, PeerStatus]] = field(default_factory=OrderedDict)

    def note(self, peer: PeerId, status: PeerStatus, *, now_ms: int) -> None:
        """Remember an announcement."""
        self._seen[peer] = (now_ms, status)
        self._seen.move_to_end(peer)
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def present(self, *, now_ms: int) -> dict[PeerId, PeerStatus]:
        """Return who announced itself lately."""
        return {
            peer: status
            for peer, (seen_ms, status) in self._seen.items()
            if now_ms - seen_ms <= PRESENT_FOR_MS
        }

    def working_on(self, cycle: int, *, now_ms: int) -> set[PeerId]:
        """Return the present peers that are prepared for a cycle: a round waits for them."""
        found = self.present(now_ms=now_ms)
        return {peer for peer, status in found.items() if status.header.cycle == cycle}
