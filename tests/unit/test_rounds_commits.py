"""The book of commits: every reason to refuse with its code, and what a closed book must be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.crypto.envelope import Envelope, sign_payload
from ares_p2p.crypto.merkle import tree_root
from ares_p2p.domain import CommitSet, Header
from ares_p2p.errors import (
    BadSignature,
    CommitLate,
    CommitReplayed,
    EnvelopeMalformed,
    Equivocation,
    HashMismatch,
    NonFinite,
    Oversize,
    PayloadMalformed,
    PeerFault,
    RateLimited,
    StepsOutOfRange,
    WeakKey,
    WrongNetwork,
    WrongState,
)
from ares_p2p.ids import sha256
from ares_p2p.rounds.commits import (
    MAX_COMMITS_BYTES,
    MAX_REFUSALS,
    CommitBook,
    SignedCommit,
    check_commit_set,
    reason_text,
)
from ares_p2p.rounds.seedchain import revealed_seed
from ares_p2p.wire.codec import (
    MAX_ENVELOPE_BYTES,
    decode_envelope,
    encode_envelope,
    kind_of,
    open_envelope,
    payload_type_of,
    seal,
)
from payloads import identity
from sim.samples import (
    COORDINATOR,
    CYCLE,
    LIMITS,
    NETWORK_ID,
    SECRET,
    START_MS,
    OpenRound,
    header,
    open_round,
)

ROUND = open_round(4)
DEADLINE_MS = ROUND.plan.commit_deadline_ms
WHO, OTHER = identity(1), identity(2)
OWN_FIRST = ROUND.commit(WHO).first_example
SMALL_ORDER_KEYS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "crypto.json").read_text(encoding="utf-8")
)["small_order_keys"]


def refused(
    book: CommitBook, envelope: Envelope, fault: type[PeerFault], *, now_ms: int = START_MS
) -> None:
    """Check that the book refuses `envelope` with exactly `fault` and does not take it."""
    before = dict(book.commits)
    with pytest.raises(fault) as caught:
        book.add(envelope, now_ms=now_ms)
    assert type(caught.value) is fault
    assert book.commits == before


# --- entering ---------------------------------------------------------------------------------


def test_an_honest_commit_enters_and_is_kept_as_received() -> None:
    book = ROUND.book()
    envelope = ROUND.sealed(WHO)
    signed = book.add(envelope, now_ms=DEADLINE_MS)  # the deadline itself is in time
    assert signed.peer == WHO.peer_id
    assert signed.sha256 == envelope.payload_sha256
    assert book.commits == {WHO.peer_id: signed}
    assert book.refusals == []


BAD_COMMITS: dict[str, tuple[dict[str, Any], type[PeerFault]]] = {
    "another round": ({"header": header(3)}, CommitReplayed),
    "another cycle": ({"header": dataclasses.replace(header(4), cycle=2)}, CommitReplayed),
    "another plan": ({"plan_sha256": open_round(3).plan_sha256}, CommitReplayed),
    "another state": ({"state": sha256(b"stale")}, WrongState),
    "no steps": ({"steps": 0, "tokens": 1}, StepsOutOfRange),
    "too few steps": ({"steps": 3, "tokens": 10}, StepsOutOfRange),
    "too many steps": ({"steps": 11}, StepsOutOfRange),
    "absurd steps": ({"steps": 2**32 - 1}, StepsOutOfRange),
    "no tokens": ({"tokens": 0}, StepsOutOfRange),
    "one token too many": ({"tokens": 641}, StepsOutOfRange),
    "more tokens than its own steps": ({"steps": 4, "tokens": 257}, StepsOutOfRange),
    "absurd tokens": ({"tokens": 2**53 - 1}, StepsOutOfRange),
    "another first example": ({"first_example": (OWN_FIRST + 1) % 500}, StepsOutOfRange),
    "first example outside": ({"first_example": 2**53 - 1}, StepsOutOfRange),
    "empty blob": ({"blob_size_bytes": 0}, Oversize),
    "oversize blob": ({"blob_size_bytes": LIMITS.max_blob_bytes + 1}, Oversize),
    "absurd blob": ({"blob_size_bytes": 2**53 - 1}, Oversize),
}


@pytest.mark.parametrize("name", BAD_COMMITS)
def test_a_commit_against_the_rules_is_refused_and_listed(name: str) -> None:
    changes, fault = BAD_COMMITS[name]
    book = ROUND.book()
    refused(book, ROUND.sealed(WHO, **changes), fault)
    assert [(item.peer, item.code) for item in book.refusals] == [(WHO.peer_id, fault.code)]
    book.add(ROUND.sealed(WHO), now_ms=START_MS)  # a good one still enters


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4, "tokens": 256},
        {"steps": 10, "tokens": 640},
        {"tokens": 1},
        {"blob_size_bytes": LIMITS.max_blob_bytes},
        {"blob_size_bytes": 1},
    ],
    ids=range(5),
)
def test_the_bounds_themselves_are_allowed(changes: dict[str, Any]) -> None:
    ROUND.book().add(ROUND.sealed(WHO, **changes), now_ms=START_MS)


def test_the_commit_of_another_round_of_the_same_peer_is_a_replay() -> None:
    for number in (0, 3, 5):
        refused(ROUND.book(), open_round(number).sealed(WHO), CommitReplayed)


def test_the_work_of_another_peer_signed_anew_starts_at_the_wrong_example() -> None:
    assert ROUND.commit(OTHER).first_example != OWN_FIRST
    refused(ROUND.book(), seal(OTHER, ROUND.commit(WHO)), StepsOutOfRange)


def test_another_network_is_refused_and_not_listed() -> None:
    book = ROUND.book()
    there = Header("elsewhere", CYCLE, 4, 5, START_MS)
    refused(book, ROUND.sealed(WHO, header=there), WrongNetwork)
    assert book.refusals == []


def test_late_is_one_millisecond_after_the_deadline() -> None:
    book = ROUND.book()
    refused(book, ROUND.sealed(WHO), CommitLate, now_ms=DEADLINE_MS + 1)
    assert [item.code for item in book.refusals] == [CommitLate.code]


def test_the_same_commit_twice_is_no_fault_even_late() -> None:
    book = ROUND.book()
    first = book.add(ROUND.sealed(WHO), now_ms=START_MS)
    assert book.add(ROUND.sealed(WHO), now_ms=START_MS + 5) is first
    assert book.add(ROUND.sealed(WHO), now_ms=DEADLINE_MS + 5) is first
    assert book.refusals == []


@pytest.mark.parametrize("now_ms", [START_MS, DEADLINE_MS + 1])
def test_a_second_different_commit_is_equivocation_and_kept(now_ms: int) -> None:
    book = ROUND.book()
    first = book.add(ROUND.sealed(WHO), now_ms=START_MS)
    for mean_loss in (1.0, 2.0):
        refused(book, ROUND.sealed(WHO, mean_loss=mean_loss), Equivocation, now_ms=now_ms)
    assert book.commits == {WHO.peer_id: first}
    assert [(item.peer, item.code) for item in book.refusals] == [
        (WHO.peer_id, Equivocation.code)  # once, though tried twice
    ]
    proof = book.equivocations[WHO.peer_id]  # the first of them: two signatures of one peer
    assert proof.commit.mean_loss == 1.0
    assert proof.sha256 != first.sha256
    assert proof.peer == first.peer


def test_a_full_round_takes_no_more_but_knows_its_own() -> None:
    opened = open_round(4, limits=dataclasses.replace(LIMITS, max_peers_per_round=2))
    book = opened.book()
    for number in (1, 2):
        book.add(opened.sealed(identity(number)), now_ms=START_MS)
    refused(book, opened.sealed(identity(3)), RateLimited)
    book.add(opened.sealed(identity(1)), now_ms=START_MS)


# --- signatures -------------------------------------------------------------------------------


def forged_as(victim: bytes, envelope: Envelope) -> Envelope:
    return dataclasses.replace(envelope, public_key=victim)


def test_a_forged_signature_is_refused_and_blames_nobody() -> None:
    book = ROUND.book()
    refused(book, forged_as(WHO.public_key, seal(OTHER, ROUND.commit(WHO))), BadSignature)
    refused(book, dataclasses.replace(ROUND.sealed(WHO), signature=bytes(64)), BadSignature)
    refused(book, dataclasses.replace(ROUND.sealed(WHO), signature=b""), BadSignature)
    assert book.refusals == []
    book.add(ROUND.sealed(WHO), now_ms=START_MS)


@pytest.mark.parametrize("key", SMALL_ORDER_KEYS)
def test_a_small_order_key_is_refused(key: str) -> None:
    """R the identity and S zero: for libraries that do not look at the key it fits any message."""
    envelope = dataclasses.replace(
        ROUND.sealed(WHO),
        public_key=bytes.fromhex(key),
        signature=(1).to_bytes(32, "little") + bytes(32),
    )
    book = ROUND.book()
    refused(book, envelope, WeakKey)
    assert book.refusals == []


def test_another_kind_of_payload_is_no_commit() -> None:
    envelope = seal(WHO, ROUND.plan)
    refused(ROUND.book(), envelope, PayloadMalformed)
    payload = ROUND.sealed(WHO).payload
    refused(ROUND.book(), sign_payload(WHO, payload_type_of("plan"), payload), PayloadMalformed)
    refused(ROUND.book(), sign_payload(WHO, kind_of_commit(), payload + b"\xff"), PayloadMalformed)
    refused(ROUND.book(), sign_payload(WHO, kind_of_commit(), b""), PayloadMalformed)
    refused(ROUND.book(), sign_payload(WHO, kind_of_commit(), payload * 40), Oversize)


def kind_of_commit() -> str:
    return payload_type_of(kind_of(ROUND.commit(WHO)))


@given(st.binary(max_size=300))
def test_any_signed_bytes_are_refused_with_a_peer_fault(payload: bytes) -> None:
    with pytest.raises(PeerFault):
        ROUND.book().add(sign_payload(WHO, kind_of_commit(), payload), now_ms=START_MS)


# --- who is blamed ----------------------------------------------------------------------------


def test_a_commit_from_anothers_connection_is_refused_under_the_sender() -> None:
    book = ROUND.book()
    for envelope in (ROUND.sealed(WHO), open_round(3).sealed(WHO)):
        with pytest.raises(CommitReplayed):
            book.add(envelope, now_ms=START_MS, sender=OTHER.peer_id)
    assert [(item.peer, item.code) for item in book.refusals] == [
        (OTHER.peer_id, CommitReplayed.code)
    ]
    book.add(ROUND.sealed(WHO), now_ms=START_MS, sender=WHO.peer_id)
    assert list(book.commits) == [WHO.peer_id]


def test_what_does_not_open_is_refused_under_the_sender() -> None:
    book = ROUND.book()
    with pytest.raises(BadSignature):
        book.add(
            forged_as(WHO.public_key, seal(OTHER, ROUND.commit(WHO))),
            now_ms=START_MS,
            sender=OTHER.peer_id,
        )
    assert [(item.peer, item.code) for item in book.refusals] == [
        (OTHER.peer_id, BadSignature.code)
    ]


# --- what is told about refusals --------------------------------------------------------------


def test_refusals_are_bounded_and_listed_once_per_peer_and_code() -> None:
    book = ROUND.book()
    for number in range(MAX_REFUSALS + 10):
        for _ in range(2):
            refused(book, ROUND.sealed(identity(number), tokens=0), StepsOutOfRange)
    assert len(book.refusals) == MAX_REFUSALS
    assert len({item.peer for item in book.refusals}) == MAX_REFUSALS


def test_reasons_can_always_be_published() -> None:
    assert reason_text("a\nb\x00\u202e\u00e4" + "x" * 999) == "a?b???" + "x" * 194
    assert reason_text("abc", limit=2) == "ab"
    book = ROUND.book()
    book.add(ROUND.sealed(OTHER), now_ms=START_MS)
    book.refuse(WHO.peer_id, NonFinite("line\nbreak \ud800"))
    opened = round_trip(book.close(header=header(4), seed=seed_of(ROUND)))
    assert opened.refusals[0].message == "line?break ?"


def test_the_fullest_book_still_fits_a_record() -> None:
    """Commits padded to their bound, and as many refusals as are listed."""
    opened = open_round(4, limits=dataclasses.replace(LIMITS, max_peers_per_round=1000))
    book = opened.book()
    for number in range(MAX_REFUSALS):
        book.refuse(identity(number).peer_id, NonFinite("x" * 200))
    fat = {"device": "d" * 400, "profile": "p" * 380}
    added = 0
    while book.commits_bytes + 1200 < MAX_COMMITS_BYTES:
        book.add(opened.sealed(identity(added), **fat), now_ms=START_MS)
        added += 1
    assert added > 35
    refused(book, opened.sealed(identity(added), **fat), RateLimited)
    closed = round_trip(book.close(header=header(4), seed=seed_of(opened)))
    assert len(closed.commits) == added
    assert 5 < len(closed.refusals) < MAX_REFUSALS
    assert closed.refusals == tuple(book.refusals[: len(closed.refusals)])


def test_a_hundred_honest_commits_fit_a_record() -> None:
    opened = open_round(4, limits=dataclasses.replace(LIMITS, max_peers_per_round=100))
    text = {"device": "cuda: a graphics card of 2026", "profile": "cuda-sm120-bfloat16-nf4"}
    book = opened.book()
    for number in range(100):
        book.add(opened.sealed(identity(number), **text), now_ms=START_MS)
    assert len(round_trip(book.close(header=header(4), seed=seed_of(opened))).commits) == 100


def seed_of(opened: OpenRound) -> bytes:
    return revealed_seed(SECRET, rounds=opened.config.rounds, round_number=opened.number)


def round_trip(commit_set: CommitSet) -> CommitSet:
    """Return what a peer reads when the coordinator publishes `commit_set`."""
    data = encode_envelope(seal(COORDINATOR, commit_set))
    assert len(data) <= MAX_ENVELOPE_BYTES
    return open_envelope(
        decode_envelope(data), CommitSet, signer=COORDINATOR.peer_id, network_id=NETWORK_ID
    )


# --- the closed book --------------------------------------------------------------------------

PEOPLE = [identity(number) for number in range(1, 6)]
CLOSED = ROUND.closed(*PEOPLE)


def check(commit_set: CommitSet, opened: OpenRound = ROUND) -> list[SignedCommit]:
    return check_commit_set(
        commit_set,
        plan=opened.plan,
        plan_sha256=opened.plan_sha256,
        config=opened.config,
        examples=opened.examples,
    )


def test_a_closed_book_verifies_whatever_the_order_of_arrival() -> None:
    assert ROUND.closed(*reversed(PEOPLE)) == CLOSED
    commits = check(round_trip(CLOSED))
    digests = [signed.sha256 for signed in commits]
    assert digests == sorted(digests)
    assert {signed.peer for signed in commits} == {who.peer_id for who in PEOPLE}
    assert tuple(encode_envelope(signed.envelope) for signed in commits) == CLOSED.commits


def test_an_empty_book_closes_too() -> None:
    assert check(round_trip(ROUND.closed())) == []
    assert ROUND.closed().root == sha256(b"")


def with_commits(*commits: bytes) -> CommitSet:
    """Return the set with these commits and a root that fits them in this order."""
    digests = [decode_envelope(data).payload_sha256 for data in commits]
    return dataclasses.replace(CLOSED, commits=commits, root=tree_root(digests))


def in_order(*envelopes: Envelope) -> CommitSet:
    ordered = sorted(envelopes, key=lambda envelope: envelope.payload_sha256)
    return with_commits(*(encode_envelope(envelope) for envelope in ordered))


C = CLOSED.commits
HONEST = [decode_envelope(data) for data in C]
STRANGER = encode_envelope(ROUND.sealed(identity(9)))
Tamper = Callable[[], CommitSet]

TAMPERED: dict[str, tuple[Tamper, type[PeerFault]]] = {
    "another plan": (
        lambda: dataclasses.replace(CLOSED, plan_sha256=open_round(3).plan_sha256),
        CommitReplayed,
    ),
    "wrong root": (lambda: dataclasses.replace(CLOSED, root=sha256(b"")), HashMismatch),
    "seed of the round before": (
        lambda: dataclasses.replace(CLOSED, revealed_seed=seed_of(open_round(3))),
        HashMismatch,
    ),
    "seed of the round after": (
        lambda: dataclasses.replace(CLOSED, revealed_seed=seed_of(open_round(5))),
        HashMismatch,
    ),
    "no seed": (lambda: dataclasses.replace(CLOSED, revealed_seed=b""), HashMismatch),
    "reordered": (lambda: with_commits(C[1], C[0], *C[2:]), HashMismatch),
    "one left out": (lambda: dataclasses.replace(CLOSED, commits=C[1:]), HashMismatch),
    "one added": (lambda: dataclasses.replace(CLOSED, commits=(*C, STRANGER)), HashMismatch),
    "one swapped": (lambda: dataclasses.replace(CLOSED, commits=(*C[:4], STRANGER)), HashMismatch),
    "one twice": (lambda: with_commits(C[0], *C), Equivocation),
    "two of one peer": (
        lambda: in_order(*HONEST, ROUND.sealed(PEOPLE[0], mean_loss=1.0)),
        Equivocation,
    ),
    "one forged": (
        lambda: in_order(*HONEST[1:], dataclasses.replace(HONEST[0], signature=bytes(64))),
        BadSignature,
    ),
    "one against the rules": (
        lambda: in_order(*HONEST, ROUND.sealed(identity(9), tokens=10**6)),
        StepsOutOfRange,
    ),
    "one of another round": (
        lambda: in_order(*HONEST, open_round(3).sealed(identity(9))),
        CommitReplayed,
    ),
    "one of another network": (
        lambda: in_order(
            *HONEST, ROUND.sealed(identity(9), header=Header("elsewhere", CYCLE, 4, 5, 0))
        ),
        WrongNetwork,
    ),
    "no envelope": (
        lambda: dataclasses.replace(CLOSED, commits=(b"\xff\xff", *C)),
        EnvelopeMalformed,
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_set_is_refused(name: str) -> None:
    tampered, fault = TAMPERED[name]
    check(CLOSED)
    with pytest.raises(fault) as caught:
        check(tampered())
    assert type(caught.value) is fault


def test_a_set_is_refused_for_another_open_round() -> None:
    with pytest.raises(CommitReplayed):
        check(CLOSED, open_round(5))
