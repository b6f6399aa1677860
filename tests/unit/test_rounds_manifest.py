"""The manifest: exactly the closed commits, in order, with coefficients that can be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.domain import EntryStatus, ManifestEntry, RoundManifest
from ares_p2p.errors import CommitReplayed, HashMismatch, OpposesOthers, PayloadMalformed, PeerFault
from ares_p2p.ids import sha256
from ares_p2p.rounds.manifest import build_manifest, check_manifest, float32
from ares_p2p.wire.codec import open_envelope, seal
from payloads import identity
from sim.samples import COORDINATOR, header, open_round

ROUND = open_round(2)
COMMITS = sorted((ROUND.signed(identity(n)) for n in range(4)), key=lambda signed: signed.sha256)
SET_SHA256 = sha256(b"the commit set")


def entry(number: int, coefficient: float, status: EntryStatus, code: str = "") -> ManifestEntry:
    signed = COMMITS[number]
    return ManifestEntry(signed.sha256, signed.peer, float32(coefficient), status, code, "")


ENTRIES = [
    entry(0, 1 / 3, EntryStatus.ACCEPTED),
    entry(1, 0.1, EntryStatus.CLIPPED, "ARES-E073"),
    entry(2, 0.0, EntryStatus.REFUSED, OpposesOthers.code),
    entry(3, 1.0, EntryStatus.ACCEPTED),
]


def manifest(entries: list[ManifestEntry]) -> RoundManifest:
    return build_manifest(
        header=header(2),
        plan_sha256=ROUND.plan_sha256,
        commit_set_sha256=SET_SHA256,
        entries=entries,
        next_state=sha256(b"next"),
        next_state_size_bytes=100,
        final=False,
    )


def check(value: RoundManifest) -> None:
    check_manifest(
        value, commits=COMMITS, plan_sha256=ROUND.plan_sha256, commit_set_sha256=SET_SHA256
    )


def test_an_honest_manifest_passes_after_the_wire_too() -> None:
    honest = manifest(ENTRIES)
    check(honest)
    opened = open_envelope(seal(COORDINATOR, honest), RoundManifest, signer=COORDINATOR.peer_id)
    assert opened == honest  # coefficients are float32 already: no bit is lost
    check(opened)


def test_a_round_without_commits_has_an_empty_manifest() -> None:
    check_manifest(
        manifest([]), commits=[], plan_sha256=ROUND.plan_sha256, commit_set_sha256=SET_SHA256
    )


def replaced(number: int, **fields: object) -> list[ManifestEntry]:
    entries = list(ENTRIES)
    entries[number] = dataclasses.replace(entries[number], **fields)  # type: ignore[arg-type]
    return entries


Tamper = Callable[[], RoundManifest]
TAMPERED: dict[str, tuple[Tamper, type[PeerFault]]] = {
    "another plan": (
        lambda: dataclasses.replace(manifest(ENTRIES), plan_sha256=sha256(b"other")),
        CommitReplayed,
    ),
    "another commit set": (
        lambda: dataclasses.replace(manifest(ENTRIES), commit_set_sha256=sha256(b"other")),
        CommitReplayed,
    ),
    "reordered": (lambda: manifest([ENTRIES[1], ENTRIES[0], *ENTRIES[2:]]), HashMismatch),
    "one left out": (lambda: manifest(ENTRIES[:3]), HashMismatch),
    "all left out": (lambda: manifest([]), HashMismatch),
    "one twice": (lambda: manifest([*ENTRIES, ENTRIES[3]]), HashMismatch),
    "another peer's name": (
        lambda: manifest(replaced(0, peer=COMMITS[1].peer)),
        HashMismatch,
    ),
    "a commit nobody made": (
        lambda: manifest(replaced(0, commit_sha256=sha256(b""))),
        HashMismatch,
    ),
    "more than the whole": (
        lambda: manifest(replaced(0, coefficient=float(np.nextafter(np.float32(1), 2)))),
        PayloadMalformed,
    ),
    "absurd": (lambda: manifest(replaced(0, coefficient=1e6)), PayloadMalformed),
    "negative": (lambda: manifest(replaced(0, coefficient=-0.1)), PayloadMalformed),
    "NaN": (lambda: manifest(replaced(0, coefficient=float("nan"))), PayloadMalformed),
    "infinite": (lambda: manifest(replaced(0, coefficient=float("inf"))), PayloadMalformed),
    "refused with a coefficient": (
        lambda: manifest(replaced(2, coefficient=0.1)),
        PayloadMalformed,
    ),
    "accepted without one": (lambda: manifest(replaced(0, coefficient=0.0)), PayloadMalformed),
    "clipped to nothing": (lambda: manifest(replaced(1, coefficient=0.0)), PayloadMalformed),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_manifest_is_refused(name: str) -> None:
    tampered, fault = TAMPERED[name]
    with pytest.raises(fault) as caught:
        check(tampered())
    assert type(caught.value) is fault


@given(st.floats(0, 1))
def test_float32_is_what_numpy_rounds_to_and_stays(value: float) -> None:
    rounded = float32(value)
    assert rounded == float(np.float32(value))
    assert float32(rounded) == rounded
