"""What a round came to for one peer, as the event that says so. Pure."""

from __future__ import annotations

from ares_p2p.domain import RoundCorrection, RoundManifest
from ares_p2p.ids import PeerId
from ares_p2p.rounds.manifest import is_poison
from ares_peer.events import RoundCorrected, RoundDone

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


def round_corrected(
    manifest: RoundManifest, correction: RoundCorrection, *, peer: PeerId
) -> RoundCorrected:
    """Return the report of a correction that a checked manifest carries, as `peer` reads it."""
    taken_out = [entry for entry in correction.entries if is_poison(entry)]
    own = next((entry for entry in taken_out if entry.peer == peer), None)
    return RoundCorrected(
        cycle=manifest.header.cycle,
        round=correction.round,
        in_round=manifest.header.round,
        taken_out=tuple(entry.peer for entry in taken_out),
        held_out_before=correction.held_out_before,
        held_out_bad=correction.held_out_bad,
        held_out_after=correction.held_out_after,
        code="" if own is None else own.code,
        message="" if own is None else own.message,
    )
