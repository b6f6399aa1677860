"""A manifest that corrects the round before: what it must say, and every way to get it wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ares_coordinator.alarm.remake import reason_of
from ares_p2p.domain import EntryStatus, ManifestEntry, RoundCorrection, RoundManifest
from ares_p2p.errors import (
    CommitReplayed,
    HashMismatch,
    NormClipped,
    OpposesOthers,
    PayloadMalformed,
    PeerFault,
    PoisonFound,
    RoundSetAside,
)
from ares_p2p.ids import sha256
from ares_p2p.network.record_keys import MAX_RECORD_BYTES
from ares_p2p.rounds.manifest import (
    build_manifest,
    check_correction,
    check_manifest,
    float32,
    is_poison,
    is_unused,
)
from ares_p2p.wire.codec import encode_envelope, open_envelope, seal
from payloads import identity
from sim.samples import COORDINATOR, header, open_round, payload_sha256

ACCEPTED, REFUSED = EntryStatus.ACCEPTED, EntryStatus.REFUSED


def commits_of(number: int) -> list[Any]:
    opened = open_round(number)
    signed = (opened.signed(identity(n)) for n in range(4))
    return sorted(signed, key=lambda one: one.sha256)


ROUND, COMMITS = open_round(3), commits_of(3)
SET_SHA256 = sha256(b"the commit set")


def entries_of(commits: Sequence[Any], *given: tuple[float, EntryStatus, str]) -> list[Any]:
    return [
        ManifestEntry(signed.sha256, signed.peer, float32(coefficient), status, code, "")
        for signed, (coefficient, status, code) in zip(commits, given, strict=True)
    ]


USED, OPPOSED = (0.3, ACCEPTED, ""), (0.0, REFUSED, OpposesOthers.code)
ASIDE, POISON = (0.0, ACCEPTED, RoundSetAside.code), (0.0, REFUSED, PoisonFound.code)
PREVIOUS = build_manifest(
    header=header(2),
    plan_sha256=open_round(2).plan_sha256,
    commit_set_sha256=sha256(b"the set before"),
    entries=entries_of(commits_of(2), USED, USED, OPPOSED, USED),
    next_state=sha256(b"poisoned"),
    next_state_size_bytes=100,
    final=False,
)
PREVIOUS_SHA256 = payload_sha256(PREVIOUS, "manifest")
CORRECTION = RoundCorrection(
    round=2,
    manifest_sha256=PREVIOUS_SHA256,
    entries=tuple(entries_of(commits_of(2), (0.5, ACCEPTED, ""), POISON, OPPOSED, USED)),
    held_out_before=1.3,
    held_out_bad=1.7,
    held_out_after=1.31,
)


def manifest(
    correction: RoundCorrection | None = CORRECTION,
    entries: Sequence[ManifestEntry] | None = None,
    *,
    final: bool = False,
) -> RoundManifest:
    own = entries_of(COMMITS, ASIDE, ASIDE, OPPOSED, ASIDE) if entries is None else entries
    return build_manifest(
        header=header(3),
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=SET_SHA256,
        entries=own,
        next_state=sha256(b"corrected"),
        next_state_size_bytes=100,
        final=final,
        correction=correction,
    )


def check(value: RoundManifest) -> None:
    check_manifest(
        value,
        commits=COMMITS,
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=SET_SHA256,
        previous_manifest_sha256=PREVIOUS_SHA256,
    )
    for correction in value.corrections:
        check_correction(correction, previous=PREVIOUS)


def test_a_correction_passes_after_the_wire_too() -> None:
    honest = manifest()
    check(honest)
    opened = open_envelope(seal(COORDINATOR, honest), RoundManifest, signer=COORDINATOR.peer_id)
    assert opened == honest
    check(opened)
    check(manifest(final=True))


def test_a_correction_of_a_manifest_that_is_not_known_is_checked_in_itself() -> None:
    check_manifest(
        manifest(),
        commits=COMMITS,
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=SET_SHA256,
    )


def test_what_is_set_aside_is_told_from_what_was_taken_out_and_what_counts() -> None:
    aside, poison, opposed, used = entries_of(COMMITS, ASIDE, POISON, OPPOSED, USED)
    assert [is_unused(entry) for entry in (aside, poison, opposed, used)] == [True] + [False] * 3
    assert [is_poison(entry) for entry in (aside, poison, opposed, used)] == [
        False,
        True,
        False,
        False,
    ]


def test_the_last_round_leaves_poison_out_by_itself() -> None:
    out = (0.0, ACCEPTED, PoisonFound.code)
    entries = entries_of(COMMITS, USED, out, OPPOSED, USED)
    check(manifest(None, entries, final=True))
    with pytest.raises(PayloadMalformed, match="without a coefficient"):
        check(manifest(None, entries))  # any other round is looked at when it is over
    with pytest.raises(PayloadMalformed, match="without a coefficient"):
        check(manifest(None, entries_of(COMMITS, USED, ASIDE, OPPOSED, USED), final=True))


def test_a_correction_fits_a_record_in_the_largest_round() -> None:
    """A hundred peers; half of the round before was poison, the other half was scaled down."""
    wordy = reason_of(before=10.1234, bad=19.8765, after=10.1011, removed=50)
    clipped = "longer than twice the median; scaled down to it"
    peers = [identity(number).peer_id for number in range(100)]
    before = [
        ManifestEntry(sha256(peer.encode()), peer, 0.0, REFUSED, PoisonFound.code, wordy)
        if number % 2
        else ManifestEntry(
            sha256(peer.encode()), peer, 0.25, EntryStatus.CLIPPED, NormClipped.code, clipped
        )
        for number, peer in enumerate(peers)
    ]
    text = "round 999 was corrected, and this was made from its old state"
    aside = [
        ManifestEntry(sha256(peer.encode()), peer, 0.0, ACCEPTED, RoundSetAside.code, text)
        for peer in peers
    ]
    full = manifest(dataclasses.replace(CORRECTION, entries=tuple(before)), aside)
    assert len(encode_envelope(seal(COORDINATOR, full))) < 0.95 * MAX_RECORD_BYTES


def corrected(**fields: Any) -> RoundManifest:
    return manifest(dataclasses.replace(CORRECTION, **fields))


def with_entry(number: int, **fields: Any) -> RoundManifest:
    entries = list(CORRECTION.entries)
    entries[number] = dataclasses.replace(entries[number], **fields)
    return corrected(entries=tuple(entries))


FORGED: dict[str, tuple[Callable[[], RoundManifest], type[PeerFault]]] = {
    "of a round long ago": (lambda: corrected(round=1), CommitReplayed),
    "of its own round": (lambda: corrected(round=3), CommitReplayed),
    "of a round to come": (lambda: corrected(round=4), CommitReplayed),
    "of another manifest": (lambda: corrected(manifest_sha256=sha256(b"x")), CommitReplayed),
    "two of them": (
        lambda: dataclasses.replace(manifest(), corrections=(CORRECTION, CORRECTION)),
        PayloadMalformed,
    ),
    "reordered": (lambda: corrected(entries=CORRECTION.entries[::-1]), HashMismatch),
    "one left out": (lambda: corrected(entries=CORRECTION.entries[:3]), HashMismatch),
    "one twice": (
        lambda: corrected(entries=(*CORRECTION.entries, CORRECTION.entries[1])),
        HashMismatch,
    ),
    "other commits": (lambda: with_entry(0, commit_sha256=sha256(b"nobody's")), HashMismatch),
    "another peer's name": (
        lambda: with_entry(0, peer=CORRECTION.entries[1].peer),
        HashMismatch,
    ),
    "takes nothing out": (
        lambda: with_entry(1, code=OpposesOthers.code),
        PayloadMalformed,
    ),
    "makes nothing better": (lambda: corrected(held_out_after=1.7), PayloadMalformed),
    "brings a refused one back": (
        lambda: with_entry(2, coefficient=0.5, status=ACCEPTED, code=""),
        PayloadMalformed,
    ),
    "poison with weight": (lambda: with_entry(1, coefficient=0.5), PayloadMalformed),
    "accepted without weight": (
        lambda: with_entry(0, coefficient=0.0),
        PayloadMalformed,
    ),
    "more than the whole": (lambda: with_entry(0, coefficient=1.5), PayloadMalformed),
    "its own work counts too": (
        lambda: manifest(entries=entries_of(COMMITS, USED, ASIDE, OPPOSED, ASIDE)),
        PayloadMalformed,
    ),
    "its own work without a reason": (
        lambda: manifest(entries=entries_of(COMMITS, (0.0, ACCEPTED, ""), ASIDE, OPPOSED, ASIDE)),
        PayloadMalformed,
    ),
    "its own work is poison, unlooked at": (
        lambda: manifest(
            entries=entries_of(COMMITS, (0.0, ACCEPTED, PoisonFound.code), ASIDE, OPPOSED, ASIDE),
            final=True,
        ),
        PayloadMalformed,
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_correction_is_refused(name: str) -> None:
    forged, fault = FORGED[name]
    with pytest.raises(fault) as caught:
        check(forged())
    assert type(caught.value) is fault


def test_round_0_has_nothing_before_it_to_correct() -> None:
    first, commits = open_round(0), commits_of(0)
    value = dataclasses.replace(
        manifest(entries=entries_of(commits, ASIDE, ASIDE, ASIDE, ASIDE)),
        header=header(0),
        plan_sha256=first.plan_sha256,
    )
    with pytest.raises(CommitReplayed):
        check_manifest(
            value,
            commits=commits,
            plan_sha256=first.plan_sha256,
            commit_set_sha256=SET_SHA256,
        )


def test_a_round_that_only_set_its_work_aside_cannot_be_corrected() -> None:
    aside = dataclasses.replace(PREVIOUS, corrections=(dataclasses.replace(CORRECTION, round=1),))
    with pytest.raises(CommitReplayed):
        check_correction(CORRECTION, previous=aside)
