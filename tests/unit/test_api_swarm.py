"""Contributions over HTTPS: who may hand in what, when it is served, and whose word it is."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ares_coordinator.store.rows import CommitRow
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Commit, CommitAck, PeerStatus
from ares_p2p.errors import (
    BadSignature,
    BlobUnavailable,
    CommitLate,
    HashMismatch,
    Oversize,
    PayloadMalformed,
    UnknownRound,
    WrongSigner,
)
from ares_p2p.ids import CHUNK_BYTES, Digest, PeerId, blob_id_of, chunk_list_of, sha256
from ares_p2p.network.http_api import (
    MAX_UPLOAD_BYTES,
    UPLOAD_CHUNKS,
    encode_bytes,
)
from ares_p2p.network.http_control import HttpControl
from ares_p2p.wire.codec import encode_envelope, seal
from httpfixtures import (
    Raw,
    Site,
    blobs_of,
    commit_of,
    fetched,
    http_site,
    open_with_commits,
)
from netfixtures import ALICE, BOB, COORDINATOR, MALLORY, NETWORK, payload, signed
from store_samples import NOW, record

CONTRIBUTION = os.urandom(7 * CHUNK_BYTES + 100)
BLOB = blob_id_of(CONTRIBUTION)
LIST = chunk_list_of(CONTRIBUTION).encode()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with http_site(tmp_path / "site") as made:
        yield made


async def close_round(site: Site, *, admit: bool = True) -> None:
    db = site.views.db
    await db.call(lambda: db.store.close_round(1, 0, now_ms=NOW, records=[record("commits", 1, 0)]))
    if admit:
        await site.intake.admit({BLOB})


@pytest.fixture
async def raw(site: Site) -> AsyncIterator[Raw]:
    made = Raw(site)
    yield made
    await made.session.close()


# --- a contribution from a peer that nobody can reach -------------------------------------------


async def test_a_contribution_is_withheld_until_the_close_and_served_then(
    site: Site, tmp_path: Path
) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    await blobs_of(site, ALICE, tmp_path, CONTRIBUTION).upload(BLOB)
    for who in (BOB, ALICE, MALLORY):
        with pytest.raises(BlobUnavailable):
            await fetched(site, who, tmp_path / "early", BLOB)
    assert not site.blobs.store.has(BLOB)  # nor does P2P serve it
    await close_round(site)
    assert await fetched(site, BOB, tmp_path / "late", BLOB) == CONTRIBUTION
    assert site.blobs.store.read(BLOB) == CONTRIBUTION
    assert list(site.intake.staging.folder.iterdir()) == []


async def test_the_close_and_the_last_chunk_may_come_together(site: Site, tmp_path: Path) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    blobs = blobs_of(site, ALICE, tmp_path, CONTRIBUTION)
    await blobs.upload(BLOB)
    await close_round(site, admit=False)
    put, inside, most = site.blobs.store.put, [], []

    def put_slowly(source: Path) -> Digest:
        inside.append(source)
        most.append(len(inside))
        time.sleep(0.05)  # long enough for another one to begin
        try:
            return put(source)
        finally:
            inside.pop()

    site.blobs.store.put = put_slowly  # type: ignore[method-assign, assignment]
    calls = [site.intake.admit({BLOB}) for _ in range(4)]
    await asyncio.gather(*calls, blobs.upload(BLOB), blobs.upload(BLOB))
    assert most == [1]
    await asyncio.gather(*(asyncio.to_thread(put, CONTRIBUTION) for _ in range(4)))
    assert await fetched(site, BOB, tmp_path, BLOB) == CONTRIBUTION


async def test_what_comes_after_the_close_is_served_at_once(site: Site, tmp_path: Path) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    await close_round(site)
    await blobs_of(site, ALICE, tmp_path, CONTRIBUTION).upload(BLOB)
    assert await fetched(site, BOB, tmp_path, BLOB) == CONTRIBUTION


async def test_nobody_waits_for_an_author_that_hands_in(site: Site, tmp_path: Path) -> None:
    """Fetching from a peer that cannot be reached ends as soon as its blob has come otherwise."""
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    await close_round(site)

    async def fetch_for_ever() -> Path:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    waiting = asyncio.create_task(site.intake.or_upload(BLOB, fetch_for_ever()))
    await blobs_of(site, ALICE, tmp_path, CONTRIBUTION).upload(BLOB)
    assert (await asyncio.wait_for(waiting, 20)).read_bytes() == CONTRIBUTION

    async def fetch_nothing() -> Path:
        raise BlobUnavailable("nobody serves it")

    with pytest.raises(BlobUnavailable):
        await site.intake.or_upload(BLOB, fetch_nothing())
    assert not site.intake._arrivals


async def test_an_upload_that_broke_off_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    api = site.api(ALICE)
    path = f"/training/gradient/{BLOB.hex()}"
    before = await api.put(path, LIST)
    assert before == {"complete": False, "missing": [[0, 8]]}
    part = CONTRIBUTION[2 * CHUNK_BYTES : 4 * CHUNK_BYTES]
    assert (await api.put(f"{path}/2", part))["missing"] == [[0, 2], [4, 8]]
    site.intake._uploads.clear()  # as if the coordinator had been started again
    with pytest.raises(BlobUnavailable, match="list comes first"):
        await api.put(f"{path}/0", CONTRIBUTION[:CHUNK_BYTES])
    assert (await api.put(path, LIST))["missing"] == [[0, 2], [4, 8]]
    blobs = blobs_of(site, ALICE, tmp_path, CONTRIBUTION)
    await blobs.upload(BLOB)
    assert blobs.traffic.up_bytes == len(CONTRIBUTION) - len(part) + 2 * len(LIST)
    await close_round(site)
    assert site.blobs.store.read(BLOB) == CONTRIBUTION


async def test_an_offer_waits_for_the_commit_and_then_arrives(site: Site, tmp_path: Path) -> None:
    """The background upload does not give up while the coordinator is only slow."""
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    blobs = blobs_of(site, ALICE, tmp_path, CONTRIBUTION)
    blobs.withhold(BLOB)
    blobs.release(BLOB)
    async with asyncio.timeout(20):
        await asyncio.gather(*blobs._offers.values())
    assert site.intake.staging.has(BLOB)
    await blobs.close()


async def test_only_a_committed_blob_is_taken(site: Site, tmp_path: Path) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    with pytest.raises(UnknownRound):  # mallory committed to nothing
        await blobs_of(site, MALLORY, tmp_path, CONTRIBUTION).upload(BLOB)
    other = os.urandom(1000)
    with pytest.raises(UnknownRound):  # alice to something else
        await blobs_of(site, ALICE, tmp_path, other).upload(blob_id_of(other))
    assert list(site.intake.staging.folder.iterdir()) == []


async def test_nobody_adds_to_the_upload_of_another(site: Site) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    path = f"/training/gradient/{BLOB.hex()}"
    await site.api(ALICE).put(path, LIST)
    with pytest.raises(WrongSigner):
        await site.api(MALLORY).put(f"{path}/0", CONTRIBUTION[:CHUNK_BYTES])


async def test_a_round_that_is_over_takes_nothing(site: Site, tmp_path: Path) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    db = site.views.db

    def finish() -> None:
        db.store.close_round(1, 0, now_ms=NOW, records=[record("commits", 1, 0)])
        db.store.finish_round(
            1, 0,
            next_state_digest=sha256(b"next"), mean_loss=None, contributions=[], postings=[],
            lottery=[], now_ms=NOW, records=[record("manifest", 1, 0)],
        )  # fmt: skip

    await db.call(finish)
    with pytest.raises(CommitLate):
        await blobs_of(site, ALICE, tmp_path, CONTRIBUTION).upload(BLOB)


async def test_bytes_that_do_not_hash_are_not_kept(site: Site) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    api, path = site.api(ALICE), f"/training/gradient/{BLOB.hex()}"
    with pytest.raises(HashMismatch):
        await api.put(path, chunk_list_of(b"something else").encode())
    await api.put(path, LIST)
    with pytest.raises(HashMismatch):
        await api.put(f"{path}/1", bytes(CHUNK_BYTES))
    for first, data in ((0, b"short"), (7, bytes(CHUNK_BYTES)), (8, b"x"), (0, b"")):
        with pytest.raises(PayloadMalformed):
            await api.put(f"{path}/{first}", data)
    assert (await api.put(path, LIST))["missing"] == [[0, 8]]


async def test_the_commit_bounds_the_size(site: Site) -> None:
    """A commit to a small blob does not open the door to a large one of the same peer."""
    small = dataclasses.replace(
        payload(Commit, cycle=1, round=0), blob_id=BLOB, blob_size_bytes=1000
    )
    envelope = seal(ALICE, small)
    row = CommitRow(envelope.payload_sha256, 1, 0, ALICE.peer_id, encode_envelope(envelope), NOW)
    await open_with_commits(site, row)
    with pytest.raises(PayloadMalformed, match="the commit names 1000"):
        await site.api(ALICE).put(f"/training/gradient/{BLOB.hex()}", LIST)
    assert list(site.intake.staging.folder.iterdir()) == []


async def test_what_was_begun_is_forgotten_with_its_round(site: Site) -> None:
    await open_with_commits(site, commit_of(ALICE, CONTRIBUTION))
    api, path = site.api(ALICE), f"/training/gradient/{BLOB.hex()}"
    await api.put(path, LIST)
    await api.put(f"{path}/0", CONTRIBUTION[:CHUNK_BYTES])
    await site.intake.admit(set())  # another round's commits are closed
    assert list(site.intake.staging.folder.iterdir()) == []
    with pytest.raises(BlobUnavailable):
        await api.put(f"{path}/1", CONTRIBUTION[CHUNK_BYTES : 2 * CHUNK_BYTES])


async def test_oversize_bodies_are_refused_before_they_are_read(site: Site, raw: Raw) -> None:
    await open_with_commits(site, commit_of(MALLORY, CONTRIBUTION))
    path = f"/training/gradient/{BLOB.hex()}"
    assert (await raw.send("PUT", path, LIST))[0] == 200
    status, code, _ = await raw.send("PUT", f"{path}/0", bytes(MAX_UPLOAD_BYTES + 1))
    assert (status, code) == (413, Oversize.code)
    assert UPLOAD_CHUNKS * CHUNK_BYTES < 1_000_000  # what nginx takes by default
    status, code, _ = await raw.send("POST", "/training/gradient", bytes(20_000))
    assert (status, code) == (413, Oversize.code)


# --- signatures ---------------------------------------------------------------------------------


UNSIGNED = [
    ("GET", f"/records?key=ares/{NETWORK.network_id}/network"),
    ("PUT", "/records"),
    ("POST", "/register"),
    ("POST", "/training/gradient"),
    ("PUT", f"/training/gradient/{BLOB.hex()}"),
    ("PUT", f"/training/gradient/{BLOB.hex()}/0"),
    ("POST", "/audits/report"),
    ("GET", f"/blobs/{BLOB.hex()}"),
    ("GET", f"/blobs/{BLOB.hex()}/chunks"),
]


async def test_unsigned_requests_are_refused(raw: Raw) -> None:
    for method, path in UNSIGNED:
        body = b"{}" if method != "GET" else b""
        status, code, _ = await raw.send(method, path, body, who=None)
        assert (status, code) == (401, BadSignature.code), path


async def test_a_signature_covers_the_body_and_the_path(site: Site, raw: Raw) -> None:
    await open_with_commits(site, commit_of(MALLORY, CONTRIBUTION))
    path = f"/training/gradient/{BLOB.hex()}"
    assert (await raw.send("PUT", path, LIST))[0] == 200
    chunk = CONTRIBUTION[:CHUNK_BYTES]
    swapped = await raw.send("PUT", f"{path}/0", chunk, signed_body=b"another body")
    assert swapped[:2] == (401, BadSignature.code)
    elsewhere = await raw.send("PUT", f"{path}/0", chunk, signed_path=f"{path}/1")
    assert elsewhere[:2] == (401, BadSignature.code)
    unnamed = await raw.send("PUT", f"{path}/0", chunk, headers={"Content-Digest": "sha-256=:x:"})
    assert unnamed[:2] == (401, BadSignature.code)
    assert (await raw.send("PUT", f"{path}/0", chunk))[0] == 200


async def test_the_sender_of_a_message_is_who_signed_the_request(site: Site) -> None:
    """A replayed or stolen envelope cannot be handed in under its author's name."""
    seen: list[tuple[Envelope, PeerId]] = []

    async def handler(envelope: Envelope, remote: PeerId) -> Envelope:
        seen.append((envelope, remote))
        if remote != envelope.signer:
            raise WrongSigner("another's")
        return signed(COORDINATOR, CommitAck)

    site.handler = handler
    status = signed(ALICE, PeerStatus)
    with pytest.raises(WrongSigner):
        await HttpControl(site.api(MALLORY)).submit(status, to=COORDINATOR.peer_id)
    await HttpControl(site.api(ALICE)).submit(status, to=COORDINATOR.peer_id)
    assert seen == [(status, MALLORY.peer_id), (status, ALICE.peer_id)]


async def test_each_path_takes_its_own_kind_of_message(site: Site, raw: Raw) -> None:
    async def handler(envelope: Envelope, remote: PeerId) -> Envelope:
        raise AssertionError("it must not get so far")

    site.handler = handler
    commit = encode_bytes(encode_envelope(signed(MALLORY, Commit)))
    for path, body in (
        ("/register", json.dumps({"envelope": commit})),
        ("/training/gradient", json.dumps({"envelope": commit, "more": 1})),
        ("/training/gradient", json.dumps({"envelope": 5})),
        ("/training/gradient", "[]"),
        ("/training/gradient", "\xff"),
    ):
        status, code, _ = await raw.send("POST", path, body.encode("latin-1"))
        assert (status, code) == (400, PayloadMalformed.code), path
