"""What the HTTPS way gives to whom: records, blobs by range; floods, and servers that are none."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.api.access import SWARM_PER_MINUTE
from ares_p2p.crypto.requests import sign_request
from ares_p2p.domain import PeerStatus, RoundPlan
from ares_p2p.errors import (
    BadParameter,
    BadSignature,
    BlobUnavailable,
    NetworkFault,
    PayloadMalformed,
    PeerFault,
    RateLimited,
    UnknownPath,
)
from ares_p2p.ids import CHUNK_BYTES, sha256
from ares_p2p.network.http_api import (
    check_key,
    encode_bytes,
    read_found,
)
from ares_p2p.network.http_records import HttpRecords
from ares_p2p.network.record_keys import RecordKey, key_of_chunk, key_of_kind, key_of_payload
from ares_p2p.network.record_rules import encode_chunk, encode_stored_envelope
from httpfixtures import (
    SWARM,
    Raw,
    Site,
    fetched,
    http_site,
)
from netfixtures import ALICE, BOB, COORDINATOR, MALLORY, NETWORK, payload, signed


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with http_site(tmp_path / "site") as made:
        yield made


@pytest.fixture
async def raw(site: Site) -> AsyncIterator[Raw]:
    made = Raw(site)
    yield made
    await made.session.close()


# --- news ---------------------------------------------------------------------------------------


async def test_news_are_waited_for_by_workers_alone(site: Site, raw: Raw) -> None:
    key = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=1)
    plan, digest = signed(COORDINATOR, RoundPlan, cycle=1), "ab" * 32
    site.board.post(plan)
    status, _, _ = await raw.send("GET", f"/watch?key={key}&known=&wait=20")
    assert status == 200  # at once, it is news
    known = plan.payload_sha256.hex()
    status, _, _ = await raw.send("GET", f"/watch?key={key}&known={known}&wait=0")
    assert status == 200
    for path, code in (
        (f"/watch?key={key}&wait=0", BadParameter.code),
        (f"/watch?key={key}&known={digest}&known={digest}", BadParameter.code),
        (f"/watch?key={key}&known=abc", PayloadMalformed.code),
        (f"/watch?key={key}&known=&wait=-1", PayloadMalformed.code),
        ("/watch?key=ares/other/plan/1&known=", PayloadMalformed.code),
        ("/watch", PayloadMalformed.code),
    ):
        _, refusal, _ = await raw.send("GET", path)
        assert refusal == code, path
    status, _, _ = await raw.send("GET", f"/watch?key={key}&known=", who=None)
    assert status in (401, 403)


# --- records ------------------------------------------------------------------------------------


async def test_a_peer_writes_its_own_subkey_and_nothing_else(site: Site) -> None:
    envelope = signed(ALICE, PeerStatus, seq=5)
    key = key_of_payload(payload(PeerStatus, seq=5), signer=ALICE.peer_id)
    expiration_s = site.clock.now_ms() / 1000 + 60
    value = encode_stored_envelope(envelope, key, publisher=ALICE, expiration_s=expiration_s)
    place = {"key": key.key, "value": encode_bytes(value), "expiration_s": expiration_s}
    chunk_key = key_of_chunk(sha256(b"chunk"), network_id=NETWORK.network_id)
    plan = signed(COORDINATOR, RoundPlan, cycle=1)
    plan_key = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=1)
    plan_value = encode_stored_envelope(
        plan, RecordKey(plan_key), publisher=COORDINATOR, expiration_s=expiration_s
    )
    for body in (
        {**place, "subkey": ALICE.peer_id},  # alice's very own, sent by mallory
        {**place, "subkey": MALLORY.peer_id},
        {**place, "subkey": None},
        {**place, "key": chunk_key, "value": encode_bytes(encode_chunk(b"chunk")), "subkey": None},
        {**place, "key": plan_key, "value": encode_bytes(plan_value), "subkey": None},
        {**place, "subkey": MALLORY.peer_id, "expiration_s": expiration_s + 9e9},
        {**place, "subkey": MALLORY.peer_id, "key": "ares/other/status/b1"},
    ):
        with pytest.raises(PeerFault):
            await site.api(MALLORY).put("/records", json.dumps(body).encode())
    assert await site.records.get_many([key.key, plan_key, chunk_key], latest=True) == {
        key.key: None, plan_key: None, chunk_key: None
    }  # fmt: skip
    await HttpRecords(site.api(ALICE)).publish(envelope)
    found = await site.records.get_many([key.key], latest=True)
    assert list(found[key.key] or ()) == [ALICE.peer_id]


GOOD_KEY = f"ares/{NETWORK.network_id}/plan/1"


IMPOSSIBLE_KEYS = [
    "",
    "ares/../../etc/passwd",
    f"ares/{NETWORK.network_id}/plan/1/2",
    f"ares/{NETWORK.network_id}/plan/01",
    f"ares/{NETWORK.network_id}/plan/-1",
    f"ares/{NETWORK.network_id}/plan/99999999999",
    f"ares/{NETWORK.network_id}/commit/1/2",
    f"ares/{NETWORK.network_id}/commit/1/2/b64",
    f"ares/{NETWORK.network_id}/chunk/{'A' * 64}",
    f"ares/{NETWORK.network_id}/nothing",
    f"ares/{'0' * 32}/plan/1",
    GOOD_KEY + "x" * 200,
]


async def test_only_keys_under_which_something_can_lie_are_looked_up(raw: Raw) -> None:
    for key in IMPOSSIBLE_KEYS:
        status, code, _ = await raw.send("GET", f"/records?key={key}")
        assert (status, code) == (400, PayloadMalformed.code), key
    assert (await raw.send("GET", f"/records?key={GOOD_KEY}"))[0] == 200
    query = "&".join([f"key={GOOD_KEY}"] * 17)
    assert (await raw.send("GET", f"/records?{query}"))[:2] == (400, BadParameter.code)
    assert (await raw.send("GET", "/records"))[:2] == (400, BadParameter.code)


def test_every_key_of_the_protocol_is_known() -> None:
    from ares_p2p.network.record_keys import RECORD_KINDS

    for cls in RECORD_KINDS:
        key = key_of_kind(cls, network_id=NETWORK.network_id, cycle=3, round=17, bucket=9)
        check_key(key, network_id=NETWORK.network_id)
    check_key(
        key_of_chunk(sha256(b"x"), network_id=NETWORK.network_id), network_id=NETWORK.network_id
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"records": 1}',
        b'{"records": [1]}',
        b'{"records": [{"key": "b", "subkey": null, "value": "", "expiration_s": 1}]}',
        b'{"records": [{"key": "a", "subkey": 7, "value": "", "expiration_s": 1}]}',
        b'{"records": [{"key": "a", "subkey": null, "value": "!", "expiration_s": 1}]}',
        b'{"records": [{"key": "a", "subkey": null, "value": 5, "expiration_s": 1}]}',
        b"[" * 100_000,
    ],
)
def test_a_coordinator_cannot_confuse_a_reader(body: bytes) -> None:
    with pytest.raises(PayloadMalformed):
        read_found(body, ["a"])


# --- blobs --------------------------------------------------------------------------------------


PATH_TRICKS = ["..%2F..%2Fares.db", "%2e%2e", "x" * 64, "A" * 64, "0" * 63, f"{'0' * 64}.blob"]


async def test_a_blob_is_named_by_its_hash_and_by_nothing_else(raw: Raw) -> None:
    for name in (*PATH_TRICKS, "%00" * 32):
        for path in (f"/blobs/{name}", f"/blobs/{name}/chunks"):
            status, code, _ = await raw.send("GET", path)
            assert status in (400, 401, 404), path
            assert code in (PayloadMalformed.code, UnknownPath.code, BadSignature.code), path


async def test_ranges_are_exact(site: Site, raw: Raw) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 10)
    path = f"/blobs/{site.blobs.store.put(data).hex()}"
    url = site.url + SWARM + path
    for text, expected in (
        ("bytes=0-0", data[:1]),
        ("bytes=5-", data[5:]),
        (f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES}", data[CHUNK_BYTES - 1 : CHUNK_BYTES + 1]),
        (f"bytes={2 * CHUNK_BYTES}-99999999", data[2 * CHUNK_BYTES :]),
        (None, data),
    ):
        headers = {} if text is None else {"Range": text}
        headers["Authorization"] = sign_request(
            BOB,
            network_id=NETWORK.network_id,
            method="GET",
            path=SWARM + path,
            now_ms=site.clock.now_ms(),
        )
        async with raw.session.get(url, headers=headers) as response:
            assert await response.read() == expected
            assert response.status == (200 if text is None else 206)
    for text in ("bytes=-5", "bytes=9-2", f"bytes={len(data)}-", "bytes=0-1,4-5", "x"):
        status, code, _ = await raw.send("GET", path, headers={"Range": text})
        assert (status, code) == (400, PayloadMalformed.code), text


async def test_a_blob_that_the_disk_changed_never_arrives(site: Site, tmp_path: Path) -> None:
    data = bytearray(os.urandom(3 * CHUNK_BYTES))
    blob_id = site.blobs.store.put(bytes(data))
    data[2 * CHUNK_BYTES + 5] ^= 1
    site.blobs.store.path(blob_id).write_bytes(data)
    with pytest.raises(BlobUnavailable):
        await fetched(site, BOB, tmp_path, blob_id)


# --- floods, and servers that are none -----------------------------------------------------------


async def test_a_flood_is_answered_with_429_and_a_time_to_wait(tmp_path: Path) -> None:
    async with http_site(tmp_path / "site", limited=True) as site:
        raw = Raw(site)
        try:
            for _ in range(SWARM_PER_MINUTE):
                status, code, headers = await raw.send("GET", "/blobs/none")
                if status == 429:
                    break
            status, code, headers = await raw.send("GET", "/blobs/none")
            assert (status, code) == (429, RateLimited.code)
            assert 1 <= int(headers["Retry-After"]) <= 60
            other = await raw.send("GET", "/blobs/none", who=BOB)
            assert other[0] == 400  # who does not flood is served
        finally:
            await raw.session.close()


async def test_a_client_follows_no_redirect_and_believes_no_stranger(
    site: Site, aiohttp_server: Any
) -> None:
    from aiohttp import web

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(site.url + request.path_qs)

    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(text="<html>", status=200)

    async def too_much(request: web.Request) -> web.Response:
        return web.Response(body=bytes(1_000_000))

    for handler in (elsewhere, nonsense, too_much):
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", handler)
        server = await aiohttp_server(app)
        api = site.api(ALICE, url=f"http://127.0.0.1:{server.port}")
        with pytest.raises(NetworkFault):
            await api.time_ms(timeout_s=5)
        with pytest.raises((NetworkFault, PeerFault)):
            await api.put("/records", b"{}", timeout_s=1)


async def test_another_networks_coordinator_is_not_ours(site: Site) -> None:
    from ares_p2p.network.invite import Invite

    other = Invite("other", COORDINATOR.peer_id).network
    with pytest.raises(NetworkFault, match="another network"):
        await site.api(ALICE, network=other).time_ms(timeout_s=5)
