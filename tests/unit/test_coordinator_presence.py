"""Who is there, in which role."""

from __future__ import annotations

import dataclasses

import pytest

from ares_coordinator.presence import (
    LATELY_MS,
    MAX_TOKENS_PER_S,
    MAX_UPLOAD_BYTES_PER_S,
    PRESENT_FOR_MS,
    WAYS,
    Presence,
)
from ares_p2p.domain import Header, PeerStatus
from ares_p2p.errors import StaleSequence, WrongSigner
from ares_p2p.ids import PeerId
from ares_p2p.rounds.plan import NO_DIGEST
from ares_peer.ways import Way
from payloads import identity

TRAINER, AUDITOR = identity(1).peer_id, identity(2).peer_id


def status(*, cycle: int = 3, seq: int = 1, role: str = "trainer") -> PeerStatus:
    header = Header("net", cycle, 0, seq, 1)
    return PeerStatus(header, "1", 1, "cpu", "cpu", 10.0, NO_DIGEST, (), role)


def noted(**roles: str) -> Presence:
    presence = Presence()
    for peer, role in ((TRAINER, "trainer"), (AUDITOR, "auditor")):
        presence.note(peer, status(role=roles.get(role, role)), remote=peer, now_ms=1_000)
    return presence


def test_rounds_wait_for_trainers_and_never_for_auditors() -> None:
    presence = noted()
    assert presence.working_on(3, now_ms=2_000) == {TRAINER}
    assert presence.auditors_of(3, now_ms=2_000) == {AUDITOR}
    assert presence.working_on(4, now_ms=2_000) == presence.auditors_of(4, now_ms=2_000) == set()


def test_who_fell_silent_may_still_have_left_a_commit() -> None:
    presence = noted()
    assert presence.lately_on(3, now_ms=1_000 + LATELY_MS) == {TRAINER}
    assert presence.lately_on(3, now_ms=1_001 + LATELY_MS) == set()
    presence.note(TRAINER, status(cycle=0, seq=2), remote=TRAINER, now_ms=2_000)  # it said goodbye
    assert presence.lately_on(3, now_ms=2_000) == set()


def test_auditor_is_gone_when_it_falls_silent_or_says_so() -> None:
    presence = noted()
    assert presence.is_auditing(AUDITOR, 3, now_ms=1_000 + PRESENT_FOR_MS)
    assert not presence.is_auditing(AUDITOR, 3, now_ms=1_001 + PRESENT_FOR_MS)
    leaving = status(cycle=0, seq=2, role="auditor")
    presence.note(AUDITOR, leaving, remote=AUDITOR, now_ms=1_500)
    assert not presence.is_auditing(AUDITOR, 3, now_ms=1_600)
    assert not presence.is_auditing(TRAINER, 3, now_ms=1_600)
    assert not presence.is_auditing(PeerId("nobody"), 3, now_ms=1_600)


def test_unknown_role_counts_as_training() -> None:
    assert noted(auditor="overseer").working_on(3, now_ms=2_000) == {TRAINER, AUDITOR}


def test_nobody_speaks_for_another_nor_out_of_turn() -> None:
    presence = noted()
    with pytest.raises(WrongSigner):
        presence.note(AUDITOR, status(seq=5), remote=TRAINER, now_ms=2_000)
    with pytest.raises(StaleSequence):
        presence.note(TRAINER, status(), remote=TRAINER, now_ms=2_000)


def test_what_a_peer_says_of_its_speed_is_remembered_within_bounds() -> None:
    presence = noted()
    modest = dataclasses.replace(status(seq=2), upload_bytes_per_s=125_000.0)
    presence.note(TRAINER, modest, remote=TRAINER, now_ms=2_000)
    seen = presence.present(now_ms=2_000)[TRAINER]
    assert (seen.tokens_per_s, seen.upload_bytes_per_s) == (10.0, 125_000.0)
    boastful = dataclasses.replace(status(seq=3), tokens_per_s=1e30, upload_bytes_per_s=1e30)
    assert not presence.note(TRAINER, boastful, remote=TRAINER, now_ms=2_000)
    seen = presence.present(now_ms=2_000)[TRAINER]
    assert seen.tokens_per_s == MAX_TOKENS_PER_S
    assert seen.upload_bytes_per_s == MAX_UPLOAD_BYTES_PER_S


def test_the_way_is_one_of_three_words_or_none() -> None:
    presence = noted()
    for seq, (said, kept) in enumerate([("http", "http"), ("relay", "relay"), ("<b>", "")], 2):
        told = dataclasses.replace(status(seq=seq), way=said)
        presence.note(TRAINER, told, remote=TRAINER, now_ms=2_000)
        assert presence.present(now_ms=2_000)[TRAINER].way == kept
    assert {way.value for way in Way} == set(WAYS)
