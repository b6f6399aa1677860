"""The end of a round: one entry per commit, the coefficients, the next state's digest."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ares_p2p.domain import EntryStatus, Header, ManifestEntry, RoundManifest
from ares_p2p.errors import CommitReplayed, HashMismatch, PayloadMalformed
from ares_p2p.ids import Digest
from ares_p2p.rounds.commits import SignedCommit

MAX_COEFFICIENT = 1.0  # one contribution is never more than the whole mean


def float32(value: float) -> float:
    """Return the nearest float32: the coefficient's value on the wire and in the sum."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def build_manifest(
    *,
    header: Header,
    plan_sha256: Digest,
    commit_set_sha256: Digest,
    entries: Sequence[ManifestEntry],
    next_state: Digest,
    next_state_size_bytes: int,
    final: bool,
) -> RoundManifest:
    """Return the manifest; entries stand in commit order."""
    return RoundManifest(
        header=header,
        plan_sha256=plan_sha256,
        commit_set_sha256=commit_set_sha256,
        entries=tuple(entries),
        next_state=next_state,
        next_state_size_bytes=next_state_size_bytes,
        final=final,
    )


def check_manifest(
    manifest: RoundManifest,
    *,
    commits: Sequence[SignedCommit],
    plan_sha256: Digest,
    commit_set_sha256: Digest,
) -> None:
    """Verify that a manifest is about exactly these commits, with sane coefficients.

    Raises: CommitReplayed: of another plan or commit set. HashMismatch: commits left out, added
        or reordered. PayloadMalformed: a coefficient out of range, or one for a refused entry.
    """
    if manifest.plan_sha256 != plan_sha256 or manifest.commit_set_sha256 != commit_set_sha256:
        raise CommitReplayed("the manifest ends another round")
    listed = [(entry.commit_sha256, entry.peer) for entry in manifest.entries]
    if listed != [(signed.sha256, signed.peer) for signed in commits]:
        raise HashMismatch("the manifest does not list the closed commits in their order")
    for entry in manifest.entries:
        if not 0.0 <= entry.coefficient <= MAX_COEFFICIENT:
            raise PayloadMalformed(f"coefficient {entry.coefficient} is outside 0..1")
        if (entry.status is EntryStatus.REFUSED) != (entry.coefficient == 0.0):
            raise PayloadMalformed("a refused entry with a coefficient, or the reverse")
