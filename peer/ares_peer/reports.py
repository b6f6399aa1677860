"""What a round came to for one peer, as the event that says so. Pure."""

from __future__ import annotations

from ares_p2p.domain import RoundManifest
from ares_p2p.ids import PeerId
from ares_peer.events import RoundDone

NOT_LISTED = "not among the round's commits"


def round_done(manifest: RoundManifest, *, peer: PeerId, missed_because: str) -> RoundDone:
    """Return the report of a checked manifest.

    Args:
        missed_because: why `peer` did not commit, when it knows.
    """
    place = (manifest.header.cycle, manifest.header.round)
    state = manifest.next_state.hex()
    for entry in manifest.entries:
        if entry.peer == peer:
            return RoundDone(
                *place, entry.status.value, entry.coefficient, entry.code, entry.message, state
            )
    return RoundDone(*place, "missed", 0.0, "", missed_because or NOT_LISTED, state)
