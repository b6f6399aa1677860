"""The end of a round: one entry per commit, the coefficients, the next state's digest.

A manifest may *correct* the round before: it then lists that round's contributions once more,
without those that turned out to be poison, and leads to the state that the round before should
have led to. Its own contributions, made from the poisoned state, are set aside: audited and paid,
and not used. So no signed manifest is ever taken back, and the chain of states never forks.

Refused: a correction of any other round, of a round that was a correction itself, of other
commits, in another order; one that brings back what was refused, or that takes nothing out.
Source: docs/adr/0006.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ares_p2p.domain import (
    EntryStatus,
    Header,
    ManifestEntry,
    PartRef,
    RoundCorrection,
    RoundManifest,
)
from ares_p2p.errors import (
    CommitReplayed,
    HashMismatch,
    PayloadMalformed,
    PoisonFound,
    RoundSetAside,
)
from ares_p2p.ids import Digest
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.rounds.parts import check_parts

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
    correction: RoundCorrection | None = None,
    parts: Sequence[PartRef] = (),
) -> RoundManifest:
    """Return the manifest; entries stand in commit order, parts in the order of the vector."""
    return RoundManifest(
        header=header,
        plan_sha256=plan_sha256,
        commit_set_sha256=commit_set_sha256,
        entries=tuple(entries),
        next_state=next_state,
        next_state_size_bytes=next_state_size_bytes,
        final=final,
        corrections=() if correction is None else (correction,),
        parts=tuple(parts),
    )


def check_manifest(
    manifest: RoundManifest,
    *,
    commits: Sequence[SignedCommit],
    plan_sha256: Digest,
    commit_set_sha256: Digest,
    previous_manifest_sha256: Digest | None = None,
    part_sizes: Sequence[int] | None = (),
) -> None:
    """Verify that a manifest is about exactly these commits, with sane coefficients.

    Args:
        part_sizes: bytes of the sum's parts, see `parts.check_parts`; None when the plan of the
            round whose sum it is is not held: then the parts are not checked.
        previous_manifest_sha256: as the round's plan names it: what a correction must be about.
            None when the plan is not held: then that is not checked.
    Raises: CommitReplayed: of another plan or commit set, or it corrects another manifest.
        HashMismatch: commits left out, added or reordered. PayloadMalformed: a coefficient out of
        range, one for a refused entry, none for another, a correction that cannot be, or other
        parts than the plan promised.
    """
    if manifest.plan_sha256 != plan_sha256 or manifest.commit_set_sha256 != commit_set_sha256:
        raise CommitReplayed("the manifest ends another round")
    listed = [(entry.commit_sha256, entry.peer) for entry in manifest.entries]
    if listed != [(signed.sha256, signed.peer) for signed in commits]:
        raise HashMismatch("the manifest does not list the closed commits in their order")
    if len(manifest.corrections) > 1:
        raise PayloadMalformed(f"{len(manifest.corrections)} corrections in one manifest")
    for correction in manifest.corrections:
        _check_own_correction(manifest, correction, previous_manifest_sha256)
    for entry in manifest.entries:
        _check_range(entry)
        if is_unused(entry):
            _check_unused(manifest, entry)
        elif manifest.corrections and entry.coefficient:
            raise PayloadMalformed("a round that is set aside gives a contribution weight")
        else:
            _check_weight(entry)
    if part_sizes is not None:
        check_parts(manifest, sizes=part_sizes)


def check_correction(correction: RoundCorrection, *, previous: RoundManifest) -> None:
    """Verify a correction against the manifest that it corrects.

    Raises: CommitReplayed: that one is of another round, or only set a round aside itself.
        HashMismatch: other commits, or another order. PayloadMalformed: it brings back what had
        been refused.
    """
    if previous.header.round != correction.round or previous.corrections:
        raise CommitReplayed(f"round {correction.round} has nothing that could be corrected")
    before = [(entry.commit_sha256, entry.peer) for entry in previous.entries]
    if before != [(entry.commit_sha256, entry.peer) for entry in correction.entries]:
        raise HashMismatch("the correction does not list the round's commits in their order")
    for old, new in zip(previous.entries, correction.entries, strict=True):
        if new.coefficient and not old.coefficient:
            raise PayloadMalformed("the correction brings back a contribution that was refused")


def is_unused(entry: ManifestEntry) -> bool:
    """Return whether a contribution is accepted, so audited and paid, but not in the sum."""
    return entry.status is not EntryStatus.REFUSED and entry.coefficient == 0.0


def is_poison(entry: ManifestEntry) -> bool:
    """Return whether a contribution was taken out because of what it did to the model."""
    return entry.code == PoisonFound.code and entry.coefficient == 0.0


def _check_own_correction(
    manifest: RoundManifest, correction: RoundCorrection, previous_manifest_sha256: Digest | None
) -> None:
    if correction.round + 1 != manifest.header.round:
        raise CommitReplayed(
            f"round {manifest.header.round} corrects round {correction.round}, not the one before"
        )
    if previous_manifest_sha256 not in (None, correction.manifest_sha256):
        raise CommitReplayed("the correction is of another manifest than the round before ended in")
    commits = {entry.commit_sha256 for entry in correction.entries}
    if len(commits) != len(correction.entries):
        raise HashMismatch("the correction lists a commit twice")
    for entry in correction.entries:
        _check_range(entry)
        _check_weight(entry)
    if not any(is_poison(entry) for entry in correction.entries):
        raise PayloadMalformed("a correction that takes nothing out")
    if correction.held_out_after >= correction.held_out_bad:
        raise PayloadMalformed("a correction that makes nothing better")


def _check_range(entry: ManifestEntry) -> None:
    if not 0.0 <= entry.coefficient <= MAX_COEFFICIENT:
        raise PayloadMalformed(f"coefficient {entry.coefficient} is outside 0..1")


def _check_weight(entry: ManifestEntry) -> None:
    if (entry.status is EntryStatus.REFUSED) != (entry.coefficient == 0.0):
        raise PayloadMalformed("a refused entry with a coefficient, or the reverse")


def _check_unused(manifest: RoundManifest, entry: ManifestEntry) -> None:
    """Refuse an entry without weight that is not refused, unless it says why that may be."""
    is_set_aside = bool(manifest.corrections) and entry.code == RoundSetAside.code
    own_sum = manifest.final and not manifest.corrections
    if not is_set_aside and not (own_sum and is_poison(entry)):
        raise PayloadMalformed("an accepted entry without a coefficient")
